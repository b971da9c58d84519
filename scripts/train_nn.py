r"""Train a small neural network on a table of numbers: on a laptop, or as a Vertex AI job.

    # results go to the folder `run`; paths may also begin with gs://BUCKET/ or /gcs/BUCKET/
    python scripts/train_nn.py --train train_data.npz --val val_data.npz --model_out run
    # with checkpoints: after an interruption, the same command resumes (--resume insists on it)
    python scripts/train_nn.py --train train_data.npz --val val_data.npz --model_out run \
        --checkpoint_dir checkpoints --checkpoint_every 10
    # two processes that share the work
    torchrun --nproc_per_node 2 scripts/train_nn.py --train train_data.npz --val val_data.npz \
        --model_out run
    # is a finished run folder complete and unchanged?
    python scripts/train_nn.py --verify run

A run leaves four files side by side: model.pt (weights), eval_history.csv (a line per epoch),
training.log (with what --quiet hides) and, written last as the sign of a complete run,
metrics.json. Those of an earlier run there are removed once the settings are right. SIGTERM (`kill`
sends it) ends the training after its epoch, with a checkpoint if --checkpoint_dir is given.

Exit codes: 0 done; 1 unexpected error, or --verify found a change; 2 bad input, or a file, bucket
or memory that cannot be had; 3 the loss became NaN or infinite; 130 interrupted; 143 SIGTERM.

On a CPU, the same data, settings, seed and machine give the same bytes of weights and history
(apart from the seconds). A GPU, another processor, more processes, threads (OMP_NUM_THREADS) or
another PyTorch adds numbers up in another order, so the last digits differ.

PyTorch comes first: settings, data, model, training. What follows keeps a long or paid run safe.
If something is wrong, `require` or `explain`, explained there, ends the run with a sentence.
"""

from __future__ import annotations

import os
import signal
import sys

if __name__ == "__main__":  # Ctrl-C during the slow imports: a line, no traceback

    def stop_at_start(number: int, _: object) -> None:
        print("ERROR: stopped while starting", file=sys.stderr)
        os._exit(128 + number)

    signal.signal(signal.SIGINT, stop_at_start)
    signal.signal(signal.SIGTERM, stop_at_start)

import argparse
import contextlib
import functools
import hashlib
import importlib
import io
import json
import logging
import math
import platform
import re
import shlex
import threading
import time
import warnings
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from itertools import zip_longest
from pathlib import Path
from posixpath import join, normpath  # pathlib would turn gs:// into gs:/
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.utils import parameters_to_vector, vector_to_parameters
from torch.optim.adam import adam

log = logging.getLogger("train_nn")
sigterm = threading.Event()  # a flag: the signal handler sets it, and training looks at it


# ------------------------------------------------------------------------------ settings
LIMITS = {  # the lowest and the highest value allowed
    "epochs": (1, 10**9),
    "learning_rate": (1e-30, 1e30),
    "batch_size": (0, 10**9),
    "patience": (0, 10**9),
    "min_delta": (0, 1e30),
    "seed": (0, 2**63 - 1),
    "checkpoint_every": (0, 10**9),
}
ANSWERS = {"true": True, "1": True, "1.0": True, "false": False, "0": False, "0.0": False}


def whole(text: str) -> int:
    """Read a whole number, also as a tuning service writes it: 128.0 or 1e2."""
    for convert in (int, float):  # first int: a float would round a large number
        with contextlib.suppress(ValueError):
            if convert(text) % 1 == 0:  # not so for NaN and infinity
                return int(convert(text))
    raise argparse.ArgumentTypeError(f"must be a whole number, not {text[:50]}")


def yes_no(text: str) -> bool:
    """Read true or false, also as a tuning service writes it: True or 1.0."""
    if text.lower() not in ANSWERS:
        raise argparse.ArgumentTypeError(f"must be true or false, not {text[:50]}")
    return ANSWERS[text.lower()]


def parse_args(argv: Sequence[str]) -> argparse.Namespace:
    """Read the command line. Of an option given twice, as by a tuning service, the last counts."""
    show_defaults = argparse.ArgumentDefaultsHelpFormatter
    parser = argparse.ArgumentParser(formatter_class=show_defaults, allow_abbrev=False)
    switch: Any = {"type": yes_no, "nargs": "?", "const": True, "metavar": "true|false"}
    folder = os.environ.get("AIP_MODEL_DIR") or "."
    saved = os.environ.get("AIP_CHECKPOINT_DIR") or None

    add = parser.add_argument_group("data and results").add_argument
    add("--train", help=".npz with X_train and y_train: a path, gs://... or /gcs/...")
    add("--val", help=".npz with X_val and y_val")
    add("--model_out", default=folder, help="folder for the results; AIP_MODEL_DIR if not given")
    add("--verify", help="folder of a finished run: check its files, train nothing")

    add = parser.add_argument_group("training").add_argument
    add("--epochs", type=whole, default=500, help="passes over the training data, at most")
    add("--learning_rate", type=float, default=0.001, help="size of a step")
    add("--batch_size", type=whole, default=0, help="rows in a step; 0: all rows")
    add(
        "--patience",
        type=whole,
        default=50,
        help="stop after so many epochs without progress; 0: never",
    )
    add("--min_delta", type=float, default=0.0, help="smallest drop of val_loss that is progress")
    add("--restore_best", default=True, help="save the weights of the best epoch", **switch)
    add("--no_restore_best", dest="restore_best", action="store_false", help="of the last one")
    add("--seed", type=whole, default=42, help="where all random numbers start")

    add = parser.add_argument_group("system").add_argument
    add("--device", default="auto", help="cpu, cuda:N, cuda (all GPUs), or auto")
    add("--precision", default="fp32", choices=["fp32", "bf16"], help="fp32 is without TF32")
    add("--checkpoint_dir", default=saved, help="save and resume here; else AIP_CHECKPOINT_DIR")
    add("--checkpoint_every", type=whole, default=0, help="epochs between two; 0: a minute")
    add("--resume", default=False, help="fail if there is no checkpoint", **switch)
    add("--quiet", default=False, help="print only warnings and errors", **switch)
    # --learning-rate is --learning_rate; what follows `=` stays
    argv = [re.sub("(?<=^--)[^=]+", lambda m: m[0].replace("-", "_"), arg) for arg in argv]
    return parser.parse_args(argv)


def check_settings(args: argparse.Namespace) -> None:
    """Refuse bad values; not in parse_args, so that the complaint reaches training.log."""
    require(args.train and args.val, "--train and --val are required; --help shows all options")
    for name, (low, high) in LIMITS.items():
        value = getattr(args, name)
        require(low <= value <= high, f"--{name} must be from {low} to {high}, not {value}")
    for name in ("train", "val", "checkpoint_dir"):
        check_place(name, getattr(args, name))
    require(args.checkpoint_dir or not args.resume, "--resume needs --checkpoint_dir")


# ------------------------------------------------------------------------------ data
@dataclass
class Table:
    """A checked data file: float32 features x [rows, features], and labels y [rows] of 0 and 1."""

    x: Tensor
    y: Tensor
    names: list[str]
    sha256: str


def as_float32(array: Any, what: str) -> Any:
    """Convert an array of numbers. Raises Stop if it is empty, or holds something else."""
    require(array.dtype.kind in "biuf", f"{what} must hold numbers, but its type is {array.dtype}")
    require(array.size > 0, f"{what} is empty: its shape is {array.shape}")
    if array.dtype != np.float32:
        log.info("%s: converted from %s to float32", what, array.dtype)
    with np.errstate(over="ignore"):  # what is too large becomes infinite, which is refused later
        return np.ascontiguousarray(array, np.float32)


def load_table(uri: str, part: str, device: torch.device) -> Table:
    """Read X_<part>, y_<part>, perhaps feature_names; raise Stop unless they can be trained on."""
    data = access("read", uri)  # the file's bytes
    require(data[:2] == b"PK", f"{uri} is not an .npz file: it does not begin like a zip file")
    x_key = f"X_{part}"
    y_key = f"y_{part}"
    with explain(f"{uri} is damaged, or holds pickled objects instead of plain arrays"):
        # allow_pickle=False: a pickled file can run any program when it is opened.
        with np.load(io.BytesIO(data), allow_pickle=False) as file:
            missing = f"{uri} must hold {x_key} and {y_key}; it holds {', '.join(file.files)}"
            require(x_key in file and y_key in file, missing)
            x = np.asarray(file[x_key])
            y = np.asarray(file[y_key])
            columns = [f"x{i}" for i in range(x.shape[1])] if x.ndim == 2 else []
            names = np.asarray(file.get("feature_names", columns))
    shapes = f"{x_key} {x.shape}, {y_key} {y.shape} and feature_names {names.shape}"
    fine = x.ndim == 2 and y.shape == x.shape[:1] and names.shape == x.shape[1:]
    require(fine, f"{uri} has {shapes}, but must have [rows, features], [rows] and [features]")
    if names.dtype.kind == "S":  # bytes
        names = np.char.decode(names, "utf-8", "backslashreplace")
    x = as_float32(x, f"{x_key} in {uri}")
    y = as_float32(y, f"{y_key} in {uri}")
    wrong = np.argwhere(~np.isfinite(x))
    if len(wrong):
        row, column = wrong[0]
        place = f"row {row}, column {column} ({names[column]})"
        raise Stop(f"{x_key} in {uri} holds {len(wrong)} NaN or infinite values, first in {place}")
    wrong = np.argwhere((y != 0) & (y != 1))
    if len(wrong):
        row = wrong[0, 0]
        raise Stop(f"{y_key} in {uri} must hold 0 and 1 only, but row {row} holds {y[row]:g}")
    sha256 = hashlib.sha256(data).hexdigest()
    x = torch.from_numpy(x).to(device)
    y = torch.from_numpy(y).to(device)
    return Table(x, y, [str(name) for name in names], sha256)


def load_data(args: argparse.Namespace, device: torch.device) -> tuple[Table, Table]:
    """Load the training and the validation data, which must have the same features."""
    train = load_table(args.train, "train", device)
    val = load_table(args.val, "val", device)
    for i, (name, other) in enumerate(zip_longest(train.names, val.names)):
        first = f"column {i} is {str(name)[:90]!r} in {args.train}"
        found = f"{first}, but {str(other)[:90]!r} in {args.val}"
        counts = f"{len(train.names)} and {len(val.names)} features"
        require(name == other, f"the feature_names differ ({counts}): {found}")
    if train.y.min() == train.y.max():
        log.warning("all labels in %s are %d: nothing can be learned", args.train, train.y[0])
    sizes = (len(train.y), len(val.y), len(train.names))
    log.info("%d training rows, %d validation rows, %d features", *sizes)
    return train, val


# ------------------------------------------------------------------------------ model
def build_model(n_features: int) -> nn.Sequential:
    """From features [n, n_features] to logits [n]; torch.sigmoid(logits) are probabilities."""
    return nn.Sequential(
        nn.Linear(n_features, 64),
        nn.ReLU(inplace=True),  # in place: easier on the cache
        nn.Linear(64, 32),
        nn.ReLU(inplace=True),
        nn.Linear(32, 1),
        nn.Flatten(0),  # from [n, 1] to [n]
    )


# Takes logits: right where log(sigmoid) would be infinite. A sum, as pieces of a batch add up.
loss_fn = nn.BCEWithLogitsLoss(reduction="sum")


class Adam:
    """torch.optim.Adam as it is by default, without 2 to 3 s for importing PyTorch's compiler.

    To train for longer, or differently: delete this class and import that one.
    """

    def __init__(self, parameters: Iterable[Tensor], lr: float) -> None:
        self.lr = lr
        self.parameters = list(parameters)
        self.means = [torch.zeros_like(p) for p in self.parameters]  # of the gradients
        self.squares = [torch.zeros_like(p) for p in self.parameters]  # means of their squares
        self.steps = torch.zeros(len(self.parameters), device=self.parameters[0].device)

    def zero_grad(self) -> None:
        for parameter in self.parameters:
            parameter.grad = None

    @torch.no_grad()
    def step(self) -> None:
        gradients = [parameter.grad for parameter in self.parameters]
        usual: Any = {"beta1": 0.9, "beta2": 0.999, "eps": 1e-8, "weight_decay": 0.0, "fused": True}
        usual |= {"lr": self.lr, "amsgrad": False, "maximize": False}
        adam(self.parameters, gradients, self.means, self.squares, [], [*self.steps], **usual)

    def state_dict(self) -> dict[str, Tensor]:
        return {"moments": parameters_to_vector(self.means + self.squares), "steps": self.steps}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        vector_to_parameters(
            state["moments"].to(self.steps).contiguous(), self.means + self.squares
        )
        self.steps.copy_(state["steps"])


@dataclass
class EarlyStopping:
    """Told of every epoch, answers: is it the best so far, and should we stop?

    The best epoch has the lowest val_loss, by however little. Progress is a val_loss that lies
    more than `min_delta` below the last one that was progress.
    """

    patience: int  # epochs without progress; 0: never stop
    min_delta: float
    best_epoch: int = 0
    best_loss: float = math.inf
    loss_to_beat: float = math.inf
    waited: int = 0  # epochs since the last progress

    def note(self, epoch: int, loss: float) -> bool:
        """Take note of an epoch, once for each; return whether it is the best so far."""
        self.waited += 1
        if loss < self.loss_to_beat - self.min_delta:
            self.loss_to_beat = loss
            self.waited = 0
        if loss < self.best_loss:
            self.best_loss = loss
            self.best_epoch = epoch
        return epoch == self.best_epoch

    def should_stop(self) -> bool:
        """Return whether there was no progress for `patience` epochs."""
        return 0 < self.patience <= self.waited


# ------------------------------------------------------------------------------ training
METRICS = ("train_loss", "val_loss", "val_accuracy")
SETTINGS = ("learning_rate", "patience", "min_delta", "batch_size", "seed")


def copy_weights(model: nn.Module) -> dict[str, Tensor]:
    """Return the weights as they are now: those of `state_dict` change while training goes on."""
    return {name: weights.clone() for name, weights in model.state_dict().items()}


class Run:
    """A training: data, weights, state. `rank` is the number of this process, from 0."""

    def __init__(self, args: argparse.Namespace, train: Table, val: Table) -> None:
        self.args = args
        self.train = train
        self.val = val
        self.device = train.x.device
        torch.manual_seed(args.seed)
        model = build_model(train.x.shape[1])  # on the CPU: the same weights for all devices
        self.model = model.to(self.device)
        self.optimizer = Adam(self.model.parameters(), lr=args.learning_rate)
        self.best_weights = copy_weights(self.model)
        self.shuffle = torch.Generator(self.device).manual_seed(args.seed)
        self.stopping = EarlyStopping(args.patience, args.min_delta)
        self.history: list[list[float]] = []  # of each epoch: METRICS and seconds
        self.made_with = {
            **{f"--{name}": getattr(args, name) for name in (*SETTINGS, "precision")},
            "the training data": train.sha256,
            "the validation data": val.sha256,
            "the device": self.device.type,
        }
        bf16 = args.precision == "bf16"
        self.autocast = torch.autocast(self.device.type, torch.bfloat16, enabled=bf16)
        if "OMP_NUM_THREADS" not in os.environ:
            torch.set_num_threads(1)  # enough for so small a network
        several = dist.is_initialized()  # processes share the work
        self.rank = dist.get_rank() if several else 0
        self.processes = dist.get_world_size() if several else 1
        self.ddp_model = nn.parallel.DistributedDataParallel(self.model) if several else self.model

    def state_dict(self) -> dict[str, Any]:
        """Return what it takes to go on; early stopping follows from the history [epochs, 4]."""
        return {
            "next_epoch": len(self.history) + 1,
            "history": torch.tensor(self.history, dtype=torch.float64).reshape(-1, 4),
            "model": self.model.state_dict(),
            "best_weights": self.best_weights,
            "optimizer": self.optimizer.state_dict(),
            "shuffle": self.shuffle.get_state(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue a saved run, in a new Run."""
        self.model.load_state_dict(state["best_weights"])  # checks them
        self.best_weights = copy_weights(self.model)
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.shuffle.set_state(state["shuffle"])
        self.history = state["history"].tolist()
        for epoch, row in enumerate(self.history, start=1):
            self.stopping.note(epoch, loss=row[1])

    def batches(self) -> Iterable[tuple[Tensor, Tensor]]:
        """Return x [rows, features], y [rows] of each step: all rows, or --batch_size, shuffled."""
        if not self.args.batch_size:
            return [(self.train.x, self.train.y)]
        order = torch.randperm(len(self.train.y), generator=self.shuffle, device=self.device)
        # index_select does what x[rows] does, in a third of the time.
        return (
            (self.train.x.index_select(0, rows), self.train.y.index_select(0, rows))
            for rows in order.split(self.args.batch_size)
        )

    def pieces(self, x: Tensor, y: Tensor) -> Iterable[tuple[Tensor, Tensor]]:
        """Cut this process's rows of a batch into pieces that fit into a cache, or a GPU's memory.

        All processes get the same number of pieces: they exchange gradients after each.
        """
        rows = 8192 if self.device.type == "cpu" else 2**20
        count = math.ceil(len(y) / rows / self.processes)
        mine = slice(self.rank, None, self.processes)  # of two processes, every second row
        return zip(x[mine].tensor_split(count), y[mine].tensor_split(count), strict=True)


def train_one_epoch(run: Run) -> Tensor:
    """Learn from all rows; return the sum of this process's losses, on its device."""
    total = torch.zeros((), dtype=torch.float64, device=run.device)
    run.model.train()
    for x, y in run.batches():
        # backward() adds up the gradients of the pieces, and DistributedDataParallel averages over
        # processes: divided by the rows of a process, it is the gradient of the batch's mean loss.
        divisor = len(y) / run.processes
        run.optimizer.zero_grad()
        for x_piece, y_piece in run.pieces(x, y):
            with run.autocast:
                logits = run.ddp_model(x_piece)
            loss = loss_fn(logits.float(), y_piece)
            (loss / divisor).backward()
            total += loss.detach()
        run.optimizer.step()
    return total


@torch.no_grad()
def evaluate(run: Run) -> tuple[Tensor, Tensor]:
    """Return this process's sums over the validation rows: their losses, and the right answers."""
    loss = torch.zeros((), dtype=torch.float64, device=run.device)
    right = torch.zeros_like(loss)
    run.model.eval()
    for x, y in run.pieces(run.val.x, run.val.y):
        with run.autocast:
            logits = run.model(x).float()
        loss += loss_fn(logits, y)
        right += ((logits > 0) == y).sum()  # a logit above 0 is a probability above 0.5
    return loss, right


def train_and_evaluate(run: Run) -> tuple[dict[str, float], bool]:
    """Train for an epoch and evaluate; return the METRICS, and whether SIGTERM says to stop.

    all_reduce adds up over all processes, so all see a signal, and stop after the same epoch.
    """
    train_loss = train_one_epoch(run)
    val_loss, right = evaluate(run)
    sums = torch.stack([train_loss, val_loss, right, torch.full_like(right, sigterm.is_set())])
    if run.processes > 1:
        dist.all_reduce(sums)
    train_sum, val_sum, right_sum, signals = sums.tolist()  # the GPU is waited for only here
    rows = len(run.val.y)
    means = (train_sum / len(run.train.y), val_sum / rows, right_sum / rows)
    return dict(zip(METRICS, means, strict=True)), signals > 0


def fit(run: Run, progress: Progress) -> None:
    """Train until all epochs are done, or early stopping says to stop.

    Raises Stop: exit code 3 if the loss is NaN or infinite (history is kept), 143 after SIGTERM.
    """
    args = run.args
    every = args.checkpoint_every
    saved_at = time.monotonic()
    at_end = asks_for_checkpoints(args)
    while len(run.history) < args.epochs and not run.stopping.should_stop():
        start = time.perf_counter()
        metrics, signalled = train_and_evaluate(run)
        run.history.append([*metrics.values(), time.perf_counter() - start])
        epoch = len(run.history)
        diverged = not all(map(math.isfinite, metrics.values()))
        if not diverged and run.stopping.note(epoch, metrics["val_loss"]):
            run.best_weights = copy_weights(run.model)
        last = epoch == args.epochs or run.stopping.should_stop() or signalled or diverged
        progress.show(epoch, metrics, last)
        if diverged:
            if run.rank == 0:
                access("write", join(args.model_out, "eval_history.csv"), history_csv(run))
            text = f"train_loss is {metrics['train_loss']} and val_loss {metrics['val_loss']}"
            raise Stop(f"{text} in epoch {epoch}: try a lower --learning_rate", 3)
        due = (epoch % every == 0) if every else (time.monotonic() > saved_at + 60)
        if args.checkpoint_dir and run.rank == 0 and (due or signalled or (last and at_end)):
            save_checkpoint(run)
            saved_at = time.monotonic()
        if signalled:
            raise Stop(f"stopped by SIGTERM after epoch {epoch}", 143)
    if len(run.history) < args.epochs:
        log.info("stopped early: %d epochs without progress", args.patience)


# ------------------------------------------------------------------------------ results
def history_csv(run: Run) -> bytes:
    """A line for each epoch."""
    lines = [",".join(["epoch", *METRICS, "seconds"])]
    for epoch, (*metrics, seconds) in enumerate(run.history, start=1):
        lines.append(",".join([str(epoch), *map(repr, metrics), f"{seconds:.6f}"]))
    return "\n".join([*lines, ""]).encode()


def device_name(device: torch.device) -> str:
    """Return the model of the processor or GPU."""
    if device.type == "cuda":
        return str(torch.cuda.get_device_name(device))
    with contextlib.suppress(OSError, IndexError), open("/proc/cpuinfo") as file:
        return str(re.findall(r"model name\s*: (.*)", file.read())[0])
    return platform.processor() or platform.machine()


def describe(run: Run) -> dict[str, Any]:
    """Return what metrics.json says; data/README.md explains every field."""
    args = run.args
    best = run.stopping.best_epoch
    final = best if args.restore_best else len(run.history)
    facts: dict[str, Any] = {}
    for kind, epoch in {"best": best, "final": final}.items():
        facts[f"{kind}_epoch"] = epoch
        facts |= {f"{kind}_{name}": run.history[epoch - 1][i] for i, name in enumerate(METRICS)}
    for part, table in {"train": run.train, "val": run.val}.items():
        facts |= {f"{part}_uri": getattr(args, part), f"{part}_rows": len(table.y)}
        facts[f"{part}_sha256"] = table.sha256
    return facts | {
        "epochs_run": len(run.history),
        "stopped_early": len(run.history) < args.epochs,
        "seconds": sum(row[-1] for row in run.history),
        "seed": args.seed,
        "hyperparameters": {k: getattr(args, k) for k in ("epochs", "restore_best", *SETTINGS)},
        "feature_names": run.train.names,
        "processes": run.processes,
        "precision": args.precision,
        "device": run.device.type,
        "device_name": device_name(run.device),
        "python_version": platform.python_version(),
        "torch_version": str(torch.__version__),
        "numpy_version": np.__version__,
        "model_uri": join(args.model_out, "model.pt"),
    }


def fingerprint(data: bytes) -> dict[str, Any]:
    """Return what --verify compares."""
    return {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}


def write_results(run: Run, run_log: RunLog) -> None:
    """Write all four files, or none but training.log."""
    folder = run.args.model_out
    facts = describe(run)
    weights = run.best_weights if run.args.restore_best else run.model.state_dict()
    model_file = io.BytesIO()  # not a path: torch.save would write its name into the file
    torch.save({name: value.cpu() for name, value in weights.items()}, model_file)
    files = {"model.pt": model_file.getvalue(), "eval_history.csv": history_csv(run)}
    try:
        for name, data in files.items():
            access("write", join(folder, name), data, wait=600)
        text = "saved epoch {final_epoch} of {epochs_run} in {model_uri}"
        log.info((text + ", val_accuracy {final_val_accuracy:.4f}").format(**facts))
        files["training.log"] = run_log.save(wait=600)
        run_log.uri = ""  # metrics.json holds its checksum: write no more
        facts["artifacts"] = {name: fingerprint(data) for name, data in files.items()}
        metrics = json.dumps(facts, indent=2).encode()
        access("write", join(folder, "metrics.json"), metrics, wait=600)
    except BaseException:
        run_log.uri = join(folder, "training.log")
        remove_results(folder)
        raise


def verify(folder: str) -> int:
    """Compare the files of a finished run with metrics.json; return the exit code."""
    uri = join(folder, "metrics.json")
    with explain(f"{uri} is damaged, or was not written by this script", exit_code=1):
        artifacts = dict(json.loads(access("read", uri))["artifacts"])
        if "model.pt" not in artifacts:
            raise ValueError("it lists no model.pt")
    changed = False
    for name, expected in artifacts.items():
        data = access("read", join(folder, name), missing_ok=True)
        fine = data is not None and fingerprint(data) == expected
        changed = changed or not fine
        log.info("%s %s", "[OK]" if fine else "[FAIL]", name)
    return int(changed)


# ------------------------------------------------------------------------------ checkpoints
def asks_for_checkpoints(args: argparse.Namespace) -> bool:
    """Return False if only Vertex AI names a folder, as in every job: then short runs save none."""
    named = args.checkpoint_dir and args.checkpoint_dir != os.environ.get("AIP_CHECKPOINT_DIR")
    return bool(named or args.checkpoint_every)


def save_checkpoint(run: Run) -> None:
    """Save the state in place of the one before: at any moment, one of the two is there."""
    file = io.BytesIO()
    torch.save(run.state_dict() | {"made_with": run.made_with}, file)
    access("write", join(run.args.checkpoint_dir, "checkpoint.pt"), file.getvalue(), wait=600)


def layout(state: Any, key: str = "") -> Any:
    """Return a state with (dtype, shape) for each tensor. Raises ValueError unless it is finite."""
    if isinstance(state, dict):
        return {name: layout(part, name) for name, part in state.items()}
    if not isinstance(state, Tensor):
        return state
    overflown = key == "moments" and not state.isnan().any()  # squares of large gradients
    if not (overflown or state.isfinite().all()):
        raise ValueError("it holds NaN or infinite numbers")
    return state.dtype, state.shape


def load_checkpoint(run: Run) -> None:
    """Continue from a checkpoint, if any. Raises Stop if it is damaged, or of another run."""
    args = run.args
    if not args.checkpoint_dir:
        return
    uri = join(args.checkpoint_dir, "checkpoint.pt")
    found = [access("read", uri, missing_ok=True)]
    if run.processes > 1:  # all take what the first one found: it may be on its machine only
        dist.broadcast_object_list(found)
    if found[0] is None:
        require(not args.resume, f"--resume: there is no checkpoint {uri}")
        if run.rank == 0 and asks_for_checkpoints(args):
            save_checkpoint(run)  # stops here if the folder cannot be written
        return
    other = "use another --checkpoint_dir"
    with explain(f"{uri} is damaged, or no checkpoint: remove it, or {other}"):
        state = torch.load(io.BytesIO(found[0]), "cpu", weights_only=True)
        was = state.pop("made_with")
        for name in {**run.made_with, **was}:
            now = run.made_with.get(name)
            changed = f"{name} was {was.get(name)!r}, now it is {now!r}"
            require(was.get(name) == now, f"{uri} is of another run: {changed}; {other}")
        run.load_state_dict(state)
        if layout(state) != layout(run.state_dict()):
            raise ValueError("its content is of another form")
    done = len(run.history)
    require(done <= args.epochs, f"{uri}: {done} epochs are done, so raise --epochs")
    log.info("resumed after epoch %d", done)


# ------------------------------------------------------------------------------ progress
class Progress:
    """Shows epochs to those who look: the log, a tuning service, TensorBoard."""

    long_run = 10  # seconds, after which lines tell the speed

    def __init__(self, run: Run) -> None:
        self.run = run
        self.done = len(run.history)
        self.start = time.monotonic()
        self.shown_at = -math.inf
        self.tuner = self.board = None
        folder = os.environ.get("AIP_TENSORBOARD_LOG_DIR")
        if run.rank == 0:
            self.tuner = optional("hypertune", "HyperTune")
        if run.rank == 0 and folder:
            if os.path.isdir(GCS_MOUNT):  # then it takes no further package to write there
                folder = folder.replace("gs://", GCS_MOUNT, 1)
            self.board = optional("torch.utils.tensorboard", "SummaryWriter", folder)

    def show(self, epoch: int, metrics: dict[str, float], last: bool) -> None:
        """Show one epoch: to the log after a tenth of the run or ten seconds, to others always."""
        epochs = self.run.args.epochs
        now = time.monotonic()
        due = last or epoch % max(1, epochs // 10) == 0 or now > self.shown_at + 10
        try:
            for name, value in metrics.items():
                if self.tuner and name != "train_loss":
                    self.tuner.report_hyperparameter_tuning_metric(name, value, epoch)
                if self.board:
                    self.board.add_scalar(name, value, epoch)
        except Exception as error:  # a full disk, say, is no reason to end the training
            log.warning("from epoch %d on, metrics are in this log only: %r", epoch, error)
            self.tuner = self.board = None
        if due:
            self.shown_at = now
            line = "".join(f"  {name} {value:.4f}" for name, value in metrics.items())
            if now > self.start + self.long_run:
                speed = (epoch - self.done) / (now - self.start)
                left = timedelta(seconds=round((epochs - epoch) / speed))
                line += f"  {speed * len(self.run.train.y):,.0f} rows/s  at most {left} left"
            log.info("epoch %d/%d%s", epoch, epochs, line)

    def close(self) -> None:
        """Write what TensorBoard still has in memory, however the run ends."""
        with contextlib.suppress(Exception):
            self.board and self.board.close()


def optional(module: str, name: str, *args: Any) -> Any:
    """Make an object of a package; None where the package is missing or does not work."""
    try:
        return getattr(importlib.import_module(module), name)(*args)
    except ImportError:
        return None
    except Exception as error:
        log.warning("%s is not used: %r", module, error)
        return None


# ------------------------------------------------------------------------------ processes
def read_environment() -> tuple[int, int]:
    """Return the number of this process, from 0, and how many share the work; complete os.environ.

    torchrun and some images of Vertex AI set the variables. Otherwise CLUSTER_SPEC lists a job's
    machines. Without LOCAL_RANK, a process is a machine.
    """
    env = os.environ
    names = "WORLD_SIZE RANK LOCAL_RANK MASTER_ADDR MASTER_PORT CLUSTER_SPEC".split()
    seen = {name: env[name] for name in names if name in env}
    with explain(f"{seen} do not tell which processes share the work: correct or unset them"):
        if env.get("CLUSTER_SPEC") and not env.get("WORLD_SIZE"):
            spec = json.loads(env["CLUSTER_SPEC"])
            first = spec["cluster"]["workerpool0"]
            machines = first + spec["cluster"].get("workerpool1", [])
            start = {"workerpool0": 0, "workerpool1": len(first)}[spec["task"]["type"]]
            address, _, port = machines[0].partition(":")
            env["WORLD_SIZE"] = str(len(machines))
            env["RANK"] = str(start + spec["task"]["index"])
            env["MASTER_ADDR"] = address
            env["MASTER_PORT"] = port or "2222"
        elif seen and not env.get("WORLD_SIZE"):
            log.info("one process: without WORLD_SIZE, %s mean nothing", seen)
            env.pop("LOCAL_RANK", None)
        processes = int(env.get("WORLD_SIZE") or 1)
        if processes == 1:
            return 0, 1
        rank = int(env["RANK"])
        local_rank = int(env.get("LOCAL_RANK") or 0)
        if 0 <= rank < processes and local_rank >= 0 and env["MASTER_ADDR"] and env["MASTER_PORT"]:
            return rank, processes
        raise ValueError("out of range, or empty")


def launch(argv: Sequence[str], gpus: int, rank: int, machines: int) -> int:
    """Start this script once for each GPU of this machine, by torchrun; return the exit code."""
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.run import main as torchrun

    where = ["--standalone"]
    if machines > 1:
        where = [f"--nnodes={machines}", f"--node_rank={rank}"]
        where += [f"--{name.lower()}={os.environ[name]}" for name in ("MASTER_ADDR", "MASTER_PORT")]
    try:
        torchrun([*where, f"--nproc_per_node={gpus}", __file__, *argv])
        return 0
    except ChildFailedError as error:
        return int(error.get_first_failure()[1].exitcode)
    except SignalException as error:
        return 128 + int(error.sigval)


def meet(rank: int, processes: int, device: torch.device) -> None:
    """Wait for the other processes, as long as PyTorch does. Raises Stop if that fails."""
    address = "{MASTER_ADDR}:{MASTER_PORT}".format(**os.environ)
    on_signals(signal.SIG_DFL)  # handlers of Python do not run while PyTorch waits
    log.info("process %d of %d waits for the others at %s", rank, processes, address)
    with explain(f"cannot meet the other processes at {address}"):
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    on_signals(interrupt)


def choose_device(args: argparse.Namespace) -> torch.device:
    """Return the CPU or this process's GPU, set up."""
    name = args.device
    gpus = torch.cuda.device_count()
    require(re.fullmatch(r"auto|cpu|cuda(:\d+)?", name), f"unknown --device {name}: see --help")
    if name == "cpu" or (name == "auto" and not gpus):
        return torch.device("cpu")
    index = int(name.partition(":")[2] or os.environ.get("LOCAL_RANK") or 0)
    require(index < gpus, f"--device {name}: this machine has {gpus} CUDA devices")
    torch.cuda.set_device(index)
    torch.set_float32_matmul_precision("highest")  # no TF32, which rounds to 10 bits
    able = torch.cuda.get_device_capability(index) >= (8, 0)
    require(able or args.precision != "bf16", "--precision bf16: this GPU is too old for it")
    return torch.device("cuda", index)


# ------------------------------------------------------------------------------ errors, signals
HINTS = {  # more helpful than the error's own words; by name, as Google's are imported when needed
    "NotFound": "no such bucket or object",
    "Forbidden": "no permission: ask for the role Storage Object User on the bucket",
    "DefaultCredentialsError": "no credentials: run `gcloud auth application-default login`",
    "RefreshError": "credentials expired: run `gcloud auth application-default login`",
    "RetryError": "Cloud Storage cannot be reached",
    "ModuleNotFoundError": "run `pip install google-cloud-storage`",
    "RecursionError": "the path has too many parts",
}


class Stop(Exception):
    """Ends the run with one sentence and an exit code; 2 means bad input."""

    def __init__(self, sentence: str, exit_code: int = 2) -> None:
        short = sentence if len(sentence) < 1000 else f"{sentence[:600]} ... {sentence[-300:]}"
        super().__init__("".join(c if c.isprintable() else " " for c in short))
        self.exit_code = exit_code


def require(fine: object, sentence: str) -> None:
    """Stop with this sentence unless all is fine."""
    if not fine:
        raise Stop(sentence)


@contextlib.contextmanager
def explain(sentence: str, exit_code: int = 2, skip: Sequence[str] = ()) -> Iterator[None]:
    """Turn any error of the block into a Stop: the sentence, and the reason.

    Errors whose names are in `skip` only end the block. A lack of memory is left to `main`.
    """
    try:
        yield
    except Exception as error:
        if isinstance(error, Stop) or out_of_memory(error):
            raise
        name = type(error).__name__
        if name not in skip:
            reason = HINTS.get(name) or getattr(error, "strerror", None) or repr(error)[:200]
            raise Stop(f"{sentence}: {reason}", exit_code) from error


def out_of_memory(error: BaseException) -> bool:
    """Return whether numpy, PyTorch or CUDA got no memory."""
    return isinstance(error, MemoryError) or "to allocate" in str(error)


def on_signals(handler: Any) -> None:
    """Let Ctrl-C and SIGTERM do this."""
    signal.signal(signal.SIGINT, handler)
    signal.signal(signal.SIGTERM, handler)


def interrupt(number: int, _: object) -> None:
    """End the run, once: while the log is saved, signals are ignored."""
    on_signals(ignore)
    raise KeyboardInterrupt(number)


def ignore(*_: object) -> None:
    """Do nothing at a signal; with SIG_IGN, Python complains of a second one that is under way."""


# ------------------------------------------------------------------------------ storage
GCS_MOUNT = "/gcs/"  # where Vertex AI mounts all buckets
RESULTS = ("metrics.json", "model.pt", "eval_history.csv", "training.log")
ABSENT = ("NotFound", "FileNotFoundError", "NotADirectoryError")  # names of errors


def check_place(option: str, uri: str | None) -> None:
    """Refuse gs:/b, s3://b and the like: as local folders, they would vanish with their machine."""
    if uri is None:
        return
    bucket = re.fullmatch("(gs://|/gcs/)[a-z0-9][a-z0-9._-]+[a-z0-9](/.*)?", uri)
    mistyped = "^/+gcs(/|$)|^[~${]|[^/]{2,}:/|^(gs|gcs|s3)(:|//)"  # ~ and $HOME: no shell was there
    if bucket:
        fine = uri.isprintable() and "/../" not in f"{uri}/"
    else:
        paths = uri.strip(), normpath(uri)
        fine = paths[0] != "" and not any(
            re.search(mistyped, path, re.IGNORECASE) for path in paths
        )
    require(fine, f"--{option} {uri!r} must be a path, /gcs/BUCKET/... or gs://BUCKET/...")


def check_model_out(args: argparse.Namespace) -> None:
    """Refuse a wrong place for the results, and one where they would replace the data."""
    check_place("model_out", args.model_out)
    results = [normpath(join(args.model_out, name)) for name in RESULTS]
    for uri in filter(None, (args.train, args.val)):
        require(normpath(uri) not in results, f"{uri} would be replaced by a result: rename it")


@functools.cache
def gcs_client() -> Any:
    """Log in to Cloud Storage; not imported where all files are local."""
    from google.cloud import storage

    return storage.Client(project=os.environ.get("GOOGLE_CLOUD_PROJECT"))


def access(
    action: str, uri: str, data: bytes = b"", wait: float = 20, missing_ok: bool = False
) -> Any:
    """Read, write or remove a whole file or object; retry for `wait` seconds in Cloud Storage.

    Returns its content, or None where nothing is and that is fine. Raises Stop with a sentence.
    """
    with explain(f"cannot {action} {uri}", skip=ABSENT if missing_ok else ()):
        if uri.startswith(GCS_MOUNT) and not os.path.isdir(GCS_MOUNT):
            uri = "gs://" + uri[len(GCS_MOUNT) :]  # not mounted here, but it is the same object
        if not uri.startswith("gs://"):
            return access_file(action, Path(uri), data)
        bucket, _, name = uri[len("gs://") :].partition("/")
        blob = gcs_client().bucket(bucket).blob(name)
        retry = importlib.import_module("google.cloud.storage.retry").DEFAULT_RETRY
        limits = {"retry": retry.with_timeout(wait), "timeout": min(60, wait)}
        if action == "write":
            return blob.upload_from_string(data, "application/octet-stream", **limits)
        return (blob.download_as_bytes if action == "read" else blob.delete)(**limits)
    return None


def access_file(action: str, path: Path, data: bytes) -> Any:
    """The same for a local file. Whoever reads while it is written sees the old or the new one."""
    if action == "read":
        return path.read_bytes()
    if action == "remove":
        return path.unlink()
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    try:
        part.write_bytes(data)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def remove_results(folder: str) -> None:
    """Remove an earlier run's files, but its log: first the one that says it is complete."""
    for name in RESULTS[:-1]:
        access("remove", join(folder, name), missing_ok=True)


# ------------------------------------------------------------------------------ log
UPLOAD_LOG_EVERY = 10  # seconds: an object can only be replaced as a whole, not for every line


class RunLog(logging.Handler):
    """Prints lines, and keeps all of them in training.log. No failure to print ends a training.

    Warnings and errors go to stderr, the rest to stdout: Cloud Logging takes stderr for errors.
    """

    def __init__(self, quiet: bool) -> None:
        super().__init__()
        self.print_level = logging.WARNING if quiet else logging.INFO
        self.uri = ""
        self.text = ""
        self.saved_at = -math.inf
        logging.basicConfig(handlers=[self], format="%(message)s", level=logging.INFO, force=True)
        logging.captureWarnings(True)
        log.setLevel(logging.DEBUG)  # for the command line, which is kept and not printed
        warnings.simplefilter("ignore", FutureWarning)  # Google's: an image's Python is old

    def emit(self, record: logging.LogRecord) -> None:
        """Print and keep a line; now and then save all, for a job that is killed."""
        with contextlib.suppress(Exception):
            line = self.format(record)
            self.text += f"{time.strftime('%Y-%m-%d %H:%M:%S')} {record.levelname} {line}\n"
            stream = sys.stdout
            if record.levelno >= logging.WARNING:
                stream = sys.stderr
                line = f"{record.levelname}: {line}"
            if record.levelno >= self.print_level and stream:
                line = line.encode(stream.encoding, "backslashreplace").decode(stream.encoding)
                with contextlib.suppress(OSError, ValueError):  # `| head -1`, or a full disk
                    print(line, file=stream, flush=True)
            pause = UPLOAD_LOG_EVERY if self.uri.startswith(("gs:", GCS_MOUNT)) else 0
            if time.monotonic() > self.saved_at + pause:
                self.save(wait=10)

    def save(self, wait: float = 20) -> bytes:
        """Return the log, and write it if there is a `uri` to write it to."""
        self.saved_at = time.monotonic()  # first: writing may log, and emit must not save again
        data = self.text.encode(errors="backslashreplace")
        if self.uri:
            access("write", self.uri, data, wait)
        return data


# ------------------------------------------------------------------------------ main
def run_command(args: argparse.Namespace, argv: Sequence[str], run_log: RunLog) -> int:
    """Do what the command line says; return the exit code."""
    if args.verify is not None:
        check_place("verify", args.verify)
        return verify(args.verify)
    check_model_out(args)
    run_log.uri = join(args.model_out, "training.log")
    check_settings(args)
    run_log.save()  # stops here if the folder cannot be written
    remove_results(args.model_out)  # old results must not pass for this run's
    rank, processes = read_environment()
    gpus = torch.cuda.device_count() if args.device in ("auto", "cuda") else 0
    launching = gpus > 1 and not os.environ.get("LOCAL_RANK")
    if launching or rank > 0:
        run_log.uri = ""  # the first process writes it
    if launching:
        return launch(argv, gpus, rank, processes)
    device = choose_device(args)
    if processes > 1:
        meet(rank, processes, device)
    if rank > 0:
        run_log.print_level = logging.ERROR  # the first process speaks for all
    run = Run(args, *load_data(args, device))
    load_checkpoint(run)
    signal.signal(signal.SIGTERM, lambda *_: sigterm.set())  # heeded at the end of an epoch
    with contextlib.closing(Progress(run)) as progress:
        fit(run, progress)
    if rank == 0:
        write_results(run, run_log)
    if processes > 1 and device.type == "cuda":  # not gloo: it can hang (PyTorch 2.13)
        dist.destroy_process_group()
    return 0


def main(argv: Sequence[str]) -> int:
    """Run the command line; return the exit code."""
    args = parse_args(argv)
    run_log = RunLog(args.quiet)
    log.debug("train_nn.py %s", shlex.join(argv))
    on_signals(interrupt)
    try:
        return run_command(args, argv, run_log)
    except (Exception, KeyboardInterrupt) as error:
        on_signals(ignore)
        return report(error)
    finally:
        on_signals(ignore)
        with contextlib.suppress(Stop):
            run_log.save()


def report(error: BaseException) -> int:
    """Log what ended the run; return the exit code."""
    if isinstance(error, Stop):
        log.error("%s", error)
        return error.exit_code
    if isinstance(error, KeyboardInterrupt):
        log.error("interrupted")
        return 128 + int((error.args or [signal.SIGINT])[0])
    if out_of_memory(error):
        needed = str(error)[:300] or "for a whole data file"
        log.error("not enough memory (%s): take a machine with more, or fewer rows", needed)
        return 2
    log.error("unexpected error", exc_info=error)
    return 1


if __name__ == "__main__":
    os._exit(main(sys.argv[1:]))  # sys.exit can hang: on gloo's threads, on a pipe nobody reads
