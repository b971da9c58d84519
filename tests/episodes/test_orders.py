"""The episode's cells in other orders than from top to bottom, as learners run them.

One execution, in a copy of the lesson: Setup and the data, which everything needs; then, section by
section from the last to the first, a restart of the kernel, Setup, and that section alone. Every
cell runs twice in a row.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from pathlib import Path

import nbformat
import pytest
from clones import make_clone

from vertex_local.config import Root, ServerRecord
from vertex_local.notebooks import checking

NAME = "06-Training-models-in-VertexAI-GPUs.ipynb"
RESTART = "%reset -f"  # forgets every name, as a restart does, and is quicker

Cells = list[nbformat.NotebookNode]


def sections(notebook: nbformat.NotebookNode) -> dict[str, Cells]:
    """Return the code cells below each heading of the second level."""
    found: dict[str, Cells] = {}
    title = ""
    for cell in notebook.cells:
        if cell.cell_type == "markdown" and cell.source.startswith("## "):
            title = cell.source.splitlines()[0].removeprefix("## ")
        elif cell.cell_type == "code":
            found.setdefault(title, []).append(cell)
    return found


def in_other_orders(notebook: nbformat.NotebookNode) -> Iterator[nbformat.NotebookNode]:
    parts = sections(notebook)
    setup, data, *_ = parts
    yield from twice(parts[setup])
    yield from parts[data]
    for title in reversed(list(parts)[1:]):
        yield nbformat.v4.new_code_cell(RESTART)
        yield from parts[setup]
        yield from twice(parts[title])


def twice(cells: Cells) -> Iterator[nbformat.NotebookNode]:
    for cell in cells:
        yield cell
        yield cell


def execute(cells: Cells, path: Path) -> nbformat.NotebookNode:
    copies = [copy.deepcopy(cell) for cell in cells]
    for number, cell in enumerate(copies):
        cell.id = f"cell-{number}"
    notebook = nbformat.v4.new_notebook(cells=copies)
    checking.run(notebook, path)
    return notebook


@pytest.mark.timeout(900)  # half a minute, but several on a busy machine
def test_every_cell_can_be_run_again_and_every_section_after_a_restart(
    repo: Path, own_root: Root, tmp_path: Path
) -> None:
    path = make_clone(repo, tmp_path / "clone") / "notebooks" / NAME
    notebook = nbformat.read(path, as_version=4)
    assert list(sections(notebook))[:2] == ["Setup", "Prepare the data as `.npz`"]
    assert len(sections(notebook)) >= 7
    done = execute(list(in_other_orders(notebook)), path)

    launches = sum("job.run(" in cell.source for cell in done.cells)
    folders = list(own_root.buckets.glob("doe-titanic/artifacts/*/*"))
    assert launches == 3 * 2  # each of three jobs twice
    assert len(folders) == 2 * 2 + 1  # the colleague's job has one folder for all its runs
    for folder in own_root.buckets.glob("doe-titanic/artifacts/pytorch/*"):
        assert (folder / "metrics.json").is_file()


def test_a_section_without_setup_is_noticed(
    repo: Path, server: ServerRecord, tmp_path: Path
) -> None:
    path = make_clone(repo, tmp_path / "clone") / "notebooks" / NAME
    parts = sections(nbformat.read(path, as_version=4))
    with pytest.raises(checking.NotebookFailed, match="NameError"):
        execute(parts["Clean up"], path)
