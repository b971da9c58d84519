"""The notebook on tuning: its minutes, its exercises, and what its helpers say of any search."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import lesson_minutes
import matplotlib.pyplot as plt
import nbformat
import pytest
from google.cloud.aiplatform_v1.types import HyperparameterTuningJob

from lesson import tuning

NAME = "06e-Tuning.ipynb"


@pytest.fixture(scope="module")
def notebook(repo: Path) -> nbformat.NotebookNode:
    return nbformat.read(repo / "notebooks" / NAME, as_version=4)


def test_it_takes_as_long_as_it_says(notebook: nbformat.NotebookNode) -> None:
    text = "\n".join(cell.source for cell in notebook.cells)
    teaching, exercises = re.findall(r"about (\d+) minutes", notebook.cells[0].source)
    sections = lesson_minutes.sections(notebook.cells)
    minutes = sum(section.minutes for section in sections if not section.exercise)
    assert abs(minutes - int(teaching)) <= 1, minutes
    each = re.findall(r"### Exercise \d: .+ \((\d+) minutes\)", text)
    assert len(each) == 2 and sum(map(int, each)) == int(exercises)


def search(
    *values: float | None, goal: int = 2, metric: str = "val_loss", batch: bool = True
) -> SimpleNamespace:
    """Return a search as the SDK holds it; a value of None is a trial that failed."""
    trials = []
    for number, value in enumerate(values, start=1):
        parameters = [{"parameter_id": "learning_rate", "value": 0.01 * number}]
        parameters += [{"parameter_id": "batch_size", "value": 32.0}] if batch else []
        trial: dict[str, Any] = {"id": str(number), "state": 5, "parameters": parameters}
        if value is not None:
            metrics = [{"metric_id": metric, "value": value}]
            trial |= {"state": 4, "final_measurement": {"step_count": 7, "metrics": metrics}}
        trials.append(trial)
    job = HyperparameterTuningJob(
        study_spec={"metrics": [{"metric_id": metric, "goal": goal}]}, trials=trials
    )
    return SimpleNamespace(gca_resource=job, trials=job.trials)


def test_the_table_has_a_row_for_each_trial_in_order_and_whole_numbers() -> None:
    table = tuning.table(search(0.5, None, 0.25))
    assert list(table.index) == [1, 2, 3]
    assert list(table.columns) == ["learning_rate", "batch_size", "val_loss", "step", "state"]
    assert [str(each) for each in table["batch_size"]] == ["32", "32", "32"]
    assert table["val_loss"].isna().tolist() == [False, True, False]
    assert list(table["state"]) == ["SUCCEEDED", "INFEASIBLE", "SUCCEEDED"]


@pytest.mark.parametrize(("goal", "number"), [(2, "3"), (1, "4")])
def test_the_best_trial_follows_the_goal_and_has_a_measurement(goal: int, number: str) -> None:
    assert tuning.best(search(0.5, None, 0.25, 0.75, goal=goal)).id == number
    with pytest.raises(ValueError, match="no trial of this search has a measurement"):
        tuning.best(search(None, None))


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(plt, "show", lambda: None)
    backend = plt.get_backend()
    plt.switch_backend("agg")
    yield
    plt.close("all")
    plt.switch_backend(backend)


@pytest.mark.parametrize(("goal", "line"), [(2, [5, 5, 2, 2]), (1, [5, 5, 5, 8])])
def test_the_picture_shows_every_trial_and_the_best_so_far(
    drawn: None, goal: int, line: list[int]
) -> None:
    tuning.plot(search(5.0, None, 2.0, 8.0, goal=goal))
    space, course = plt.gcf().axes
    assert [text.get_text() for text in space.texts[::2]] == ["1", "2", "3", "4"]
    assert [text.get_text() for text in space.texts[1::2]] == ["5.000", "failed", "2.000", "8.000"]
    assert list(course.get_lines()[1].get_ydata()) == line
    widths = [each.get_markeredgewidth() for each in space.get_lines()]
    assert widths.index(max(widths)) + 1 == int(tuning.best(search(5.0, None, 2, 8, goal=goal)).id)


def test_the_solutions_are_right(notebook: nbformat.NotebookNode) -> None:
    text = "\n".join(cell.source for cell in notebook.cells)
    names: dict[str, Any] = {"typo": search(None, metric="val_acuracy")}
    for solution in re.findall(r"```python\n(.*?)```", text, re.DOTALL):
        exec(solution, names)
    assert tuning.metric_name(names).startswith("Correct: ")
    assert tuning.cause(names).startswith("Correct: ")


@pytest.mark.parametrize(
    ("answer", "hint"),
    [
        ("", "write the name"),
        ("val_acuracy", "nobody reports"),
        ("val_loss", "It is an accuracy"),
        ("accuracy", "'accuracy' is not what"),
        (None, "write a text"),
        ("val_accuracy ", "ends with a space"),
        ("Val-Accuracy", "letter by letter"),
    ],
)
def test_a_wrong_metric_name_gets_a_hint(answer: object, hint: str) -> None:
    names = {"metric_name": answer, "typo": search(None, metric="val_acuracy")}
    said = " ".join(tuning.metric_name(names).split())
    assert said.startswith("Not yet: ") and hint in said


@pytest.mark.parametrize(
    ("answer", "hint"),
    [("", 'write "A"'), ("A", "look at the column"), ("C", "did arrive"), (["B"], "write a text")],
)
def test_a_wrong_cause_gets_a_hint(answer: object, hint: str) -> None:
    said = tuning.cause({"cause": answer})
    assert said.startswith("Not yet: ") and hint in said
