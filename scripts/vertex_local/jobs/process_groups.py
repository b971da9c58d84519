"""The process groups of a job's replicas: how they end, and how they are ended.

Each replica is started in a session of its own, so its process id is also the id of the process
group that its children belong to.
"""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Sequence
from contextlib import suppress
from typing import TypeAlias

Process: TypeAlias = "subprocess.Popen[bytes]"

LOOK_SECONDS = 0.05  # between two looks at several processes
TERM_GRACE_SECONDS = 10.0  # between SIGTERM and SIGKILL


def status(process: Process) -> int | None:
    """Return the exit status as a shell would give it, or None while the process runs."""
    code = process.poll()
    return None if code is None else code if code >= 0 else 128 - code


def end(processes: Sequence[Process]) -> tuple[int, int] | None:
    """Return number and status of the replica that decides the job, or None while it runs.

    The primary decides; but a worker that fails earlier ends the job as well.
    """
    for number, code in enumerate(map(status, processes)):
        if code is not None and (number == 0 or code != 0):
            return number, code
    return None


def wait(processes: Sequence[Process], deadline: float) -> None:
    """Wait for the primary's end until the deadline.

    With several processes, return after `LOOK_SECONDS`, so that the caller looks at all of them.
    """
    left = deadline - time.monotonic()
    seconds = LOOK_SECONDS if len(processes) > 1 else None if left == float("inf") else max(0, left)
    with suppress(subprocess.TimeoutExpired):
        processes[0].wait(seconds)


def stop_workers(processes: Sequence[Process]) -> None:
    """Send SIGTERM to the workers of a primary that has ended, and give them a moment to exit."""
    signal_all(processes, signal.SIGTERM)
    deadline = time.monotonic() + TERM_GRACE_SECONDS
    for process in processes:
        with suppress(subprocess.TimeoutExpired):
            process.wait(max(0, deadline - time.monotonic()))


def signal_all(processes: Sequence[Process], number: signal.Signals) -> None:
    """Send a signal to every process of every group."""
    for process in processes:
        with suppress(ProcessLookupError, PermissionError):  # no process of the group is left
            os.killpg(process.pid, number)
