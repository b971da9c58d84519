"""One server per root: a lock on a file, which the system releases however its holder ends."""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager

from vertex_local.config import LocalModeError, Root, open_private

# `is_held` takes the lock for an instant, so a single refusal does not mean that a server has it.
ATTEMPTS, PAUSE_SECONDS = 5, 0.02


class AlreadyServed(LocalModeError):
    """Another server holds this root."""


@contextmanager
def exclusive(root: Root) -> Iterator[None]:
    """Hold the root's lock as long as the context lasts.

    Raises:
        AlreadyServed: if another process holds it.
    """
    with os.fdopen(open_private(root.lock, os.O_WRONLY), "w") as file:
        for attempts_left in reversed(range(ATTEMPTS)):
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError as err:
                if not attempts_left:
                    raise AlreadyServed(
                        f"Another local-mode server already serves {root.path}. Use that one, stop "
                        "it with `vertex-local down`, or set VERTEX_LOCAL_ROOT to another folder."
                    ) from err
                time.sleep(PAUSE_SECONDS)
        file.truncate()
        file.write(str(os.getpid()))  # for people to read; no process is ended because of it
        file.flush()
        yield


def is_held(root: Root) -> bool:
    """Return whether a server holds this root now, whoever may answer on its ports."""
    try:
        descriptor = os.open(root.lock, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False
