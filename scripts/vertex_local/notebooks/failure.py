"""A report on a cell that failed: where, why, its source, its output, the log of its job."""

from __future__ import annotations

import re
from typing import Any

SHOWN_LINES = 12  # of the cell's source, of what it printed, and of its traceback
LOG_LINES = 20  # of a failed job's log
LINE_LENGTH = 200


class CellFailed(Exception):
    """A cell did not do what it should.

    Attributes:
        what: one sentence, or the error's name and message.
        details: a traceback or another explanation; "" if there is none.
    """

    def __init__(self, what: str, details: str = "") -> None:
        super().__init__(what)
        self.what, self.details = what, details


def describe(place: str, cell: Any, failure: CellFailed, logs: list[str]) -> str:
    """Return the report as text of some lines.

    Args:
        place: such as "lesson.ipynb: code cell 3 of 29"; "" if the reader knows it.
        cell: the cell, with the outputs of its execution.
        failure: why it failed.
        logs: the logs of jobs that failed while it ran, from `local_jobs`.
    """
    what = plain(failure.what).strip().splitlines() or ["failed"]
    lines = [f"{place} failed: {_cut(what[0])}" if place else _cut(what[0])]
    lines += [_cut(line) for line in what[1:SHOWN_LINES]]
    lines += ["", "The cell:", *_middle_out(cell.source)]
    printed = "".join(out.text for out in cell.get("outputs", []) if out.output_type == "stream")
    if printed.strip():
        lines += ["", "It printed, last:", *_last(printed, SHOWN_LINES)]
    if failure.details.strip():
        lines += ["", "In detail, last:", *_last(failure.details, SHOWN_LINES)]
    for log in logs:
        path, _, text = log.partition("\n")
        lines += ["", f"The end of the job's log, {path}:", *_last(text, LOG_LINES)]
    return "\n".join(lines)


def plain(text: str) -> str:
    """Return `text` without terminal colours."""
    return re.sub(r"\x1b\[[0-9;]*m", "", text)


def _middle_out(text: str) -> list[str]:
    lines = text.splitlines()
    if len(lines) > SHOWN_LINES:
        half = SHOWN_LINES // 2
        lines = [*lines[:half], f"… {len(lines) - SHOWN_LINES} lines …", *lines[-half:]]
    return [f"    {_cut(line)}" for line in lines]


def _last(text: str, count: int) -> list[str]:
    return [f"    {_cut(line)}" for line in plain(text).rstrip().splitlines()[-count:]]


def _cut(line: str) -> str:
    return line if len(line) <= LINE_LENGTH else f"{line[:LINE_LENGTH]} …"
