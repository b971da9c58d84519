"""The folders below `buckets/`: where an object's file is, and which names are possible there.

Knows the file system, not the content of files.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from vertex_local.storage import names
from vertex_local.storage.errors import NotEmulated, no_bucket
from vertex_local.storage.partial import Partial

OPEN, CLOSED = 0o700, 0o500


class Tree:
    """The buckets' folders. Between `close` and `open`, only this class makes and deletes buckets.

    Cloud Storage FUSE lets nobody write directly in `/gcs`: a mistyped name of a bucket fails
    there, and must not make a bucket here. (Permissions do not stop root: see `mount`.)

    Args:
        buckets: the folder of the buckets' folders.
        beside: a folder on the same file system, to try out whether it ignores case.
    """

    def __init__(self, buckets: Path, beside: Path) -> None:
        self.top = Path(os.path.realpath(buckets))
        self.ignores_case = _ignores_case(beside)

    def close(self) -> None:
        """Forbid everybody to make, rename or delete anything beside the buckets."""
        self.top.chmod(CLOSED)

    def open(self) -> None:
        """Allow the owner to do so again."""
        self.top.chmod(OPEN)

    @contextmanager
    def opened(self) -> Iterator[None]:
        """Allow the owner to do so in this context."""
        self.open()
        try:
            yield
        finally:
            self.close()

    def bucket(self, bucket: str) -> Path:
        """Return a bucket's folder; raise NotFound if there is none."""
        path = self.top / bucket
        if names.bucket_name_problem(bucket) is not None or not is_folder(path):
            raise no_bucket()
        return path

    def is_inside(self, bucket: str, name: str) -> bool:
        """Return whether every folder on the path to an object is a real one of exactly this name.

        A link could lead out of the root, and a file system that ignores case finds a file under
        other names, too.
        """
        path = f"{self.top}/{bucket}"  # text is faster: this is called for each listed object
        *folders, last = name.removesuffix("/").split("/")
        for part in folders:
            if self.ignores_case and part not in os.listdir(path):
                return False
            path = f"{path}/{part}"
            if not is_folder(path):
                return False
        return not self.ignores_case or last in os.listdir(path)

    def make_folders(self, bucket: str, path: Path) -> None:
        """Make the folders that a new object's file needs."""
        top = self.top / bucket
        for folder in reversed([*path.relative_to(top).parents][:-1]):
            if not is_folder(top / folder):
                try:
                    (top / folder).mkdir()
                except FileExistsError:
                    raise _file_and_folder(f"{folder}/…", str(folder)) from None

    def check_free(self, bucket: str, name: str) -> None:
        """Refuse a name that would need a file in place of a folder, or a folder of a file."""
        path = self.top / bucket
        *folders, last = name.removesuffix("/").split("/")
        for number, part in enumerate(folders, start=1):
            path = path / part
            if path.is_file():
                raise _file_and_folder(
                    f"{'/'.join(folders[:number])}/…", "/".join(folders[:number])
                )
        path = path / last
        if is_folder(path) and not name.endswith("/"):
            raise _file_and_folder(name, f"{name}/…")
        if path.is_file() and name.endswith("/"):
            raise _file_and_folder(name, name.removesuffix("/"))

    def check_case(self, bucket: str, name: str) -> None:
        """Refuse a name that differs from another only in case, if the file system ignores case."""
        if not self.ignores_case:
            return
        path = self.top / bucket
        for part in name.removesuffix("/").split("/"):
            there = os.listdir(path) if is_folder(path) else []
            same = [entry for entry in there if entry.lower() == part.lower() and entry != part]
            if same:
                raise NotEmulated(
                    f"names that differ only in case ({part!r} and {same[0]!r}), because this "
                    "file system takes them for one"
                )
            path = path / part


def _file_and_folder(name: str, other: str) -> NotEmulated:
    return NotEmulated(
        f"an object {name!r} beside an object {other!r}, because local mode keeps objects as "
        "files, and one name cannot be a file and a folder",
        "Choose another name",
    )


def is_folder(path: Path | str) -> bool:
    """Return whether this is a folder and not a link to one."""
    try:
        return stat.S_ISDIR(os.lstat(path).st_mode)
    except (OSError, ValueError):
        return False


def _ignores_case(folder: Path) -> bool:
    """Return whether the file system takes `A` and `a` for the same name, as macOS does."""
    with Partial(folder) as probe:
        return (folder / probe.path.name.upper()).exists()
