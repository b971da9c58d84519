"""What a trial reported, read from the file that the real `hypertune` writes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
from google.cloud.aiplatform_v1.types import StudySpec
from hypertune import HyperTune

from vertex_local.tuning import measurements
from vertex_local.tuning.measurements import MetricFile, Step

LAST, BEST = 1, 2
MAXIMIZE, MINIMIZE = 1, 2


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> MetricFile:
    monkeypatch.setenv("CLOUD_ML_HP_METRIC_FILE", str(tmp_path / "metrics"))
    return MetricFile(tmp_path / "metrics")


def study_of(selection: int, goal: int = MINIMIZE, names: Sequence[str] = ("loss",)) -> StudySpec:
    metrics = [{"metric_id": name, "goal": goal} for name in names]
    return StudySpec(metrics=metrics, measurement_selection_type=selection)


def test_reports_are_kept_that_the_file_has_lost_since(file: MetricFile) -> None:
    reporter = HyperTune()
    file.read()
    assert file.steps == []
    for step in range(1, 251):
        reporter.report_hyperparameter_tuning_metric("loss", float(step), step)
        if step % 90 == 0:
            file.read()
    file.read()
    assert len(file.path.read_text().splitlines()) == 100
    assert [step.number for step in file.steps] == list(range(1, 251))
    best = measurements.final_measurement(file.steps, study_of(BEST))
    last = measurements.final_measurement(file.steps, study_of(LAST))
    assert best and (best.step_count, best.metrics[0].value) == (1, 1.0)
    assert last and (last.step_count, last.metrics[0].value) == (250, 250.0)


def test_a_half_written_line_is_read_the_next_time(file: MetricFile) -> None:
    HyperTune().report_hyperparameter_tuning_metric("loss", 0.125, 3)
    whole = file.path.read_text()
    for length in range(len(whole.rstrip())):
        file.path.write_text(whole[:length])
        file.read()
        assert file.steps == []
    file.path.write_text(whole)
    file.read()
    assert file.steps == [Step(3, {"loss": 0.125})]


@pytest.mark.parametrize("junk", ["[]", "1", '{"loss": []}', '{"loss": 1, "global_step": "x"}'])
def test_lines_that_are_no_reports_are_left_out(file: MetricFile, junk: str) -> None:
    HyperTune().report_hyperparameter_tuning_metric("loss", 1.0, 1)
    file.path.write_text(junk + "\n" + file.path.read_text() + "\0\xff\n")
    file.read()
    assert file.steps == [Step(1, {"loss": 1.0})]


def test_reports_without_a_step_are_kept_apart(file: MetricFile) -> None:
    reporter = HyperTune()
    for value in (3.0, 1.0, 2.0):
        reporter.report_hyperparameter_tuning_metric("loss", value)
        reporter.report_hyperparameter_tuning_metric("size", 10 * value)
    file.read()
    for selection, value in ((BEST, 1.0), (LAST, 2.0)):
        found = measurements.final_measurement(file.steps, study_of(selection))
        assert found and found.metrics[0].value == value


STEPS = [
    Step(1, {"loss": 3.0, "size": 1.0}),
    Step(2, {"loss": 1.0}),
    Step(3, {"loss": 2.0, "size": 5.0}),
    Step(4, {"loss": float("nan"), "size": 0.0}),
    Step(5, {"loss": float("-inf"), "size": 0.0}),
]


@pytest.mark.parametrize(
    ("selection", "goal", "names", "step"),
    [
        (LAST, MINIMIZE, ["loss"], 3),
        (0, MINIMIZE, ["loss"], 3),  # what is not said means the last, as documented
        (BEST, MINIMIZE, ["loss"], 2),
        (BEST, MAXIMIZE, ["loss"], 1),
        (BEST, 0, ["loss"], 1),  # what is not said means to maximize, as documented
        (BEST, MINIMIZE, ["loss", "size"], 3),
        (BEST, MINIMIZE, ["size", "loss"], 1),
        (LAST, MINIMIZE, ["other"], None),
    ],
)
def test_one_measurement_stands_for_the_trial(
    selection: int, goal: int, names: list[str], step: int | None
) -> None:
    found = measurements.final_measurement(STEPS, study_of(selection, goal, names))
    assert (found and found.step_count) == step
    assert not found or [each.metric_id for each in found.metrics] == names


def curve(*values: float) -> list[Step]:
    return [Step(number, {"loss": value}) for number, value in enumerate(values, start=1)]


DONE = [curve(9.0, 4.0, 1.0), curve(9.0, 5.0, 2.0), curve(9.0, 6.0, 3.0)]  # averages 6.5, 7, 7.5


@pytest.mark.parametrize(
    ("running", "stops"),
    [
        ([], False),
        (curve(9.0), False),  # as good as the median after one step
        (curve(9.5), True),
        (curve(9.0, 7.5), True),
        (curve(6.0, 20.0), False),  # its best value counts
        (curve(float("nan")), False),
    ],
)
def test_the_median_rule_stops_what_falls_behind(running: list[Step], stops: bool) -> None:
    assert measurements.falls_behind(running, DONE, study_of(BEST)) == stops
    flipped = [
        [Step(step.number, {"loss": -step.metrics["loss"]}) for step in each]
        for each in (running, *DONE)
    ]
    spec = study_of(BEST, MAXIMIZE)
    assert measurements.falls_behind(flipped[0], flipped[1:], spec) == stops
