"""The episode fits its half hour: the formula of notebooks/README.md, computed from its text."""

from __future__ import annotations

import re
from pathlib import Path

import lesson_minutes
import nbformat
import pytest
from lesson_minutes import Section, sections, total

from vertex_local import costs

TEACHING, EXERCISES = 20.0, 10.0
NOTEBOOKS = sorted(lesson_minutes.EPISODE.parent.glob("*.ipynb"))


@pytest.fixture(scope="module")
def found() -> list[Section]:
    return sections(nbformat.read(lesson_minutes.EPISODE, as_version=4).cells)


@pytest.fixture(scope="module")
def notes(repo: Path) -> str:
    return (repo / "notebooks" / "README.md").read_text()


def test_the_teaching_path_and_the_exercises_fit(found: list[Section]) -> None:
    assert total(found, exercise=False) <= TEACHING
    assert total(found, exercise=True) <= EXERCISES


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.name)
def test_a_notebook_takes_no_longer_than_it_says(path: Path) -> None:
    cells = nbformat.read(path, as_version=4).cells
    said = re.search(r"^Teaching: (?:about )?(\d+) minutes", cells[0].source, re.MULTILINE)
    assert said is not None
    assert total(sections(cells), exercise=False) <= int(said[1]) + 0.5


def test_an_exercise_leaves_time_to_think(found: list[Section]) -> None:
    """Reading takes at most two thirds of the minutes that the exercises promise."""
    text = "\n".join(c.source for c in nbformat.read(lesson_minutes.EPISODE, as_version=4).cells)
    promised = sum(
        int(n) for n in re.findall(r"^### Exercise \d: .* \((\d) minutes?\)$", text, re.M)
    )
    assert promised == EXERCISES
    assert total(found, exercise=True) <= promised * 2 / 3


def test_the_instructors_table_is_the_formula(found: list[Section], notes: str) -> None:
    table = notes.partition("## Timing")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| ([^*|]+?) \| ([\d.]+) \|", table, re.MULTILINE)
    computed = {each.title: each.minutes for each in found if not each.exercise}
    assert [title for title, _ in rows] == list(computed)
    for title, minutes in rows:
        assert float(minutes) == pytest.approx(computed[title], abs=0.06), title


def test_the_formula_counts_what_is_read_and_run() -> None:
    text = "## A\n\none two three <b>four</b> [five](https://example.com/x) | --- |"
    folded = "<details><summary>Solution</summary>\n\nsix seven\n\n</details>"
    cells = [
        nbformat.v4.new_markdown_cell(f"{text}\n\n{folded}"),
        nbformat.v4.new_code_cell("a = 1\n\nb = 2  # three"),
        nbformat.v4.new_markdown_cell("### Exercise 1: x\n\nnine"),
        nbformat.v4.new_code_cell("c = 3"),
        nbformat.v4.new_markdown_cell("### Go on\n\nten\n\n## Glossary\n\neleven"),
    ]
    path, exercise = sections(cells)
    assert (path.words, path.lines, path.cells) == (1 + 5 + 2 + 1, 2, 1)
    assert (exercise.words, exercise.lines, exercise.cells) == (3 + 1, 1, 1)
    assert path.minutes == pytest.approx(9 / 230 + 2 * 3 / 60 + 5 / 60)
    cells.append(nbformat.v4.new_markdown_cell("## B\n\n" + "word " * 230 * 20))
    assert total(sections(cells), exercise=False) > TEACHING


def test_the_costs_of_a_class_are_what_the_prices_give(notes: str) -> None:
    said = re.search(r"75 jobs .* cost about ([\d.]+) US dollars, and ([\d.]+) more", notes)
    assert said is not None
    jobs = [costs.estimate("n1-standard-4", minutes=1)] * 2
    jobs.append(costs.estimate("n1-standard-8", "NVIDIA_TESLA_T4", 1, minutes=1))
    computing = 25 * sum(job.share(job.minutes) for job in jobs)
    everything = 25 * sum(job.usd or 0 for job in jobs)
    assert float(said[1]) == pytest.approx(computing, abs=0.01)
    assert float(said[2]) == pytest.approx(everything - computing, abs=0.01)
