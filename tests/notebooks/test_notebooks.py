"""The form of each notebook: prose with short cells, which do not know where they run.

That the cells run is tested by nbval, which executes the notebooks themselves.
"""

from __future__ import annotations

import ast
import itertools
import re
from pathlib import Path

import nbformat
import pytest

from vertex_local.notebooks.evidence import save

NOTEBOOKS = sorted((Path(__file__).resolve().parents[2] / "notebooks").glob("*.ipynb"))
LONGEST_CELL = 25


@pytest.fixture(params=NOTEBOOKS, ids=lambda path: path.name)
def notebook(request: pytest.FixtureRequest) -> nbformat.NotebookNode:
    notebook = nbformat.read(request.param, as_version=4)
    nbformat.validate(notebook)
    return notebook


@pytest.fixture
def cells(notebook: nbformat.NotebookNode) -> list[nbformat.NotebookNode]:
    return list(notebook.cells)


@pytest.fixture
def code(cells: list[nbformat.NotebookNode]) -> list[str]:
    return [cell.source for cell in cells if cell.cell_type == "code"]


def test_only_promised_outputs_are_committed(cells: list[nbformat.NotebookNode]) -> None:
    for cell in cells:
        assert not cell.get("execution_count")
        promised = "nbval-check-output" in cell.metadata.get("tags", [])
        assert bool(cell.get("outputs")) == promised, cell.source


def test_prose_stands_before_every_code_cell(cells: list[nbformat.NotebookNode]) -> None:
    for before, cell in zip([None, *cells], cells, strict=False):
        if cell.cell_type == "code":
            assert before is not None and before.cell_type == "markdown", cell.source


def test_cells_are_short_and_parse(code: list[str]) -> None:
    for source in code:
        assert len(source.splitlines()) <= LONGEST_CELL, source
        plain = [line for line in source.splitlines() if not re.match(r"\s*[!%]", line)]
        ast.parse("\n".join(plain))


def test_no_line_is_wider_than_jupyterlab_shows(code: list[str]) -> None:
    for source in code:
        assert max(map(len, source.splitlines())) <= 79, source


def test_no_cell_knows_where_it_runs(code: list[str]) -> None:
    for source in code:
        assert not re.search(r"local.?mode|vertex.?local|emulator", source, re.IGNORECASE), source


def test_headings_never_skip_a_level_and_differ(cells: list[nbformat.NotebookNode]) -> None:
    text = "\n".join(cell.source for cell in cells if cell.cell_type == "markdown")
    headings = re.findall(r"^(#+) (.+)$", text, re.MULTILINE)
    assert headings[0][0] == "#"
    levels = [len(marks) for marks, _ in headings]
    assert all(after - before <= 1 for before, after in itertools.pairwise(levels))
    assert levels.count(1) == 1
    titles = [title for _, title in headings]
    assert len(titles) == len(set(titles))


def test_the_kernel_of_the_file_is_the_plain_one(notebook: nbformat.NotebookNode) -> None:
    assert notebook.metadata.kernelspec.name == "python3"  # what Workbench has


def test_the_kept_page_holds_its_pictures_and_folds_its_answers(tmp_path: Path) -> None:
    (tmp_path / "there.svg").write_text("<svg/>")
    text = '<img src="there.svg" alt="a"> <img src="gone.svg" alt="b">'
    text += "\n\n<details><summary>Solution</summary>\n\nAn *answer*.\n\n</details>"
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_markdown_cell(text)])
    page = save(notebook, tmp_path / "kept" / "n.ipynb", tmp_path).with_suffix(".html").read_text()
    assert 'src="data:image/svg+xml;base64,PHN2Zy8+"' in page
    assert 'src="gone.svg"' in page
    folded = page[page.index("<details>") : page.index("</details>")]
    assert "<em>answer</em>" in folded
