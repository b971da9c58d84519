"""Ends the jobs of a server that died: a small process that outlives the server by a moment.

A server that is stopped ends its jobs itself. One that is killed cannot; but the pipe to this
process then closes, and that is the signal to kill the process groups that are still on the list.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress


class Reaper:
    """The server's end: names the process groups that must not outlive the server."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-I", "-S", __file__],
            stdin=subprocess.PIPE,
            start_new_session=True,  # Ctrl-C for the server is not for the reaper
        )

    @contextmanager
    def watching(self, group: int) -> Iterator[None]:
        """Reap a process group as long as the context lasts."""
        self._tell(f"+{group}")
        try:
            yield
        finally:
            self._tell(f"-{group}")

    def close(self) -> None:
        """End the reaper process; groups still guarded are killed."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()

    def _tell(self, line: str) -> None:
        assert self._process.stdin is not None
        # One write of a few bytes into a pipe is never mixed with another thread's.
        os.write(self._process.stdin.fileno(), f"{line}\n".encode())


def main() -> None:
    """Keep the list that stdin dictates; when stdin ends, kill what is on it."""
    groups: set[int] = set()
    for line in sys.stdin:
        group = int(line[1:])
        if line.startswith("+"):
            groups.add(group)
        else:
            groups.discard(group)
    for group in groups:
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(group, signal.SIGKILL)


if __name__ == "__main__":
    main()
