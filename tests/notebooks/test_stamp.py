"""The line with date and versions: only a run in which every cell worked writes it."""

from __future__ import annotations

from datetime import date
from importlib.metadata import version
from pathlib import Path

import nbformat
import pytest

from vertex_local import cli
from vertex_local.config import LocalModeError, ServerRecord
from vertex_local.notebooks.promises import stamp

DAY = date(2026, 11, 23)


def write_notebook(path: Path, *cells: nbformat.NotebookNode) -> Path:
    nbformat.write(nbformat.v4.new_notebook(cells=list(cells)), path)
    return path


def last_text(path: Path) -> str:
    return str(nbformat.read(path, as_version=4).cells[-1].source)


@pytest.mark.parametrize("code, status", [("1 + 1", 0), ("1 / 0", 1)])
def test_run_writes_the_line_only_if_every_cell_works(
    server: ServerRecord, tmp_path: Path, code: str, status: int
) -> None:
    text = nbformat.v4.new_markdown_cell("The end.")
    path = write_notebook(tmp_path / "n.ipynb", nbformat.v4.new_code_cell(code), text)
    arguments = ["run", "--stamp", str(path), "--output", str(tmp_path / "out")]
    assert cli.main(arguments) == status
    assert last_text(path).startswith("The end.")
    assert ("Checked on" in last_text(path)) == (status == 0)
    assert nbformat.read(path, as_version=4).cells[0].outputs == []


def test_a_new_line_takes_the_place_of_the_old_one(tmp_path: Path) -> None:
    path = write_notebook(tmp_path / "n.ipynb", nbformat.v4.new_markdown_cell("The end."))
    stamp.write(path, date(2020, 1, 1))
    stamp.write(path, DAY)
    assert last_text(path) == f"The end.\n\n{stamp.line(DAY)}"
    assert f"torch {version('torch').partition('+')[0]}," in last_text(path)


def test_a_notebook_without_a_last_text_is_refused_in_words(tmp_path: Path) -> None:
    path = write_notebook(tmp_path / "n.ipynb", nbformat.v4.new_code_cell("1"))
    before = path.read_bytes()
    with pytest.raises(LocalModeError, match="must end with a text cell"):
        stamp.write(path, DAY)
    assert path.read_bytes() == before


def test_each_notebook_was_checked_with_the_versions_that_are_recorded(repo: Path) -> None:
    recorded = (repo / "scripts" / "tested-versions.txt").read_text()
    for path in sorted((repo / "notebooks").glob("*.ipynb")):
        found = stamp.LINE.search(last_text(path))
        assert found, f"{path.name}: run `vertex-local run --stamp` on it"
        for name in stamp.PACKAGES:
            said = found[0].partition(f"{name} ")[2].split(",")[0].rstrip(".*")
            assert f"{name}=={said}" in recorded, f"{path.name}: {name} {said}"
