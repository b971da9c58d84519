"""What the page shows of jobs: rows of the list, and everything about one job."""

from __future__ import annotations

import functools
import itertools
import json
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from google.cloud.aiplatform_v1.types import (
    AcceleratorType,
    CustomJob,
    CustomJobSpec,
    HyperparameterTuningJob,
    JobState,
)
from google.protobuf import json_format

from vertex_local import costs
from vertex_local.config import Root
from vertex_local.faults.jobs import LABEL, is_spot
from vertex_local.jobs import log
from vertex_local.jobs.replica import TRIAL_ID
from vertex_local.training import states
from vertex_local.training.budget import Budget
from vertex_local.training.names import ResourceName
from vertex_local.training.records import Records

PAGE = 100  # rows
ROWS_KEPT = 5000  # in each cache
INJECTED = LABEL.format(kind="")
SIGNS = {"SUCCEEDED": "✓", "FAILED": "✗", "CANCELLED": "–", "RUNNING": "▶", "PENDING": "…"}


@dataclass(frozen=True)
class Row:
    """A job in the list."""

    id: str
    name: str
    state: str
    owner: str
    machines: str
    created: datetime
    seconds: float | None
    cost: str
    injected: tuple[str, ...]
    is_active: bool

    @property
    def sign(self) -> str:
        """A character for the state, so that colour is not the only sign of it."""
        return SIGNS.get(self.state, "•")


@dataclass(frozen=True)
class Listing:
    """One page of the list of jobs.

    Attributes:
        rows: the jobs on this page.
        matching: how many jobs match the filters, on all pages.
        total: how many jobs there are.
        states: the names of all states, for the filter.
        is_active: whether any job has not ended yet.
    """

    rows: list[Row]
    matching: int
    total: int
    states: list[str]
    is_active: bool


def listing(records: Records, state: str, text: str, owner: str, page: int) -> Listing:
    """Return one page of jobs, newest first.

    Args:
        records: all jobs.
        state: only those in this state, such as FAILED; "" for any.
        text: only those whose name contains it, in upper or lower case, or whose id it is.
        owner: only those with this label `owner`; "" for any.
        page: from 0.
    """
    every = [(message, _short(message)) for message in records.job_messages()]
    found = [
        message
        for message, job in every
        if state in ("", job.state)
        and owner in ("", job.owner)
        and (text.lower() in job.name.lower() or text == job.id)
    ]
    names = [each.name.removeprefix("JOB_STATE_") for each in states.MOVES]
    start = page * PAGE
    rows = [_row(message) for message in found[start : start + PAGE]]
    active = any(job.is_active for _, job in every)
    return Listing(rows, len(found), len(every), names, active)


@dataclass(frozen=True)
class Short:
    """The fields of a job that the filters compare."""

    id: str
    name: str
    state: str
    owner: str
    is_active: bool


@functools.lru_cache(maxsize=ROWS_KEPT)
def _short(message: bytes) -> Short:
    job = CustomJob.pb(CustomJob.deserialize(message))  # ten times as fast as through proto-plus
    state = JobState(job.state)
    return Short(
        job.name.rpartition("/")[2],
        name_of(job),
        state.name.removeprefix("JOB_STATE_"),
        job.labels.get("owner", ""),
        not states.is_final(state),
    )


def _row(message: bytes) -> Row:
    active = _short(message).is_active
    return row_of(CustomJob.deserialize(message)) if active else _cached_row(message)


@functools.lru_cache(maxsize=ROWS_KEPT)
def _cached_row(message: bytes) -> Row:
    """Return the row of a job that has ended, so that its row cannot change any more."""
    return row_of(CustomJob.deserialize(message))


def row_of(job: CustomJob) -> Row:
    """Return what the list shows of a job."""
    estimate = costs.of_job(job)
    labels = dict(job.labels)
    return Row(
        ResourceName.of(job).id,
        name_of(job),
        job.state.name.removeprefix("JOB_STATE_"),
        labels.get("owner", ""),
        estimate.what,
        job.create_time,
        seconds(job),
        "unknown" if estimate.usd is None else costs.money(estimate.usd),
        tuple(key.removeprefix(INJECTED) for key in labels if key.startswith(INJECTED)),
        not states.is_final(job.state),
    )


def name_of(job: CustomJob) -> str:
    """Return the name that the user gave: a pipeline's custom job has a suffix of its own."""
    return str(job.display_name).removesuffix("-custom-job")


def seconds(job: CustomJob) -> float | None:
    """Return how long a job has run, in seconds; None before its start."""
    if not job.start_time:
        return None
    end = job.end_time or datetime.now(timezone.utc)
    return float((end - job.start_time).total_seconds())


@dataclass(frozen=True)
class Step:
    """A state that a job has entered."""

    name: str
    moment: datetime


@dataclass(frozen=True)
class Failure:
    """A job's error.

    Attributes:
        code: a `google.rpc.Code`.
        last: the last line of the text that says something.
        text: the whole message.
    """

    code: int
    last: str
    text: str


@dataclass(frozen=True)
class Log:
    """A log of a job: its title on the page, its file, and its name in URLs."""

    title: str
    path: Path
    name: str


@dataclass(frozen=True)
class Job:
    """Everything that the page shows of one job.

    Attributes:
        row: its row in the list.
        steps: the states that it has entered.
        failure: its error, if it has one.
        search: id and name of the search whose trial it is.
        asked: names and values of what it asked for.
        spec: its specification as JSON.
        logs: its logs that exist.
        folders: the `gs://` folders that it writes to.
        cost: so far, as the end of a sentence.
        expected: what the whole job may cost; "" if that is not known.
        commands: show the same in a shell and in Python.
        can_be_taken_away: whether it runs on Spot machines now.
    """

    row: Row
    steps: list[Step]
    failure: Failure | None
    search: tuple[str, str] | None
    asked: list[tuple[str, str]]
    spec: str
    logs: list[Log]
    folders: list[str]
    cost: str
    expected: str
    commands: list[str]
    can_be_taken_away: bool


def job_of(records: Records, root: Root, job: CustomJob) -> Job:
    """Return what the page shows of a job."""
    row = row_of(job)
    return Job(
        row,
        steps(job),
        _failure(job),
        _search(records, job),
        list(asked(job.job_spec, job.labels)),
        json.dumps(json_format.MessageToDict(CustomJob.pb(job).job_spec), indent=2),
        logs_of(root, job),
        run_folders(job),
        cost(job),
        _expected(root, job),
        _commands(records, root, job),
        row.state == "RUNNING" and is_spot(job),
    )


def steps(job: CustomJob | HyperparameterTuningJob) -> list[Step]:
    """Return the states that a job has entered, oldest first."""
    found = [Step("PENDING", job.create_time)]
    if job.start_time:
        found.append(Step("RUNNING", job.start_time))
    if job.end_time or job.state not in (states.PENDING, states.RUNNING):
        found.append(Step(job.state.name.removeprefix("JOB_STATE_"), job.update_time))
    return found


def _failure(job: CustomJob) -> Failure | None:
    if not job.error.message:
        return None
    lines = str(job.error.message).strip().splitlines()
    own = [line.partition("To find out more about")[0].strip() for line in lines]
    last = next(filter(None, reversed(own)), lines[-1])
    return Failure(int(job.error.code), last, "\n".join(lines))


def _search(records: Records, job: CustomJob) -> tuple[str, str] | None:
    pool = job.job_spec.worker_pool_specs[0]
    work = pool.container_spec or pool.python_package_spec
    if not any(item.name == TRIAL_ID for item in work.env):
        return None
    for search in records.searches():
        if any(trial.custom_job == job.name for trial in search.trials):
            return ResourceName.of(search).id, str(search.display_name)
    return None  # it was deleted


def cost(job: CustomJob | HyperparameterTuningJob) -> str:
    """Return what a job would have cost on Vertex AI so far, as the end of a sentence."""
    estimate = costs.of_job(job)
    if estimate.problem:
        return f"not known, because {estimate.problem}"
    text = " ".join(estimate.lines)
    return f"{text[0].lower()}{text[1:]}."


def asked(spec: CustomJobSpec, labels: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """Yield name and value of each thing that a job asks for: machines, images, labels, …"""
    for number, pool in enumerate(spec.worker_pool_specs):
        if not pool.replica_count:
            continue
        machine = pool.machine_spec
        text = f"{pool.replica_count} × {machine.machine_type}"
        if machine.accelerator_count:
            kind = AcceleratorType(machine.accelerator_type).name
            text += f" with {machine.accelerator_count} × {kind}"
        yield f"worker pool {number}", text
        container, package = pool.container_spec, pool.python_package_spec
        if container:
            yield "image", str(container.image_uri)
            yield "command", shlex.join([*container.command, *container.args])
        else:
            yield "image", str(package.executor_image_uri)
            yield "package", ", ".join(package.package_uris)
            yield "command", shlex.join(["python3", "-m", package.python_module, *package.args])
        work = container or package
        for item in work.env:
            yield "environment", f"{item.name}={item.value}"
    if output := spec.base_output_directory.output_uri_prefix:
        yield "base output directory", str(output)
    if strategy := spec.scheduling.strategy:
        yield "scheduling", str(strategy.name)
    if timeout := spec.scheduling.timeout:
        yield "timeout", f"{timeout.total_seconds():g} s"
    if spec.service_account:
        yield "service account", str(spec.service_account)
    for key, value in sorted(labels.items()):
        yield "label", f"{key}={value}"


def logs_of(root: Root, job: CustomJob) -> list[Log]:
    """Return the logs of a job that exist: one of each replica, and the service log."""
    folder = root.jobs / ResourceName.of(job).id
    found = [Log(log.PRIMARY, folder / "job.log", log.PRIMARY)]
    found += [Log(path.stem, path, path.stem) for path in sorted(folder.glob("workerpool*.log"))]
    found.append(Log("service", folder / log.SERVICE_LOG, log.SERVICE))
    return [each for each in found if each.path.is_file()]


def run_folders(job: CustomJob) -> list[str]:
    """Return the `gs://` folders named by a job's `--model_out` and base output directory."""
    pool = job.job_spec.worker_pool_specs[0]
    args = list((pool.container_spec or pool.python_package_spec).args)
    options = ("--model_out", "--model-out")
    found = [arg.partition("=")[2] for arg in args if arg.partition("=")[0] in options]
    found += [after for arg, after in itertools.pairwise(args) if arg in options]
    found.append(str(job.job_spec.base_output_directory.output_uri_prefix))
    folders = [folder.rstrip("/") for folder in found if folder.startswith("gs://")]
    return list(dict.fromkeys(folders))


def _expected(root: Root, job: CustomJob) -> str:
    """Return what the whole job may cost, and for how many minutes; "" if that is not known."""
    budget = Budget.read(root) or Budget(0)
    expected = budget.expected(job)
    if expected is None:
        return ""
    minutes = budget.expected_minutes(job)
    return f"about {costs.money(expected)}, if it ran for {minutes:g} min on Vertex AI"


def _commands(records: Records, root: Root, job: CustomJob) -> list[str]:
    name = ResourceName.of(job)
    commands = [
        f"gcloud ai custom-jobs describe {name.id} --region={name.location}",
        f"gcloud ai custom-jobs stream-logs {name.id} --region={name.location}",
    ]
    if pipeline := records.pipeline_of(job.name):
        commands.append(f"aiplatform.CustomTrainingJob.get({pipeline!r})")
    else:
        commands.append(f"aiplatform.CustomJob.get({str(name)!r})")
    if job.job_spec.tensorboard:
        commands.append(log.tensorboard_command(root, job))
    return commands


def moment(time: datetime) -> str:
    """Return a time as text, in this machine's time zone and with the zone's name."""
    return f"{time.astimezone():%Y-%m-%d %H:%M:%S %Z}"


def recent(time: datetime) -> str:
    """Return a time as short text: without the date if it is today, else without seconds."""
    local = time.astimezone()
    today = local.date() == datetime.now().date()
    return f"{local:%H:%M:%S}" if today else f"{local:%Y-%m-%d %H:%M}"


def duration(value: float | None) -> str:
    """Return a number of seconds as text, such as `2 min 05 s`; a dash for None."""
    if value is None:
        return "–"
    if value < 60:
        return f"{value:.1f} s"
    minutes, rest = divmod(int(value), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02} min" if hours else f"{minutes} min {rest:02} s"


def size(count: Any) -> str:
    """Return a number of bytes as text, such as `1.5 MB`."""
    number = float(count)
    for unit in ("B", "kB", "MB"):
        if number < 1000:
            return f"{number:.0f} {unit}" if unit == "B" else f"{number:.1f} {unit}"
        number /= 1000
    return f"{number:.1f} GB"
