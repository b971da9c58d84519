"""The buckets, searches and jobs of a root as short tables, for `vertex-local status`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

from google.cloud.aiplatform_v1.types import CustomJob, HyperparameterTuningJob, Trial

from vertex_local import costs
from vertex_local.config import Root
from vertex_local.console.searches import search_of
from vertex_local.jobs import log
from vertex_local.training import states
from vertex_local.training.budget import Budget
from vertex_local.training.names import ResourceName
from vertex_local.training.records import Records

Job = TypeVar("Job", CustomJob, HyperparameterTuningJob)

NEWEST = 10


def print_buckets(root: Root) -> None:
    """Print one line per bucket: its name, number of objects and total size."""
    folders = sorted(path for path in root.buckets.glob("[a-z0-9]*") if path.is_dir())
    print(f"Buckets: {len(folders)}")
    for folder in folders:
        sizes = [path.stat().st_size for path in folder.rglob("*") if path.is_file()]
        print(f"  gs://{folder.name:<40} {len(sizes):>5} objects {sum(sizes) / 1e6:>9.3f} MB")


def print_searches(root: Root) -> None:
    """Print the newest tuning jobs: state, trials, best value; nothing if there are none.

    `print_jobs` prints their trials, as NAME-trial-ID.
    """
    records = Records(root.database)
    searches = records.searches()
    records.close()
    if not searches:
        return
    _print_newest(root, "Hyperparameter tuning jobs", searches, _trials)


def _trials(search: HyperparameterTuningJob) -> str:
    """Return how far a search is, and its best trial so far."""
    states_of_trials = [trial.state for trial in search.trials]
    done = states_of_trials.count(Trial.State.SUCCEEDED)
    failed = states_of_trials.count(Trial.State.INFEASIBLE)
    text = f"Trials: {done} done, {failed} failed, of at most {search.max_trial_count}."
    shown = search_of(search)
    if shown.best is None:
        return text
    return f"{text} Best {shown.metric}: {shown.best.metric:.6g} (trial {shown.best.id})."


def print_jobs(root: Root) -> None:
    """Print the newest jobs, each with its state, its warnings, and what Vertex AI would charge."""
    records = Records(root.database)
    jobs = records.jobs()
    records.close()
    _print_newest(root, "Jobs", jobs, _cost)
    if jobs:
        print(f"On Vertex AI: {costs.total(map(costs.of_job, jobs))}")


def _cost(job: CustomJob) -> str:
    return f"On Vertex AI: {' '.join(costs.of_job(job).lines)}"


def _print_newest(
    root: Root, title: str, jobs: Sequence[Job], last_line: Callable[[Job], str]
) -> None:
    """Print the newest jobs: start, state, duration and name; error; warnings; `last_line`."""
    print(f"{title}: {len(jobs)}" + (f", the newest {NEWEST}:" if len(jobs) > NEWEST else ""))
    for job in reversed(jobs[-NEWEST:]):
        state = job.state.name.removeprefix("JOB_STATE_")
        print(f"  {_start(job)}  {state:<10} {_seconds(job):>8}  {job.display_name}")
        if job.state == states.FAILED:
            print(f"    {str(job.error.message).splitlines()[0]}")
        for note in log.warnings(root, ResourceName.of(job).id):
            print(f"    {note}")
        print(f"    {last_line(job)}")


def print_budget(root: Root) -> None:
    """Print the budget of the root, and what is left of it."""
    budget = Budget.read(root)
    if budget is None:
        print("Budget: none. `vertex-local budget 5` lets jobs here cost $5 in all.")
        return
    spent = 0.0
    if root.database.is_file():
        records = Records(root.database)
        spent = budget.spent(records.jobs())
        records.close()
    left = max(0.0, budget.usd - spent)
    print(
        f"Budget: {costs.money(left)} left of {costs.money(budget.usd)} (local mode's own limit; "
        f"a job without a timeout counts {budget.minutes:g} min before it has ended)"
    )


def _start(job: CustomJob | HyperparameterTuningJob) -> str:
    return f"{job.create_time.astimezone():%Y-%m-%d %H:%M:%S}"


def _seconds(job: CustomJob | HyperparameterTuningJob) -> str:
    if not (job.start_time and job.end_time):
        return "-"
    return f"{(job.end_time - job.start_time).total_seconds():.1f} s"
