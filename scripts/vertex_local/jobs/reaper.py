"""Kills the jobs of a server that died: a small process that outlives the server by a moment.

A server that is stopped ends its jobs itself. One that is killed cannot. But then the pipe to this
process closes, and it kills the process groups that the server had named and not taken back.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress


class Reaper:
    """The server's side: names the process groups that must not outlive the server."""

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
        """End the reaper process; it kills the groups that are still named."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()

    def _tell(self, line: str) -> None:
        assert self._process.stdin is not None
        # One write of a few bytes into a pipe is never mixed with another thread's.
        os.write(self._process.stdin.fileno(), f"{line}\n".encode())


def main() -> None:
    """Keep the list of groups that stdin names; when stdin closes, kill them."""
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
