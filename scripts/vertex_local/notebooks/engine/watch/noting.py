"""The notes of failures in the kernel, the hooks that make them, and words for them."""

from __future__ import annotations

import traceback
from typing import Any

LONGEST_NOTES = 200  # notes of one cell, and lines from the traps of one script


class Notes:
    """The notes since the last report."""

    def __init__(self) -> None:
        self._notes: list[dict[str, Any]] = []

    def add(self, kind: str, what: str, details: str = "", seconds: float = 0.0) -> None:
        """Add a note, unless there is an equal one or `LONGEST_NOTES` of them.

        Notes of commands, which have `seconds`, are added even if they are equal.
        """
        note = {"kind": kind, "what": what, "details": details, "seconds": seconds}
        if len(self._notes) < LONGEST_NOTES and (seconds or note not in self._notes):
            self._notes.append(note)

    def error(self, kind: str, what: str, error: BaseException) -> None:
        """Note an exception with its traceback."""
        self.add(kind, f"{what}: {type(error).__name__}: {error}", traceback_of(error))

    def take(self) -> list[dict[str, Any]]:
        """Return the notes, and forget them."""
        taken, self._notes = self._notes, []
        return taken


notes = Notes()
hooks: list[tuple[str, Any, str, Any]] = []  # those in place: kind, owner, attribute, value


def hook(owner: Any, name: str, value: Any, kind: str = "replaced") -> None:
    """Replace a function by one of these files, and remember that.

    Args:
        owner: the module or class that has the function.
        name: the function's name there.
        value: the function that replaces it.
        kind: the kind of note that is added if a cell replaces it again.
    """
    setattr(owner, name, value)
    hooks.append((kind, owner, name, value))


def traceback_of(error: BaseException) -> str:
    """Return the last 4000 characters of an exception's traceback."""
    lines = traceback.format_exception(type(error), error, error.__traceback__)
    return "".join(lines)[-4000:]


def explain(status: int) -> str:
    """Return what the exit status of a command means; "" for 0."""
    if status == 127:
        return "the command was not found (exit status 127)"
    if status < 0:
        return f"it was ended by signal {-status}"
    return f"exit status {status}" if status else ""


def shortened(text: str) -> str:
    """Return the first line of a text, at most 80 characters of it."""
    line = next(iter(text.strip().splitlines()), "")
    return line if len(line) <= 80 else f"{line[:80]} …"
