r"""Train a small neural network on a table of numbers: on a laptop, or as a Vertex AI job.

    # the results go to the folder run; any name may also begin with gs://BUCKET/ or /gcs/BUCKET/
    python scripts/train_nn.py --train train_data.npz --val val_data.npz --model_out run
    # with checkpoints: after an interruption, the same command resumes (--resume insists on it)
    python scripts/train_nn.py --train train_data.npz --val val_data.npz --model_out run \
        --checkpoint_dir checkpoints --checkpoint_every 10
    # two processes that share the work
    torchrun --nproc_per_node 2 scripts/train_nn.py --train train_data.npz --val val_data.npz
    # is a finished run folder complete and unchanged?
    python scripts/train_nn.py --verify run

A run leaves four files side by side: model.pt (weights), eval_history.csv (a line per epoch),
training.log (everything printed) and, written last as the sign of a complete run, metrics.json.
Exit codes: 0 done; 1 unexpected error, or --verify found a change; 2 bad input; 3 the loss became
NaN or infinite; 130 interrupted; 143 stopped by SIGTERM.

On a CPU, the same data, settings, seed and machine give the same bytes of weights and history
(apart from the seconds). A GPU, another processor, more processes, threads (OMP_NUM_THREADS) or
another PyTorch adds numbers up in another order, so the last digits differ.

To read: what PyTorch does stands first, in the order in which it happens (settings, data, model,
training, and `main` at the end). The sections between training and main keep a long or paid run
safe: results that are complete or absent, checkpoints, several processes, Cloud Storage, the log.
"""

from __future__ import annotations

import os
import signal
import sys

if __name__ == "__main__":  # a signal during the imports, which take seconds, ends with a line
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda n, _: sys.exit(f"ERROR: stopped by signal {n} at the start"))

import argparse
import contextlib
import copy
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
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from posixpath import join  # also for gs://, which pathlib would make gs:/
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.utils import parameters_to_vector, vector_to_parameters
from torch.optim.adam import adam

log = logging.getLogger("train_nn")
sigterm = threading.Event()  # set when this process is asked to end


class Stop(Exception):
    """Ends the run with one sentence and an exit code; 2 means bad input."""

    def __init__(self, sentence: str, exit_code: int = 2) -> None:
        short = sentence if len(sentence) < 1000 else f"{sentence[:600]} ... {sentence[-300:]}"
        super().__init__(short.replace("\n", " "))
        self.exit_code = exit_code


def require(fine: object, sentence: str) -> None:
    """Stop with this sentence unless all is fine."""
    if not fine:
        raise Stop(sentence)


# ------------------------------------------------------------------------------ settings
LIMITS = {"learning_rate": (1e-30, 1e30), "min_delta": (0, 1e30), "seed": (0, 2**63 - 1)}
LIMITS |= {"epochs": (1, 10**9), "patience": (0, 10**9), "batch_size": (0, 10**9)}
LIMITS |= {"checkpoint_every": (0, 10**9)}
ANSWERS = {"true": True, "1": True, "1.0": True, "false": False, "0": False, "0.0": False}


def whole(text: str) -> int:
    """Read a whole number, also as a tuning service writes it: 128.0 or 1e2."""
    for read in (int, float):
        with contextlib.suppress(ValueError, OverflowError):
            if read(text) == int(read(text)):
                return int(read(text))
    raise argparse.ArgumentTypeError(f"must be a whole number, not {text[:50]}")


def yes_no(text: str) -> bool:
    """Read true or false, also as a tuning service writes it: True or 1.0."""
    if text.lower() not in ANSWERS:
        raise argparse.ArgumentTypeError(f"must be true or false, not {text[:50]}")
    return ANSWERS[text.lower()]


def parse_args(argv: Sequence[str]) -> argparse.Namespace:
    """Read the command line; --learning-rate is --learning_rate, and the last of two wins."""
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
    add("--patience", type=whole, default=50, help="stop so long after an improvement; 0: never")
    add("--min_delta", type=float, default=0.0, help="smallest drop of val_loss that counts as one")
    add("--restore_best", default=True, help="save the weights of the best epoch", **switch)
    add("--no_restore_best", dest="restore_best", action="store_false", help="of the last epoch")
    add("--seed", type=whole, default=42, help="where all random numbers start")

    add = parser.add_argument_group("system").add_argument
    add("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    add("--precision", default="fp32", choices=["fp32", "bf16"], help="fp32 is without TF32")
    add("--checkpoint_dir", default=saved, help="save and resume here; else AIP_CHECKPOINT_DIR")
    add("--checkpoint_every", type=whole, default=0, help="epochs between them; 0: one a minute")
    add("--resume", default=False, help="fail if there is no checkpoint", **switch)
    add("--quiet", default=False, help="print only warnings and errors", **switch)
    argv = [re.sub("^--[^=]+", lambda m: "--" + m[0][2:].replace("-", "_"), arg) for arg in argv]
    return parser.parse_args(argv)


def check_settings(args: argparse.Namespace) -> None:
    """Refuse bad values; not in parse_args, so that the complaint reaches training.log."""
    require(args.train and args.val, "--train and --val are required; --help shows all options")
    for name, (low, high) in LIMITS.items():
        value = getattr(args, name)
        require(low <= value <= high, f"--{name} must be from {low} to {high}, not {value}")
    check_place("--train", args.train, "OBJECT")
    check_place("--val", args.val, "OBJECT")
    if args.checkpoint_dir is not None:
        check_place("--checkpoint_dir", args.checkpoint_dir)
    require(args.checkpoint_dir or not args.resume, "--resume needs --checkpoint_dir")


# ------------------------------------------------------------------------------ data
@dataclass
class Table:
    """A checked data file: features x [rows, features] and labels y [rows], both float32."""

    x: Tensor
    y: Tensor
    names: list[str]
    sha256: str


def as_float32(array: Any, what: str, names: Any = ()) -> Tensor:
    """Convert an array of finite numbers; `names` are those of its columns."""
    require(array.dtype.kind in "biuf", f"{what} must hold numbers, but its type is {array.dtype}")
    require(array.size > 0, f"{what} is empty: its shape is {array.shape}")
    if array.dtype != np.float32:
        log.info("%s: converted from %s to float32", what, array.dtype)
    with np.errstate(over="ignore"):  # what is too large becomes infinite and is found below
        array = np.ascontiguousarray(array, np.float32)
    finite = np.isfinite(array)
    if not finite.all():
        wrong = np.argwhere(~finite)
        row, *column = wrong[0].tolist()
        place = f"row {row}" + "".join(f", column {i} ({names[i]})" for i in column)
        raise Stop(f"{what} holds {len(wrong)} NaN or infinite values, the first in {place}")
    return torch.from_numpy(array)


def load_table(uri: str, part: str, device: torch.device) -> Table:
    """Read X_<part>, y_<part> and feature_names, and check all before any training starts."""
    data = access("read", uri)
    require(data[:2] == b"PK", f"{uri} is not an .npz file: it does not begin like a zip file")
    keys = (f"X_{part}", f"y_{part}", "feature_names")
    try:
        # allow_pickle=False: a pickled file can run any program when it is opened.
        with np.load(io.BytesIO(data), allow_pickle=False) as file:
            held = file.files
            found = [np.asarray(file[key]) for key in keys if key in held]
    except MemoryError:
        raise
    except Exception as error:  # a damaged file makes numpy raise errors of many kinds
        pickled = "allow_pickle" in str(error)
        why = "it holds pickled Python objects; save plain arrays" if pickled else "it is damaged"
        raise Stop(f"cannot read {uri}: {why} ({error})") from error
    text = f"{uri} must hold {keys[0]} and {keys[1]}; it holds {', '.join(held)}"
    require(keys[0] in held and keys[1] in held, text)
    x, y = found[:2]
    shapes = f"{uri}: {keys[0]} has shape {x.shape} and {keys[1]} {y.shape}"
    fine = x.ndim == 2 and y.shape == x.shape[:1]
    require(fine, f"{shapes}, but must be [rows, features] and [rows]")
    names = found[2] if len(found) > 2 else np.array([f"x{i}" for i in range(x.shape[1])])
    text = f"{shapes}, but there are {names.size} feature_names, of shape {names.shape}"
    require(names.shape == x.shape[1:], text)
    if names.dtype.kind == "S":  # bytes
        names = np.char.decode(names, "utf-8", "backslashreplace")
    features = as_float32(x, f"{keys[0]} in {uri}", names)
    labels = as_float32(y, f"{keys[1]} in {uri}")
    for row in torch.nonzero((labels != 0) & (labels != 1))[:1, 0].tolist():
        text = f"must hold 0 and 1 only, but row {row} holds {labels[row]:g}"
        raise Stop(f"{keys[1]} in {uri} {text}")
    sha256 = hashlib.sha256(data).hexdigest()
    return Table(features.to(device), labels.to(device), [str(name) for name in names], sha256)


def load_data(args: argparse.Namespace, device: torch.device) -> tuple[Table, Table]:
    """Load the training and the validation data, which must have the same features."""
    train = load_table(args.train, "train", device)
    val = load_table(args.val, "val", device)
    widths = f"{args.train} has {len(train.names)} features, but {args.val} {len(val.names)}"
    require(len(train.names) == len(val.names), widths)
    for i, (name, other) in enumerate(zip(train.names, val.names, strict=True)):
        found = f"{name[:90]!r} in {args.train}, but {other[:90]!r} in {args.val}"
        require(name == other, f"the feature_names differ: column {i} is {found}")
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
        nn.ReLU(inplace=True),  # in place: more of the numbers fit into a cache
        nn.Linear(64, 32),
        nn.ReLU(inplace=True),
        nn.Linear(32, 1),
        nn.Flatten(0),
    )


# Takes logits: right even where a sigmoid rounds to 0 or 1 and its logarithm would be infinite.
criterion = nn.BCEWithLogitsLoss(reduction="sum")


class Adam:
    # Stands in for torch.optim.Adam, whose first use imports PyTorch's compiler: 2 to 3 s.
    # A script that trains for longer should use that: delete this class, and import the other.

    def __init__(self, parameters: Iterable[Tensor], lr: float) -> None:
        self.lr = lr
        self.parameters = list(parameters)
        self.means = [torch.zeros_like(p) for p in self.parameters]  # of the gradients
        self.squares = [torch.zeros_like(p) for p in self.parameters]  # means of their squares
        self.steps = [torch.zeros((), device=p.device) for p in self.parameters]

    def zero_grad(self) -> None:
        for parameter in self.parameters:
            parameter.grad = None

    @torch.no_grad()
    def step(self) -> None:
        gradients = [parameter.grad for parameter in self.parameters]
        usual: Any = {"beta1": 0.9, "beta2": 0.999, "eps": 1e-8, "weight_decay": 0.0}
        usual |= {"lr": self.lr, "amsgrad": False, "maximize": False, "fused": True}
        adam(self.parameters, gradients, self.means, self.squares, [], self.steps, **usual)

    def state_dict(self) -> dict[str, Tensor]:
        moments = parameters_to_vector(self.means + self.squares)  # one tensor is saved faster
        return {"moments": moments, "steps": torch.stack(self.steps)}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        vector_to_parameters(state["moments"].to(self.steps[0]), self.means + self.squares)
        self.steps = list(state["steps"].to(self.steps[0]))


@dataclass
class EarlyStopping:
    """Two questions with two answers: is this the best epoch so far, and should we stop?"""

    patience: int
    min_delta: float
    best_epoch: int = 0
    best_loss: float = math.inf
    loss_to_beat: float = math.inf
    waited: int = 0

    def is_best(self, epoch: int, loss: float) -> bool:
        """Take note of an epoch. Small steps that add up to min_delta are an improvement, too."""
        self.waited += 1
        if loss < self.loss_to_beat - self.min_delta:
            self.loss_to_beat = loss
            self.waited = 0
        if loss < self.best_loss:
            self.best_loss = loss
            self.best_epoch = epoch
        return epoch == self.best_epoch

    def should_stop(self) -> bool:
        return 0 < self.patience <= self.waited


# ------------------------------------------------------------------------------ training
METRICS = ("train_loss", "val_loss", "val_accuracy")
SETTINGS = ("learning_rate", "patience", "min_delta", "batch_size", "seed")


class Run:
    """What changes while training goes on, and the data it learns from."""

    def __init__(self, args: argparse.Namespace, train: Table, val: Table) -> None:
        self.args = args
        self.train = train
        self.val = val
        self.device = train.x.device
        torch.manual_seed(args.seed)
        self.model = build_model(train.x.shape[1])  # on the CPU: the same weights for all devices
        self.model.to(self.device)
        self.optimizer = Adam(self.model.parameters(), lr=args.learning_rate)
        self.best_weights = parameters_to_vector(self.model.parameters()).detach()
        self.shuffle = torch.Generator(self.device).manual_seed(args.seed)
        self.stopping = EarlyStopping(args.patience, args.min_delta)
        self.history: list[list[float]] = []  # of each epoch: METRICS and seconds
        self.made_with = {f"--{name}": getattr(args, name) for name in SETTINGS}
        self.made_with |= {"the training data": train.sha256, "the validation data": val.sha256}
        self.made_with |= {"the device": self.device.type, "--precision": args.precision}
        self.turn = 0  # of the two checkpoints
        half = args.precision == "bf16"
        self.autocast = torch.autocast(self.device.type, torch.bfloat16, enabled=half)
        if "OMP_NUM_THREADS" not in os.environ:  # so small a network gains little from threads
            torch.set_num_threads(1)
        shared = dist.is_initialized()
        self.rank = dist.get_rank() if shared else 0
        self.processes = dist.get_world_size() if shared else 1
        self.shared_model: nn.Module = self.model
        if shared:
            self.shared_model = nn.parallel.DistributedDataParallel(self.model)

    def state_dict(self) -> dict[str, Any]:
        """Return what a later process needs to go on as if there had been no interruption."""
        return {
            "made_with": self.made_with,
            "next_epoch": len(self.history) + 1,
            "history": torch.from_numpy(np.array(self.history).reshape(-1, 4)),
            "model": self.model.state_dict(),
            "best_weights": self.best_weights,
            "optimizer": self.optimizer.state_dict(),
            "shuffle": self.shuffle.get_state(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from a checked state."""
        self.best_weights = state["best_weights"].to(self.device)
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.shuffle.set_state(state["shuffle"])
        self.history = state["history"].tolist()
        for epoch, (_, val_loss, *_) in enumerate(self.history, start=1):
            self.stopping.is_best(epoch, val_loss)

    def batches(self) -> Iterable[tuple[Tensor, Tensor]]:
        """Return x [rows, features] and y [rows] of each step: all rows, or some in a new order."""
        if not self.args.batch_size:
            return [(self.train.x, self.train.y)]
        order = torch.randperm(len(self.train.y), generator=self.shuffle, device=self.device)
        batches = order.split(self.args.batch_size)
        return ((self.train.x[rows], self.train.y[rows]) for rows in batches)

    def pieces(self, x: Tensor, y: Tensor) -> Iterable[tuple[Tensor, Tensor]]:
        """Cut this process's part of a batch into pieces that fit into a cache, or a GPU's memory.

        All processes get the same number of pieces: they exchange gradients after each.
        """
        size = 8192 if self.device.type == "cpu" else 2**20
        count = math.ceil(len(y) / size / self.processes)
        mine = slice(self.rank, None, self.processes)
        return zip(x[mine].tensor_split(count), y[mine].tensor_split(count), strict=True)


def train_one_epoch(run: Run) -> Tensor:
    """Learn from all rows; return the sum of their losses. A GPU is not waited for."""
    total = torch.zeros((), dtype=torch.float64, device=run.device)
    run.model.train()
    for x, y in run.batches():
        # The gradients of the pieces add up to that of the batch; DistributedDataParallel takes
        # the mean over the processes.
        rows = len(y) / run.processes
        run.optimizer.zero_grad()
        for x_piece, y_piece in run.pieces(x, y):
            with run.autocast:
                logits = run.shared_model(x_piece)
            loss = criterion(logits.float(), y_piece)
            (loss / rows).backward()
            total += loss.detach()
        run.optimizer.step()
    return total


@torch.no_grad()
def evaluate(run: Run) -> tuple[Tensor, Tensor]:
    """Return sums over the validation rows: their losses, and the right answers."""
    loss = torch.zeros((), dtype=torch.float64, device=run.device)
    right = torch.zeros_like(loss)
    run.model.eval()
    for x, y in run.pieces(run.val.x, run.val.y):
        with run.autocast:
            logits = run.model(x).float()
        loss += criterion(logits, y)
        right += ((logits > 0) == y).sum()
    return loss, right


def one_epoch(run: Run) -> tuple[dict[str, float], bool]:
    """Train and evaluate; return the METRICS, and whether SIGTERM has reached one process."""
    train_loss = train_one_epoch(run)
    val_loss, right = evaluate(run)
    leave = torch.full_like(right, sigterm.is_set())
    sums = torch.stack([train_loss, val_loss, right, leave])
    if run.processes > 1:
        dist.all_reduce(sums)
    train_sum, val_sum, right_sum, leaving = sums.tolist()  # only here, a GPU is waited for
    rows = len(run.val.y)
    means = (train_sum / len(run.train.y), val_sum / rows, right_sum / rows)
    return dict(zip(METRICS, means, strict=True)), leaving > 0


def fit(run: Run, progress: Progress) -> None:
    """Train until all epochs are done, or early stopping or SIGTERM ends it."""
    args = run.args
    saved_at = time.monotonic()
    # Vertex AI always names a folder: a short run leaves nothing there, unless it was asked to.
    asked = args.checkpoint_every or args.checkpoint_dir != os.environ.get("AIP_CHECKPOINT_DIR")
    while len(run.history) < args.epochs and not run.stopping.should_stop():
        start = time.perf_counter()
        metrics, leave = one_epoch(run)
        run.history.append([*metrics.values(), time.perf_counter() - start])
        epoch = len(run.history)
        diverged = not all(map(math.isfinite, metrics.values()))
        if not diverged and run.stopping.is_best(epoch, metrics["val_loss"]):
            run.best_weights = parameters_to_vector(run.model.parameters()).detach()
        last = epoch == args.epochs or run.stopping.should_stop() or leave or diverged
        progress.show(epoch, metrics, last)
        if diverged:
            if run.rank == 0:
                access("write", join(args.model_out, "eval_history.csv"), history_csv(run))
            text = f"train_loss is {metrics['train_loss']} and val_loss {metrics['val_loss']}"
            raise Stop(f"{text} in epoch {epoch}: try a lower --learning_rate", 3)
        every = args.checkpoint_every
        due = epoch % every == 0 if every else time.monotonic() > saved_at + 60
        if args.checkpoint_dir and run.rank == 0 and (due or leave or (last and asked)):
            save_checkpoint(run)
            saved_at = time.monotonic()
        if leave:
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
    if run.args.restore_best:
        vector_to_parameters(run.best_weights, run.model.parameters())
    model_file = io.BytesIO()  # not a path: torch.save would write its name into the file
    weights = {name: value.cpu().clone() for name, value in run.model.state_dict().items()}
    torch.save(weights, model_file)
    files = {"model.pt": model_file.getvalue(), "eval_history.csv": history_csv(run)}
    try:
        for name, data in files.items():
            access("write", join(folder, name), data, 600)
        text = "saved epoch {final_epoch} of {epochs_run} in {model_uri}, val_accuracy "
        log.info((text + "{final_val_accuracy:.4f}").format(**facts))
        files["training.log"] = run_log.save(patience=600)
        run_log.uri = ""  # metrics.json holds its checksum: write no more
        facts["artifacts"] = {name: fingerprint(data) for name, data in files.items()}
        metrics = json.dumps(facts, indent=2).encode()
        access("write", join(folder, "metrics.json"), metrics, 600)
    except BaseException:
        run_log.uri = join(folder, "training.log")
        remove_results(folder)
        raise


def verify(folder: str) -> int:
    """Compare the files of a finished run with metrics.json; return the exit code."""
    uri = join(folder, "metrics.json")
    try:
        artifacts = dict(json.loads(access("read", uri))["artifacts"])
    except (ValueError, KeyError, TypeError) as error:
        raise Stop(f"{uri} is damaged, or was not written by this script", 1) from error
    wrong = 0
    for name, expected in artifacts.items():
        data = access("read", join(folder, name), must_exist=False)
        fine = data is not None and fingerprint(data) == expected
        wrong += not fine
        log.info("%s %s", "[OK]" if fine else "[FAIL]", name)
    return min(wrong, 1)


# ------------------------------------------------------------------------------ checkpoints
CHECKPOINTS = ("checkpoint-0.pt", "checkpoint-1.pt")  # they take turns: one is always whole


def save_checkpoint(run: Run) -> None:
    """Save the state in place of the older of the two."""
    file = io.BytesIO()
    torch.save(run.state_dict(), file)
    uri = join(run.args.checkpoint_dir, CHECKPOINTS[run.turn])
    with contextlib.suppress(OSError):
        os.remove(uri)  # many disks create a file in less time than they replace one
    access("write", uri, file.getvalue(), patience=600)
    run.turn = 1 - run.turn


def form(state: Any) -> Any:
    """Return of what names, types and shapes a state is; ValueError if it holds NaN."""
    if isinstance(state, dict):
        return {name: form(part) for name, part in state.items()}
    if not isinstance(state, Tensor):
        return type(state)
    if not torch.isfinite(state).all():
        raise ValueError("it holds NaN or infinite numbers")
    return state.dtype, state.shape


def read_checkpoint(run: Run, uri: str) -> dict[str, Any]:
    """Return a state that can be used; {} if there is none. Raises Stop if it is another run's."""
    data = access("read", uri, must_exist=False)
    if data is None:
        return {}
    try:
        state = torch.load(io.BytesIO(data), "cpu", weights_only=True)
        differ = [k for k, v in run.made_with.items() if state["made_with"][k] != v]
        fine = form(state["made_with"]) == form(run.made_with)
        if not differ:
            fresh = run.state_dict()
            fresh["history"] = torch.zeros(len(state["history"]), 4, dtype=torch.float64)
            optimizer = copy.deepcopy(run.optimizer)  # of torch.optim: has no state before a step
            optimizer.load_state_dict(state["optimizer"])
            fresh["optimizer"] = optimizer.state_dict()
            fine = form(state) == form(fresh) and state["next_epoch"] == len(state["history"]) + 1
            torch.Generator(run.device).set_state(state["shuffle"])
        if not fine:
            raise ValueError("its content is of another form")
    except Exception as error:  # a damaged file makes torch raise errors of many kinds
        log.warning("skipped %s: it is damaged, or no checkpoint (%.80s)", uri, error)
        return {"damaged": uri}
    for name in differ:
        text = f"{name} was {state['made_with'][name]}, now it is {run.made_with[name]}"
        raise Stop(f"{uri} is of another run: {text}; use another --checkpoint_dir")
    return dict(state)


def find_checkpoint(run: Run) -> dict[str, Any]:
    """Return the newest state that can be used; {} if there is none, and none is insisted on."""
    folder = run.args.checkpoint_dir
    if not folder or run.rank > 0:  # it may be on the first machine only
        return {}
    states = [read_checkpoint(run, join(folder, name)) for name in CHECKPOINTS]
    newest = max((0, 1), key=lambda turn: states[turn].get("next_epoch", 0))
    done = states[newest].get("next_epoch", 1) - 1
    require(done <= run.args.epochs, f"{folder}: {done} epochs are done, so raise --epochs")
    if done:
        run.turn = 1 - newest
        return states[newest]
    damaged = [state["damaged"] for state in states if state]
    require(not damaged, f"no usable checkpoint in {folder}: remove {damaged}")
    require(not run.args.resume, f"--resume: there is no checkpoint in {folder}")
    return {}


def load_checkpoint(run: Run) -> None:
    """Continue from a checkpoint if there is one; all processes, or none."""
    try:
        found: list[Any] = [find_checkpoint(run)]
    except Stop as error:
        found = [error]
    if run.processes > 1:
        dist.broadcast_object_list(found)
    if isinstance(found[0], Stop):
        raise found[0]
    if found[0]:
        run.load_state_dict(found[0])
        log.info("resumed after epoch %d", len(run.history))


# ------------------------------------------------------------------------------ progress
def optional(module: str, name: str, *args: Any) -> Any:
    """Make an object of a package; None where the package is missing or does not work."""
    try:
        return getattr(importlib.import_module(module), name)(*args)
    except ImportError:
        return None
    except Exception as error:
        log.warning("%s is not used: %r", module, error)
        return None


class Progress:
    """Shows epochs to those who look: the log, a tuning service, TensorBoard."""

    long_run = 10  # seconds, after which lines tell the speed

    def __init__(self, run: Run) -> None:
        self.run = run
        self.done = len(run.history)
        self.start = time.monotonic()
        self.shown_at = -math.inf
        self.tuner = self.board = None
        if run.rank == 0:
            self.tuner = optional("hypertune", "HyperTune")
        if (folder := os.environ.get("AIP_TENSORBOARD_LOG_DIR")) and run.rank == 0:
            if os.path.isdir(GCS_MOUNT):  # then it takes no further package to write there
                folder = folder.replace("gs://", GCS_MOUNT, 1)
            self.board = optional("torch.utils.tensorboard", "SummaryWriter", folder)

    def show(self, epoch: int, metrics: dict[str, float], last: bool) -> None:
        """Show one epoch."""
        try:
            for name, value in metrics.items():
                if self.tuner and name != "train_loss":
                    self.tuner.report_hyperparameter_tuning_metric(name, value, epoch)
                if self.board:
                    self.board.add_scalar(name, value, epoch)
        except Exception as error:  # a full disk, say, is no reason to end the training
            log.warning("from epoch %d on, metrics are in this log only: %r", epoch, error)
            self.tuner = self.board = None
        epochs = self.run.args.epochs
        now = time.monotonic()
        if last or epoch % max(1, epochs // 10) == 0 or now > self.shown_at + 10:
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


# ------------------------------------------------------------------------------ processes
def read_environment() -> tuple[int, int]:
    """Return this process's rank, and how many processes share the work.

    torchrun and Vertex AI's PyTorch images set four variables. Where one is missing, it is
    computed from CLUSTER_SPEC, in which Vertex AI lists a job's machines.
    """
    env = os.environ
    names = ("WORLD_SIZE", "RANK", "MASTER_ADDR", "MASTER_PORT")
    seen = {name: env[name] for name in (*names, "LOCAL_RANK", "CLUSTER_SPEC") if name in env}
    try:
        if env.get("CLUSTER_SPEC"):
            spec = json.loads(env["CLUSTER_SPEC"])
            first = spec["cluster"]["workerpool0"]
            machines = first + spec["cluster"].get("workerpool1", [])
            start = {"workerpool0": 0, "workerpool1": len(first)}[spec["task"]["type"]]
            address, _, port = machines[0].partition(":")
            found = (len(machines), start + spec["task"]["index"], address, port or 2222)
            env.update({k: str(v) for k, v in zip(names, found, strict=True) if not env.get(k)})
        elif seen and not env.get("WORLD_SIZE"):
            log.info("one process: without WORLD_SIZE, %s mean nothing", seen)
            env.pop("LOCAL_RANK", None)
        processes = int(env.get("WORLD_SIZE") or 1)
        if processes == 1:
            return 0, 1
        for name in names[2:]:
            require(env.get(name), f"WORLD_SIZE is {processes}, but {name} is not set")
        range(1, 2**16).index(int(env["MASTER_PORT"]))
        int(env.get("LOCAL_RANK") or 0)
        return range(processes).index(int(env["RANK"])), processes
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        text = f"cannot tell from {seen} which processes share the work ({error!r})"
        raise Stop(f"{text}: correct or unset these variables") from error


def launch(argv: Sequence[str], gpus: int, machines: int) -> int:
    """Start this script once for each GPU of this machine, with torch's own launcher, torchrun."""
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.run import main as torchrun

    where = "--standalone"
    if machines > 1:
        where = "--nnodes={WORLD_SIZE} --node_rank={RANK}".format(**os.environ)
        where += " --master_addr={MASTER_ADDR} --master_port={MASTER_PORT}".format(**os.environ)
    try:
        torchrun([*where.split(), f"--nproc_per_node={gpus}", __file__, *argv])
        return 0
    except ChildFailedError as error:
        return int(error.get_first_failure()[1].exitcode)
    except SignalException as error:
        return 128 + int(error.sigval)


def choose_device(args: argparse.Namespace) -> torch.device:
    """Return the CPU, or this process's GPU."""
    name = args.device
    gpus = torch.cuda.device_count()
    require(re.fullmatch(r"auto|cpu|cuda(:\d+)?", name), f"unknown --device {name}: see --help")
    if name == "cpu" or (name == "auto" and not gpus):
        return torch.device("cpu")
    index = int(name.partition(":")[2] or os.environ.get("LOCAL_RANK") or 0)
    require(index < gpus, f"--device {name}: this machine has {gpus} CUDA devices")
    torch.cuda.set_device(index)
    torch.set_float32_matmul_precision("highest")  # no TF32: it rounds float32 to 10 bits
    able = torch.cuda.get_device_capability(index) >= (8, 0)
    require(able or args.precision != "bf16", "--precision bf16: this GPU is too old for it")
    return torch.device("cuda", index)


# ------------------------------------------------------------------------------ storage
GCS_MOUNT = "/gcs/"  # where Vertex AI mounts all buckets
ABSENT = ("NotFound", "FileNotFoundError", "NotADirectoryError")
LOGIN = "run `gcloud auth application-default login`"
HINTS = {  # by name: Google's classes are not imported before they are needed
    "NotFound": "no such bucket or object",
    "Forbidden": "no permission: ask for the role Storage Object User on the bucket",
    "DefaultCredentialsError": f"no credentials: {LOGIN}",
    "RefreshError": f"the credentials are not accepted: {LOGIN}",
    "RetryError": "Cloud Storage cannot be reached",
    "ModuleNotFoundError": "run `pip install google-cloud-storage`",
    "RecursionError": "the path has too many parts",
}


def check_place(option: str, uri: str, kind: str = "FOLDER") -> None:
    """Refuse all but paths and Cloud Storage: gs:/b would be a folder that ends with the job."""
    if bucket := re.match("(?:gs://|/gcs(?:/|$))([^/]*)/*(.*)", uri):
        name = re.fullmatch("[a-z0-9][a-z0-9._-]+[a-z0-9]", bucket[1]) and uri.isprintable()
        fine = bool(name) and (kind == "FOLDER" or (bucket[2] != "" and uri[-1] != "/"))
    else:
        scheme = re.search("[^/]{2,}:/|^(gs|gcs|s3):", uri.strip(), re.IGNORECASE)
        fine = uri.strip() != "" and not scheme
    require(fine, f"{option} {uri!r} must be a path, /gcs/BUCKET/{kind} or gs://BUCKET/{kind}")


@functools.lru_cache
def gcs_client() -> Any:
    """Log in to Cloud Storage; not imported where all files are local."""
    from google.cloud import storage

    return storage.Client(project=os.environ.get("GOOGLE_CLOUD_PROJECT"))


def access(
    action: str, uri: str, data: bytes = b"", patience: float = 20, must_exist: bool = True
) -> Any:
    """Read, write or remove a whole file or object; wait `patience` seconds for Cloud Storage.

    Returns its content, or None where nothing is and nothing must be. Raises Stop with a sentence.
    """
    try:
        if uri.startswith(GCS_MOUNT) and not os.path.isdir(GCS_MOUNT):
            uri = "gs://" + uri[len(GCS_MOUNT) :]  # not mounted here, but it is the same object
        if not uri.startswith("gs://"):
            return access_file(action, uri, data)
        bucket, _, name = uri[len("gs://") :].partition("/")
        blob = gcs_client().bucket(bucket).blob(name)
        retry = importlib.import_module("google.cloud.storage.retry").DEFAULT_RETRY
        limits = {"retry": retry.with_timeout(patience), "timeout": min(60, patience)}
        if action == "write":
            return blob.upload_from_string(data, "application/octet-stream", **limits)
        return (blob.download_as_bytes if action == "read" else blob.delete)(**limits)
    except Exception as error:
        name = type(error).__name__
        if name in ABSENT and not must_exist:
            return None
        hint = HINTS.get(name) or getattr(error, "strerror", None)
        if not hint and not type(error).__module__.startswith(("google.", "requests.", "urllib3.")):
            raise
        raise Stop(f"cannot {action} {uri}: {hint or repr(error)}") from error


def access_file(action: str, path: str, data: bytes) -> Any:
    """The same for a local file. Whoever reads while it is written sees the old or the new one."""
    if action == "read":
        with open(path, "rb") as file:
            return file.read()
    if action == "remove":
        return os.remove(path)
    os.makedirs(os.path.dirname(path) or ".", exist_ok=True)
    part = path + ".part"
    try:
        with open(part, "wb") as file:
            file.write(data)
        os.replace(part, path)
    finally:
        with contextlib.suppress(OSError):  # gone already, if all went well
            os.remove(part)


def remove_results(folder: str) -> None:
    """Remove what an earlier run left: first the file that says it is complete."""
    for name in ("metrics.json", "model.pt", "eval_history.csv"):
        access("remove", join(folder, name), must_exist=False)


# ------------------------------------------------------------------------------ log
UPLOAD_LOG_EVERY = 10  # seconds: an object can only be replaced as a whole, not for every line


class RunLog(logging.Handler):
    """Prints lines, and keeps all of them in training.log. No failure to print ends a training.

    Warnings and errors go to stderr, the rest to stdout: Cloud Logging takes stderr for errors.
    """

    def __init__(self, quiet: bool) -> None:
        super().__init__()
        self.shown = logging.WARNING if quiet else logging.INFO
        self.uri = ""
        self.text = ""
        self.saved_at = -math.inf
        logging.basicConfig(handlers=[self], format="%(message)s", level=logging.INFO, force=True)
        logging.captureWarnings(True)
        log.setLevel(logging.DEBUG)
        warnings.simplefilter("ignore", FutureWarning)  # Google's, of an image's old Python

    def emit(self, record: logging.LogRecord) -> None:
        """Print and keep a line; now and then save all, for a job that is killed."""
        with contextlib.suppress(Exception):
            line = self.format(record)
            self.text += f"{time.strftime('%Y-%m-%d %H:%M:%S')} {record.levelname} {line}\n"
            stream = sys.stdout
            if record.levelno >= logging.WARNING:
                stream = sys.stderr
                line = f"{record.levelname}: {line}"
            if record.levelno >= self.shown and stream:
                line = line.encode(stream.encoding, "backslashreplace").decode(stream.encoding)
                with contextlib.suppress(OSError, ValueError):  # `| head -1`, or a full disk
                    print(line, file=stream, flush=True)
            pause = UPLOAD_LOG_EVERY if self.uri.startswith(("gs:", GCS_MOUNT)) else 0
            if time.monotonic() > self.saved_at + pause:
                self.save(patience=10)

    def save(self, patience: float = 20) -> bytes:
        """Write training.log, and return its content."""
        self.saved_at = time.monotonic()  # now: a warning while it is written comes back to emit
        data = self.text.encode(errors="backslashreplace")
        if self.uri:
            access("write", self.uri, data, patience)
        return data


# ------------------------------------------------------------------------------ main
def run_command(args: argparse.Namespace, argv: Sequence[str], run_log: RunLog) -> int:
    """Do what the command line says; return the exit code."""
    if args.verify is not None:
        check_place("--verify", args.verify)
        return verify(args.verify)
    check_place("--model_out", args.model_out)
    run_log.uri = join(args.model_out, "training.log")
    check_settings(args)
    try:
        rank, processes = read_environment()
    except Stop:
        remove_results(args.model_out)
        raise
    gpus = torch.cuda.device_count() if args.device in ("auto", "cuda") else 0
    if gpus > 1 and not os.environ.get("LOCAL_RANK"):
        run_log.uri = ""
        return launch(argv, gpus, processes)
    if rank == 0:
        run_log.save()
        remove_results(args.model_out)
    else:  # the first process speaks for all
        run_log.uri = ""
        run_log.shown = logging.ERROR
    device = choose_device(args)
    if processes > 1:
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    run = Run(args, *load_data(args, device))
    load_checkpoint(run)
    with contextlib.closing(Progress(run)) as progress:
        fit(run, progress)
    if rank == 0:
        write_results(run, run_log)
    if processes > 1 and device.type == "cuda":  # gloo, in PyTorch 2.13, can hang in this
        dist.destroy_process_group()
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit code."""
    argv = sys.argv[1:] if argv is None else argv
    args = parse_args(argv)
    run_log = RunLog(args.quiet)
    log.debug("train_nn.py %s", shlex.join(argv))
    signal.signal(signal.SIGTERM, lambda *_: sigterm.set())
    signal.signal(signal.SIGINT, interrupt)
    try:
        return run_command(args, argv, run_log)
    except Stop as error:
        log.error("%s", error)
        return error.exit_code
    except KeyboardInterrupt:
        log.error("interrupted")
        return 130
    except Exception as error:
        if isinstance(error, MemoryError) or "to allocate" in str(error):  # numpy, PyTorch, CUDA
            needed = str(error)[:300] or "for a whole data file"
            log.error("not enough memory (%s): take a machine with more, or fewer rows", needed)
            return 2
        log.exception("unexpected error")
        return 1
    finally:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        with contextlib.suppress(Stop):
            run_log.save()


def interrupt(*_: object) -> None:
    """Ctrl-C ends the run once: while the log is saved, it is ignored."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    raise KeyboardInterrupt


if __name__ == "__main__":
    exit_code = main()
    os._exit(exit_code)  # the end of Python can meet gloo's threads, or a pipe that nobody reads
