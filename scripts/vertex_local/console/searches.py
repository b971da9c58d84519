"""What the page shows of a hyperparameter tuning job: its trials as a table and as a chart."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timezone

from google.cloud.aiplatform_v1.types import HyperparameterTuningJob, StudySpec, Trial

from vertex_local.console import views
from vertex_local.console.curve import BOTTOM, HEIGHT, LEFT, RIGHT, TOP, WIDTH
from vertex_local.training import states
from vertex_local.training.names import ResourceName

NOT_MEASURED = math.nan


@dataclass(frozen=True)
class Row:
    """A trial.

    Attributes:
        id: its number in the search.
        job: the id of the custom job that runs it; "" before there is one.
        state: such as SUCCEEDED.
        values: its parameters, in the order of the search.
        metric: the first metric's final value; NaN if there is none yet.
        seconds: how long it has run; None before its start.
        is_best: whether no other trial is better.
    """

    id: str
    job: str
    state: str
    values: list[str]
    metric: float
    seconds: float | None
    is_best: bool


@dataclass(frozen=True)
class Point:
    """A trial with a metric in the chart, at x and y in pixels."""

    x: float
    y: float
    row: Row


@dataclass(frozen=True)
class Search:
    """A hyperparameter tuning job.

    Attributes:
        steps: the states that it has entered.
        metric, goal: its first metric, and MAXIMIZE or MINIMIZE.
        parameters: their names.
        rows: all trials.
        points: the trials that have a metric.
        low, high: the smallest and the largest metric; 0 if there is none.
        planned: how many trials were asked for.
        asked: names and values of what the search asked for.
        commands: show the same in a shell and in Python.
    """

    id: str
    name: str
    owner: str
    state: str
    steps: list[views.Step]
    metric: str
    goal: str
    parameters: list[str]
    rows: list[Row]
    points: list[Point]
    low: float
    high: float
    planned: int
    error: str
    is_active: bool
    asked: list[tuple[str, str]]
    commands: list[str]

    @property
    def best(self) -> Row | None:
        """The best trial so far."""
        return next((row for row in self.rows if row.is_best), None)


def search_of(job: HyperparameterTuningJob) -> Search:
    """Return what the page shows of a hyperparameter tuning job."""
    metric = job.study_spec.metrics[0]
    measured = [value for trial in job.trials if not math.isnan(value := _metric(trial, metric))]
    best = _best(measured, metric)
    rows = [_row(job, trial, metric, best) for trial in job.trials]
    low, high = (min(measured), max(measured)) if measured else (0.0, 0.0)
    return Search(
        ResourceName.of(job).id,
        str(job.display_name),
        job.labels.get("owner", ""),
        job.state.name.removeprefix("JOB_STATE_"),
        views.steps(job),
        str(metric.metric_id),
        metric.goal.name,
        [str(each.parameter_id) for each in job.study_spec.parameters],
        rows,
        _points(rows, low, high),
        low,
        high,
        int(job.max_trial_count),
        str(job.error.message),
        not states.is_final(job.state),
        [*_ranges(job.study_spec), *views.asked(job.trial_job_spec, job.labels)],
        _commands(job),
    )


def _ranges(study: StudySpec) -> Iterator[tuple[str, str]]:
    """Yield each parameter with the values that it may have."""
    for each in study.parameters:
        if choices := each.categorical_value_spec or each.discrete_value_spec:
            text = ", ".join(map(_text, choices.values))
        else:
            limits = each.double_value_spec or each.integer_value_spec
            text = f"{_text(limits.min_value)} to {_text(limits.max_value)}"
        scale = each.scale_type.name
        kinds = {
            "UNIT_LOG_SCALE": ", logarithmic",
            "UNIT_REVERSE_LOG_SCALE": ", reverse logarithmic",
        }
        yield str(each.parameter_id), text + kinds.get(scale, "")


def _commands(job: HyperparameterTuningJob) -> list[str]:
    name = ResourceName.of(job)
    return [
        f"gcloud ai hp-tuning-jobs describe {name.id} --region={name.location}",
        f"gcloud ai hp-tuning-jobs stream-logs {name.id} --region={name.location}",
        f"aiplatform.HyperparameterTuningJob.get({str(name)!r})",
    ]


def _metric(trial: Trial, metric: StudySpec.MetricSpec) -> float:
    for each in trial.final_measurement.metrics:
        if each.metric_id == metric.metric_id and math.isfinite(each.value):
            return float(each.value)
    return NOT_MEASURED


def _best(measured: list[float], metric: StudySpec.MetricSpec) -> float:
    if not measured:
        return NOT_MEASURED
    is_larger_better = metric.goal == StudySpec.MetricSpec.GoalType.MAXIMIZE
    return max(measured) if is_larger_better else min(measured)


def _row(
    job: HyperparameterTuningJob, trial: Trial, metric: StudySpec.MetricSpec, best: float
) -> Row:
    given = {each.parameter_id: each.value for each in trial.parameters}
    values = [_text(given.get(each.parameter_id, "")) for each in job.study_spec.parameters]
    value = _metric(trial, metric)
    end = trial.end_time or datetime.now(timezone.utc)
    seconds = (end - trial.start_time).total_seconds() if trial.start_time else None
    number = str(trial.custom_job).rpartition("/")[2]
    return Row(str(trial.id), number, trial.state.name, values, value, seconds, value == best)


def _text(value: object) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _points(rows: list[Row], low: float, high: float) -> list[Point]:
    points = []
    for number, row in enumerate(rows):
        if not math.isnan(row.metric):
            x = LEFT + 10 + number / max(1, len(rows) - 1) * (WIDTH - LEFT - RIGHT - 20)
            part = (row.metric - low) / ((high - low) or 1)
            y = HEIGHT - BOTTOM - 8 - part * (HEIGHT - TOP - BOTTOM - 16)
            points.append(Point(round(x, 1), round(y, 1), row))
    return points
