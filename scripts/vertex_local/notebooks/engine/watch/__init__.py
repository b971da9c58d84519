"""Runs inside a notebook's kernel, and notes failures that do not stop a cell.

The source of these files is sent to the kernel before the first cell, in the order of `MODULES`.
So they work in any Python kernel, import only each other (by relative names), Python and IPython,
and add no name to those of the notebook. The notes return in the kernel's reply to each cell, as a
payload.

They are facts; the cell runs as it does for a learner. `rules` decides what counts as failed.
A note is a dictionary: `kind` (see `rules.VERDICTS`), `what` (a sentence), `details` (a traceback,
or ""), `seconds` (how long a command took, or 0).
"""

from __future__ import annotations

import sys
from typing import Any

from .commands import watch_commands
from .ending import finish
from .exceptions import watch_exceptions, watch_futures
from .messages import watch_figures, watch_messages, watch_tests
from .noting import hooks, notes
from .processes import watch_processes
from .scripts import note_background, watch_scripts

__all__ = ["MODULES", "SOURCE", "finish", "watch"]

SOURCE = "vertex_local_watch"  # of the payload, and the name of this package in the kernel
# Each module comes before those that import it.
MODULES = ["noting", "commands", "scripts", "processes", "exceptions", "messages", "ending"]


def watch(shell: Any) -> None:
    """Note what happens in `shell`, IPython's interactive shell, from now on."""
    watch_commands()
    watch_scripts(shell)
    watch_processes(shell)
    watch_exceptions(shell)
    watch_futures(shell)
    watch_messages()
    watch_tests()
    watch_figures()
    manager, read = shell.payload_manager, shell.payload_manager.read_payload

    def read_with_report() -> list[Any]:  # is called once a request, also with nested cells
        for each in hooks[:]:
            kind, owner, name, value = each
            if getattr(owner, name, None) is not value:
                hooks.remove(each)
                notes.add(kind, f"a cell replaced `{name}`, by which failures are noticed")
        note_background(end=False)
        report: dict[str, Any] = {"source": SOURCE, "notes": notes.take(), "bases": bases()}
        report["exits"] = bool(getattr(shell, "exit_now", False))
        return [*read(), report]

    manager.read_payload = read_with_report


def bases() -> list[str]:
    """Return the names of the last shown exception's class and of its base classes."""
    shown = getattr(sys, "last_type", None)
    return [each.__name__ for each in shown.__mro__] if isinstance(shown, type) else []


if __name__ == SOURCE:  # in the kernel, see vertex_local.notebooks.engine.session
    watch(get_ipython())  # type: ignore[name-defined]  # noqa: F821
