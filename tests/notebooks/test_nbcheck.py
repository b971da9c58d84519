"""The pytest plugin for notebooks: it lets pass what keeps its promises, and nothing else.

`tests/broken` holds notebooks that must fail; each is paired here with the failure that it must
produce. They run in one real pytest process, spread over two workers.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import xml.etree.ElementTree as ET
from dataclasses import dataclass
from pathlib import Path

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from vertex_local.config import ServerRecord
from vertex_local.notebooks.checks.timing import Timings

pytestmark = pytest.mark.timeout(900)  # the first test waits for all of the notebooks
BROKEN = Path(__file__).parents[1] / "broken"
HARMLESS = Path(__file__).parents[1] / "harmless"
HARMLESS_JOB = "meant_to_fail_job.ipynb"  # needs the kernel of local mode

# Which cell fails, and what the failure says. Cells before it pass, cells after it are skipped.
FAILURES = {
    "broken_display": (0, r"ZeroDivisionError: division by zero"),
    "broken_figure": (0, r"ValueError: (.|\n)*nosuch"),
    "callback": (0, r"Exception in callback .*: ZeroDivisionError"),
    "endless_output": (0, r"shows \d+\.\d MB or more, .* no more than 10 MB\. Show the part"),
    "exit": (0, r"it ends the kernel, for example with `exit\(\)`"),
    "forgotten_await": (0, r"RuntimeWarning: coroutine 'work' was never awaited"),
    "future": (1, r"at the end of the notebook: an exception in a future, whose result nobody"),
    "ignored_process": (0, r"`ls /no/such/folder`: exit status \d, and the cell does not look"),
    "ignored_system": (0, r"`ls /no/such/folder`: exit status \d, and the cell does not look"),
    "killed": (0, r"the kernel died: it was ended by signal 9"),
    "late_thread": (0, r"at the end of the notebook: an exception in the thread .*ZeroDivision"),
    "long_line": (0, r"it shows 30\.0 MB or more"),
    "memory_address": (0, r"A memory address differs in each run: hide it with a pattern"),
    "nested_cell": (0, r"ZeroDivisionError"),
    "nested_command": (0, r"`false`: exit status 1"),
    "nested_pip": (0, r"pip install .*: exit status 1"),
    "nested_raise": (0, r"ZeroDivisionError"),
    "other_exception": (0, r"to raise 'ValueError', and raised ModuleNotFoundError: No module"),
    "other_message": (0, r"it is to raise 'ValueError: too small', and raised ValueError: inval"),
    "pipe": (0, r"in `ls /no/such/folder \| cat`, the commands of a pipe ended with \d, 0"),
    "removed_hooks": (0, r"took away what notices failures in the kernel, so it cannot be judged"),
    "restart": (0, r"it ends the kernel"),
    "run_script_exits": (1, r"SystemExit: 3"),
    "run_script_raises": (1, r"ZeroDivisionError"),
    "script_background": (0, r"`%%bash`, `exit 3` ended in the background: exit status 3"),
    "script_middle": (
        0,
        r"`ls /no/such/folder` failed inside a script that went on",
    ),
    "script_unknown": (0, r"`%%no_such_program`: there is no such program"),
    "shown_exception": (0, r"ZeroDivisionError"),
    "task": (1, r"an exception in the task 'fail', which nobody awaits: ZeroDivisionError"),
    "thread": (0, r"an exception in the thread .*: ZeroDivisionError"),
    "timed_cell": (0, r"ZeroDivisionError"),
    "two_commands": (
        0,
        r"`ls /no/such/folder` failed inside a script that went on",
    ),
    "unawaited_job": (1, r"the job 'fails later' ended as FAILED(.|\n)*the reason"),
    "unfailing_job": (0, r"no job called 'is meant\*' failed, as one was meant to"),
    "unittest": (0, r"unittest: 1 of 1 tests failed"),
    "warning_as_error": (0, r"UserWarning: did not converge"),
    "widget": (0, r"ZeroDivisionError"),
    "wrong_array": (0, r"promised '\[1\. 2\.\]', shown '\[1\.  2\.5\]'"),
    "wrong_type": (0, r"value\['trained'\]: promised True, shown 1"),
    "captured_command": (0, r"`ls /no/such/folder`: exit status \d"),
    "dead_kernel": (0, r"the kernel died: it ended itself, with exit status 7"),
    "dying_kernel": (0, r"The Jupyter kernel 'dying-kernel' does not start"),
    "endless_cell": (0, r"no end after 2 s(.|\n)*----> 4     time\.sleep"),
    "exception": (0, r"AssertionError: step 1 went wrong(.|\n)*… 11 lines …(.|\n)* line 99 x"),
    "failing_job": (
        1,
        r"RuntimeError: Training failed(.|\n)*job\.log:\n.*\n?    epoch 1\n    the d",
    ),
    "failing_pip": (0, r"pip install .*: exit status 1(.|\n)*No matching distribution"),
    "failing_shell_command": (0, r"sys\.exit\(3\)\"`: exit status 3(.|\n)*the end"),
    "missing_artifact": (0, r"NotFound: 404 GET .*metrics\.json"),
    "missing_kernel": (0, r"The Jupyter kernel 'no-such-kernel' is not installed"),
    "missing_output": (0, r"its output is to be checked, but none is stored"),
    "no_exception": (0, r"it is tagged as raising an exception, and raises none"),
    "no_such_folder": (0, r"`%cd /no/such/folder`: No such file or directory"),
    "unknown_command": (0, r"`no_such_program --help`: the command was not found"),
    "unknown_magic": (0, r"UsageError: Line magic function `%no_such_magic` not found"),
    "wrong_data": (0, r"value\['codes'\]\[2\]: promised 2, shown 3"),
    "wrong_number": (0, r"tolerance: abs 0\.02(.|\n)*promised 'accuracy: 0\.8100 \(143 rows\)'"),
    "wrong_table": (0, r"row accuracy, column second: promised '0\.82', shown '0\.72'"),
}
# What is wrong with a file that is not even begun.
REFUSALS = {
    "another_kernel": "names the kernel 'vertex-local-of-doe', which other machines may not have",
    "no_cell_ids": "its cells have no ids",
    "no_kernelspec": "names no kernel (kernelspec)",
    "not_a_notebook": "is not a notebook that Jupyter can open",
    "not_json": "is not a notebook that Jupyter can open",
    "older_format": "is in notebook format 3, and format 4 is needed",
    "raises_without_tag": "says which exception it raises, and needs the tag 'raises-exception'",
    "unknown_setting": "has the nbcheck settings {'tolerance': 0.1}; known are abs, rel, timeout",
    "unknown_tag": "has the unknown tag 'nbval-chek-output'. Is 'nbval-check-output' meant?",
}


@dataclass(frozen=True)
class Run:
    """What a pytest process said, and the outcome of each cell by notebook."""

    status: int
    output: str
    cells: dict[str, list[tuple[str, str]]]
    evidence: Path


# Cells are put into another order, as by pytest-randomly at its worst, and the disk is full once.
CONFTEST = """
import errno
from vertex_local.notebooks import evidence

really_replace = evidence.replace

def replace(path, text):
    if path.stem == "full_disk":
        raise OSError(errno.ENOSPC, "No space left on device")
    really_replace(path, text)

evidence.replace = replace

def pytest_collection_modifyitems(items):
    items.reverse()
"""


def check(paths: list[Path], folder: Path, *options: str, ini: str = "") -> Run:
    """Run pytest with the plugin on notebooks, apart from this project's own settings."""
    (folder / "pytest.ini").write_text(f"[pytest]\n{ini}")
    report = folder / "report.xml"
    command = [sys.executable, "-m", "pytest", "-c", str(folder / "pytest.ini"), "--nbval-lax"]
    command += ["-pvertex_local.notebooks.checks", "-pno:cacheprovider", f"--junit-xml={report}"]
    command += [f"--rootdir={paths[0].parent}", f"--nbcheck-evidence={folder / 'evidence'}"]
    finished = subprocess.run(
        [*command, *options, *map(str, paths)],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, "JUPYTER_PATH": f"{folder}{os.pathsep}{os.environ['JUPYTER_PATH']}"},
    )
    cells: dict[str, list[tuple[str, str]]] = {}
    for case in ET.parse(report).iter("testcase"):
        problem = next((each for each in case if each.tag in ("failure", "error", "skipped")), None)
        outcome = ("passed", "") if problem is None else (problem.tag, problem.text or "")
        cells.setdefault(case.get("classname", ""), []).append(outcome)
    output = finished.stdout + finished.stderr
    return Run(finished.returncode, output, cells, folder / "evidence")


def write(path: Path, *cells: nbformat.NotebookNode) -> Path:
    notebook = new_notebook(cells=list(cells))
    notebook.metadata.kernelspec = {"name": "python3", "display_name": "", "language": "python"}
    nbformat.write(notebook, path)
    return path


def printed(text: str) -> list[nbformat.NotebookNode]:
    return [new_output("stream", name="stdout", text=text)]


def checked(source: str, outputs: list[nbformat.NotebookNode], **settings: float):  # type: ignore[no-untyped-def]
    metadata = {"tags": ["nbval-check-output"], "nbcheck": settings}
    return new_code_cell(source, outputs=outputs, metadata=metadata)


def good_cells() -> list[nbformat.NotebookNode]:
    """Return cells that must pass, most of which fail under nbval alone or print noise there."""
    table = "<table><tr><th></th><th>loss</th></tr><tr><th>first</th><td>0.4400</td></tr></table>"
    shown = table.replace("0.4400", "0.4401").replace("<tr>", "\n<tr>")
    return [
        new_code_cell("!true\nx = !echo out\nassert x == ['out']\n%pip --version"),
        new_code_cell("%%bash\necho hello"),
        checked(
            "import sys\nprint('a remark', file=sys.stderr)\nprint('accuracy:  0.8101, 1,025 B')",
            printed("accuracy: 0.8100, 1,024 B\n"),
            rel=0.001,
        ),
        checked(
            f"from IPython.display import HTML\nHTML('''{shown}''')",
            [new_output("display_data", data={"text/html": table, "text/plain": "other"})],
            abs=0.001,
        ),
        checked('print(\'{"a": 1, "b": [2]}\')', printed('{"b":[2],\n"a":1}\n')),
        checked("{'b': {3, 1, 2}, 'a': 0.5}", printed("{'a': 0.50, 'b': {1, 2, 3}}")),
        checked(
            "handle = display('begun', display_id=True)\nhandle.update('done')",
            [new_output("display_data", data={"text/plain": "'done'"})],
        ),
        checked(
            "for i in range(3):\n    print(f'\\rstep {i}', end='')\nprint()", printed("step 2\n")
        ),
        new_code_cell("1 / 0", metadata={"tags": ["raises-exception"]}),
        new_code_cell("!exit 3", metadata={"tags": ["nbval-raises-exception"]}),
        new_code_cell("def f():\n    word = 'inner'\n    !test {word} = inner\n\nf()"),
        new_code_cell("# NBVAL_SKIP\n1 / 0"),
    ]


def harmless_cells() -> list[nbformat.NotebookNode]:
    """Return the cells of all harmless notebooks for one, which starts one kernel.

    A heading before the cells of each file is its name.
    """
    cells = []
    for path in sorted(HARMLESS.iterdir()):
        if path.name != HARMLESS_JOB:
            found = nbformat.read(path, as_version=4).cells
            cells += [new_markdown_cell(f"# {path.stem}"), *found]
    for number, cell in enumerate(cells):
        cell.id = f"cell-{number}"
    return cells


@pytest.fixture(scope="module")
def run(server: ServerRecord, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """All notebooks that must fail in a cell, and some that must pass, in one run of pytest."""
    folder = tmp_path_factory.mktemp("nbcheck")
    spec = folder / "kernels" / "dying-kernel" / "kernel.json"
    spec.parent.mkdir(parents=True)
    spec.write_text(json.dumps({"argv": ["false"], "display_name": "", "language": "python"}))
    notebooks = folder / "notebooks"
    notebooks.mkdir()
    write(notebooks / "harmless.ipynb", *harmless_cells())
    (notebooks / HARMLESS_JOB).write_bytes((HARMLESS / HARMLESS_JOB).read_bytes())
    for name in FAILURES:
        (notebooks / f"{name}.ipynb").write_bytes((BROKEN / f"{name}.ipynb").read_bytes())
    write(notebooks / "good.ipynb", *good_cells())
    write(notebooks / "full_disk.ipynb", new_code_cell("1"))
    (notebooks / "conftest.py").write_text(CONFTEST)
    budgets = "nbcheck_budgets =\n    0 endless_cell*\n    9999 good*\nnbcheck_kernelspec ="
    return check(sorted(notebooks.glob("*.ipynb")), folder, "-n2", ini=budgets)


def test_every_broken_notebook_has_its_failure() -> None:
    names = {path.stem for path in BROKEN.iterdir()}
    assert names == FAILURES.keys() | REFUSALS.keys()


@pytest.mark.parametrize("name", FAILURES)
def test_a_broken_notebook_fails_once_and_says_why(run: Run, name: str) -> None:
    failing, words = FAILURES[name]
    cells = run.cells[f"{name}.ipynb"]
    expected = ["passed"] * failing + ["failure"]
    expected += ["skipped"] * (len(cells) - len(expected))
    assert [outcome for outcome, _ in cells] == expected, run.output
    text = cells[failing][1]
    assert re.search(words, text), text
    assert "\x1b" not in text and max(map(len, text.splitlines())) < 250


def test_a_good_notebook_passes_without_noise(run: Run) -> None:
    outcomes = [outcome for outcome, _ in run.cells["good.ipynb"]]
    assert outcomes == ["passed"] * (len(good_cells()) - 1) + ["skipped"], run.output
    assert run.status == 1  # the others failed
    assert "unhandled" not in run.output


def test_harmless_cells_pass(run: Run) -> None:
    outcomes = [outcome for outcome, _ in run.cells["harmless.ipynb"]]
    assert len(outcomes) > 25 and set(outcomes) == {"passed"}, run.output
    assert run.cells[HARMLESS_JOB] == [("passed", "")]


WARNINGS = {
    "allowed_script": "exit status 3, which `--no-raise-error` allows",
    "early_reader": "the commands of a pipe ended with",
    "empty_axes": "a figure without anything in it",
    "looked_at_process": "`false`: exit status 1; nothing says whether the notebook looks at it",
    "printed_traceback": "it prints a traceback, of an exception that was caught",
    "warning": "UserWarning: did not converge",
}


def test_only_what_a_person_should_know_is_warned_of(run: Run) -> None:
    verdicts = run.output.partition("= notebooks =")[2]
    mine = verdicts.partition("harmless.ipynb: passed (")[2].partition(".ipynb: ")[0]
    _, *parts = re.split(r"^    warning, Cell \d+ \((\w+)\)", mine, flags=re.MULTILINE)
    warned = list(zip(parts[::2], parts[1::2], strict=True))
    assert {name for name, _ in warned} == WARNINGS.keys()
    for name, words in WARNINGS.items():
        assert any(name == other and words in text for other, text in warned), name


def test_times_and_budgets_are_printed(run: Run) -> None:
    tables = run.output.partition("times of endless_cell.ipynb")[2]
    assert re.search(r"\d\.\d\d +0\.00  Cell 0: import time", tables)
    assert tables.count("WARNING: over the budget") == 1
    assert re.search(r"within the budget of 9999 s: \d", run.output)
    assert "the other 6 cells" in run.output  # of the good one, in which 11 run


def test_executed_copies_are_kept(run: Run) -> None:
    evidence = run.evidence
    passing = {"good", "harmless", HARMLESS_JOB.removesuffix(".ipynb")}
    pages = {path.stem for path in evidence.glob("*.html")}
    assert pages == {"index", *passing, *FAILURES}
    executed = nbformat.read(evidence / "failing_shell_command.ipynb", as_version=4)
    names = [output.get("ename") for output in executed.cells[1].outputs]
    assert names[-1] == "CommandFailed"
    assert executed.cells[2].outputs == []
    assert "exit status 3" in (evidence / "failing_shell_command.html").read_text()
    endless = nbformat.read(evidence / "endless_cell.ipynb", as_version=4)
    assert endless.cells[1].outputs[-1].ename == "KeyboardInterrupt"


def test_a_worker_keeps_the_copies_outside_its_own_temporary_root(tmp_path: Path) -> None:
    (tmp_path / "pytest.ini").write_text("[pytest]\nnbcheck_kernelspec =")
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-pvertex_local.testing",
        "-pvertex_local.notebooks.checks",
    ]
    command += ["-pno:cacheprovider", "--nbval-lax", "-n1", "-c", str(tmp_path / "pytest.ini")]
    shutil.copy(BROKEN / "missing_kernel.ipynb", tmp_path)
    finished = subprocess.run(
        command,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        env={**os.environ, "VERTEX_LOCAL_ROOT": str(tmp_path / "root")},
    )
    assert finished.returncode == 1
    assert (tmp_path / "root" / "evidence" / "missing_kernel.html").exists(), finished.stdout


def test_unfit_files_get_one_sentence_each(tmp_path: Path) -> None:
    run = check([BROKEN / f"{name}.ipynb" for name in REFUSALS], tmp_path, "-n0")
    assert run.status == 2  # pytest's own for what cannot be collected
    assert "Traceback" not in run.output
    for name, words in REFUSALS.items():
        (line,) = [
            line for line in run.output.splitlines() if f"{name}.ipynb" in line and words in line
        ]
        assert line.endswith(".")
    assert f"{len(REFUSALS)} errors" in run.output


def test_a_full_disk_for_the_copy_is_one_sentence(run: Run) -> None:
    assert [outcome for outcome, _ in run.cells["full_disk.ipynb"]][-1] == "error"
    advice = "Make room there, or choose another folder."
    sentence = rf"^The executed copy .*full_disk\.ipynb \(No space left on device\)\. {advice}$"
    assert re.search(sentence, run.output, re.MULTILINE)
    assert "Traceback (most recent call last):\n  File" not in run.output
    assert "1 error" in run.output
    assert list(run.evidence.glob("*full_disk*")) == []


def test_a_budget_that_cannot_be_read_is_refused(pytestconfig: pytest.Config) -> None:
    with pytest.raises(ValueError, match=r"'soon x\.ipynb' is not a line `SECONDS PATTERN`"):
        Timings(["60 notebooks/*", "soon x.ipynb"], slowest=5)
    Timings(pytestconfig.getini("nbcheck_budgets"), slowest=5)  # this project's own
