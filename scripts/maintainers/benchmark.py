"""Measure the speed and memory that this project promises, and print them beside the targets.

    python scripts/maintainers/benchmark.py trainer                # all measures: some minutes
    python scripts/maintainers/benchmark.py trainer --only epoch   # one of them
    python scripts/maintainers/benchmark.py trainer --quick        # small and rough, as a test
    python scripts/maintainers/benchmark.py compute --help         # seconds an epoch, into a table

A ratio is the median of several comparisons of two things that run in turn, so it is valid on a
slow or busy machine, too.
"""

from __future__ import annotations

import argparse
import functools
import importlib
import itertools
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

SCRIPT = Path(__file__).resolve().parents[1] / "train_nn.py"
sys.path.insert(0, str(SCRIPT.parent))
import train_nn  # noqa: E402

THREADS = torch.get_num_threads()
TITANIC = (569, 143)  # training and validation rows of the lesson


# ------------------------------------------------------------------------------ tools


def seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def in_turn(first: Callable[[], object], second: Callable[[], object], turns: int) -> list[float]:
    """Median seconds of both, and the median of second / first."""
    times = [(seconds(first), seconds(second)) for _ in range(turns)]
    ratio = statistics.median(b / a for a, b in times)
    return [*(statistics.median(column) for column in zip(*times, strict=True)), ratio]


def table(rows: int, device: str = "cpu") -> train_nn.Table:
    generator = torch.Generator().manual_seed(rows)
    x = torch.randn(rows, 7, generator=generator)
    y = (x.sum(1) + torch.randn(rows, generator=generator) > 0).float()
    return train_nn.Table(x.to(device), y.to(device), list("abcdefg"), "")


def trainer(rows: int, val_rows: int, *options: str, device: str = "cpu") -> train_nn.Run:
    torch.set_num_threads(THREADS)
    args = train_nn.parse_args(options)
    return train_nn.Run(args, table(rows, device), table(val_rows, device))


class PlainLoop:
    """The training loop of the tutorials, with torch.optim.Adam, to compare the trainer with."""

    def __init__(self, rows: int, val_rows: int, device: str = "cpu") -> None:
        self.train, self.val = table(rows, device), table(val_rows, device)
        self.model = train_nn.build_model(7).to(device)
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=0.001)
        self.loss = nn.BCEWithLogitsLoss()

    def step(self, x: Tensor, y: Tensor) -> float:
        self.model.train()
        self.optimizer.zero_grad()
        loss = self.loss(self.model(x), y)
        loss.backward()
        self.optimizer.step()
        return float(loss.item())

    def epoch(self) -> None:
        self.step(self.train.x, self.train.y)
        self.model.eval()
        with torch.no_grad():
            logits = self.model(self.val.x)
            self.loss(logits, self.val.y).item()
            ((logits > 0) == (self.val.y > 0.5)).float().mean().item()


def many(epochs: int, work: Callable[[], Any], threads: int | None = None) -> Callable[[], None]:
    def run() -> None:
        torch.set_num_threads(threads or THREADS)
        for _ in range(epochs):
            work()

    return run


def data_files(folder: Path, rows: int, val_rows: int) -> list[str]:
    for part, count in {"train": rows, "val": val_rows}.items():
        made = table(count)
        arrays = {f"X_{part}": made.x.numpy(), f"y_{part}": made.y.numpy()}
        np.savez(folder / f"{part}.npz", allow_pickle=False, **arrays)
    return [f"--{part}={folder / part}.npz" for part in ("train", "val")]


def process(*command: str, modules: Path | None = None) -> Callable[[], None]:
    """Return a function that runs Python with these arguments.

    Args:
        command: the arguments.
        modules: a folder from which it imports first.
    """
    env = {name: text for name, text in os.environ.items() if not name.startswith("AIP_")}
    if modules:
        env["PYTHONPATH"] = str(modules)
    whole = [sys.executable, *command]

    def run() -> None:
        subprocess.run(whole, env=env, check=True, stdout=subprocess.DEVNULL)

    return run


def peak_memory(code: str, *argv: str) -> int:
    """Return the peak memory of a Python process that runs `code`, in bytes.

    It is read from /proc, where it begins with the program; `getrusage` includes this process.
    """
    code += (
        "\nimport re; print(re.search(r'VmHWM:\\s*(\\d+)', open('/proc/self/status').read())[1])"
    )
    env = {**os.environ, "PYTHONPATH": str(SCRIPT.parent)}
    command = [sys.executable, "-c", code, *argv]
    done = subprocess.run(command, env=env, check=True, stdout=subprocess.PIPE, text=True)
    return 1024 * int(done.stdout)


# ------------------------------------------------------------------------------ measures

Row = tuple[str, str, str]  # what was measured, the target, the result


def measure_process(turns: int, quick: bool) -> Iterator[Row]:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        epochs = ["--epochs=500", "--patience=0", "--device=cpu", "--quiet"]
        argv = [str(SCRIPT), *data_files(folder, *TITANIC), *epochs, f"--model_out={folder}/run"]
        # Without hypertune, which takes 1 ms an epoch: it rewrites its whole file each time.
        (folder / "hypertune.py").write_text("raise ImportError\n")
        bare, run = process("-c", "import torch, numpy"), process(*argv, modules=folder)
        first, second, ratio = in_turn(bare, run, turns)
        text = f"**{ratio:.2f}** ({second:.2f} s / {first:.2f} s); floor: 1, the imports"
        yield "whole process, Titanic, 500 epochs / import torch, numpy", "at most 1.4", text
        saved = ["--checkpoint_every=1", f"--checkpoint_dir={folder}/ck"]
        saving = process(*argv, *saved, modules=folder)

        def save() -> None:
            for file in (folder / "ck").glob("*"):
                file.unlink()
            saving()

        first, second, ratio = in_turn(run, save, turns)
        text = f"**{ratio:.2f}** ({second:.2f} s / {first:.2f} s); floor: 1"
        yield "a checkpoint every epoch / none, Titanic, 500 epochs", "at most 1.3", text


def measure_epoch(turns: int, quick: bool) -> Iterator[Row]:
    epochs = 20 if quick else 200
    plain, ours = PlainLoop(*TITANIC), trainer(*TITANIC)
    loop = many(epochs, lambda: train_nn.train_and_evaluate(ours), threads=1)
    many(20, plain.epoch)(), loop()  # warm up
    first, second, ratio = in_turn(many(epochs, plain.epoch), loop, 2 * turns + 1)

    def arithmetic() -> None:
        train_nn.loss_fn(ours.model(ours.train.x), ours.train.y).backward()
        train_nn.evaluate(ours)

    alone = many(epochs, arithmetic, threads=1)
    _, third, floor = in_turn(many(epochs, plain.epoch), alone, 2 * turns + 1)
    per_epoch = [1e6 * value / epochs for value in (second, first, third)]
    text = f"**{ratio:.2f}** ({per_epoch[0]:.0f} µs / {per_epoch[1]:.0f} µs); floor: "
    text += f"{floor:.2f}, gradient and evaluation alone ({per_epoch[2]:.0f} µs)"
    yield f"one epoch, Titanic / plain eager loop on {THREADS} threads", "at most 0.6", text


def measure_batches(turns: int, quick: bool) -> Iterator[Row]:
    rows, fewer = (50_000, 10_000) if quick else (1_000_000, 100_000)
    ours, plain = trainer(rows, 1000, "--batch_size=1024"), PlainLoop(fewer, 1000)
    data = torch.utils.data.TensorDataset(plain.train.x, plain.train.y)
    loader = torch.utils.data.DataLoader(data, batch_size=1024, shuffle=True)

    def epoch_with_loader() -> None:
        for x, y in loader:
            plain.step(x, y)

    epoch_with_loader()
    loop = many(1, lambda: train_nn.train_and_evaluate(ours), threads=1)
    first, second, ratio = in_turn(many(1, epoch_with_loader), loop, turns)
    times = ratio and (rows / fewer) / ratio
    text = f"**{times:.1f}** ({rows / second:,.0f} / {fewer / first:,.0f} rows a second); "
    text += "no ceiling: the arithmetic of a step"
    yield "batches of 1024, 1 M rows / DataLoader, training both", "at least 7 times", text


def measure_rows(turns: int, quick: bool) -> Iterator[Row]:
    """Time per epoch over four sizes; linear means the same nanoseconds for every row."""
    sizes = [1_000, 10_000] if quick else [10_000, 100_000, 1_000_000, 10_000_000]
    per_row = []
    for rows in sizes:
        ours = trainer(rows, 1000)
        train_nn.train_and_evaluate(ours)
        repeat = max(1, 200_000 // rows)
        epoch = many(repeat, functools.partial(train_nn.train_and_evaluate, ours), threads=1)
        found = [seconds(epoch) / repeat for _ in range(turns)]
        per_row.append(statistics.median(found) / rows)
        text = f"{per_row[-1] * rows:.4f} s, {per_row[-1] * 1e9:.0f} ns a row"
        yield f"one epoch, full batch, {rows:,} rows", "", text
    growth = max(later / earlier for earlier, later in itertools.pairwise(per_row))
    text = f"**{growth:.2f}**; floor: about 1 where all rows need the same arithmetic"
    yield "time per row, largest growth over tenfold rows", "about 1 or less", text


def measure_memory(turns: int, quick: bool) -> Iterator[Row]:
    rows = 100_000 if quick else 5_000_000
    what = f"peak memory, {rows:,} rows, beyond import torch / the arrays"
    if not Path("/proc/self/status").exists():
        yield what, "at most 2.5", "not measured: it takes Linux"
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        argv = [*data_files(folder, rows, 1000), "--epochs=2", "--device=cpu", "--quiet"]
        run = "import sys, train_nn; train_nn.main(sys.argv[1:])"
        used = peak_memory(run, *argv, f"--model_out={folder}/run") - peak_memory("import torch")
    arrays = (rows + 1000) * 8 * 4
    text = f"**{used / arrays:.2f}** ({used / 1e6:.0f} MB / {arrays / 1e6:.0f} MB); "
    text += "floor: 2, the file and its arrays while it is read"
    yield what, "at most 2.5", text


def measure_cuda(turns: int, quick: bool) -> Iterator[Row]:
    if not torch.cuda.is_available():
        yield "on a CUDA device", "at least 5 times", "not measured: there is none here"
        return
    epochs = 20 if quick else 500
    plain, ours = PlainLoop(*TITANIC, "cuda"), trainer(*TITANIC, device="cuda")
    loop = many(epochs, lambda: train_nn.train_and_evaluate(ours))
    many(20, plain.epoch)(), loop()
    first, second, ratio = in_turn(many(epochs, plain.epoch), loop, turns)
    text = f"**{1 / ratio:.1f}** ({1e6 * second / epochs:.0f} µs / {1e6 * first / epochs:.0f} µs)"
    yield "one epoch, Titanic, CUDA / plain eager loop", "at least 5 times", text
    rows = 100_000 if quick else 10_000_000
    for kind in ("fp32", "bf16"):
        big = trainer(rows, 1000, f"--precision={kind}", device="cuda")
        epoch = many(1, functools.partial(train_nn.train_and_evaluate, big))
        epoch()
        found = [seconds(epoch) for _ in range(turns)]
        yield f"one epoch, {rows:,} rows, {kind}", "", f"{statistics.median(found):.4f} s"


OTHERS = {"compute": "benchmark_compute", "local-mode": "benchmark_local_mode"}
OTHERS |= {"storage": "benchmark_storage"}
MEASURES = {
    "process": measure_process,
    "epoch": measure_epoch,
    "batches": measure_batches,
    "rows": measure_rows,
    "memory": measure_memory,
    "cuda": measure_cuda,
}


# ------------------------------------------------------------------------------ command line


def benchmark_trainer(args: argparse.Namespace) -> None:
    cpu, versions = train_nn.device_name(torch.device("cpu")), f"torch {torch.__version__}"
    print(f"{cpu}, {os.cpu_count()} cores, {THREADS} threads, {platform.platform()}, {versions}\n")
    print("| measure | target | measured |\n|---|---|---|")
    for name in args.only or MEASURES:
        for row in MEASURES[name](1 if args.quick else args.turns, args.quick):
            print("| " + " | ".join(row) + " |", flush=True)


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Measure speed and memory of this project.")
    commands = parser.add_subparsers(required=True, metavar="WHAT")
    command = commands.add_parser("trainer", help="scripts/train_nn.py")
    command.add_argument("--only", nargs="+", choices=MEASURES, help="measure only these")
    command.add_argument("--turns", type=int, default=5, help="repetitions (default: 5)")
    command.add_argument("--quick", action="store_true", help="small and rough")
    command.set_defaults(run=benchmark_trainer)
    for name, module in OTHERS.items():
        commands.add_parser(name, help=f"see scripts/maintainers/{module}.py")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    argv = sys.argv[1:] if argv is None else argv
    if argv and argv[0] in OTHERS:
        return int(importlib.import_module(OTHERS[argv[0]]).main(argv[1:]))
    args = parse_args(argv)
    args.run(args)
    return 0


if __name__ == "__main__":
    sys.exit(main())
