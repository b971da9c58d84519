"""How long the cells of notebooks took; pytest prints it at the end."""

from __future__ import annotations

import fnmatch
from dataclasses import astuple, dataclass
from typing import Any

import pytest

KEY = "nbcheck"


@dataclass(frozen=True)
class Timing:
    """The time of one cell.

    Attributes:
        number: of the cell among those with code, from 0.
        title: its first line.
        seconds: from its start to the end of its check.
        scripts: the seconds of these in which shell lines and training jobs ran.
    """

    number: int
    title: str
    seconds: float
    scripts: float

    def as_property(self) -> tuple[str, Any]:
        """Return it as a user property of pytest's reports, which JSON can hold."""
        return KEY, list(astuple(self))


class Timings:
    """Collects the times of a session's notebooks and prints the slowest cells of each."""

    def __init__(self, budgets: list[str], slowest: int) -> None:
        """Prepare the collection.

        Args:
            budgets: lines `SECONDS PATTERN`; the pattern is one for paths of notebooks.
            slowest: how many cells to print for each notebook; 0 for all.

        Raises:
            ValueError: if a budget is no such line.
        """
        self._budgets = [_budget(line) for line in budgets]
        self._slowest = slowest
        self._cells: dict[str, list[Timing]] = {}
        self._other: dict[str, float] = {}  # the kernel's start and end, and saving the copy

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Collect the times from a report, if it is about a cell."""
        path, _, _name = report.nodeid.partition("::")
        if not path.endswith(".ipynb"):
            return
        if report.when != "call":
            self._other[path] = self._other.get(path, 0.0) + report.duration
        for key, value in report.user_properties if report.when == "call" else []:
            if key == KEY:
                self._cells.setdefault(path, []).append(Timing(*value))  # type: ignore[misc]

    def pytest_terminal_summary(self, terminalreporter: Any) -> None:
        """Print the tables."""
        for path, cells in self._cells.items():
            terminalreporter.section(f"times of {path}")
            for line in self._table(path, cells):
                terminalreporter.write_line(line)

    def _table(self, path: str, cells: list[Timing]) -> list[str]:
        by_time = sorted(cells, key=lambda cell: -cell.seconds)
        listed = by_time[: self._slowest] if self._slowest else cells
        other, scripts = self._other.get(path, 0.0), sum(cell.scripts for cell in cells)
        total = sum(cell.seconds for cell in cells) + other
        rows = [
            (cell.seconds, cell.scripts, f"Cell {cell.number}: {cell.title}") for cell in listed
        ]
        rest = [cell for cell in cells if cell not in listed]
        if rest:
            names = f"the other {len(rest)} cells"
            rows.append((sum(c.seconds for c in rest), sum(c.scripts for c in rest), names))
        rows += [(other, 0.0, "starting and ending the kernel, keeping the copy")]
        rows += [(total, scripts, "in all")]
        lines = [f"{'seconds':>9} {'in scripts':>11}"]
        lines += [f"{seconds:>9.2f} {inside:>11.2f}  {text}" for seconds, inside, text in rows]
        for limit, pattern in self._budgets:
            if fnmatch.fnmatch(path, pattern):
                verdict = "within" if total <= limit else "WARNING: over"
                lines.append(f"{verdict} the budget of {limit:g} s: {total:.1f} s")
        return lines


def _budget(line: str) -> tuple[float, str]:
    seconds, _, pattern = line.strip().partition(" ")
    try:
        return float(seconds), pattern.strip() or "*"
    except ValueError:
        raise ValueError(f"{line!r} is not a line `SECONDS PATTERN`") from None
