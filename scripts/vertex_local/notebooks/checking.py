"""Executes the cells of a notebook one after the other, with a verdict for each."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import nbformat

from vertex_local.config import LocalModeError, Root, find_root
from vertex_local.kernel import spec
from vertex_local.notebooks import evidence, local_jobs, rules
from vertex_local.notebooks.engine.session import CELL_SECONDS, Session
from vertex_local.notebooks.failure import CellFailed, describe
from vertex_local.notebooks.files import code_cells, title
from vertex_local.notebooks.local_jobs import LocalJobs
from vertex_local.notebooks.promises.comparison import Shown, advice, differences, shown
from vertex_local.notebooks.rules import Finding
from vertex_local.notebooks.settings import Settings

RAISES = {"raises-exception", "nbval-raises-exception"}
JOB_SECONDS = 120.0  # at the end of a notebook, for jobs that it did not wait for


class NotebookFailed(LocalModeError):
    """A cell of the notebook failed; the message is the report on it."""


class Checking:
    """Executes the cells of a notebook and judges each.

    Attributes:
        session: the kernel.
        jobs: the jobs that it starts.
    """

    def __init__(self, session: Session, root: Root) -> None:
        """Prepare the check.

        Args:
            session: the kernel, with the notebook; it must be started.
            root: local mode's root, whose jobs are checked.
        """
        self.session = session
        self.jobs = LocalJobs(root, session.kernel)
        self._meant: list[str] = []  # patterns of jobs that are meant to fail

    def cell(
        self,
        index: int,
        cell: Any,
        limit: float = CELL_SECONDS,
        *,
        must_raise: bool = False,
        compare: Callable[[list[Any]], list[Finding]] | None = None,
    ) -> list[Finding]:
        """Execute a cell and return its warnings.

        Args:
            index: the cell's position in the notebook.
            cell: the cell.
            limit: how long it may take, in seconds; its metadata may say otherwise.
            must_raise: it is tagged as raising an exception.
            compare: compares its outputs with the promised ones; None if none are promised.

        Raises:
            CellFailed: if it fails.
        """
        settings = Settings.of(cell)
        self._meant += settings.failing_jobs
        seen = self.session.run(index, settings.timeout or limit)
        findings = rules.judge(seen, settings, must_raise)
        _show(cell, findings, seen)
        if compare and not any(each.fails for each in findings):
            for each in compare(cell.outputs):
                findings.append(each)
                cell.outputs.append(_error(each.name, f"{each.what}\n{each.details}"))
        if must_raise or any(each.fails for each in findings):
            self.jobs.settle()
        return passed(findings)

    def end(self, limit: float = JOB_SECONDS) -> list[Finding]:
        """Check what still runs in the background after the last cell; return warnings.

        Args:
            limit: how long to wait for jobs, in seconds.

        Raises:
            CellFailed: if something failed there without a cell that failed.
        """
        active = self.jobs.wait(limit)
        failed = self.jobs.failed()
        findings = [
            Finding(f"the job {job.display_name!r} ended as FAILED, and no cell failed by it")
            for job in self.jobs.unaccounted()
            if not local_jobs.is_meant_to_fail(job, self._meant)
        ]
        findings += [
            Finding(f"the job {job.display_name!r} still runs: wait for it, or cancel it")
            for job in active
        ]
        for pattern in self._meant:
            if not any(local_jobs.is_meant_to_fail(job, [pattern]) for job in failed):
                findings.append(Finding(f"no job called {pattern!r} failed, as one was meant to"))
        seen = self.session.finish()
        findings += rules.judge(seen, Settings(), must_raise=False)
        ends = [
            Finding(f"at the end of the notebook: {each.what}", each.details, each.fails)
            for each in findings
        ]
        return passed(ends)


def passed(findings: list[Finding]) -> list[Finding]:
    """Return the findings if none of them fails the cell.

    Raises:
        CellFailed: if one does, or several.
    """
    failed = [each for each in findings if each.fails]
    if failed:
        details = next((each.details for each in failed if each.details), "")
        raise CellFailed("\n".join(each.what for each in failed), details)
    return findings


def comparison(
    cell: Any, promised: list[Shown], clean: Callable[[str], str] = str
) -> Callable[[list[Any]], list[Finding]]:
    """Return a function that compares the outputs of a cell with what is promised.

    Args:
        cell: the cell, whose metadata give the tolerance.
        promised: what it promises to show.
        clean: is applied to every shown text first.
    """
    tolerance = Settings.of(cell).tolerance

    def compare(outputs: list[Any]) -> list[Finding]:
        got = shown(outputs, clean)
        lines = differences(promised, got, tolerance)
        if not lines:
            return []
        what = f"it does not show what the notebook promises (tolerance: {tolerance})"
        details = "\n".join([*lines, *advice(lines)])
        return [Finding(what, details, name=rules.NOT_AS_PROMISED)]

    return compare


def _show(cell: Any, findings: list[Finding], seen: rules.Seen) -> None:
    """Add failures that are no exceptions to the cell's outputs, as errors."""
    noted = [each["what"] for each in seen.notes or [] if rules.VERDICTS.get(each["kind"])]
    cell.outputs += [_error(rules.COMMAND, what) for what in noted]
    for each in findings:
        if each.fails and each.name == rules.STOPPED:
            cell.outputs.insert(0, _error(each.name, each.what))


def _error(name: str, text: str) -> Any:
    return nbformat.v4.new_output("error", ename=name, evalue=text, traceback=[text])


# --- Whole notebooks, for the command line ------------------------------------------------------


def execute(notebook: nbformat.NotebookNode, path: Path, output: Path) -> Path:
    """Execute all cells of a notebook in local mode, printing a line for each.

    Args:
        notebook: the notebook; its outputs are filled in.
        path: the file that it came from, which is not changed; cells run in its folder.
        output: folder for the executed copy and its HTML version; created if it is missing.

    Returns:
        The path of the executed copy.

    Raises:
        NotebookFailed: at the first cell that fails; the copies are written all the same.
        LocalModeError: if the kernel is not installed, or the copies cannot be written.
    """
    try:
        run(notebook, path)
    finally:
        executed = evidence.save(notebook, output / path.name, path.parent)
    return executed


def run(notebook: nbformat.NotebookNode, path: Path, kernel_name: str = spec.NAME) -> None:
    """Execute all cells of a notebook, printing a line for each.

    Args:
        notebook: the notebook; its outputs are filled in.
        path: the file that it came from; cells run in its folder.
        kernel_name: the Jupyter kernel, by default that of local mode.

    Raises:
        NotebookFailed: at the first cell that fails, or if something failed in the background.
        LocalModeError: if the kernel is not installed.
    """
    indices = code_cells(notebook)
    session = Session(notebook, path.parent, kernel_name)
    session.start()
    try:
        checking = Checking(session, find_root())
        for number, index in enumerate(indices, start=1):
            last = number == len(indices)
            _run_cell(checking, notebook.cells[index], index, last, path, (number, len(indices)))
    finally:
        session.stop()


def _run_cell(
    checking: Checking, cell: Any, index: int, last: bool, path: Path, place: tuple[int, int]
) -> None:
    started = datetime.now(timezone.utc)
    number, count = place
    progress = f"[{number:>{len(str(count))}}/{count}]"
    must_raise = bool(RAISES & set(cell.metadata.get("tags", [])))
    try:
        warnings = checking.cell(index, cell, must_raise=must_raise)
        if last:
            warnings += checking.end()
    except (CellFailed, ValueError) as err:
        failure = err if isinstance(err, CellFailed) else CellFailed(str(err))
        seconds = checking.session.seconds
        print(f"{progress} FAILED {seconds:>6.1f} s  {title(cell)}", flush=True)
        where = f"{path.name}: code cell {number} of {count}"
        logs = checking.jobs.failed_logs(started)
        raise NotebookFailed(describe(where, cell, failure, logs)) from err
    print(f"{progress} ok     {checking.session.seconds:>6.1f} s  {title(cell)}", flush=True)
    for each in warnings:
        print(f"       warning: {each.what}", flush=True)
