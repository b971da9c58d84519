r"""Train a small neural network on a table of numbers: on a laptop, or as a Vertex AI job.

    # data in local files, results in the folder run
    python scripts/train_nn.py --train train_data.npz --val val_data.npz --model_out run
    # data and results in Cloud Storage (first: pip install google-cloud-storage)
    python scripts/train_nn.py --train gs://BUCKET/train_data.npz --val gs://BUCKET/val_data.npz \
        --model_out gs://BUCKET/run
    # with checkpoints: after an interruption the same command resumes (--resume insists on it)
    python scripts/train_nn.py --train train_data.npz --val val_data.npz --model_out run \
        --checkpoint_dir checkpoints --checkpoint_every 10
    # two processes that share the work
    torchrun --nproc_per_node 2 scripts/train_nn.py --train train_data.npz --val val_data.npz \
        --model_out run
    # is a finished run folder complete and unchanged?
    python scripts/train_nn.py --verify run

A run leaves four files side by side: model.pt (weights), eval_history.csv (a line per epoch),
training.log (everything printed) and, written last as the sign of a complete run, metrics.json.
Exit codes: 0 done; 1 unexpected error, or --verify found a change; 2 bad input; 3 the loss became
NaN or infinite; 143 stopped by SIGTERM.

Reproducible: on a CPU, the same data, settings, seed and machine give the same bytes of weights
and history (apart from the seconds), with any number of threads. A GPU, another processor, more
processes or another version of PyTorch adds numbers up in another order: training starts from the
same weights, but the last digits of the results differ. A GPU may not even repeat its own.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import hashlib
import importlib
import io
import json
import logging
import math
import os
import platform
import re
import shlex
import signal
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
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
        super().__init__(sentence)
        self.exit_code = exit_code


class Absent(Stop):
    """There is no such file or object."""


def require(fine: object, sentence: str) -> None:
    if not fine:
        raise Stop(sentence)


# ------------------------------------------------------------------------------ settings
SETTINGS = ("learning_rate", "patience", "min_delta", "batch_size", "seed")  # what a run depends on


def parse_args(argv: Sequence[str]) -> argparse.Namespace:
    show_defaults, yes_no = argparse.ArgumentDefaultsHelpFormatter, argparse.BooleanOptionalAction
    parser = argparse.ArgumentParser(formatter_class=show_defaults, allow_abbrev=False)

    def option(name: str, default: Any, text: str, **how: Any) -> None:
        if "action" not in how:
            how["type"] = str if default is None else type(default)
        parser.add_argument(f"--{name}", default=default, help=text, **how)

    folder, saved = os.environ.get("AIP_MODEL_DIR") or ".", os.environ.get("AIP_CHECKPOINT_DIR")
    option("train", None, ".npz with X_train and y_train: a path, gs://... or /gcs/...")
    option("val", None, ".npz with X_val and y_val")
    option("model_out", folder, "folder for the results; AIP_MODEL_DIR if not given")
    option("epochs", 500, "passes over the training data, at most")
    option("learning_rate", 0.001, "size of a step")
    option("patience", 50, "stop after so many epochs without progress; 0: never")
    option("min_delta", 0.0, "progress: a validation loss lower by more than this")
    option("restore_best", True, "save the weights of the best epoch, not the last", action=yes_no)
    option("batch_size", 0, "rows in a step; 0: all rows")
    option("seed", 42, "where all random numbers start")
    option("device", "auto", "auto, cpu, cuda or cuda:N")
    option("checkpoint_dir", saved, "save and resume here; AIP_CHECKPOINT_DIR if not given")
    option("checkpoint_every", 0, "epochs between checkpoints; 0: one a minute")
    option("resume", False, "fail if there is no checkpoint", action="store_true")
    option("quiet", False, "print only warnings and errors", action="store_true")
    option("verify", None, "folder of a finished run: check its files, train nothing")
    # --learning-rate is --learning_rate, and --no_restore_best is --no-restore_best
    argv = [re.sub("^--[^=]+", lambda m: "--" + m[0][2:].replace("-", "_"), arg) for arg in argv]
    return parser.parse_args([re.sub("^--no_", "--no-", arg) for arg in argv])


def check(args: argparse.Namespace) -> None:
    """Apart from parse_args, so that these complaints reach training.log."""
    require(args.train and args.val, "--train and --val are required; --help shows all options")
    for name, value in vars(args).items():
        if type(value) in (int, float):
            low = 1 if name == "epochs" else 0
            require(low <= value < 2**63, f"--{name} must be {low} or more, not {value}")  # nor NaN
    require(args.learning_rate > 0, f"--learning_rate must be above 0, not {args.learning_rate}")
    require(args.checkpoint_dir or not args.resume, "--resume needs --checkpoint_dir")


# ------------------------------------------------------------------------------ storage
GCS_MOUNT = "/gcs/"  # where Vertex AI mounts all buckets
UPLOAD_LOG_EVERY = 10  # seconds
LOGIN = "run `gcloud auth application-default login`"
HINTS = {  # by name: Google's classes are not imported before they are needed
    "NotFound": "no such bucket or object",
    "Forbidden": "no permission: ask for the role Storage Object User on the bucket",
    "DefaultCredentialsError": f"no credentials: {LOGIN}",
    "RefreshError": f"the credentials are not accepted: {LOGIN}",
    "ModuleNotFoundError": "run `pip install google-cloud-storage`",
}


@contextlib.contextmanager
def explained(action: str, uri: str) -> Iterator[None]:
    """Turn what files and Cloud Storage raise into one sentence."""
    try:
        yield
    except Exception as error:
        name = type(error).__name__
        hint = HINTS.get(name) or getattr(error, "strerror", None)
        if not hint and not type(error).__module__.startswith(("google.", "requests.")):
            raise
        kind = Absent if name in ("NotFound", "FileNotFoundError", "NotADirectoryError") else Stop
        raise kind(f"cannot {action} {uri}: {hint or repr(error)}") from error


def join(folder: str, name: str) -> str:
    return f"{folder.rstrip('/')}/{name}"  # pathlib would turn gs://b into gs:/b


@functools.lru_cache
def gcs_client() -> Any:
    with warnings.catch_warnings():  # of an image's old Python, which a job cannot change
        warnings.simplefilter("ignore", FutureWarning)
        from google.cloud import storage  # slow to import, and local files do not need it

    return storage.Client(project=os.environ.get("GOOGLE_CLOUD_PROJECT"))


def gcs_blob(uri: str) -> Any | None:
    """The object in Cloud Storage that is meant, or None for a local file."""
    if uri.startswith(GCS_MOUNT) and not os.path.isdir(GCS_MOUNT):
        uri = "gs://" + uri[len(GCS_MOUNT) :]  # not mounted here, but it is the same object
    if not uri.startswith("gs://"):
        return None
    bucket, _, name = uri[len("gs://") :].partition("/")
    require(bucket and name and name[-1] != "/", f"{uri} is not of the form gs://BUCKET/OBJECT")
    return gcs_client().bucket(bucket).blob(name)


def read_bytes(uri: str) -> bytes:
    with explained("read", uri):
        if blob := gcs_blob(uri):
            return bytes(blob.download_as_bytes())
        with open(uri, "rb") as file:
            return file.read()


def write_bytes(uri: str, data: bytes) -> None:
    """Write the whole file or nothing: whoever reads it sees the old file or the new one."""
    with explained("write", uri):
        if blob := gcs_blob(uri):
            from google.cloud.storage.retry import DEFAULT_RETRY

            # To send it again is safe: there is one writer, and it always sends all of the content.
            blob.upload_from_string(data, "application/octet-stream", retry=DEFAULT_RETRY)
            return
        os.makedirs(os.path.dirname(uri) or ".", exist_ok=True)
        try:
            with open(uri + ".part", "wb") as file:
                file.write(data)
            os.replace(uri + ".part", uri)
        except BaseException:
            with contextlib.suppress(OSError):
                os.remove(uri + ".part")
            raise


def remove_results(folder: str) -> None:
    for name in ("metrics.json", "model.pt", "eval_history.csv"):  # first the sign of a whole run
        uri = join(folder, name)
        with contextlib.suppress(Absent), explained("remove", uri):
            blob = gcs_blob(uri)
            blob.delete() if blob else os.remove(uri)


class RunLog(logging.Handler):
    """Results to stdout, warnings and errors to stderr, and all of it to training.log."""

    def __init__(self, quiet: bool) -> None:
        super().__init__()
        self.shown, self.uri = logging.WARNING if quiet else logging.INFO, ""
        self.text, self.saved, self.saved_at, self.closed = "", "", -math.inf, False
        logging.basicConfig(handlers=[self], format="%(message)s", force=True)
        logging.captureWarnings(True)
        log.setLevel(logging.DEBUG)

    def emit(self, record: logging.LogRecord) -> None:
        text, warning = self.format(record), record.levelno >= logging.WARNING
        self.text += f"{time.strftime('%Y-%m-%d %H:%M:%S')} {record.levelname} {text}\n"
        if record.levelno >= self.shown:
            stream = sys.stderr if warning else sys.stdout
            print(f"{record.levelname}: {text}" if warning else text, file=stream, flush=True)
        # An object in a bucket can only be replaced as a whole: so not for every line, but often
        # enough that a job that is killed leaves its last lines.
        pause = UPLOAD_LOG_EVERY if self.uri.startswith(("gs:", "/gcs/")) else 0
        if time.monotonic() > self.saved_at + pause:
            with contextlib.suppress(Stop):  # the results cannot be written either, and will tell
                self.save()

    def save(self) -> bytes:
        # The time first: a warning of Google's client while it writes must not come back here.
        text, self.saved_at = self.text, time.monotonic()
        if self.uri and text != self.saved and not self.closed:
            write_bytes(self.uri, text.encode())
            self.saved = text
        return text.encode()


# ------------------------------------------------------------------------------ data
@dataclass
class Table:
    """One data file, checked: features x [n, k] and labels y [n], both float32."""

    x: Tensor
    y: Tensor
    names: list[str]
    sha256: str


def as_float32(array: Any, what: str, names: Sequence[str] = ()) -> Tensor:
    require(array.dtype.kind in "biuf", f"{what} must hold numbers, but its type is {array.dtype}")
    require(array.size > 0, f"{what} is empty: its shape is {array.shape}")
    if array.dtype != np.float32:
        log.info("%s: converted from %s to float32", what, array.dtype)
        with np.errstate(over="ignore"):  # what is too large becomes infinite and is found below
            array = array.astype(np.float32)
    finite = np.isfinite(array)
    if not finite.all():
        row, *column = np.argwhere(~finite)[0]
        place = f"row {row}" + "".join(f", column {i} ({names[i]})" for i in column)
        raise Stop(f"{what} holds {np.sum(~finite)} NaN or infinite values, the first in {place}")
    return torch.from_numpy(np.ascontiguousarray(array))


def load(uri: str, part: str, device: torch.device) -> Table:
    """Read X_<part> and y_<part>, and check them before any training starts."""
    data, x_key, y_key = read_bytes(uri), f"X_{part}", f"y_{part}"
    require(data[:2] == b"PK", f"{uri} is not an .npz file: it does not begin like a zip file")
    try:
        # allow_pickle=False: a pickled file can run any program when it is opened.
        with np.load(io.BytesIO(data), allow_pickle=False) as file:
            held = ", ".join(file.files)
            found = {key: file[key] for key in (x_key, y_key, "feature_names") if key in file}
    except Exception as error:  # a damaged file makes numpy raise errors of many kinds
        pickled = "allow_pickle" in str(error)
        why = "it holds pickled Python objects; save plain arrays" if pickled else "it is damaged"
        raise Stop(f"cannot read {uri}: {why} ({error})") from error
    require({x_key, y_key} <= found.keys(), f"{uri} must hold {x_key} and {y_key}; it holds {held}")
    x, y, sha256 = found[x_key], found[y_key], hashlib.sha256(data).hexdigest()
    shapes = f"{uri}: {x_key} has shape {x.shape} and {y_key} {y.shape}"
    require(x.ndim == 2 and y.ndim == 1, f"{shapes}, but must be [rows, features] and [rows]")
    require(len(x) == len(y), f"{shapes}: the numbers of rows differ")
    names = [str(n) for n in found.get("feature_names", [f"x{i}" for i in range(x.shape[1])])]
    require(len(names) == x.shape[1], f"{shapes}, but there are {len(names)} feature_names")
    features, labels = as_float32(x, f"{x_key} in {uri}", names), as_float32(y, f"{y_key} in {uri}")
    for row in torch.nonzero((labels != 0) & (labels != 1))[:1, 0].tolist():
        raise Stop(f"{y_key} in {uri} must hold 0 and 1 only, but row {row} holds {labels[row]:g}")
    return Table(features.to(device), labels.to(device), names, sha256)


def load_both(args: argparse.Namespace, device: torch.device) -> tuple[Table, Table]:
    train, val = load(args.train, "train", device), load(args.val, "val", device)
    (rows, width), (val_rows, val_width) = train.x.shape, val.x.shape
    require(width == val_width, f"{args.train} has {width} features, but {args.val} {val_width}")
    text = f"the feature_names differ: {train.names} in {args.train}, {val.names} in {args.val}"
    require(train.names == val.names, text)
    if train.y.min() == train.y.max():
        log.warning("all labels in %s are %d: nothing can be learned", args.train, train.y[0])
    log.info("%d training rows, %d validation rows, %d features", rows, val_rows, width)
    return train, val


# ------------------------------------------------------------------------------ model
def build_model(n_features: int) -> nn.Sequential:
    """From features [n, n_features] to logits [n]; torch.sigmoid(logits) are probabilities."""
    first, second, last = nn.Linear(n_features, 64), nn.Linear(64, 32), nn.Linear(32, 1)
    relu = functools.partial(nn.ReLU, inplace=True)  # so that more of the numbers fit into a cache
    return nn.Sequential(first, relu(), second, relu(), last, nn.Flatten(0))


# Takes logits: right even where a sigmoid rounds to 0 or 1 and its logarithm would be infinite.
criterion = nn.BCEWithLogitsLoss(reduction="sum")


class Adam:
    """torch.optim.Adam, called as a function: in your own work take the class.

    Both compute the same. But the first optimizer object of a process imports PyTorch's compiler,
    which takes longer than this training.
    """

    def __init__(self, model: nn.Module, learning_rate: float) -> None:
        self.learning_rate, self.parameters = learning_rate, list(model.parameters())
        # One vector, of which the parameters are views: all weights are copied or saved at once.
        self.weights = parameters_to_vector(self.parameters).detach()
        vector_to_parameters(self.weights, self.parameters)
        self.mean, self.square = torch.zeros_like(self.weights), torch.zeros_like(self.weights)
        self.steps = self.weights.new_zeros(())

    def step(self, gradient: Tensor) -> None:
        usual = {"beta1": 0.9, "beta2": 0.999, "eps": 1e-8, "weight_decay": 0.0}
        usual |= {"lr": self.learning_rate, "amsgrad": False, "maximize": False, "fused": True}
        adam([self.weights], [gradient], [self.mean], [self.square], [], [self.steps], **usual)


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
        progress = loss < self.loss_to_beat - self.min_delta
        self.waited = 0 if progress else self.waited + 1
        self.loss_to_beat = loss if progress else self.loss_to_beat
        if loss < self.best_loss:
            self.best_epoch, self.best_loss = epoch, loss
        return epoch == self.best_epoch

    def should_stop(self) -> bool:
        return 0 < self.patience <= self.waited


# ------------------------------------------------------------------------------ several processes
def read_cluster_spec() -> None:
    """Vertex AI lists a job's machines here; its PyTorch image has these variables set already."""
    if spec := json.loads(os.environ.get("CLUSTER_SPEC") or "{}"):
        first, others = (spec["cluster"].get(f"workerpool{i}", []) for i in (0, 1))
        address, _, port = first[0].partition(":")
        rank = spec["task"]["index"] + (len(first) if spec["task"]["type"] == "workerpool1" else 0)
        found = {"MASTER_ADDR": address, "MASTER_PORT": port or "2222", "RANK": str(rank)}
        for name, value in {**found, "WORLD_SIZE": str(len(first) + len(others))}.items():
            os.environ.setdefault(name, value)


def launch(argv: Sequence[str], processes: int) -> int:
    """Start this script once for each GPU of this machine, with torch's own launcher, torchrun."""
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.run import main as torchrun

    where = ["--standalone"]
    if os.environ.get("WORLD_SIZE", "1") != "1":
        names = {"nnodes": "WORLD_SIZE", "node_rank": "RANK"}
        names |= {"master_addr": "MASTER_ADDR", "master_port": "MASTER_PORT"}
        where = [f"--{option}={os.environ[name]}" for option, name in names.items()]
    try:
        torchrun([*where, f"--nproc_per_node={processes}", __file__, *argv])
        return 0
    except ChildFailedError as error:
        return int(error.get_first_failure()[1].exitcode)
    except SignalException:
        return 143


def choose_device(name: str) -> torch.device:
    require(re.fullmatch(r"auto|cpu|cuda(:\d+)?", name), f"unknown --device {name}: see --help")
    gpus = torch.cuda.device_count()
    if name == "cpu" or (name == "auto" and not gpus):
        return torch.device("cpu")
    index = int(name.partition(":")[2] or os.environ.get("LOCAL_RANK", "0"))
    require(index < gpus, f"--device {name}: this machine has {gpus} CUDA devices")
    torch.cuda.set_device(index)
    return torch.device("cuda", index)


# ------------------------------------------------------------------------------ training
class Trainer:
    """All that changes while training goes on, and one epoch of it."""

    def __init__(self, args: argparse.Namespace, train: Table, val: Table) -> None:
        self.args, self.train, self.val, self.device = args, train, val, train.x.device
        torch.manual_seed(args.seed)
        self.model = build_model(train.x.shape[1])  # on the CPU: the same weights on all devices
        self.adam = Adam(self.model.to(self.device), args.learning_rate)
        self.best_weights = self.adam.weights.clone()
        self.vectors = [self.adam.weights, self.adam.mean, self.adam.square, self.best_weights]
        self.shuffle = torch.Generator(self.device).manual_seed(args.seed)
        self.stopping = EarlyStopping(args.patience, args.min_delta)
        self.history: list[list[float]] = []  # of each epoch: two losses, accuracy, seconds
        self.made_with = {f"--{name}": getattr(args, name) for name in SETTINGS}
        self.made_with |= {"the training data": train.sha256, "the validation data": val.sha256}
        self.made_with |= {"the device": self.device.type}
        self.pool = ThreadPoolExecutor(torch.get_num_threads())
        torch.set_num_threads(1)  # see sums(); nor must processes crowd the cores of a machine
        self.rank, self.processes, self.turn = 0, 1, 0
        if dist.is_initialized():
            self.rank, self.processes = dist.get_rank(), dist.get_world_size()
            self.ddp = nn.parallel.DistributedDataParallel(self.model)
        self.mine = slice(self.rank, None, self.processes)  # this process's part of any rows
        self.my_val = val.x[self.mine], val.y[self.mine]

    def sums(self, function: Callable[..., list[Tensor]], x: Tensor, y: Tensor) -> list[Tensor]:
        """Add up `function` over pieces of the rows that need little memory and fit into a cache.

        Each piece is computed on one thread, and they are added in order, as they come: so the
        number of threads does not change the result, and few of them are in memory at a time.
        """
        on_cpu = self.device.type == "cpu"
        size = 8192 if on_cpu else 2**20
        if len(x) <= size:
            return function(x, y)
        run = self.pool.map if on_cpu else map
        results = run(function, torch.split(x, size), torch.split(y, size))
        return functools.reduce(lambda one, other: list(map(torch.add, one, other)), results)

    def gradient(self, x: Tensor, y: Tensor, rows: int) -> list[Tensor]:
        """The loss, summed, and what these rows add to the gradient of the mean over `rows`."""
        loss = criterion(self.model(x), y)
        gradient = torch.autograd.grad(loss / rows, self.adam.parameters)
        return [loss.detach(), parameters_to_vector(gradient)]

    def shared_gradient(self, x: Tensor, y: Tensor, rows: int) -> list[Tensor]:
        """The same, but the gradient that all processes found together."""
        self.ddp.zero_grad()
        loss = criterion(self.ddp(x), y)
        # Here DistributedDataParallel averages .grad over the processes: we want the sum.
        (loss / rows * self.processes).backward()
        gradient = [p.grad for p in self.adam.parameters if p.grad is not None]
        return [loss.detach(), parameters_to_vector(gradient)]

    @torch.inference_mode()
    def score(self, x: Tensor, y: Tensor) -> list[Tensor]:
        """The loss, summed over the rows, and the number of right answers."""
        logits = self.model(x)
        return [criterion(logits, y), ((logits > 0) == y).sum(dtype=logits.dtype)]

    def epoch(self) -> tuple[float, float, float, bool]:
        """Learn from all rows, then look at the validation rows; a GPU is waited for at the end.

        Returns sums over all rows: training loss, validation loss, right answers; and whether to
        leave, since SIGTERM has reached one of the processes.
        """
        losses, x, y, size = [], self.train.x, self.train.y, self.args.batch_size
        batches: Iterable[tuple[Tensor, Tensor]] = [(x, y)]
        if size:
            order = torch.randperm(len(y), generator=self.shuffle, device=self.device)
            x, y = x.index_select(0, order), y.index_select(0, order)
            batches = zip(torch.split(x, size), torch.split(y, size), strict=True)
        for x, y in batches:
            if self.processes > 1:
                loss, gradient = self.shared_gradient(x[self.mine], y[self.mine], len(y))
            else:
                loss, gradient = self.sums(functools.partial(self.gradient, rows=len(y)), x, y)
            self.adam.step(gradient)
            losses.append(loss)
        scores = self.sums(self.score, *self.my_val)
        found = torch.stack([y.new_full((), sigterm.is_set()), *scores, *losses])
        if self.processes > 1:
            dist.all_reduce(found)  # each process has its part; if one must leave, all do
        leave, val_loss, right, *train_losses = found.tolist()
        return sum(train_losses), val_loss, right, leave > 0


def fit(trainer: Trainer) -> None:
    args, history, stopping, shown_at = trainer.args, trainer.history, trainer.stopping, -math.inf
    every, saved_at, bar = args.checkpoint_every, time.monotonic(), None
    # Vertex AI always names a folder, inside the run's own: a run too short to be in need of
    # checkpoints leaves none there, unless somebody asked for them.
    asked = every or args.checkpoint_dir != os.environ.get("AIP_CHECKPOINT_DIR")
    # A bar on a terminal. A notebook's `!python` pretends to be one, but cannot redraw a line.
    if sys.stderr.isatty() and not (args.quiet or trainer.rank or "JPY_PARENT_PID" in os.environ):
        with contextlib.suppress(ModuleNotFoundError):
            bar = importlib.import_module("tqdm").tqdm(total=args.epochs, initial=len(history))
    while len(history) < args.epochs and not stopping.should_stop():
        epoch, start = len(history) + 1, time.perf_counter()
        train_sum, val_sum, right, leave = trainer.epoch()
        train_loss = train_sum / len(trainer.train.y)
        val_loss, accuracy = val_sum / len(trainer.val.y), right / len(trainer.val.y)
        history.append([train_loss, val_loss, accuracy, time.perf_counter() - start])
        if not math.isfinite(train_loss + val_loss):
            text = f"train_loss is {train_loss} and val_loss {val_loss} in epoch {epoch}"
            raise Stop(f"{text}: try a lower --learning_rate", 3)
        if stopping.is_best(epoch, val_loss):
            trainer.best_weights.copy_(trainer.adam.weights)
        last = epoch == args.epochs or stopping.should_stop() or leave
        if last or epoch % max(1, args.epochs // 10) == 0 or time.monotonic() > shown_at + 10:
            level, shown_at = logging.DEBUG if bar else logging.INFO, time.monotonic()
            line = "epoch %d/%d  train_loss %.4f  val_loss %.4f  val_accuracy %.4f"
            log.log(level, line, epoch, args.epochs, train_loss, val_loss, accuracy)
        if bar:
            bar.update()
        due = epoch % every == 0 if every else time.monotonic() > saved_at + 60
        if args.checkpoint_dir and trainer.rank == 0 and (due or leave or (last and asked)):
            save_checkpoint(trainer)
            saved_at = time.monotonic()
        if leave:
            raise Stop(f"stopped by SIGTERM after epoch {epoch}", 143)
    if bar:
        bar.close()
    if len(history) < args.epochs:
        log.info("stopped early: %d epochs without progress", args.patience)


# ------------------------------------------------------------------------------ checkpoints
def save_checkpoint(trainer: Trainer) -> None:
    """Two files in turn: if the newest is damaged, the one before is still there."""
    state: dict[str, Any] = {"vectors": torch.stack(trainer.vectors), "steps": trainer.adam.steps}
    state |= {"shuffle": trainer.shuffle.get_state(), "stopping": vars(trainer.stopping)}
    state |= {"history": torch.tensor(np.array(trainer.history))}  # faster than a list
    state |= {"next_epoch": len(trainer.history) + 1, "made_with": trainer.made_with}
    uri, file = join(trainer.args.checkpoint_dir, f"checkpoint-{trainer.turn}.pt"), io.BytesIO()
    torch.save(state, file)
    with contextlib.suppress(OSError):  # on many disks it takes less time to create a file
        os.remove(uri)  # than to replace one
    write_bytes(uri, file.getvalue())
    trainer.turn = 1 - trainer.turn


def find_checkpoint(trainer: Trainer) -> dict[str, Any]:
    """The newest state that can be read; {} if there is none."""
    args, folder, damaged = trainer.args, trainer.args.checkpoint_dir, []
    best: dict[str, Any] = {}
    for turn in (0, 1):
        uri = join(folder, f"checkpoint-{turn}.pt")
        try:
            state = torch.load(io.BytesIO(read_bytes(uri)), "cpu", weights_only=True)
            if state["made_with"] and state["next_epoch"] > best.get("next_epoch", 0):
                best, trainer.turn = state, 1 - turn
        except Absent:
            continue
        except Stop:
            raise
        except Exception:  # a damaged file makes torch raise errors of many kinds
            log.warning("skipped %s: it is damaged, or no checkpoint of this script", uri)
            damaged.append(uri)
    require(best or not damaged, f"no usable checkpoint in {folder}: remove {damaged}")
    require(best or not args.resume, f"--resume: there is no checkpoint in {folder}")
    for name, was in best.get("made_with", {}).items():
        now, text = trainer.made_with[name], f"the checkpoint in {folder} is of another run: {name}"
        require(was == now, f"{text} was {was}, now it is {now}; use another --checkpoint_dir")
    done = best.get("next_epoch", 1) - 1
    require(done <= args.epochs, f"{folder}: {done} epochs are done, so raise --epochs")
    return best


def resume(trainer: Trainer) -> None:
    found: list[Any] = [{}]
    try:
        if trainer.args.checkpoint_dir and trainer.rank == 0:
            found = [find_checkpoint(trainer)]
    except Stop as error:
        found = [error]
    if trainer.processes > 1:
        dist.broadcast_object_list(found)  # the file may be on the first machine only
    if isinstance(state := found[0], Stop):
        raise state
    if state:
        for vector, saved in zip(trainer.vectors, state["vectors"], strict=True):
            vector.copy_(saved)
        trainer.adam.steps.copy_(state["steps"])
        trainer.shuffle.set_state(state["shuffle"])
        trainer.stopping = EarlyStopping(**state["stopping"])
        trainer.history = state["history"].tolist()
        log.info("resumed after epoch %d", len(trainer.history))


# ------------------------------------------------------------------------------ results
def history_csv(history: list[list[float]]) -> bytes:
    lines = ["epoch,train_loss,val_loss,val_accuracy,seconds"]
    for epoch, (train_loss, val_loss, accuracy, seconds) in enumerate(history, start=1):
        lines.append(f"{epoch},{train_loss!r},{val_loss!r},{accuracy!r},{seconds:.6f}")
    return "\n".join([*lines, ""]).encode()


def device_name(device: torch.device) -> str:
    if device.type == "cuda":
        return str(torch.cuda.get_device_name(device))
    with contextlib.suppress(OSError), open("/proc/cpuinfo") as file:
        for name in re.findall(r"model name\s*: (.*)", file.read()):
            return str(name)
    return platform.processor() or platform.machine()


def describe(trainer: Trainer) -> dict[str, Any]:
    """metrics.json; data/README.md explains every field."""
    args, history, device = trainer.args, trainer.history, trainer.device
    best = trainer.stopping.best_epoch
    final = best if args.restore_best else len(history)
    facts: dict[str, Any] = {}
    for kind, epoch in {"best": best, "final": final}.items():
        train_loss, val_loss, accuracy, _ = history[epoch - 1]
        facts |= {f"{kind}_epoch": epoch, f"{kind}_train_loss": train_loss}
        facts |= {f"{kind}_val_loss": val_loss, f"{kind}_val_accuracy": accuracy}
    facts |= {"epochs_run": len(history), "stopped_early": len(history) < args.epochs}
    facts |= {"seconds": sum(row[-1] for row in history), "seed": args.seed}
    names = ("epochs", "restore_best", *SETTINGS)
    facts |= {"hyperparameters": {name: getattr(args, name) for name in names}}
    for name, table in {"train": trainer.train, "val": trainer.val}.items():
        facts |= {f"{name}_uri": getattr(args, name), f"{name}_rows": len(table.y)}
        facts |= {f"{name}_sha256": table.sha256}
    facts |= {"feature_names": trainer.train.names, "processes": trainer.processes}
    facts |= {"device": device.type, "device_name": device_name(device)}
    facts |= {"python_version": platform.python_version(), "torch_version": str(torch.__version__)}
    return {**facts, "numpy_version": np.__version__, "model_uri": join(args.model_out, "model.pt")}


def fingerprint(data: bytes) -> dict[str, Any]:
    return {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}


def write_results(trainer: Trainer, keep: RunLog) -> None:
    folder, facts, model_file = trainer.args.model_out, describe(trainer), io.BytesIO()
    # Of each tensor a copy of its own, not a part of the one long vector.
    weights = {name: part.cpu().clone() for name, part in trainer.model.state_dict().items()}
    torch.save(weights, model_file)  # not to a path: it would write the file's name into the file
    files = {"model.pt": model_file.getvalue(), "eval_history.csv": history_csv(trainer.history)}
    try:
        for name, data in files.items():
            write_bytes(join(folder, name), data)
        with contextlib.suppress(ModuleNotFoundError):  # the package cloudml-hypertune
            tuning = importlib.import_module("hypertune").HyperTune()
            for name in ("val_loss", "val_accuracy"):
                value, epoch = facts[f"final_{name}"], facts["final_epoch"]
                tuning.report_hyperparameter_tuning_metric(name, value, epoch)
        text = "saved epoch {final_epoch} of {epochs_run} in {model_uri}, val_accuracy "
        log.info((text + "{final_val_accuracy:.4f}").format(**facts))
        files["training.log"] = keep.save()
        keep.closed = True  # so that it stays what metrics.json says of it
        facts["artifacts"] = {name: fingerprint(data) for name, data in files.items()}
        write_bytes(join(folder, "metrics.json"), json.dumps(facts, indent=2).encode())
    except Stop:
        keep.closed = False
        remove_results(folder)
        raise


def verify(folder: str) -> int:
    """Compare the files of a run with metrics.json."""
    wrong, uri = 0, join(folder, "metrics.json")
    try:
        artifacts = dict(json.loads(read_bytes(uri))["artifacts"])
    except (ValueError, KeyError, TypeError) as error:
        raise Stop(f"{uri} is damaged, or was not written by this script", 1) from error
    for name, expected in artifacts.items():
        found: dict[str, Any] = {}
        with contextlib.suppress(Absent):
            found = fingerprint(read_bytes(join(folder, name)))
        wrong += found != expected
        log.info("%s %s", "[OK]" if found == expected else "[FAIL]", name)
    return 1 if wrong else 0


# ------------------------------------------------------------------------------ main
def train_and_save(args: argparse.Namespace, keep: RunLog) -> None:
    device = choose_device(args.device)
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    trainer = Trainer(args, *load_both(args, device))
    resume(trainer)
    try:
        fit(trainer)
    except Stop as error:
        if error.exit_code == 3 and trainer.rank == 0:
            write_bytes(join(args.model_out, "eval_history.csv"), history_csv(trainer.history))
        raise
    if args.restore_best:
        trainer.adam.weights.copy_(trainer.best_weights)
    if trainer.rank == 0:
        write_results(trainer, keep)
    if trainer.processes > 1 and device.type == "cuda":  # gloo, in PyTorch 2.13, can hang in this
        dist.destroy_process_group()


def main(argv: Sequence[str] | None = None) -> int:
    argv = sys.argv[1:] if argv is None else argv
    args = parse_args(argv)
    keep = RunLog(args.quiet)
    signal.signal(signal.SIGTERM, lambda *_: sigterm.set())
    try:
        if args.verify:
            return verify(args.verify)
        read_cluster_spec()
        gpus = torch.cuda.device_count() if args.device in ("auto", "cuda") else 0
        if gpus > 1 and "LOCAL_RANK" not in os.environ:
            return launch(argv, gpus)
        if os.environ.get("RANK", "0") == "0":
            keep.uri = join(args.model_out, "training.log")
        else:
            keep.shown = logging.ERROR  # the first process speaks for all
        log.debug("train_nn.py %s", shlex.join(argv))
        keep.save()
        check(args)
        if keep.uri:
            remove_results(args.model_out)
        train_and_save(args, keep)
        return 0
    except Stop as error:
        log.error("%s", error)
        return error.exit_code
    except KeyboardInterrupt:
        log.error("interrupted")
        return 130
    except Exception:
        log.exception("unexpected error")
        return 1
    finally:
        with contextlib.suppress(Stop):
            keep.save()


if __name__ == "__main__":
    exit_code = main()
    if dist.is_initialized():  # the end of Python can meet gloo's threads, and aborts then
        os._exit(exit_code)
    sys.exit(exit_code)
