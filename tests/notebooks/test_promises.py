"""Promised outputs: what counts as the same, and the command that refreshes them."""

from __future__ import annotations

import copy
from pathlib import Path

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_notebook, new_output

from vertex_local.cli import main
from vertex_local.config import LocalModeError
from vertex_local.notebooks.promises.comparison import Tolerance, differences, shown
from vertex_local.notebooks.promises.refresh import refresh, settle


def said(text: str) -> list[nbformat.NotebookNode]:
    return [new_output("stream", name="stdout", text=text)]


@pytest.mark.parametrize(
    ("promised", "got", "rel", "agree"),
    [
        ("loss 0.8100", "loss 0.8101", 0.0, False),
        ("loss 0.8100", "loss 0.8101", 0.001, True),
        ("loss 0.8100", "loss 0.8101", 0.0001, False),
        ("loss 0.81", "loss 0.8100", 0.0, True),  # the same number
        ("loss  0.81 ", "loss 0.81", 0.0, True),
        ("loss 0.81", "Loss 0.81", 1.0, False),
        ("1,024 bytes", "1,030 bytes", 0.01, True),
        ("1,024 bytes", "2,024 bytes", 0.01, False),
        ("1e-3", "0.001", 0.0, True),
        ("-5", "5", 0.1, False),
        ("tensor(1.)", "tensor(0.9999)", 0.001, True),
        ("tensor(1.)", "tensor(0.9)", 0.001, False),
        ("1_000_000", "1_000_100", 0.001, True),
        ("[1. 2.\n 3.]", "[1. 2. 3.0001]", 0.001, True),  # an array, wrapped otherwise
        ("[1. 2.]", "[ 1. -2.]", 0.001, False),
        ("[1.+0.j 2.-1.j]", "[1.+0.j 2.-1.0001j]", 0.001, True),
        ("(1+2j)", "(1-2j)", 0.001, False),
        ("inf", "-inf", 1.0, False),
        ("[nan 1.]", "[nan 1.0001]", 0.001, True),
        ("[nan]", "[0.5]", 1.0, False),
        ("0:00:59", "0:01:00", 0.05, True),
        ("0:00:59", "0:02:00", 0.05, False),
        ("on 2024-01-02", "on 2023-01-02", 0.01, False),  # a date
        ("1.2.3", "1.2.4", 1.0, False),  # a version
        ("12.5%", "12.51%", 0.01, True),
        ("T4", "T5", 1.0, False),  # not a number but a name
        ("run_1", "run_2", 1.0, False),
        ("a\nb", "a", 1.0, False),
        ("12345678901234567890", "12345678901234567891", 0.0, False),
        ('{"a": 1.0, "b": true}', '{"b": true, "a": 1}', 0.0, True),
        ('{"a": 1}', '{"a": 1, "b": 2}', 1.0, False),
        ('{"a": true}', '{"a": 1}', 1.0, False),
        ("[1, 2]", "[1, 2, 3]", 1.0, False),
        ("{'x': 1.001}", "{'x': 1.002}", 0.01, True),
        ("{'x': 'a'}", "{'x': 'b'}", 0.01, False),
    ],
)
def test_what_counts_as_the_same_text(promised: str, got: str, rel: float, agree: bool) -> None:
    found = differences(shown(said(promised)), shown(said(got)), Tolerance(rel=rel))
    assert (found == []) == agree, found


def test_outputs_of_another_kind_or_number_differ() -> None:
    picture = new_output("display_data", data={"image/png": "AAAA", "text/plain": "<Figure>"})
    other = new_output("display_data", data={"image/png": "BBBB", "text/plain": "<Figure>"})
    assert differences(shown([picture]), shown([other]), Tolerance()) == []
    for outputs in ([], said("text"), [picture, other]):
        assert differences(shown([picture]), shown(outputs), Tolerance()) != []


def test_a_picture_is_promised_by_the_text_that_stands_for_it(notebook: Path) -> None:
    figure = {"image/png": "AAAA", "text/plain": "<Figure size 700x400 with 1 Axes>"}
    stored = nbformat.read(notebook, as_version=4)
    stored.cells[0].outputs = []
    executed = copy.deepcopy(stored)
    executed.cells[0].outputs = [new_output("display_data", data=figure)]
    assert settle(notebook, stored, executed, write=True)
    (output,) = nbformat.read(notebook, as_version=4).cells[0].outputs
    assert list(output.data) == ["text/plain"]
    promised = shown([output])
    assert differences(promised, shown(executed.cells[0].outputs), Tolerance()) == []
    assert differences(promised, shown(said("no picture")), Tolerance()) != []


def test_stderr_does_not_count_and_patterns_hide_what_changes() -> None:
    noise = new_output("stream", name="stderr", text="UserWarning: old")
    assert differences(shown(said("x")), shown([noise, *said("x")]), Tolerance()) == []
    clean = lambda text: text.replace("Monday", "DAY").replace("Friday", "DAY")  # noqa: E731
    monday, friday = said("on Monday"), said("on Friday")
    assert differences(shown(monday, clean), shown(friday, clean), Tolerance()) == []
    assert differences(shown(monday), shown(friday), Tolerance()) != []


@pytest.fixture
def notebook(tmp_path: Path) -> Path:
    """One promise that is not kept, one that is kept within its tolerance, and a plain cell."""
    promise = {"tags": ["nbval-check-output"]}
    cells = [
        new_code_cell("print('accuracy', 0.82)", outputs=said("accuracy 0.81\n"), metadata=promise),
        new_code_cell("# NBVAL_CHECK_OUTPUT\nprint(0.5001)", outputs=said("0.5\n")),
        new_code_cell("print('not promised')", outputs=said("not promised\n"), execution_count=3),
    ]
    cells[1].metadata["nbcheck"] = {"abs": 0.01, "timeout": 60}
    path = tmp_path / "x.ipynb"
    nbformat.write(new_notebook(cells=cells), path)
    return path


def test_the_command_shows_the_difference_and_stores_it(
    notebook: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["promise", "--yes", str(notebook)]) == 0
    printed = capsys.readouterr().out
    assert "-accuracy 0.81\n+accuracy 0.82" in printed
    assert "0.5001" not in printed.partition("---")[2]
    cells = nbformat.read(notebook, as_version=4).cells
    outputs = [[output.text for output in cell.outputs] for cell in cells]
    assert outputs == [["accuracy 0.82\n"], ["0.5\n"], ["not promised\n"]]


def test_without_yes_nothing_is_stored(notebook: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = notebook.read_bytes()
    stored = nbformat.read(notebook, as_version=4)
    executed = copy.deepcopy(stored)
    executed.cells[0].outputs = said("accuracy 0.82\n")
    assert not settle(notebook, copy.deepcopy(stored), executed, write=False)
    printed = capsys.readouterr().out
    assert "-accuracy 0.81\n+accuracy 0.82" in printed
    assert "1 of 2 promises differ. Store them with --yes." in printed
    assert settle(notebook, stored, copy.deepcopy(stored), write=False)
    assert "shows what it promises, in 2 cells" in capsys.readouterr().out
    assert notebook.read_bytes() == before


@pytest.mark.parametrize(
    ("outputs", "words"),
    [
        ([], "shows nothing. Let it print"),
        ([new_output("stream", name="stderr", text="a remark")], "shows nothing"),
        (said("line\n" * 41), "more than 40 lines"),
        ([new_output("display_data", data={"image/png": "AA"})], "cannot be stored as text"),
    ],
)
def test_what_cannot_be_promised_is_refused_and_nothing_is_written(
    notebook: Path, outputs: list[nbformat.NotebookNode], words: str
) -> None:
    before = notebook.read_bytes()
    stored = nbformat.read(notebook, as_version=4)
    stored.cells[0].outputs = []
    executed = copy.deepcopy(stored)
    executed.cells[0].outputs = outputs
    with pytest.raises(LocalModeError, match=words):
        settle(notebook, stored, executed, write=True)
    assert notebook.read_bytes() == before


def test_a_notebook_without_promises_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.ipynb"
    nbformat.write(new_notebook(cells=[new_code_cell("print(1)")]), path)
    with pytest.raises(LocalModeError, match="promises nothing"):
        refresh(path, write=True)


def test_tidy_keeps_promises_and_nothing_else(
    notebook: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = notebook.read_bytes()
    assert main(["tidy", "--check", str(notebook)]) == 1
    assert "is not fit to be committed. Run `vertex-local tidy" in capsys.readouterr().out
    assert notebook.read_bytes() == before
    assert main(["tidy", str(notebook)]) == 0
    tidy = nbformat.read(notebook, as_version=4)
    outputs = [[output.text for output in cell.outputs] for cell in tidy.cells]
    assert outputs == [["accuracy 0.81\n"], ["0.5\n"], []]
    assert all(cell.execution_count is None for cell in tidy.cells)
    assert tidy.metadata.kernelspec.name == "python3"
    assert main(["tidy", "--check", str(notebook)]) == 0


def test_the_notebooks_are_tidy(repo: Path) -> None:
    assert main(["tidy", "--check", *map(str, (repo / "notebooks").glob("*.ipynb"))]) == 0
