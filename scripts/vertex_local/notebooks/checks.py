"""A pytest plugin on top of nbval, with which a notebook passes only if it keeps its promises.

It is loaded with `-p vertex_local.notebooks.checks`. nbval collects the notebooks and knows its
options and tags; each cell is then executed by `vertex_local.notebooks.execution`, so that

- a shell line or a magic that fails, fails its cell, and so do a dead kernel and a cell that does
  not end in time;
- a cell tagged `nbval-check-output` must show what is stored in it, compared as `promises.py`
  says; numbers within the tolerance in its metadata: `{"nbcheck": {"rel": 0.01}}` or
  `{"abs": 0.005}`; `{"timeout": 60}` there gives the cell a time limit of its own, in seconds;
- after the first failure, the rest of the notebook is skipped;
- the executed copy is kept, also as HTML, and the slowest cells are listed.

Settings in pytest's ini file:
    nbcheck_kernelspec: the kernel that the files must name (default: python3).
    nbcheck_tags: tags of cells that the project uses, besides those of nbval.
    nbcheck_budgets: lines `SECONDS PATTERN`; a notebook that takes longer gets a warning.
"""

from __future__ import annotations

import vertex_local.notebooks  # noqa: F401  # before nbval, which imports nbformat

# isort: split
import difflib
from collections.abc import Generator, Iterator
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pytest
from nbval.kernel import CURRENT_ENV_KERNEL_NAME, NbvalKernelspecManager
from nbval.plugin import IPyNbCell, IPyNbFile, metadata_tags

from vertex_local.config import LocalModeError, find_root
from vertex_local.notebooks import account, execution, promises
from vertex_local.notebooks.account import CellFailed
from vertex_local.notebooks.timing import Timing, Timings

EVIDENCE = find_root().path / "evidence"  # before `vertex_local.testing` gives the session a root
SETTINGS = {"rel", "abs", "timeout"}


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the options and the settings of the ini file."""
    group = parser.getgroup("nbcheck", "notebooks that keep their promises")
    group.addoption(
        "--nbcheck-evidence",
        metavar="FOLDER",
        default=str(EVIDENCE),
        help="where executed notebooks are kept, also as HTML (default: %(default)s)",
    )
    group.addoption(
        "--nbcheck-slowest",
        metavar="N",
        type=int,
        default=5,
        help="how many cells of each notebook are listed with their times; 0 lists all",
    )
    parser.addini("nbcheck_kernelspec", "the kernel that notebooks must name", default="python3")
    parser.addini("nbcheck_tags", "tags of cells that the project uses", "linelist", [])
    parser.addini("nbcheck_budgets", "lines `SECONDS PATTERN`", "linelist", [])


def pytest_configure(config: pytest.Config) -> None:
    """Collect the times where the reports arrive: not in the workers of pytest-xdist."""
    if not hasattr(config, "workerinput"):
        slowest = config.getoption("nbcheck_slowest")
        try:
            timings = Timings(config.getini("nbcheck_budgets"), slowest)
        except ValueError as err:
            raise pytest.UsageError(f"nbcheck_budgets: {err}") from err
        config.pluginmanager.register(timings, "nbcheck-timings")


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    """Tell a worker of pytest-xdist the folder: its own default is inside the session's root."""
    node.workerinput["nbcheck_evidence"] = node.config.getoption("nbcheck_evidence")


@pytest.hookimpl(wrapper=True)
def pytest_collect_file(file_path: Path, parent: Any) -> Generator[None, list[Any], list[Any]]:
    """Put this plugin's collector in the place of nbval's."""
    collectors = yield
    return [
        NotebookFile.from_parent(parent, path=file_path) if type(each) is IPyNbFile else each
        for each in collectors
    ]


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Keep the cells of a notebook in one worker where xdist would spread them."""
    if config.getvalue("dist") not in ("load", "worksteal"):
        return None
    from xdist.scheduler import LoadScopeScheduling

    class ByNotebook(LoadScopeScheduling):  # type: ignore[misc]
        def _split_scope(self, nodeid: str) -> str:
            path, _, _ = nodeid.partition("::")
            return path if path.endswith(".ipynb") else nodeid

    return ByNotebook(config, log)


class NotebookFile(IPyNbFile):  # type: ignore[misc]
    """A notebook: one kernel, cells as tests."""

    def collect(self) -> Iterator[NotebookCell]:
        """Yield the cells with code.

        Raises:
            CollectError: if the notebook is not fit to be checked.
        """
        try:
            self.nb = execution.read(self.path)
            self._check_kernelspec()
            self._check_metadata()
        except LocalModeError as err:
            raise self.CollectError(str(err)) from err
        self.problem: LocalModeError | None = None
        self.failed_at: str | None = None
        code = [index for index, cell in enumerate(self.nb.cells) if cell.cell_type == "code"]
        self.promised = [cell.get("outputs", []) for cell in self.nb.cells]
        for index, item in zip(code, super().collect(), strict=True):
            cell = NotebookCell.from_parent(
                self,
                name=item.name,
                cell_num=item.cell_num,
                cell=self.nb.cells[index],
                options=item.options,
            )
            cell.index = index
            cell.add_marker(pytest.mark.xdist_group(self.nodeid))  # for --dist=loadgroup
            yield cell

    def _check_kernelspec(self) -> None:
        wanted = self.config.getini("nbcheck_kernelspec")
        name = self.nb.metadata.get("kernelspec", {}).get("name")
        if name is None:
            raise LocalModeError(
                f"{self.path} names no kernel (kernelspec), so Jupyter would ask every reader for "
                f"one. Open it in Jupyter, choose the kernel {wanted or 'python3'!r}, and save it."
            )
        if wanted and name != wanted:
            raise LocalModeError(
                f"{self.path} names the kernel {name!r}, which other machines may not have. Open "
                f"it in Jupyter, choose the kernel {wanted!r}, and save it."
            )

    def _check_metadata(self) -> None:
        known = {*metadata_tags, *self.config.getini("nbcheck_tags")}
        for cell in self.nb.cells:
            where = f"{self.path}, the cell {execution.title(cell)!r}"
            for tag in cell.metadata.get("tags", []):
                if tag not in known:
                    near = difflib.get_close_matches(tag, known, 1)
                    advice = f"Is {near[0]!r} meant? " if near else ""
                    raise LocalModeError(
                        f"{where} has the unknown tag {tag!r}. {advice}A tag of your own goes into "
                        "`nbcheck_tags` in pytest's settings."
                    )
            settings = cell.metadata.get("nbcheck", {})
            if not _are_settings(settings):
                raise LocalModeError(
                    f"{where} has the nbcheck settings {settings!r}; known are "
                    f"{', '.join(sorted(SETTINGS))}, each with a number that is not negative."
                )

    def setup(self) -> None:
        """Start the kernel; when that fails, the first cell says so."""
        option = self.config.option
        name = option.nbval_kernel_name or self.nb.metadata.kernelspec.name
        if option.nbval_current_env:
            name = CURRENT_ENV_KERNEL_NAME
        self.setup_sanitize_files()
        for cell in self.nb.cells:
            if cell.cell_type == "code":
                cell.outputs, cell.execution_count = [], None
        self.session = execution.Session(self.nb, self.path.parent, name, NbvalKernelspecManager())
        try:
            self.session.start()
        except LocalModeError as err:
            self.problem = err

    def teardown(self) -> None:
        """Stop the kernel and keep the executed copy."""
        self.session.stop()
        given = getattr(self.config, "workerinput", vars(self.config.option))
        folder = given["nbcheck_evidence"]
        if folder:
            try:
                parts = [part for part in Path(self.nodeid).parts if part not in ("..", "/")]
                execution.save(self.nb, Path(folder, *parts), self.path.parent)
            except LocalModeError as err:
                pytest.fail(str(err), pytrace=False)


class NotebookCell(IPyNbCell):  # type: ignore[misc]
    """A cell with code."""

    index: int  # in the notebook

    def setup(self) -> None:
        """Skip the cell if one before it failed: what it would show means nothing."""
        if self.parent.failed_at:
            pytest.skip(f"{self.parent.failed_at} of this notebook failed")

    def runtest(self) -> None:
        """Execute the cell, and compare what it shows if it is to be checked."""
        if self.parent.problem:
            self.parent.failed_at = self.name
            raise self.parent.problem
        if self.options["skip"]:
            pytest.skip("tagged nbval-skip")
        started = datetime.now(timezone.utc)
        try:
            self._run()
        except CellFailed as err:
            self.parent.failed_at = self.name
            logs = account.failed_job_logs(find_root(), started)
            raise CellFailed(account.account("", self.cell, err, logs)) from err
        finally:
            self._note_times(started)

    def _run(self) -> None:
        promised = promises.shown(self.parent.promised[self.index], self.sanitize)
        if self.options["check"] and not promised:
            raise CellFailed(
                "its output is to be checked, but none is stored. Store what it shows with "
                "`vertex-local promise`, or remove the tag"
            )
        settings = dict(self.cell.metadata.get("nbcheck", {}))
        limit = settings.pop("timeout", self.config.option.nbval_cell_timeout)
        self.parent.session.run(self.index, limit, self.options["check_exception"])
        if self.options["check"]:
            tolerance = promises.Tolerance(**settings)
            got = promises.shown(self.cell.outputs, self.sanitize)
            lines = promises.differences(promised, got, tolerance)
            if lines:
                raise CellFailed(
                    f"it does not show what the notebook promises (tolerance: {tolerance})",
                    "\n".join(lines),
                )

    def _note_times(self, started: datetime) -> None:
        seconds = (datetime.now(timezone.utc) - started).total_seconds()
        scripts = sum(command["seconds"] for command in self.parent.session.commands)
        scripts += account.job_seconds(find_root(), started)
        timing = Timing(self.cell_num, execution.title(self.cell), seconds, scripts)
        self.user_properties.append(timing.as_property())

    def repr_failure(self, excinfo: pytest.ExceptionInfo[BaseException], style: Any = None) -> Any:
        """Return the account of a failed cell."""
        if isinstance(excinfo.value, (CellFailed, LocalModeError)):
            return str(excinfo.value)
        return pytest.Item.repr_failure(self, excinfo)


def _are_settings(settings: Any) -> bool:
    return (
        isinstance(settings, dict)
        and settings.keys() <= SETTINGS
        and all(type(value) in (int, float) and value >= 0 for value in settings.values())
    )
