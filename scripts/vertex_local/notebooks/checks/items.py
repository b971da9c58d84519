"""Notebooks as pytest sees them: a file is a collector with one kernel, its cells are tests."""

from __future__ import annotations

import difflib
import fnmatch
from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pytest
from nbval.kernel import CURRENT_ENV_KERNEL_NAME, NbvalKernelspecManager
from nbval.plugin import IPyNbCell, IPyNbFile, metadata_tags

from vertex_local.config import LocalModeError, find_root
from vertex_local.notebooks import checking, evidence, files
from vertex_local.notebooks.checking import Checking
from vertex_local.notebooks.checks.timing import Timing
from vertex_local.notebooks.engine.session import Session
from vertex_local.notebooks.failure import CellFailed, describe
from vertex_local.notebooks.promises.comparison import shown
from vertex_local.notebooks.rules import Finding
from vertex_local.notebooks.settings import Settings

TITLE, WARNING = "nbcheck-title", "nbcheck-warning"  # keys of user properties in pytest's reports
CHECK, CHECK_COMMENT = "nbval-check-output", "NBVAL_CHECK_OUTPUT"


class NotebookFile(IPyNbFile):  # type: ignore[misc]
    """A notebook: one kernel, cells as tests.

    A cell needs those before it. So these run too if they were not chosen, without a verdict of
    their own. A cell that is run again gets a fresh kernel, in which they run again.
    """

    def collect(self) -> Iterator[NotebookCell]:
        """Yield the cells with code.

        Raises:
            CollectError: if the notebook cannot be read, names a wrong kernel, or has unknown tags
                or settings.
        """
        try:
            self.nb = files.read(self.path)
            self._check_kernelspec()
            self._check_metadata()
        except LocalModeError as err:
            raise self.CollectError(str(err)) from err
        self.problem: LocalModeError | None = None
        self.failed_at: str | None = None
        self.checking: Checking | None = None
        self.cells: list[NotebookCell] = []
        self.reached = 0  # how many of the cells have run in this kernel
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
            self.cells.append(cell)
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
            where = f"{self.path}, the cell {files.title(cell)!r},"
            tags = cell.metadata.get("tags", [])
            for tag in tags:
                if tag not in known:
                    near = difflib.get_close_matches(tag, known, 1)
                    advice = f"Is {near[0]!r} meant? " if near else ""
                    raise LocalModeError(
                        f"{where} has the unknown tag {tag!r}. {advice}A tag of your own goes into "
                        "`nbcheck_tags` in pytest's settings."
                    )
            try:
                settings = Settings.of(cell)
            except ValueError as err:
                raise LocalModeError(f"{where} {err}.") from err
            commented = "NBVAL_RAISES_EXCEPTION" in cell.source
            if settings.raises and not (checking.RAISES & set(tags) or commented):
                raise LocalModeError(
                    f"{where} says which exception it raises, and needs the tag "
                    "'raises-exception' as well, with which Jupyter goes on after the exception."
                )

    def setup(self) -> None:
        """Start the kernel; if that fails, the first cell fails with the reason."""
        self.setup_sanitize_files()
        self.start()

    def start(self) -> None:
        """Start a fresh kernel, in which no cell has run yet."""
        if self.checking:
            self.checking.session.stop()
        option = self.config.option
        name = option.nbval_kernel_name or self.nb.metadata.kernelspec.name
        if option.nbval_current_env:
            name = CURRENT_ENV_KERNEL_NAME
        for cell in self.nb.cells:
            if cell.cell_type == "code":
                cell.outputs, cell.execution_count = [], None
        limit = int(float(self.config.getini("nbcheck_output_limit")) * 1e6)
        folder = self.path.parent
        session = Session(self.nb, folder, name, NbvalKernelspecManager(), limit)
        self.problem = self.failed_at = None
        self.reached = 0
        try:
            session.start()
        except LocalModeError as err:
            self.problem = err
        self.checking = Checking(session, find_root())

    def reach(self, target: NotebookCell) -> None:
        """Run the cells before `target` that have not run, without a verdict of their own.

        Raises:
            CellFailed: if one of them fails.
        """
        if self.failed_at or target.cell_num < self.reached:
            self.start()
        for cell in self.cells[self.reached : target.cell_num]:
            self.reached += 1
            if not cell.options["skip"]:
                try:
                    cell.execute()
                except CellFailed as err:
                    what = f"{cell.name}, which has to run before it, failed: {err.what}"
                    raise CellFailed(what, err.details) from err

    def teardown(self) -> None:
        """Stop the kernel and keep the executed copy."""
        if self.checking:
            self.checking.session.stop()
        given = getattr(self.config, "workerinput", vars(self.config.option))
        folder = given["nbcheck_evidence"]
        if folder:
            try:
                parts = [part for part in Path(self.nodeid).parts if part not in ("..", "/")]
                evidence.save(self.nb, Path(folder, *parts), self.path.parent)
            except LocalModeError as err:
                pytest.fail(str(err), pytrace=False)


class NotebookCell(IPyNbCell):  # type: ignore[misc]
    """A cell with code."""

    index: int  # in the notebook
    is_last = False  # of the chosen cells: it fails if something in the background does

    def setup(self) -> None:
        """Skip the cell if one before it failed, since it may fail for that reason only."""
        if self.parent.failed_at not in (None, self.name):
            pytest.skip(f"{self.parent.failed_at} of this notebook failed")

    def runtest(self) -> None:
        """Execute the cell, and compare its outputs if they are promised."""
        self.user_properties[:] = [(TITLE, [self.title(), self.index])]  # not of an earlier run
        started = datetime.now(timezone.utc)
        try:
            self.parent.reach(self)
            if self.parent.problem:
                raise self.parent.problem
            self.parent.reached = self.cell_num + 1
            warnings = [] if self.options["skip"] else self.execute(compare=True)
            if self.is_last:
                warnings += self.parent.checking.end()
            self._warn(warnings)
        except LocalModeError:
            self.parent.failed_at = self.name
            raise
        except CellFailed as err:
            self.parent.failed_at = self.name
            logs = self.parent.checking.jobs.failed_logs(started)
            raise CellFailed(describe("", self.cell, err, logs)) from err
        finally:
            if not self.options["skip"]:
                self._note_times(started)
        if self.options["skip"]:
            pytest.skip("tagged nbval-skip")

    def execute(self, compare: bool = False) -> list[Finding]:
        """Execute the cell and return its warnings.

        Args:
            compare: whether to compare its outputs, if they are promised.

        Raises:
            CellFailed: if it fails.
        """
        promised = shown(self.parent.promised[self.index], self.sanitize)
        wanted = compare and self.options["check"]
        if wanted and not promised and self._is_promise():
            raise CellFailed(
                "its output is to be checked, but none is stored. Store what it shows with "
                "`vertex-local promise`, or remove the tag"
            )
        found: list[Finding] = self.parent.checking.cell(
            self.index,
            self.cell,
            self.config.option.nbval_cell_timeout,
            must_raise=self.options["check_exception"],
            compare=checking.comparison(self.cell, promised, self.sanitize) if wanted else None,
        )
        return found

    def title(self) -> str:
        """Return a title for the cell: its number, the heading above it, its first line."""
        before = self.parent.nb.cells[: self.index]
        texts = [cell.source for cell in before if cell.cell_type == "markdown"]
        lines = [line for text in texts for line in text.splitlines()]
        headings = [line.strip("# ") for line in lines if line.startswith("#")]
        place = f" ({headings[-1]})" if headings else ""
        return f"{self.name}{place}: {files.title(self.cell)}"

    def _is_promise(self) -> bool:
        comments = [line.strip("# ") for line in self.cell.source.splitlines() if "#" in line]
        return CHECK in self.cell.metadata.get("tags", []) or CHECK_COMMENT in comments

    def _warn(self, findings: list[Finding]) -> None:
        """Add warnings to the report; raise CellFailed for those that `nbcheck_strict` names."""
        patterns = self.config.getini("nbcheck_strict")
        strict = [
            replace(each, fails=any(fnmatch.fnmatchcase(each.what, one) for one in patterns))
            for each in findings
        ]
        for each in checking.passed(strict):
            self.user_properties.append((WARNING, each.what))

    def _note_times(self, started: datetime) -> None:
        seconds = (datetime.now(timezone.utc) - started).total_seconds()
        scripts = self.parent.checking.session.command_seconds
        scripts += self.parent.checking.jobs.seconds(started)
        timing = Timing(self.cell_num, files.title(self.cell), seconds, scripts)
        self.user_properties.append(timing.as_property())

    def repr_failure(self, excinfo: pytest.ExceptionInfo[BaseException], style: Any = None) -> Any:
        """Return the report on a failed cell."""
        if isinstance(excinfo.value, (CellFailed, LocalModeError)):
            return str(excinfo.value)
        return pytest.Item.repr_failure(self, excinfo)
