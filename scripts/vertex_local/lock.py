"""One server per root: a lock file that the system releases however its holder ends."""

from __future__ import annotations

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager

from vertex_local.config import LocalModeError, Root


class AlreadyServed(LocalModeError):
    """Another server holds this root."""


@contextmanager
def exclusive(root: Root) -> Iterator[None]:
    """Hold the root's lock as long as the context lasts.

    Raises:
        AlreadyServed: if another process holds it.
    """
    with open(root.lock, "w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as err:
            raise AlreadyServed(
                f"Another local-mode server already serves {root.path}. Use that one, stop it "
                "with `vertex-local down`, or set VERTEX_LOCAL_ROOT to another folder."
            ) from err
        yield


def is_held(root: Root) -> bool:
    """Return whether a server holds this root now."""
    try:
        with exclusive(root):
            return False
    except AlreadyServed:
        return True
