"""What a training job costs on Vertex AI, from the dated prices in data/prices.csv.

    from lesson import costs  # in a notebook first: sys.path.insert(0, "../scripts")

    print(costs.estimate("n1-standard-8", "NVIDIA_TESLA_T4", minutes=10))  # before
    print(costs.of_job(job))  # after: for a job object of the SDK, in the cloud or in local mode
    print(costs.total([costs.of_job(job), costs.of_job(gpu_job)]))

Everything here is an estimate, without discounts, taxes, Cloud Storage and network. If there is no
estimate, `Estimate.problem` says why; no function raises because a price is missing.
"""

from __future__ import annotations

import csv
import functools
import math
import textwrap
from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

# The table of the clone; without a clone, the copy that is installed beside this file.
CLONE = Path(__file__).resolve().parents[2] / "data" / "prices.csv"
PRICES = CLONE if CLONE.is_file() else Path(__file__).with_name("prices.csv")
REGION = "us-central1"
PROVISIONING_MINUTES = 4.0  # 3 to 4 in the log of a job with one T4, February 2026
BOOT_DISK_TYPE, BOOT_DISK_GB = "pd-ssd", 100.0  # of a job that does not ask for another
CONFIDENCES = ("high", "medium", "low")  # best first


# ------------------------------------------------------------------------------ prices


@dataclass(frozen=True)
class Price:
    """One line of data/prices.csv; data/README.md explains the columns."""

    item: str
    kind: str
    includes: str
    terms: str
    region: str
    unit: str
    usd: float
    compute_engine_usd: float | None
    date: str
    noted: str
    source: str
    confidence: str
    note: str


def prices(path: Path | None = None) -> tuple[Price, ...]:
    """Read the table of prices, by default data/prices.csv.

    Raises:
        ValueError: if the file is missing, or a line is not as data/README.md describes.
    """
    path = path or PRICES
    if not path.is_file():
        raise ValueError(f"there is no table of prices: {path} is missing.")
    return _read(path, path.stat().st_mtime_ns)


@functools.lru_cache(maxsize=4)
def _read(path: Path, _changed: int) -> tuple[Price, ...]:
    with path.open(newline="", encoding="utf-8") as file:
        rows = csv.DictReader(file)
        return tuple(_price(row, f"{path.name}, line {rows.line_num}") for row in rows)


def _price(row: dict[str, Any], place: str) -> Price:
    try:
        base = row["compute_engine_usd"]
        numbers = {"usd": float(row["usd"]), "compute_engine_usd": float(base) if base else None}
        found = Price(**{**row, **numbers})
    except (KeyError, TypeError, ValueError) as err:
        raise ValueError(f"{place} is not a price as data/README.md describes it.") from err
    if not 0 <= found.usd < math.inf or found.confidence not in CONFIDENCES:
        raise ValueError(f"{place}: usd must be 0 or more, and confidence one of {CONFIDENCES}.")
    return found


def price(item: str, terms: str = "on-demand", region: str = REGION) -> Price | None:
    """Return the price of a machine type, an accelerator type, a disk …; None if not in the table.

    Args:
        item: as Vertex AI spells it, such as `n1-standard-4` or `NVIDIA_TESLA_T4`.
        terms: `on-demand`, `spot` or `flex-start`.
        region: such as `us-central1`.

    Raises:
        ValueError: if the table cannot be read.
    """
    wanted = (item, terms, region)
    return next((p for p in prices() if (p.item, p.terms, p.region) == wanted), None)


# ------------------------------------------------------------------------------ estimates


@dataclass(frozen=True)
class Part:
    """Something that a job pays for: `count` pieces (or GB) of `price.item`, for `hours`."""

    count: float
    hours: float
    price: Price

    @property
    def usd(self) -> float:
        return self.count * self.hours * self.price.usd


@dataclass(frozen=True)
class Pool:
    """Machines of one kind that a job asks for: one worker pool."""

    machine_type: str
    accelerator_type: str = ""
    accelerator_count: int = 0
    replica_count: int = 1
    disk_type: str = BOOT_DISK_TYPE
    disk_gb: float = BOOT_DISK_GB

    def __str__(self) -> str:
        text = f"{self.replica_count} × {self.machine_type}"
        if self.accelerator_count:
            text += f" with {self.accelerator_count} × {self.accelerator_type}"
            text += " each" if self.replica_count > 1 else ""
        return text


@dataclass(frozen=True)
class Estimate:
    """What a job costs, and how well that is known. `print` shows it in short lines."""

    what: str  # the machines, in words
    minutes: float  # of running
    provisioning_minutes: float
    parts: tuple[Part, ...] = ()
    problem: str = ""  # one sentence if there is no estimate

    @property
    def usd(self) -> float | None:
        """US dollars, provisioning included; None if there is a `problem`."""
        return None if self.problem else sum(part.usd for part in self.parts)

    @property
    def usd_per_hour(self) -> float | None:
        """US dollars for an hour of these machines; None if there is a `problem`."""
        if self.problem:
            return None
        return sum(part.count * part.price.usd for part in self.parts)

    @property
    def dates(self) -> str:
        """When the prices were published; where the source does not say, when we noted them."""
        found = {p.price.date or f"undated, noted {p.price.noted}" for p in self.parts}
        return "; ".join(sorted(found))

    @property
    def confidence(self) -> str:
        """`high`, `medium` or `low`: the lowest confidence of all its prices."""
        return max((part.price.confidence for part in self.parts), key=CONFIDENCES.index)

    @property
    def lines(self) -> list[str]:
        """The estimate in words, with provisioning apart: whether it is billed is not known."""
        if self.problem:
            return textwrap.wrap(f"Cost unknown: {self.problem}", 66, break_on_hyphens=False)
        found = [
            f"About {money(self.share(self.minutes))} for {self.minutes:.1f} min of {self.what}"
        ]
        if waiting := self.provisioning_minutes:
            more = money(self.share(waiting))
            found.append(f"and {more} more if {waiting:g} min of provisioning are billed, too")
        return [*found, f"(prices: {self.dates}; confidence: {self.confidence})"]

    def share(self, minutes: float) -> float:
        """Return the US dollars for a number of minutes of these machines."""
        return (self.usd_per_hour or 0.0) * minutes / 60

    def __str__(self) -> str:
        return "\n  ".join(self.lines)


def money(usd: float) -> str:
    """Return US dollars with two decimals, or with two significant digits if below 10 cents."""
    rounded = float(f"{usd:.2g}")
    places = max(2, 1 - math.floor(math.log10(rounded))) if rounded else 2
    return f"${usd:,.{places}f}"


def estimate(
    machine_type: str,
    accelerator_type: str | None = None,
    accelerator_count: int = 0,
    replica_count: int = 1,
    minutes: float = 0.0,
    provisioning_minutes: float = PROVISIONING_MINUTES,
    spot: bool = False,
    region: str = REGION,
) -> Estimate:
    """Estimate the cost of a job before it runs.

    Args:
        machine_type: such as `n1-standard-4`.
        accelerator_type: such as `NVIDIA_TESLA_T4`, or None.
        accelerator_count: GPUs on each machine; 1 if a type is given without a count.
        replica_count: number of machines, all of the same kind.
        minutes: how long the script runs.
        provisioning_minutes: until it runs. Whether Vertex AI charges this time is not known; it is
            counted, so that the estimate is too high rather than too low.
        spot: take Spot prices; preemptions are not counted.
        region: such as `us-central1`.

    Returns:
        An estimate; its `problem` says why there is no amount, if there is none.
    """
    count = (accelerator_count or 1) if accelerator_type else 0
    pool = Pool(machine_type, accelerator_type or "", count, replica_count)
    terms = "spot" if spot else "on-demand"
    return _estimate([pool], minutes, provisioning_minutes, terms, region)


def _estimate(
    pools: list[Pool], minutes: float, provisioning_minutes: float, terms: str, region: str
) -> Estimate:
    what = " and ".join(map(str, pools)) + ("" if terms == "on-demand" else f" ({terms})")
    hours = (minutes + provisioning_minutes) / 60
    parts: list[Part] = []
    problem = _nonsense(pools, minutes, provisioning_minutes)
    for pool in pools if not problem else []:
        for count, item, item_terms in _needs(pool, terms, region):
            if found := price(item, item_terms, region):
                parts.append(Part(count * pool.replica_count, hours, found))
            elif not problem:
                problem = f"data/prices.csv has no {item_terms} price for {item} in {region}."
    return Estimate(what, minutes, provisioning_minutes, tuple(parts), problem)


def _needs(pool: Pool, terms: str, region: str) -> list[tuple[float, str, str]]:
    """Return what one machine of a pool pays for: number, item and terms of each."""
    needs: list[tuple[float, str, str]] = [(1, pool.machine_type, terms)]
    machine = price(pool.machine_type, terms, region)
    built_in = machine is not None and pool.accelerator_type in machine.includes.split()
    if pool.accelerator_count and not built_in:
        needs.append((pool.accelerator_count, pool.accelerator_type, terms))
    return [*needs, (pool.disk_gb, pool.disk_type, "on-demand")]


def _nonsense(pools: list[Pool], *minutes: float) -> str:
    """Return why nothing can be estimated, such as a negative number of minutes, or ""."""
    try:
        prices()
    except ValueError as err:
        return str(err)
    for value in minutes:
        if not 0 <= value < math.inf:
            return f"minutes must be 0 or more, not {value}."
    for pool in pools:
        if pool.replica_count < 1 or pool.accelerator_count < 0:
            return f"a job needs at least one machine and no negative number of GPUs, not {pool}."
    return "" if pools else "the job asks for no machine."


# ------------------------------------------------------------------------------ jobs


def of_job(job: Any, provisioning_minutes: float = PROVISIONING_MINUTES) -> Estimate:
    """Estimate what a job costs, from its machines and the time that it has run so far.

    Args:
        job: a `CustomTrainingJob`, `CustomPythonPackageTrainingJob`, `CustomContainerTrainingJob`
            or `CustomJob` of `google.cloud.aiplatform`, or a `CustomJob` message of
            `google.cloud.aiplatform_v1`. Time in the queue is not counted. A
            `HyperparameterTuningJob` costs what its trials cost together. A job that ended
            before it ran, such as for a quota, never had a machine, and costs nothing.
        provisioning_minutes: added to the running time, which does not include it in local mode;
            for a search once for each trial.
    """
    try:
        record = getattr(job, "gca_resource", job)
    except RuntimeError as err:  # of the SDK: "... resource has not been created."
        return Estimate("no job", 0, 0, problem=str(err))
    if backing := dict(getattr(record, "training_task_metadata", None) or {}).get(
        "backingCustomJob"
    ):
        from google.cloud import aiplatform  # only a training pipeline needs it

        record = aiplatform.CustomJob.get(backing).gca_resource
    trials = getattr(record, "trials", None)  # of a search
    spec = getattr(record, "job_spec" if trials is None else "trial_job_spec", None)
    if spec is None:
        return Estimate("no job", 0, 0, problem=f"{type(job).__name__} names no machines.")
    strategy = int(spec.scheduling.strategy)
    terms = {4: "spot", 6: "flex-start"}.get(strategy, "on-demand")  # Scheduling.Strategy
    pools = _merged([_pool(pool) for pool in spec.worker_pool_specs if pool.replica_count])
    region = record.name.split("/locations/")[-1].split("/")[0]
    runs = [record] if trials is None else list(trials)
    minutes = sum(map(_running_minutes, runs))
    provisioned = [run for run in runs if run.start_time or not run.end_time]
    return _estimate(pools, minutes, provisioning_minutes * len(provisioned), terms, region)


def _pool(spec: Any) -> Pool:
    machine, disk = spec.machine_spec, spec.disk_spec
    kind, count = machine.accelerator_type, machine.accelerator_count
    return Pool(
        machine.machine_type,
        getattr(kind, "name", str(kind)) if count else "",  # a type newer than the SDK is a number
        count,
        int(spec.replica_count),
        disk.boot_disk_type or BOOT_DISK_TYPE,
        float(disk.boot_disk_size_gb or BOOT_DISK_GB),
    )


def _merged(pools: list[Pool]) -> list[Pool]:
    """Merge pools with equal machines: the SDK puts the first replica into a pool of its own."""
    counts: dict[Pool, int] = {}
    for pool in pools:
        alone = replace(pool, replica_count=1)
        counts[alone] = counts.get(alone, 0) + pool.replica_count
    return [replace(pool, replica_count=count) for pool, count in counts.items()]


def _running_minutes(record: Any) -> float:
    if not record.start_time:
        return 0.0
    end = record.end_time or datetime.now(timezone.utc)
    return float(max(0.0, (end - record.start_time).total_seconds() / 60))


def total(estimates: Iterable[Estimate]) -> str:
    """Return the sum of some estimates in one line, and how many have no price."""
    listed = list(estimates)
    known = [each for each in listed if each.usd is not None]
    computing = sum(each.share(each.minutes) for each in known)
    waiting = sum(each.share(each.provisioning_minutes) for each in known)
    text = f"Together about {money(computing)} for {len(listed)} job"
    text += "" if len(listed) == 1 else "s"
    text += f", and {money(waiting)} more if provisioning is billed" if waiting else ""
    if unknown := len(listed) - len(known):
        text += f", not counting {unknown} whose price is unknown"
    return text
