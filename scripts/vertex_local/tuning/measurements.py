"""The metrics that a trial reported through `hypertune`, and which of them count.

Source of the file's format: cloudml-hypertune 0.1.0.dev6. Each report rewrites the file with the
last 100 reports, one JSON object a line, in which numbers are strings.
"""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from google.cloud.aiplatform_v1.types import Measurement, StudySpec

BEST = StudySpec.MeasurementSelectionType.BEST_MEASUREMENT
MINIMIZE = StudySpec.MetricSpec.GoalType.MINIMIZE
NOT_METRICS = frozenset({"checkpoint_path", "global_step", "timestamp", "trial"})


@dataclass
class Step:
    """The metrics that were reported for one step; they may be NaN or infinite."""

    number: int
    metrics: dict[str, float] = field(default_factory=dict)


class MetricFile:
    """The metric file of one trial, read repeatedly while the trial runs.

    Attributes:
        steps: everything that was reported so far, in the order of the reports.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.steps: list[Step] = []
        self._lines: set[str] = set()  # read so far; each has a timestamp, so no two are equal
        self._version = (0, 0)

    @property
    def tags(self) -> list[str]:
        """The names of all metrics that were reported."""
        return sorted({tag for step in self.steps for tag in step.metrics})

    def read(self) -> None:
        """Read new reports. A line that is only half written is read by the next call."""
        try:
            status = self.path.stat()
            version = (status.st_mtime_ns, status.st_size)
            if version == self._version:
                return
            lines = self.path.read_text(errors="replace").splitlines()
        except FileNotFoundError:
            return
        self._version = version
        for line in lines:
            if line not in self._lines and (step := _parsed(line)):
                self._lines.add(line)
                self._append(step)

    def _append(self, report: Step) -> None:
        """Add a report to the last step; another number or a repeated metric begins a new step."""
        last = self.steps[-1] if self.steps else None
        if last and last.number == report.number and not last.metrics.keys() & report.metrics:
            last.metrics |= report.metrics
        else:
            self.steps.append(report)


def _parsed(line: str) -> Step | None:
    """Return the report in a line, or None if the line is incomplete or is no report."""
    try:
        content = json.loads(line)
        metrics = {tag: float(content[tag]) for tag in content if tag not in NOT_METRICS}
        return Step(int(float(content.get("global_step") or 0)), metrics)
    except (ValueError, TypeError, AttributeError, OverflowError):
        return None


def final_measurement(steps: Sequence[Step], spec: StudySpec) -> Measurement | None:
    """Return the measurement that stands for a trial, or None if there is none.

    Only steps with a finite number for every metric of the study count. The last of these is
    taken, or the best if the study asks for BEST_MEASUREMENT. With several metrics the first one
    decides what is best, which is local mode's own rule.
    """
    wanted = [metric.metric_id for metric in spec.metrics]
    complete = [step for step in steps if all(map(math.isfinite, _values(step, wanted)))]
    if not complete:
        return None
    if spec.measurement_selection_type == BEST:
        first = spec.metrics[0]
        sign = -1 if first.goal == MINIMIZE else 1
        chosen = max(complete, key=lambda step: sign * step.metrics[first.metric_id])
    else:
        chosen = max(reversed(complete), key=lambda step: step.number)
    return Measurement(
        step_count=chosen.number,
        metrics=[{"metric_id": name, "value": chosen.metrics[name]} for name in wanted],
    )


def _values(step: Step, wanted: Sequence[str]) -> list[float]:
    return [step.metrics.get(name, math.nan) for name in wanted]


def why_none(file: MetricFile, spec: StudySpec) -> str:
    """Return why a trial has no final measurement. The words are local mode's own."""
    wanted = [metric.metric_id for metric in spec.metrics]
    missing = [name for name in wanted if name not in file.tags]
    if not file.tags:
        return (
            f"The script ended well, but reported no metric; the study needs {_listed(wanted)}. "
            "Report it with hypertune.HyperTune().report_hyperparameter_tuning_metric(…)."
        )
    if missing:
        return (
            f"The script never reported {_listed(missing)}. It reported {_listed(file.tags)}: "
            "metric_spec and the script must use the same name."
        )
    return (
        f"The script never reported a finite number for {_listed(wanted)} in the same step; "
        "NaN and infinite values do not count."
    )


def _listed(names: Sequence[str]) -> str:
    return ", ".join(map(repr, names))


def falls_behind(
    steps: Sequence[Step], completed: Sequence[Sequence[Step]], spec: StudySpec
) -> bool:
    """Return whether the median rule stops a running trial.

    Source: `StudySpec.MedianAutomatedStoppingSpec`. A trial is stopped if its best value is worse
    than the median of the completed trials' averages up to the step that it has reached.

    Args:
        steps: what the running trial reported.
        completed: what each completed trial reported.
        spec: the study; its first metric is compared.
    """
    metric = spec.metrics[0]
    sign = -1 if metric.goal == MINIMIZE else 1

    def values(reported: Sequence[Step], last: float) -> list[float]:
        found = [
            step.metrics.get(metric.metric_id, math.nan) for step in reported if step.number <= last
        ]
        return [sign * value for value in found if math.isfinite(value)]

    own = values(steps, math.inf)
    if not own:
        return False
    reached = max(step.number for step in steps)
    averages = [statistics.fmean(each) for each in (values(c, reached) for c in completed) if each]
    return bool(averages) and max(own) < statistics.median(averages)
