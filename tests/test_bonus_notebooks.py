"""The bonus notebooks as texts: their form. That their cells run is tested by nbval."""

from __future__ import annotations

import ast
import itertools
import re
from pathlib import Path

import nbformat
import pytest

NAMES = ["06b-Choosing-CPU-or-GPU.ipynb", "06c-Distributed-training.ipynb"]
LONGEST_CELL = 25


@pytest.fixture(params=NAMES)
def notebook(repo: Path, request: pytest.FixtureRequest) -> nbformat.NotebookNode:
    found = nbformat.read(repo / "notebooks" / request.param, as_version=4)
    nbformat.validate(found)
    return found


def test_it_is_committed_for_the_plain_kernel_without_outputs(
    notebook: nbformat.NotebookNode,
) -> None:
    assert notebook.metadata.kernelspec.name == "python3"
    for cell in notebook.cells:
        assert not cell.get("outputs") and not cell.get("execution_count"), cell.source


def test_prose_stands_before_every_code_cell(notebook: nbformat.NotebookNode) -> None:
    for before, cell in itertools.pairwise(notebook.cells):
        if cell.cell_type == "code":
            assert before.cell_type == "markdown", cell.source


def test_cells_are_short_and_the_same_everywhere(notebook: nbformat.NotebookNode) -> None:
    for source in (cell.source for cell in notebook.cells if cell.cell_type == "code"):
        assert len(source.splitlines()) <= LONGEST_CELL, source
        ast.parse(source)
        assert not re.search(r"local.?mode|vertex.?local|emulator", source, re.IGNORECASE), source


def test_headings_never_skip_a_level_and_differ(notebook: nbformat.NotebookNode) -> None:
    text = "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")
    headings = re.findall(r"^(#+) (.+)$", text, re.MULTILINE)
    levels = [len(marks) for marks, _ in headings]
    assert levels[0] == 1 and levels.count(1) == 1
    assert all(after - before <= 1 for before, after in itertools.pairwise(levels))
    assert len({title for _, title in headings}) == len(headings)


def test_every_picture_is_described_below_it(notebook: nbformat.NotebookNode) -> None:
    drawn = 0
    for cell, after in itertools.pairwise(notebook.cells):
        if "plt.show()" in cell.source:
            drawn += 1
            assert after.source.startswith("**What you see.**"), cell.source
    assert drawn


def test_it_ends_with_key_points(notebook: nbformat.NotebookNode) -> None:
    assert notebook.cells[-1].source.startswith("## Key points")
