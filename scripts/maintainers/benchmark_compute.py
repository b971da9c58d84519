"""Time one epoch of the trainer over a grid of table sizes, batch sizes, devices and processes.

    python scripts/maintainers/benchmark.py compute    # about 5 minutes; may be interrupted
    python scripts/maintainers/benchmark.py compute --rows 1000 4000 --width 7 --batch_size 0
    python scripts/maintainers/benchmark.py compute --machine_type n1-standard-8 \
        --accelerator_type NVIDIA_TESLA_T4 --accelerator_count 1    # measured on such a machine

Each point of the grid is a run of scripts/train_nn.py as a user would start it. Its times are those
in the run's eval_history.csv; the first epochs warm up and do not count. Results go to
data/benchmark-DEVICE-MACHINE.csv, a line for each point as soon as it is measured. After an
interruption, the same command measures only the missing points. Only one table is on disk and in
memory at a time.
"""

from __future__ import annotations

import argparse
import csv
import dataclasses
import datetime
import itertools
import os
import platform
import re
import shlex
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

import train_nn

SCRIPTS = Path(__file__).resolve().parents[1]
DATA = SCRIPTS.parent / "data"
WARM_UP = 3  # epochs
ENOUGH_ROWS = 2_000_000  # rows times epochs of a point, between LEAST_EPOCHS and MOST_EPOCHS
LEAST_EPOCHS, MOST_EPOCHS = 5, 200
VALIDATION_SHARE = 4  # training rows for each validation row, as in the lesson
COPIES = 3  # of a table in memory while the trainer reads it: the file, its arrays, and a reserve


@dataclass(frozen=True)
class Point:
    """A point of the grid: the first columns of the table of results."""

    rows: int
    width: int
    batch_size: int
    device: str
    processes: int
    threads: int  # of each process


@dataclass(frozen=True)
class Machine:
    """The machine of the measurements: the last columns."""

    machine_type: str
    accelerator_type: str
    accelerator_count: int
    machine: str
    device_name: str
    cores: int
    python_version: str
    torch_version: str
    numpy_version: str
    date: str


MEASURED = ("epochs", "epoch_seconds", "low_seconds", "high_seconds", "other_seconds")
KEYS = [field.name for field in dataclasses.fields(Point)]
COLUMNS = [*KEYS, *MEASURED, *(field.name for field in dataclasses.fields(Machine))]
Row = dict[str, str]


# ------------------------------------------------------------------------------ the grid


def grid(args: argparse.Namespace, device: str) -> list[Point]:
    """Return all points of one device, the small ones first.

    On a CPU, these are one process with one thread and with all threads, and several processes with
    one thread each.
    """
    most = args.processes or (os.cpu_count() if device == "cpu" else torch.cuda.device_count()) or 1
    shared = [(count, 1) for count in (1, most)]
    if device == "cpu":
        shared.append((1, os.cpu_count() or 1))
    sizes = itertools.product(sorted(set(args.rows)), args.width, args.batch_size)
    kinds = sorted(set(shared))
    return [
        Point(rows, width, batch_size, device, processes, threads)
        for (rows, width, batch_size), (processes, threads) in itertools.product(sizes, kinds)
        if batch_size < rows  # a larger batch is the same as all rows at once
    ]


def bytes_needed(point: Point) -> int:
    """Return the bytes of memory that the tables of a point need in all processes."""
    rows = point.rows + max(1, point.rows // VALIDATION_SHARE)
    return 4 * rows * (point.width + 1) * COPIES * point.processes


def epochs_for(point: Point) -> int:
    return max(LEAST_EPOCHS, min(MOST_EPOCHS, ENOUGH_ROWS // point.rows))


# ------------------------------------------------------------------------------ one point


def write_tables(folder: Path, rows: int, width: int) -> None:
    """Write train.npz and val.npz: random features, and labels that depend on them."""
    random = np.random.default_rng(rows + width)
    for part, count in (("train", rows), ("val", max(1, rows // VALIDATION_SHARE))):
        x = random.standard_normal((count, width), dtype=np.float32)
        noise = random.standard_normal(count, dtype=np.float32)
        arrays = {f"X_{part}": x, f"y_{part}": (x[:, 0] + noise > 0).astype(np.float32)}
        np.savez(folder / f"{part}.npz", allow_pickle=False, **arrays)


def command(point: Point, epochs: int, folder: Path) -> list[str]:
    """Return the command line of the run, as in the docstring of train_nn.py."""
    launcher = [sys.executable]
    if point.processes > 1:
        launcher += ["-m", "torch.distributed.run", "--standalone"]
        launcher += [f"--nproc_per_node={point.processes}"]
    device = "cuda:0" if (point.device, point.processes) == ("cuda", 1) else point.device
    options = [f"--train={folder}/train.npz", f"--val={folder}/val.npz", f"--model_out={folder}"]
    options += [f"--epochs={epochs}", "--patience=0", f"--batch_size={point.batch_size}"]
    return [*launcher, str(SCRIPTS / "train_nn.py"), *options, f"--device={device}", "--quiet"]


def measure(point: Point, epochs: int, folder: Path) -> Row:
    """Run the trainer; return the columns of MEASURED.

    Raises:
        RuntimeError: if the run fails; the message contains its first error.
    """
    env = {name: text for name, text in os.environ.items() if not name.startswith("AIP_")}
    env["OMP_NUM_THREADS"] = str(point.threads)
    start = time.perf_counter()
    line = command(point, WARM_UP + epochs, folder)
    with subprocess.Popen(line, env=env, stderr=subprocess.PIPE, text=True) as run:
        try:
            _, stderr = run.communicate()
        except KeyboardInterrupt:
            run.terminate()  # not kill: torchrun must end its processes
            raise
    whole = time.perf_counter() - start
    if run.returncode:
        errors = [text for text in stderr.splitlines() if "ERROR" in text] or ["no line with ERROR"]
        raise RuntimeError(f"this run failed: {shlex.join(line)}\n{errors[0]}")
    with (folder / "eval_history.csv").open(newline="") as file:
        seconds = [float(row["seconds"]) for row in csv.DictReader(file)]
    low, median, high = statistics.quantiles(seconds[WARM_UP:], n=4, method="inclusive")
    numbers = (median, low, high, whole - sum(seconds))
    return dict(zip(MEASURED, [str(epochs), *(f"{n:.6g}" for n in numbers)], strict=True))


# ------------------------------------------------------------------------------ the results


def this_machine(args: argparse.Namespace, device: str) -> Machine:
    count = args.accelerator_count if args.accelerator_type else 0
    system = f"{platform.system()} {platform.machine()}"
    cpu = train_nn.device_name(torch.device("cpu"))
    return Machine(
        machine_type=args.machine_type,
        accelerator_type=args.accelerator_type if device == "cuda" else "",
        accelerator_count=count if device == "cuda" else 0,
        machine=f"{cpu} with {os.cpu_count()} cores on {system}",
        device_name=train_nn.device_name(torch.device(device)),
        cores=os.cpu_count() or 1,
        python_version=platform.python_version(),
        torch_version=str(torch.__version__),
        numpy_version=np.__version__,
        date=datetime.datetime.now(datetime.timezone.utc).date().isoformat(),
    )


def file_name(machine: Machine, device: str) -> str:
    if machine.machine_type:
        name = " ".join([machine.machine_type, machine.accelerator_type])
    else:
        name = f"{machine.device_name} {machine.cores} cores"
    slug = re.sub("[^a-z0-9]+", "-", name.lower()).strip("-")
    return f"benchmark-{device}-{slug}.csv"


def read_results(path: Path) -> list[Row]:
    """Return the lines of an earlier run; [] if there is no file.

    Raises:
        RuntimeError: if the file is not one of these tables.
    """
    if not path.exists():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file)
        rows = list(reader)
    if list(reader.fieldnames or []) != COLUMNS:
        raise RuntimeError(f"{path} has other columns than this benchmark writes; move it away.")
    return rows


def write_results(path: Path, rows: Sequence[Row]) -> None:
    """Replace the file in one step, so that Ctrl-C leaves either the old or the new one."""
    part = path.with_name(path.name + ".part")
    with part.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    part.replace(path)


def key(row: Row) -> tuple[str, ...]:
    """Return the key of a line: the point, and the versions with which it was measured."""
    return tuple(row[name] for name in [*KEYS, "machine", "device_name", "torch_version"])


def order(row: Row) -> tuple[object, ...]:
    numbers = [int(row[name]) for name in KEYS if name != "device"]
    return (row["torch_version"], row["device_name"], *numbers)


def faster(rows: Sequence[Row], new: Row) -> list[Row]:
    """Add a line; of two for the same point keep the faster, which other work slowed down less."""
    same = [row for row in rows if key(row) == key(new)]
    best = min([*same, new], key=lambda row: float(row["epoch_seconds"]))
    return sorted([*(row for row in rows if row not in same), best], key=order)


def run_grid(
    points: Sequence[Point],
    machine: Machine,
    path: Path,
    epochs: int | None = None,
    again: bool = False,
) -> float:
    """Measure the points that are missing in `path`; return the seconds of the timed epochs.

    Args:
        points: of the grid.
        machine: this machine.
        path: the table of results.
        epochs: to time for each point; None for `epochs_for`.
        again: measure the other points once more, too.
    """
    rows, timed = read_results(path), 0.0
    where = {name: str(value) for name, value in dataclasses.asdict(machine).items()}
    have = {key(row) for row in rows}
    lines = [(p, {k: str(v) for k, v in dataclasses.asdict(p).items()} | where) for p in points]
    missing = [(point, line) for point, line in lines if again or key(line) not in have]
    bar = tqdm(total=len(points), initial=len(points) - len(missing), unit="run", desc=path.name)
    with bar, tempfile.TemporaryDirectory() as name:
        size = (0, 0)
        for point, line in missing:
            bar.set_postfix_str(f"{point.rows:,} rows × {point.width}")
            if size != (point.rows, point.width):
                size = (point.rows, point.width)
                write_tables(Path(name), *size)
            line |= measure(point, epochs or epochs_for(point), Path(name))
            timed += float(line["epoch_seconds"]) * int(line["epochs"])
            rows = faster(rows, line)
            write_results(path, rows)
            bar.update()
    return timed


# ------------------------------------------------------------------------------ command line


def clock_seconds(readings: int = 100_000) -> float:
    """Return the time that two readings of the clock take."""
    start = time.perf_counter()
    for _ in range(readings):
        time.perf_counter()
        time.perf_counter()
    return (time.perf_counter() - start) / readings


def natural(text: str) -> int:
    if not re.fullmatch(r"\d+", text) or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be a whole number of 1 or more, not {text}")
    return int(text)


def parse_args(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="benchmark.py compute", description="Time one epoch of scripts/train_nn.py."
    )
    sizes = [1_000, 10_000, 100_000, 1_000_000]
    devices = ["cpu", "cuda"] if torch.cuda.is_available() else ["cpu"]
    option = parser.add_argument
    option("--rows", nargs="+", type=natural, default=sizes, help="training rows")
    option("--width", nargs="+", type=natural, default=[7, 70], help="columns of the table")
    option("--batch_size", nargs="+", type=int, default=[0, 4096], help="0: all rows")
    option("--device", nargs="+", choices=["cpu", "cuda"], default=devices)
    option("--processes", type=natural, help="at most; default: one a core, or one a GPU")
    option("--epochs", type=natural, help="to time, after the warm-up; default: by the rows")
    text = "measure all points once more, and keep the faster lines: for a busy machine"
    option("--again", action="store_true", help=text)
    option("--max_gb", type=float, default=4.0, help="leave out points that need more memory")
    option("--machine_type", default="", help="the machine's name on Vertex AI, if it has one")
    option("--accelerator_type", default="", help="such as NVIDIA_TESLA_T4")
    option("--accelerator_count", type=natural, default=1)
    option("--folder", type=Path, default=DATA, help="for the results (default: %(default)s)")
    args = parser.parse_args(argv)
    if "cuda" in args.device and not torch.cuda.is_available():
        parser.error("PyTorch finds no CUDA device on this machine")
    if min(args.batch_size) < 0:
        parser.error("--batch_size must be 0 or more")
    if not args.folder.is_dir():
        parser.error(f"there is no folder {args.folder}")
    if args.epochs is not None and args.epochs < 2:
        parser.error("--epochs must be 2 or more: a spread takes two numbers")
    return args


def benchmark(args: argparse.Namespace) -> Iterator[str]:
    """Measure, and yield sentences about it."""
    start, timed = time.perf_counter(), 0.0
    for device in args.device:
        points = grid(args, device)
        small = [point for point in points if bytes_needed(point) <= args.max_gb * 1e9]
        if len(small) < len(points):
            yield f"{len(points) - len(small)} points need more than {args.max_gb:g} GB: left out."
        machine = this_machine(args, device)
        path = args.folder / file_name(machine, device)
        timed += run_grid(small, machine, path, args.epochs, args.again)
        yield f"{len(small)} points of {machine.device_name} are in {path}."
    whole = time.perf_counter() - start
    yield (
        f"Of {whole:.0f} s, the timed epochs took {timed:.0f} s; the rest starts processes, makes "
        f"tables and warms up. Reading the clock adds {1e6 * clock_seconds():.2f} µs to an epoch."
    )


def main(argv: Sequence[str]) -> int:
    args = parse_args(argv)
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        for sentence in benchmark(args):
            print(sentence, flush=True)
        return 0
    except RuntimeError as err:
        print(f"benchmark.py: {err}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        text = "interrupted; what was measured is kept, and the same command measures the rest."
        print(f"benchmark.py: {text}", file=sys.stderr)
        return 130
    finally:
        signal.signal(signal.SIGTERM, before)
