"""Files that are being received; they are stored outside the buckets until they are complete."""

from __future__ import annotations

import errno
import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from vertex_local.config import no_room
from vertex_local.storage.digest import Digest
from vertex_local.storage.errors import DiskFull, NotEmulated

PARTIAL = ".partial"  # suffix of the names of these files
# The errors of a file system that cannot store a file of this name.
BAD_NAME_ERRORS = (errno.EINVAL, errno.EILSEQ, errno.ENAMETOOLONG)


class Partial:
    """A file that is being received, and its checksums.

    A context manager: a file that was not moved into a bucket is deleted at the end.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / f"{uuid.uuid4().hex}{PARTIAL}"
        self.digest = Digest()
        with readable_disk_errors():
            self._file: BinaryIO = open(self.path, "xb")

    def write(self, data: bytes) -> None:
        """Add the next bytes."""
        with readable_disk_errors():
            self._file.write(data)
        self.digest.update(data)

    def close(self) -> None:
        """Flush the file to the disk and close it."""
        if not self._file.closed:
            with readable_disk_errors():
                self._file.flush()
                os.fsync(self._file.fileno())
                self._file.close()

    def __enter__(self) -> Partial:
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self._file.close()
        except OSError:  # the disk is full
            os.truncate(self.path, 0)
        finally:
            self.path.unlink(missing_ok=True)


@contextmanager
def readable_disk_errors(name: str = "") -> Iterator[None]:
    """Turn errors of a full disk and of impossible names into DiskFull and NotEmulated."""
    try:
        yield
    except OSError as err:
        if no_room(err):
            raise DiskFull(f"this machine has no room for it ({err.strerror})") from err
        if name and err.errno in BAD_NAME_ERRORS:
            raise NotEmulated(
                f"the object name {name!r}, which this file system cannot hold ({err.strerror})"
            ) from err
        raise
