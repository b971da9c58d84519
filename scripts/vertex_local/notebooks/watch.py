"""Runs inside a notebook's kernel: notes what each shell line did, which IPython forgets.

The text of this file is sent to the kernel before the first cell. So it stands alone, works with
any Python kernel, and leaves no name behind among those of the notebook. After each cell, the
notes travel in the kernel's own reply, as a payload.

A failing line does not stop the cell: the cell runs as it does for a learner, and whoever reads
the notes decides.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from typing import Any

SOURCE = "vertex_local.notebooks.watch"  # of the payload


def watch(shell: Any) -> None:
    """Note every shell line of `shell`, IPython's interactive shell, from now on."""
    from ipykernel import zmqshell
    from IPython.core import interactiveshell
    from IPython.utils import process
    from IPython.utils._process_common import process_handler

    notes: list[dict[str, Any]] = []

    def note(command: str, problem: str, started: float) -> None:
        seconds = time.monotonic() - started
        notes.append({"command": command, "problem": problem, "seconds": seconds})

    def system(command: str) -> Any:  # for `!command`, `%pip …` and aliases
        started = time.monotonic()
        status = process.system(command)
        note(command, explain(status), started)
        return status

    def getoutput(command: str) -> str:  # for `x = !command` and `%sx …`
        started = time.monotonic()
        ended = process_handler(
            command, lambda child: (child.communicate()[0], child.returncode), subprocess.STDOUT
        )
        text, status = ended or (b"", -signal.SIGINT)
        note(command, explain(status), started)
        return str(text.decode(errors="replace"))

    def chdir(path: Any) -> None:  # `%cd` prints its failure and goes on
        started = time.monotonic()
        try:
            change_folder(path)
        except OSError as err:
            if sys._getframe(1).f_globals["__name__"] == "IPython.core.magics.osm":
                note("%cd " + str(path), err.strerror or str(err), started)
            raise

    def report(*_result: Any) -> None:
        shell.payload_manager.write_payload({"source": SOURCE, "commands": notes[:]})
        notes.clear()

    change_folder, os.chdir = os.chdir, chdir
    zmqshell.system = interactiveshell.system = system
    interactiveshell.getoutput = getoutput
    shell.events.register("post_run_cell", report)


def explain(status: int) -> str:
    """Return in words what is wrong with the exit status of a command; "" if nothing is."""
    if status == 127:
        return "the command was not found (exit status 127)"
    if status < 0:
        return f"it was ended by signal {-status}"
    return f"exit status {status}" if status else ""


if __name__ == "kernel":  # see vertex_local.notebooks.execution, which sends this file
    watch(get_ipython())  # type: ignore[name-defined]  # noqa: F821
