"""The notebook on failing jobs: its minutes, its exercise, and what its helpers say."""

from __future__ import annotations

import re
from pathlib import Path

import lesson_minutes
import nbformat
import pytest

from lesson import exercises, faults
from lesson.setup import SetupError

NAME = "06f-When-jobs-fail.ipynb"
RIGHT = {1: "capacity", 2: "settings", 3: "permission", 4: "memory"}


@pytest.fixture(scope="module")
def notebook(repo: Path) -> nbformat.NotebookNode:
    return nbformat.read(repo / "notebooks" / NAME, as_version=4)


def test_it_takes_as_long_as_it_says(notebook: nbformat.NotebookNode) -> None:
    stated = re.search(r"Teaching: about (\d+) minutes", notebook.cells[0].source)
    sections = lesson_minutes.sections(notebook.cells)
    minutes = sum(section.minutes for section in sections if not section.exercise)
    assert stated and abs(minutes - int(stated[1])) <= 1, minutes


def test_the_solution_is_right_and_says_what_to_do(notebook: nbformat.NotebookNode) -> None:
    text = "\n".join(cell.source for cell in notebook.cells)
    solution = re.findall(r"```python\n(.*?)```", text, re.DOTALL)[-1]
    names: dict[str, object] = {}
    exec(solution, names)
    assert exercises.diagnoses(names).startswith("Correct: wait or go elsewhere (1)")


@pytest.mark.parametrize(
    ("causes", "hint"),
    [
        ({**RIGHT, 1: ""}, "choose a cause for job 1"),
        ({**RIGHT, 1: "quota"}, "job 1: 'quota' is none of capacity, settings"),
        ({**RIGHT, 1: "memory"}, "job 1: its log holds no line of the script"),
        ({**RIGHT, 3: "capacity"}, "job 3: look for a number of three digits"),
        ({1: "capacity"}, "needs the keys 1, 2, 3 and 4"),
        ({**RIGHT, "5": "memory"}, "needs the keys 1, 2, 3 and 4"),
        (["capacity"], "must stay a dict"),
        ({**RIGHT, 2: None}, "choose a cause for job 2"),
        ({**RIGHT, 2: ["memory"]}, "job 2: a list is none of"),
    ],
)
def test_a_wrong_answer_gets_a_hint(causes: object, hint: str) -> None:
    said = exercises.diagnoses({"causes": causes})
    assert said.startswith("Not yet: ") and hint in said


def test_letters_and_spaces_do_not_matter() -> None:
    causes = {number: f" {cause.upper()} " for number, cause in RIGHT.items()}
    assert exercises.diagnoses({"causes": causes}).startswith("Correct")


def test_outside_local_mode_nothing_can_be_made_to_fail(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("VERTEX_LOCAL_BUCKETS", raising=False)
    with pytest.raises(SetupError, match="this cell needs local mode"):
        faults.add("quota")
    with pytest.raises(SetupError, match="Kernel → Change Kernel"):
        faults.clear()


def test_what_makes_no_sense_is_said_in_one_sentence(server: object) -> None:
    with pytest.raises(SetupError, match="--times must be a whole number, not 'two'"):
        faults.add("quota", times="two")


def test_the_last_words_of_an_error_are_short() -> None:
    lines = "".join(f"  line {number}\\n" for number in range(50))
    text = f"Training failed with:\ncode: 3\nmessage: \"The replica failed.\\n{lines}It\\'s wrong"
    text += '\\n\\nTo find out more about why your job exited please check the logs: /a/b"\n'
    words = faults.last_words(RuntimeError(text))
    assert words == "code 3\nThe replica failed.\nline 49\nIt's wrong"
    assert faults.last_words(RuntimeError("anything")) == "no code\nanything"
