"""Choose the machine of a training job from measurements and prices.

The measurements are the tables data/benchmark-*.csv that `benchmark.py compute` writes; the prices
are those of costs.py. Notebook 06b shows how to use this module, and what the answers mean.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd

from lesson.setup import WIDTH
from vertex_local import costs

DATA = costs.PRICES.parent
PRICE_SPREAD = {"high": 0.0, "medium": 0.1, "low": 0.3}  # our guess; see Assumptions


@dataclass(frozen=True)
class Assumptions:
    """The assumptions behind the answers; pass others, or change one with `dataclasses.replace`.

    Attributes:
        epochs: of a run.
        provisioning_minutes: before the script runs.
        cpu_factor: seconds in which a CPU of Vertex AI does the work of one second here.
        price_spread: the share by which a price may be wrong, up and down, by its confidence.
    """

    epochs: int = 500
    provisioning_minutes: float = costs.PROVISIONING_MINUTES
    cpu_factor: float = 1.0
    price_spread: dict[str, float] = field(default_factory=lambda: dict(PRICE_SPREAD))


def read_benchmarks(folder: Path = DATA) -> pd.DataFrame:
    """Return the lines of all tables in `folder`, with two more columns: `file` and `line`.

    Raises:
        ValueError: if there is no table, or one lacks a column.
    """
    needed = ["rows", "width", "batch_size", "device", "processes", "threads", "machine"]
    needed += ["epoch_seconds", "low_seconds", "high_seconds", "other_seconds"]
    tables = []
    for path in sorted(folder.glob("benchmark-*.csv")):
        table = pd.read_csv(path, keep_default_na=False)
        if absent := [name for name in needed if name not in table]:
            raise ValueError(f"{path} lacks the columns {', '.join(absent)}.")
        tables.append(table.assign(file=path.name, line=range(2, len(table) + 2)))
    if not tables:
        raise ValueError(
            f"{folder} holds no benchmark-*.csv; run scripts/maintainers/benchmark.py compute."
        )
    return pd.concat(tables, ignore_index=True)


def curve(table: pd.DataFrame, **wanted: object) -> pd.DataFrame:
    """Return the lines with these values, one for each number of rows, sorted by rows.

    Of lines that differ in other columns (threads, file), the fastest is taken.
    """
    for name, value in wanted.items():
        table = table[table[name] == value]
    fastest = table.sort_values("epoch_seconds").drop_duplicates("rows")
    return fastest.sort_values("rows").reset_index(drop=True)


def interpolate(line: pd.DataFrame, rows: float, column: str = "epoch_seconds") -> float:
    """Return the seconds for a number of rows, from the lines of `curve`.

    Between two measured sizes, interpolate linearly in logarithms. Above the largest, continue the
    straight line through the last two. Below the smallest, the time stays the same, because
    starting the work takes most of it.
    """
    sizes, seconds = line["rows"].to_numpy(float), line[column].to_numpy(float)
    inside = np.exp(np.interp(np.log(rows), np.log(sizes), np.log(seconds)))
    if rows <= sizes[-1]:
        return float(inside)
    from_zero = np.append(0.0, sizes), np.append(0.0, seconds)  # in case there is a single size
    slope = np.diff(from_zero[1])[-1] / np.diff(from_zero[0])[-1]
    return float(inside + max(0.0, slope) * (rows - sizes[-1]))


# ------------------------------------------------------------------------------ one option


@dataclass(frozen=True, eq=False)
class Option:
    """A machine that a job could ask for, and the measurements on such a machine, if there are any.

    Attributes:
        measured: what `curve` returns.
    """

    machine_type: str
    accelerator_type: str = ""
    accelerator_count: int = 0
    measured: pd.DataFrame | None = None

    @property
    def name(self) -> str:
        gpu = self.accelerator_type.removeprefix("NVIDIA_").removeprefix("TESLA_")
        return self.machine_type + (f" + {self.accelerator_count} × {gpu}" if gpu else ", no GPU")

    def estimate(self, minutes: float, assumed: Assumptions) -> costs.Estimate:
        return costs.estimate(
            self.machine_type,
            self.accelerator_type,
            self.accelerator_count,
            minutes=minutes,
            provisioning_minutes=assumed.provisioning_minutes,
        )

    def work_minutes(self, rows: float, assumed: Assumptions, column: str) -> float | None:
        """Minutes of computing for a run, or None if nothing was measured."""
        if self.measured is None or self.measured.empty:
            return None
        factor = 1.0 if self.accelerator_type else assumed.cpu_factor
        return assumed.epochs * interpolate(self.measured, rows, column) * factor / 60

    def start_minutes(self, rows: float) -> float:
        """Minutes to start the script, read the data and save the results."""
        if self.measured is None or self.measured.empty:
            return 0.0
        return interpolate(self.measured, rows, "other_seconds") / 60


@dataclass(frozen=True)
class Run:
    """Time and cost of a run: in each tuple expected, best and worst."""

    minutes: tuple[float, float, float]
    usd: tuple[float, float, float]


def predict(option: Option, rows: float, assumed: Assumptions) -> Run | None:
    """Return time and cost of a run, with provisioning; None without measurement or price.

    Best and worst combine the quartiles of the measured epochs with the spread of the price.
    """
    minutes, usd = [], []
    for column, side in (("epoch_seconds", 0), ("low_seconds", -1), ("high_seconds", 1)):
        work = option.work_minutes(rows, assumed, column)
        if work is None:
            return None
        running = work + option.start_minutes(rows)
        estimate = option.estimate(running, assumed)
        if estimate.usd is None:
            return None
        minutes.append(running + assumed.provisioning_minutes)
        usd.append(estimate.usd * (1 + side * doubt(estimate, assumed)))
    return Run((minutes[0], minutes[1], minutes[2]), (usd[0], usd[1], usd[2]))


def doubt(estimate: costs.Estimate, assumed: Assumptions) -> float:
    """Return the share by which an estimate may be wrong because of its prices: 0.1 is 10 %."""
    shares = [part.usd * assumed.price_spread[part.price.confidence] for part in estimate.parts]
    return sum(shares) / estimate.usd if estimate.usd else 0.0


def price_factors(gpu: Option, cpu: Option, assumed: Assumptions) -> tuple[float, float]:
    """Return by which factors the price of the GPU, relative to the CPU's, may really differ."""
    of_gpu, of_cpu = (doubt(option.estimate(60, assumed), assumed) for option in (gpu, cpu))
    return (1 - of_gpu) / (1 + of_cpu), (1 + of_gpu) / (1 - of_cpu)


def floor_usd(gpu: Option, cpu: Option, rows: float, assumed: Assumptions) -> float | None:
    """Return the US dollars of a run on a GPU that computes in no time, a lower bound."""
    return gpu.estimate(cpu.start_minutes(rows), assumed).usd


def needed_speed_up(
    gpu: Option, cpu: Option, rows: float, assumed: Assumptions, price_factor: float = 1.0
) -> float:
    """Return how many times as fast a GPU must compute an epoch so that a run costs the same.

    Both pay for F minutes of provisioning and start, the CPU for W minutes of work, the GPU for
    W / s. With prices c and g for an hour, g (F + W / s) = c (F + W): s = W / (c (F + W) / g - F).

    Args:
        gpu, cpu: the two machines; the CPU must have measurements.
        rows: of the training table.
        assumed: the assumptions.
        price_factor: multiplies the price of the GPU's machine, see `price_factors`.

    Returns:
        s; infinite if even a GPU that computes in no time costs more; NaN without prices.
    """
    c = cpu.estimate(0, assumed).usd_per_hour
    g = gpu.estimate(0, assumed).usd_per_hour
    work = cpu.work_minutes(rows, assumed, "epoch_seconds")
    if c is None or g is None or work is None:
        return math.nan
    fixed = assumed.provisioning_minutes + cpu.start_minutes(rows)
    left = c / (g * price_factor) * (fixed + work) - fixed
    return work / left if left > 0 else math.inf


def first_rows(gpu: Option, cpu: Option, assumed: Assumptions, price_factor: float = 1.0) -> float:
    """Return the number of rows above which a GPU could be cheaper; infinite if there is none.

    There, `needed_speed_up` becomes finite. Found by bisection, between 1 and 10^12 rows.
    """
    low, high = 0.0, 12.0  # logarithms to base 10
    if not math.isfinite(needed_speed_up(gpu, cpu, 10**high, assumed, price_factor)):
        return math.inf
    for _ in range(60):
        middle = (low + high) / 2
        finite = math.isfinite(needed_speed_up(gpu, cpu, 10**middle, assumed, price_factor))
        low, high = (low, middle) if finite else (middle, high)
    return float(10**high)


# ------------------------------------------------------------------------------ the calculator


def recommend(
    options: Sequence[Option], rows: int, deadline_minutes: float, assumed: Assumptions
) -> str:
    """Return in words which option to take, and why.

    Args:
        options: the machines; the first one must be the CPU.
        rows: of the training table, 1 or more.
        deadline_minutes: from the start of the job to its end, provisioning included.
        assumed: the assumptions.
    """
    values = {"rows": rows, "epochs": assumed.epochs, "the deadline": deadline_minutes}
    for name, value in values.items():
        if not 0 < value < math.inf:
            return f"No recommendation: {name} must be above 0, not {value}."
    cpu, *gpus = options
    runs = {option: predict(option, rows, assumed) for option in options}
    reasons = [f"- {o.name}: {_reason(o, cpu, rows, deadline_minutes, assumed)}" for o in options]
    in_time = [o for o in options if (run := runs[o]) and run.minutes[0] <= deadline_minutes]
    best = min(in_time, key=lambda option: runs[option].usd[0], default=None)  # type: ignore[union-attr]
    if best:
        head = f"Take {best.name}: of what was measured, the cheapest that is ready in time."
    else:
        head = "Nothing that was measured is ready in time."
        head += " Measure a GPU that could be." if gpus else ""
    if cpu.measured is not None and rows > cpu.measured["rows"].max():
        head += " The times are extrapolated: measure so many rows before you rely on this."
    wrap = textwrap.TextWrapper(WIDTH, subsequent_indent="  ", break_on_hyphens=False)
    return "\n".join(map(wrap.fill, [head, *reasons]))


def _reason(
    option: Option, cpu: Option, rows: int, deadline_minutes: float, assumed: Assumptions
) -> str:
    if problem := option.estimate(0, assumed).problem:
        return f"cost unknown: {problem}"
    if run := predict(option, rows, assumed):
        late = "" if run.minutes[0] <= deadline_minutes else ", too late"
        low, high = costs.money(run.usd[1]), costs.money(run.usd[2])
        cost = f"about {costs.money(run.usd[0])} ({low} to {high})"
        return f"{run.minutes[0]:.1f} min{late}, {cost}."
    work = cpu.work_minutes(rows, assumed, "epoch_seconds")
    if work is None:
        return "no measurement; run scripts/maintainers/benchmark.py compute on such a machine."
    left = deadline_minutes - assumed.provisioning_minutes - cpu.start_minutes(rows)
    speed_up = needed_speed_up(option, cpu, rows, assumed)
    if math.isfinite(speed_up):
        cheaper = f"Cheaper than the CPU if more than {speed_up:.1f} times as fast"
    else:
        cheaper = "Dearer than the CPU, however fast it is"
    if left < 1e-6:
        return f"not measured. {cheaper}; not ready in time, however fast it is."
    faster = max(1.0, work / left)
    enough = f"{faster:.1f} times as fast or more" if faster > 1 else "as fast as the CPU"
    return f"not measured. {cheaper}; ready in time if {enough}."
