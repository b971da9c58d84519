"""A limit for what the jobs of a root would cost on Vertex AI, which has no such limit.

An instructor sets it; a job whose estimate would exceed what is left is refused before it starts.
"""

from __future__ import annotations

import functools
import json
import math
import os
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace

from google.cloud.aiplatform_v1.types import CustomJob, Scheduling

from vertex_local import costs
from vertex_local.config import LocalModeError, Root
from vertex_local.errors import FailedPrecondition
from vertex_local.training import states

MINUTES = 10.0  # how long a job is assumed to run if it has no timeout


@dataclass(frozen=True)
class Budget:
    """What the jobs of a root may cost.

    Attributes:
        usd: the limit, in US dollars.
        minutes: how long a job without a timeout is assumed to run.
        deleted_usd: the cost of jobs whose records were deleted, in US dollars.
    """

    usd: float
    minutes: float = MINUTES
    deleted_usd: float = 0.0

    @classmethod
    def read(cls, root: Root) -> Budget | None:
        """Return the budget of a root, or None if it has none."""
        try:
            return cls(**json.loads(root.budget.read_text()))
        except FileNotFoundError:
            return None
        except (ValueError, TypeError) as err:
            raise LocalModeError(
                f"{root.budget} is damaged ({err}). Set the budget again: `vertex-local budget 5`."
            ) from err

    @staticmethod
    def amount(text: str) -> float:
        """Return the number of US dollars (or minutes) that a text stands for.

        Raises:
            LocalModeError: if it is none, or negative.
        """
        try:
            value = float(text.strip().removeprefix("$"))
        except ValueError:
            value = math.nan
        if not 0 <= value < math.inf:
            raise LocalModeError(f"A budget is a number of 0 or more, such as 5, not {text!r}.")
        return value

    def write(self, root: Root) -> None:
        """Write the budget into the root, in one step."""
        root.path.mkdir(mode=0o700, parents=True, exist_ok=True)
        partial = root.budget.with_name(f"{root.budget.name}.partial")
        partial.write_text(json.dumps(asdict(self)))
        os.replace(partial, root.budget)

    def spent(self, jobs: Iterable[CustomJob]) -> float:
        """Return the US dollars that jobs have cost; active ones count as in `cost`."""
        return self.deleted_usd + sum(map(self.cost, jobs))

    def cost(self, job: CustomJob) -> float:
        """Return what a job has cost, in US dollars; for an active one what it may cost in all."""
        if states.is_final(job.state):
            return _final_cost(CustomJob.serialize(job))
        return max(_estimate(job).usd or 0.0, self.expected(job) or 0.0)

    def expected(self, job: CustomJob) -> float | None:
        """Return what a whole job may cost, in US dollars; None if a price is not known."""
        per_hour = _estimate(job).usd_per_hour
        minutes = self.expected_minutes(job) + costs.PROVISIONING_MINUTES
        return None if per_hour is None else per_hour * minutes / 60

    def expected_minutes(self, job: CustomJob) -> float:
        """Return how many minutes a job may run: its timeout, else `minutes`."""
        timeout = job.job_spec.scheduling.timeout
        return float(timeout.total_seconds()) / 60 if timeout else self.minutes

    def check(self, job: CustomJob, jobs: Iterable[CustomJob], times: int = 1) -> None:
        """Refuse a job for which too little is left.

        Args:
            job: the job that is to start.
            jobs: all jobs of the root so far.
            times: how many such jobs: the number of trials, for a search.

        Raises:
            FailedPrecondition: if it may cost more than what is left, or its price is not known.
        """
        expected = self.expected(job)
        if expected is None:
            raise FailedPrecondition(
                f"Local mode's budget of {costs.money(self.usd)}, which Vertex AI does not have, "
                f"cannot be kept: {_estimate(job).problem} `vertex-local budget off` removes it."
            )
        left = self.usd - self.spent(jobs)
        if times * expected > left:
            what = (
                costs.of_job(job).what
                if times == 1
                else f"{times} trials on {costs.of_job(job).what}"
            )
            raise FailedPrecondition(
                f"Local mode's budget, which Vertex AI does not have, is too small for this job: "
                f"{what} for {self.expected_minutes(job):g} min and "
                f"{costs.PROVISIONING_MINUTES:g} min of provisioning would cost about "
                f"{costs.money(times * expected)}, and of {costs.money(self.usd)} there are "
                f"{costs.money(max(0.0, left))} left. A smaller machine or a shorter timeout may "
                "fit; `vertex-local budget` shows and changes the limit."
            )


@functools.lru_cache(maxsize=5000)
def _final_cost(message: bytes) -> float:
    """Return the cost of a job that has ended; cached, as its prices take a millisecond."""
    job = CustomJob.deserialize(message)
    return (_estimate(job).usd or 0.0) if job.start_time else 0.0


def _estimate(job: CustomJob) -> costs.Estimate:
    """Estimate a job's cost; if its Spot price is not known, with the higher price on demand."""
    estimate = costs.of_job(job)
    if estimate.problem:
        on_demand = CustomJob.deserialize(CustomJob.serialize(job))
        on_demand.job_spec.scheduling.strategy = Scheduling.Strategy.STANDARD
        estimate = costs.of_job(on_demand)
    return estimate


def keep_cost(root: Root, job: CustomJob) -> None:
    """Add the cost of a job to `deleted_usd`, because its record is about to be deleted."""
    if budget := Budget.read(root):
        deleted = budget.deleted_usd + budget.cost(job)
        replace(budget, deleted_usd=deleted).write(root)
