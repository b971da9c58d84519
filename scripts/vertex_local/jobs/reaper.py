"""Ends what jobs leave behind: after a job, and after a server that died.

A process can leave its job's process group by a double fork and a session of its own. On Linux it
is found nevertheless: /proc shows the environment with which it was started, and that names the
job. A program that was started with an empty environment is found as soon as no other job runs: the
server has asked the system to become the parent of processes whose own parent ends. macOS has
neither; there, such a process outlives its job.

A server that is stopped ends its jobs itself. One that is killed cannot. But then its pipe to a
small helper process closes, and the helper kills the process groups that are still on its list.
As a program, this file is that helper; it uses the standard library only.
"""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress

PR_SET_CHILD_SUBREAPER = 36  # from <linux/prctl.h>
IS_LINUX = sys.platform.startswith("linux")
PATIENCE_SECONDS = 5.0
LOOK_SECONDS = 0.005
_adopts = False  # whether this process has asked for orphans


class Reaper:
    """The server's side: tells the helper which process groups must not outlive the server."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-I", "-S", __file__],
            stdin=subprocess.PIPE,
            start_new_session=True,  # Ctrl-C for the server is not for the reaper
        )

    @property
    def pid(self) -> int:
        """The process id of the helper."""
        return self._process.pid

    @contextmanager
    def watching(self, group: int, job_id: str) -> Iterator[None]:
        """Keep a process group on the helper's list: it is killed if the server dies meanwhile."""
        self._tell(f"+{group} {job_id}")
        try:
            yield
        finally:
            self._tell(f"-{group} {job_id}")

    def close(self) -> None:
        """End the helper; it kills the groups that are still on its list."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()

    def _tell(self, line: str) -> None:
        assert self._process.stdin is not None
        # One write of a few bytes into a pipe is never mixed with another thread's.
        os.write(self._process.stdin.fileno(), f"{line}\n".encode())


def adopt_orphans() -> None:
    """Become the parent of all later descendants whose parent ends, where the system has that."""
    global _adopts
    _adopts = IS_LINUX and ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) == 0


def end_strays(job_id: str, own: Collection[int] | None = None) -> None:
    """Kill the processes that left a job's process groups.

    Args:
        job_id: the job; none of its processes may be started meanwhile.
        own: None if another job runs or may start. Else the children of this process that have a
            session of their own and must stay; all other such children are taken for the job's.
    """
    mark = f"CLOUD_ML_JOB_ID={job_id}".encode()
    deadline = time.monotonic() + PATIENCE_SECONDS
    while found := [pid for pid, marked in _processes(mark) if marked or _adopted(pid, own)]:
        for pid in found:
            with suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
            with suppress(ChildProcessError):  # not our child: its parent is killed as well
                os.waitpid(pid, os.WNOHANG)
        if time.monotonic() > deadline:
            return  # a process may wait for a disk, for example, and ends when that answers
        time.sleep(LOOK_SECONDS)


def _processes(mark: bytes) -> Iterator[tuple[int, bool]]:
    """Yield each process with the mark in its environment, and each child of this process.

    Of each, its id and whether it has the mark.
    """
    for name in os.listdir("/proc") if IS_LINUX else []:
        if name.isdigit():
            with suppress(OSError):  # it has ended, or is another user's
                with open(f"/proc/{name}/environ", "rb") as file:
                    marked = mark in file.read().split(b"\0")
                with open(f"/proc/{name}/stat", "rb") as file:
                    parent = int(file.read().rpartition(b")")[2].split()[1])
                if marked or parent == os.getpid():
                    yield int(name), marked


def _adopted(pid: int, own: Collection[int] | None) -> bool:
    """Return whether a child of this process came to it as an orphan."""
    if not _adopts or own is None or pid in own:
        return False
    with suppress(ProcessLookupError):
        return os.getsid(pid) != os.getsid(0)  # its other helpers share its session
    return False


def main() -> None:
    """Read the list of process groups from stdin; when stdin ends, kill those still on it."""
    watched: set[str] = set()
    for line in sys.stdin:
        if line.startswith("+"):
            watched.add(line[1:])
        else:
            watched.discard(line[1:])
    for group, job_id in map(str.split, watched):
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(int(group), signal.SIGKILL)
        end_strays(job_id)


if __name__ == "__main__":
    main()
