"""What counts as failed: from what was seen while a cell ran to a verdict.

Nothing here knows which engine executes the notebooks, or which program asks.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from vertex_local.notebooks.settings import Settings

# What the kernel's side notes (see `watch`), and whether it fails the cell. Other kinds are facts
# that mean nothing by themselves. The README tells the reasons.
VERDICTS = {
    "command": True,  # a shell line or a magic ended badly
    "inside": True,  # a line in the middle of a script did, and nothing guards it
    "pipe": True,  # a command of a pipe did, and it is not the last
    "answer": False,  # grep and its like, inside a script, found nothing
    "allowed": False,  # a script did, with --no-raise-error
    "background": True,  # a script in the background did
    "discarded": True,  # a command did that Python started, and its status is thrown away
    "unread": False,  # the same, and the status is kept, for somebody to look at or not
    "thread": True,  # an exception in a thread
    "task": True,  # … in an asyncio task that nobody awaits
    "callback": True,  # … in a callback of an event loop
    "future": True,  # … in a future, whose result nobody asks for
    "ignored": False,  # … where Python can only print it, such as in __del__
    "coroutine": True,  # a coroutine that was never awaited: code that did not run
    "tests": True,  # tests inside the notebook that their runner only reports
    "hook": True,  # a cell took away what notices its shell lines
    "replaced": False,  # a cell, or a library, took away another part of the watch
    "warning": False,  # a warning of Python's
    "logged": False,  # something was logged as an error
    "figure": False,  # a figure without anything in it
    "left": False,  # something still runs at the end of the notebook
}
# Names of the errors by which an executed copy shows what no exception says.
COMMAND = "CommandFailed"
STOPPED = "Stopped"
NOT_AS_PROMISED = "NotAsPromised"
TRACEBACK = "Traceback (most recent call last):"


@dataclass(frozen=True)
class Raised:
    """An exception that ended a cell, or that a cell showed.

    Attributes:
        name: of its class.
        message: its text.
        traceback: its traceback, with or without colours; "" if there is none.
        bases: the names of its class and the classes above, as far as they are known.
    """

    name: str
    message: str
    traceback: str = field(default="", compare=False)
    bases: tuple[str, ...] = field(default=(), compare=False)

    def __str__(self) -> str:
        return f"{self.name}: {self.message}" if self.message else self.name


@dataclass
class Seen:
    """What was seen while a cell ran.

    Attributes:
        stopped: why it did not come to its end (time, a dead kernel, too much output); "" if it
            did.
        details: what explains that.
        raised: the exception that ended it.
        shown: exceptions that it showed and went on, in outputs or in widgets.
        notes: of the kernel's side; None if they are missing although the kernel is watched.
        exits: it asked the kernel to end.
        outputs: what it shows, in Jupyter's format.
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
    """Something that a person should know about a cell.

    Attributes:
        what: a sentence, or an error's name and message.
        details: a traceback, or what else explains it; "" if nothing does.
        fails: whether the cell failed by it; else it is a warning.
        name: the name of the error by which the executed copy shows it; "" if it does so anyway.
    """

    what: str
    details: str = ""
    fails: bool = True
    name: str = ""


def judge(seen: Seen, settings: Settings, must_raise: bool) -> list[Finding]:
    """Return what is to be said about a cell; it passes if no finding fails it.

    Args:
        seen: what was seen while it ran.
        settings: those in the cell's metadata.
        must_raise: the cell is tagged as raising an exception.
    """
    if seen.stopped:
        return [Finding(seen.stopped, seen.details, name=STOPPED)]
    findings = []
    if seen.exits:
        words = "it ends the kernel, for example with `exit()`"
        findings.append(Finding(words, name=STOPPED))
    if seen.notes is None:
        words = "a cell took away what notices failures in the kernel, so it cannot be judged"
        findings.append(Finding(words, name=STOPPED))
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


def judge_end(notes: list[dict[str, Any]]) -> list[Finding]:
    """Return what is to be said at the end of a notebook, from the notes of then."""
    return list(_from_notes(notes))


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
            f"any exception would do here; say in the cell's metadata which is meant, such as "
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
    """Return whether a failed command is the one that `raises` names: "CommandFailed: part"."""
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
