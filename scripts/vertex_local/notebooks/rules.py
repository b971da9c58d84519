"""What counts as failed: judges what happened while a cell ran.

Knows neither the engine that executes the notebooks, nor pytest.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from vertex_local.notebooks.settings import Settings

# The kinds of notes that `watch` makes in the kernel, and whether each fails the cell. Notes of
# other kinds have no meaning by themselves. The README gives the reasons.
VERDICTS = {
    "command": True,  # a shell line or a magic failed
    "inside": True,  # a line in the middle of a script failed, and nothing guards it
    "pipe": True,  # a command of a pipe failed, and it is not the last
    "answer": False,  # inside a script or a pipe, a command such as grep found nothing
    "allowed": False,  # a script with --no-raise-error failed
    "background": True,  # a script in the background failed
    "discarded": True,  # a command that Python started failed, and its status is lost
    "unread": False,  # the same, but its status is kept, and may be looked at
    "thread": True,  # an exception in a thread
    "task": True,  # an exception in an asyncio task that nobody awaits
    "callback": True,  # an exception in a callback of an event loop
    "future": True,  # an exception in a future whose result nobody asks for
    "ignored": False,  # an exception that Python can only print, such as in __del__
    "coroutine": True,  # a coroutine was never awaited, so its code did not run
    "tests": True,  # tests inside the notebook failed, which their runner only prints
    "hook": True,  # a cell replaced the function that notices failed shell lines
    "replaced": False,  # a cell or a library replaced another function of `watch`
    "warning": False,  # a warning of Python
    "logged": False,  # something was logged as an error
    "figure": False,  # an empty figure was shown
    "left": False,  # something still runs at the end of the notebook
}
# Names of errors in an executed copy, for failures that are no exceptions.
COMMAND = "CommandFailed"
STOPPED = "Stopped"
NOT_AS_PROMISED = "NotAsPromised"
TRACEBACK = "Traceback (most recent call last):"


@dataclass(frozen=True)
class Raised:
    """An exception that ended a cell, or that a cell showed.

    Attributes:
        name: the name of its class.
        message: its text.
        traceback: its traceback, with or without colours; "" if there is none.
        bases: the names of its class and its base classes; empty if they are not known.
    """

    name: str
    message: str
    traceback: str = field(default="", compare=False)
    bases: tuple[str, ...] = field(default=(), compare=False)

    def __str__(self) -> str:
        return f"{self.name}: {self.message}" if self.message else self.name


@dataclass
class Seen:
    """What happened while a cell ran.

    Attributes:
        stopped: why it was stopped (too much time or output, a dead kernel); "" if it ended.
        details: a traceback of where it was stopped, or "".
        raised: the exception that ended it.
        shown: exceptions that it only showed, in outputs or in widgets.
        notes: those of `watch`; None if they are missing although `watch` was installed.
        exits: whether it asked the kernel to end.
        outputs: its outputs, in Jupyter's format.
    """

    stopped: str = ""
    details: str = ""
    raised: Raised | None = None
    shown: list[Raised] = field(default_factory=list)
    notes: list[dict[str, Any]] | None = None
    exits: bool = False
    outputs: list[Any] = field(default_factory=list)


@dataclass(frozen=True)
class Finding:
    """A failure of a cell, or a warning.

    Attributes:
        what: a sentence, or an error's name and message.
        details: a traceback or another explanation; "" if there is none.
        fails: whether it fails the cell; else it is a warning.
        name: the name of its error in the executed copy; "" if the outputs show it already.
    """

    what: str
    details: str = ""
    fails: bool = True
    name: str = ""


def judge(seen: Seen, settings: Settings, must_raise: bool) -> list[Finding]:
    """Return failures and warnings of a cell.

    Args:
        seen: what happened while it ran.
        settings: those in the cell's metadata.
        must_raise: the cell is tagged as raising an exception.
    """
    if seen.stopped:
        return [Finding(seen.stopped, seen.details, name=STOPPED)]
    findings = []
    if seen.exits:
        what = "it ends the kernel, for example with `exit()`"
        findings.append(Finding(what, name=STOPPED))
    if seen.notes is None:
        what = "a cell took away what notices failures in the kernel, so it cannot be judged"
        findings.append(Finding(what, name=STOPPED))
    noted = list(_from_notes(seen.notes or []))
    errors = [seen.raised] if seen.raised else []
    errors += [each for each in seen.shown if each not in errors]
    if must_raise:
        findings += _expected(errors, noted, settings.raises)
    else:
        findings += [Finding(str(each), each.traceback) for each in errors]
        findings += noted
    findings += _from_outputs(seen.outputs)
    return findings


def _from_notes(notes: list[dict[str, Any]]) -> Iterator[Finding]:
    for note in notes:
        if note["kind"] in VERDICTS:
            yield Finding(note["what"], note["details"], VERDICTS[note["kind"]], COMMAND)


def _expected(errors: list[Raised], noted: list[Finding], raises: str) -> Iterator[Finding]:
    """Judge a cell that is tagged as raising an exception."""
    failed = [each for each in noted if each.fails]
    yield from (each for each in noted if not each.fails)
    if not errors and not failed:
        yield Finding("it is tagged as raising an exception, and raises none")
    elif not raises:
        what = str(errors[0]) if errors else failed[0].what
        yield Finding(
            f"any exception passes here; say in the cell's metadata which one is meant, such as "
            f'{{"nbcheck": {{"raises": "{_example(errors)}"}}}} (it was: {_line(what)})',
            fails=False,
        )
    elif errors and not any(_matches(each, raises) for each in errors):
        yield Finding(f"it is to raise {raises!r}, and raised {errors[0]}", errors[0].traceback)
    elif not errors and not any(_names_command(each.what, raises) for each in failed):
        yield Finding(f"it is to raise {raises!r}, and this failed: {failed[0].what}")


def _matches(error: Raised, raises: str) -> bool:
    """Return whether an exception is the one that `raises` names: "Class" or "Class: part"."""
    name, _, part = raises.partition(":")
    names = {error.name, *error.bases}
    return name.strip() in names and part.strip() in error.message


def _names_command(what: str, raises: str) -> bool:
    """Return whether a failed command is the one in `raises`: "CommandFailed: part"."""
    name, _, part = raises.partition(":")
    return name.strip() == COMMAND and part.strip() in what


def _example(errors: list[Raised]) -> str:
    return errors[0].name if errors else COMMAND


def _from_outputs(outputs: list[Any]) -> Iterator[Finding]:
    texts = [out.text for out in outputs if out.output_type == "stream"]
    if any(TRACEBACK in text for text in texts):
        yield Finding("it prints a traceback, of an exception that was caught", fails=False)
    for output in outputs:
        if output.get("data", {}).get("text/plain", "").endswith("with 0 Axes>"):
            yield Finding("a figure without anything in it", fails=False)


def _line(text: str) -> str:
    return next(iter(text.strip().splitlines()), "")
