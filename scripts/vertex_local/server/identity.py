"""Which process an id means: the system gives the id of a process that has ended to another."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

LOOK_SECONDS = 10


def identity(pid: int) -> str | None:
    """Return what distinguishes a process from others that have the same id at another time.

    Returns:
        Its owner, when it started, and its command; None if there is no such process.
    """
    return _from_proc(pid) if sys.platform.startswith("linux") else _from_ps(pid)


def _from_proc(pid: int) -> str | None:
    folder = Path("/proc", str(pid))
    try:
        # The second field, in parentheses, is a name that the process chooses; see proc(5).
        fields = (folder / "stat").read_text(errors="replace").rpartition(")")[2].split()
        command = (folder / "cmdline").read_text(errors="replace").rstrip("\0").split("\0")
        return f"{folder.stat().st_uid} {fields[19]} {' '.join(command)}"
    except (OSError, IndexError):
        return None


def _from_ps(pid: int) -> str | None:
    command = ["ps", "-ww", "-p", str(pid), "-o", "uid=", "-o", "lstart=", "-o", "command="]
    try:
        found = subprocess.run(command, capture_output=True, text=True, timeout=LOOK_SECONDS)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return " ".join(found.stdout.split()) or None
