"""Runs inside a notebook's kernel: notes what went wrong without stopping a cell.

The texts of these files are sent to the kernel before the first cell, in the order of `MODULES`.
So they import each other by relative names and else nothing but Python and IPython, work with any
Python kernel, and leave no name behind among those of the notebook. The notes travel in the
kernel's own reply to each cell, as a payload.

It only notes facts; the cell runs as it does for a learner. What counts as failed, `rules` decides.
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
# Each before those that import it.
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

    def read_with_report() -> list[Any]:  # once for each request, however cells are nested
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


if __name__ == SOURCE:  # see vertex_local.notebooks.engine.session, which sends these files
    watch(get_ipython())  # type: ignore[name-defined]  # noqa: F821
