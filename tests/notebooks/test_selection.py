"""Cells that are chosen, put into another order, or run again, through the real pytest."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from datetime import datetime
from pathlib import Path

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

import vertex_local.training.records  # noqa: F401  # once for all runs in this process
from vertex_local.notebooks.engine import session

pytest_plugins = ["pytester"]
Run = Callable[..., pytest.RunResult]
SHUFFLE = """
def pytest_collection_modifyitems(items):  # what pytest-randomly does, at its worst
    items.reverse()
"""
# Fails in its first run, in whichever process that is, and passes in the second.
FLAKY = """
from pathlib import Path

mark = Path("ran")
first = not mark.exists()
mark.touch()
assert not first
"""


def write(path: Path, *sources: str) -> Path:
    notebook = new_notebook(cells=[new_code_cell(source) for source in sources])
    notebook.metadata.kernelspec = {"name": "python3", "display_name": "", "language": "python"}
    nbformat.write(notebook, path)
    return path


@pytest.fixture
def run(pytester: pytest.Pytester) -> Callable[..., pytest.RunResult]:
    """Pytest in its folder, as another project would run it: with three lines of settings."""
    pytester.makeini(
        """
        [pytest]
        addopts = -pvertex_local.notebooks.checks --nbval-lax --nbcheck-evidence=.evidence
        nbcheck_kernelspec = python3
        """
    )
    return pytester.runpytest_inprocess


@pytest.fixture
def tmp_path(pytester: pytest.Pytester) -> Path:
    """Pytest's folder."""
    return pytester.path


def last_line(finished: pytest.RunResult) -> str:
    line = re.sub(r", 1 warning| in .*", "", finished.outlines[-1])  # that of running in-process
    return line.strip("= ")


@pytest.fixture
def good(tmp_path: Path) -> Path:
    """A notebook each of whose cells needs the one before."""
    return write(tmp_path / "good.ipynb", "a = 1", "b = a + 1", "assert b == 2")


def test_a_failed_cell_that_is_run_again_fails_again(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("GITHUB_ACTIONS", raising=False)
    write(tmp_path / "bad.ipynb", "a = 1", "assert a == 2", "print(a)")
    finished = run("--reruns=1")
    assert finished.ret == 1
    assert last_line(finished) == "1 failed, 1 passed, 1 skipped, 1 rerun"
    assert "AssertionError" in finished.stdout.str()
    assert not [line for line in finished.outlines if line.startswith("::")]


def test_a_cell_is_run_again_in_a_fresh_kernel_after_those_before_it(
    run: Run, tmp_path: Path
) -> None:
    write(tmp_path / "flaky.ipynb", "count = 0", "count += 1", FLAKY, "assert count == 1")
    finished = run("--reruns=1")
    assert finished.ret == 0, finished.stdout.str()
    assert last_line(finished) == "4 passed, 1 rerun"


@pytest.mark.parametrize(
    "choice",
    [["-k", "Cell and 2"], ["good.ipynb::Cell 2"], ["--deselect", "good.ipynb::Cell 0"]],
    ids=["k", "node id", "deselect"],
)
def test_cells_before_the_chosen_one_run_too(run: Run, good: Path, choice: list[str]) -> None:
    finished = run(*choice)
    assert finished.ret == 0, finished.stdout.str()
    assert re.match(r"[12] passed", last_line(finished))


def test_a_chosen_cell_fails_if_one_that_it_needs_does(run: Run, tmp_path: Path) -> None:
    write(tmp_path / "bad.ipynb", "a = 1", "assert a == 2", "print(a)")
    finished = run("bad.ipynb::Cell 2")
    assert finished.ret == 1
    assert "Cell 1, which has to run before it, failed: AssertionError" in finished.stdout.str()


def test_the_last_failure_is_run_again_with_what_it_needs(run: Run, tmp_path: Path) -> None:
    path = write(tmp_path / "bad.ipynb", "a = 1", "assert a == 2", "print(a)")
    assert last_line(run()) == "1 failed, 1 passed, 1 skipped"
    again = run("--lf")
    assert "AssertionError" in again.stdout.str() and "NameError" not in again.stdout.str()
    assert re.match(r"1 failed(, 1 deselected)?$", last_line(again))
    write(path, "a = 2", "assert a == 2", "print(a)")
    assert last_line(run("--ff")) == "3 passed"


def test_another_order_changes_nothing(run: Run, good: Path) -> None:
    (good.parent / "conftest.py").write_text(SHUFFLE)
    write(good.with_name("other.ipynb"), "a = 3", "assert a == 3")
    finished = run()  # with two workers: test_nbcheck.py
    assert finished.ret == 0, finished.stdout.str()
    assert last_line(finished) == "5 passed"


def test_a_folder_after_a_space_is_refused_in_one_sentence(run: Run, good: Path) -> None:
    folder = good.parent / "elsewhere"
    folder.mkdir()
    finished = subprocess.run(  # in-process, the rest of pytest's start would be left behind
        [sys.executable, "-m", "pytest", "--nbcheck-evidence", str(folder)],
        cwd=good.parent,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert finished.returncode == 4
    (line,) = [line for line in finished.stderr.splitlines() if line]
    assert "Write `--nbcheck-evidence=FOLDER`, with an equals sign" in line


def test_names_annotations_and_a_page_are_for_people(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tmp_path / "bad.ipynb", "import warnings\nwarnings.warn('100%, <b>')", "1 / 0")
    notebook = nbformat.read(path, as_version=4)
    notebook.cells.insert(0, new_markdown_cell("# Title\n\n## Divide"))
    nbformat.write(notebook, path)
    good = write(tmp_path / "a_good.ipynb", "1")
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    finished = run("--junit-xml=report.xml")
    report = (tmp_path / "report.xml").read_text()
    assert 'name="Cell 1 (Divide): 1 / 0"' in report
    lines = finished.outlines
    (error,) = [line for line in lines if line.startswith("::error ")]
    number = int(re.search(r"line=(\d+)", error)[1])  # type: ignore[index]
    assert f'"id": "{notebook.cells[2].id}"' in path.read_text().splitlines()[number - 1]
    assert error.endswith("title=Cell 1 (Divide)%3A 1 / 0::ZeroDivisionError: division by zero")
    (warning,) = [line for line in lines if line.startswith("::warning ")]
    assert warning.endswith("::UserWarning: 100%25, <b>")
    assert "bad.ipynb: FAILED (1 passed, 1 warning)" in lines

    evidence = tmp_path / ".evidence"
    page = (evidence / "index.html").read_text()
    assert f"1 of 2 failed, {datetime.now():%Y-%m-%d}" in page
    assert '<a href="bad.html">' in page and (evidence / "bad.html").exists()
    assert page.index("FAILED (1 passed, 1 warning)") < page.index("passed (1 passed)")
    assert "ZeroDivisionError: division by zero" in page and "&lt;b&gt;" in page
    path.unlink()
    run()
    assert "All 1 passed" in (evidence / "index.html").read_text()

    (tmp_path / "half.ipynb").write_text(good.read_text()[:40])
    finished = run()
    page = (evidence / "index.html").read_text()
    assert finished.ret != 0 and "1 of 1 failed" in page  # nothing else ran
    assert "half.ipynb" in page and "the whole notebook: " in page


def test_a_project_can_forbid_warnings(run: Run, tmp_path: Path) -> None:
    write(tmp_path / "w.ipynb", "import warnings\nwarnings.warn('did not converge')")
    finished = run("-onbcheck_strict=UserWarning*")
    assert finished.ret == 1
    assert "UserWarning: did not converge" in finished.stdout.str()
    assert run("-onbcheck_strict=Deprecation*").ret == 0


STUBBORN = """
import time

print("x" * 20_000)
while True:
    try:
        time.sleep(60)
    except KeyboardInterrupt:
        pass
"""


def test_a_cell_that_shows_too_much_ends_also_if_it_ignores_that(
    run: Run, good: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session, "INTERRUPT_SECONDS", 0.5)
    write(good, STUBBORN)
    finished = run("-onbcheck_output_limit=0.01")
    assert finished.ret == 1 and "no more than 0.01 MB" in finished.stdout.str()


def test_a_limit_of_outputs_that_is_no_number_is_refused(run: Run, good: Path) -> None:
    refused = run("-onbcheck_output_limit=much")
    assert refused.ret == 4
    assert "nbcheck_output_limit: 'much' is not a number of megabytes" in refused.stderr.str()
