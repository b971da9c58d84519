"""Buckets and objects as a file tree: every object is the plain file `buckets/<bucket>/<object>`.

Knows files and their metadata, not HTTP. A file that another program added or changed is an object,
too, and gets new metadata. An upload appears in one step, when its complete file is renamed into
place, and its metadata with it (see `metadata`).
"""

from __future__ import annotations

import mimetypes
import os
import shutil
import stat
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, BinaryIO

from vertex_local.config import Root, unusable
from vertex_local.storage import listing, names
from vertex_local.storage.conditions import ANY, Conditions
from vertex_local.storage.digest import Digest, digest_of
from vertex_local.storage.errors import BadRequest, Conflict, NotEmulated, Unavailable, no_object
from vertex_local.storage.metadata import FOLDER, Metadata, Resource, identity
from vertex_local.storage.partial import PARTIAL, Partial, readable_disk_errors
from vertex_local.storage.tree import Tree, is_folder

BUCKET_RULES = "https://cloud.google.com/storage/docs/buckets#naming"
ATTEMPTS = 50  # to read a file that another program is writing
DEFAULT_TYPE = "application/octet-stream"  # of objects without a content type


@dataclass(frozen=True)
class Live:
    """An object as it is now: its file, and its metadata."""

    path: Path
    identity: str
    resource: Resource


class Slow(Exception):
    """The answer needs a whole file to be read: call again in another thread."""


class Objects:
    """All buckets of one root. Safe to use from several threads.

    Raises:
        LocalModeError: if the metadata cannot be read.
    """

    def __init__(self, root: Root) -> None:
        self.incoming = root.uploads
        self.incoming.mkdir(exist_ok=True)
        for left_over in self.incoming.glob(f"*{PARTIAL}"):  # from a server that was killed
            left_over.unlink()
        # Held only while complete files are moved and metadata written, not while bytes arrive.
        self._lock = threading.RLock()
        self._folders = listing.Folders()
        self._last_generation = 0
        self._tree = Tree(root.buckets, self.incoming)
        self._metadata = open_records(root.metadata)
        self._tree.close()

    def close(self) -> None:
        """Close the metadata; call no other method afterwards."""
        self._metadata.close()
        self._tree.open()

    # Buckets

    def create_bucket(self, name: str, change: Callable[[Resource], Resource]) -> Resource:
        """Make an empty bucket.

        Args:
            name: the bucket's name.
            change: returns the metadata of a new bucket with what the request asks for.

        Raises:
            BadRequest: if the name is not allowed.
            Conflict: if there is such a bucket already.
        """
        if problem := names.bucket_name_problem(name):
            raise BadRequest(f"Invalid bucket name: '{name}': {problem}. The rules: {BUCKET_RULES}")
        with self._lock:
            if os.path.lexists(self._tree.top / name):
                raise Conflict(
                    "Your previous request to create the named bucket succeeded and you already "
                    "own it."
                )
            document = change(_new_bucket(now()))
            self._metadata.put_bucket(name, document)
            with self._tree.opened():
                (self._tree.top / name).mkdir()
        return document

    def bucket(self, name: str) -> Resource:
        """Return a bucket's metadata; a folder that another program made gets some now."""
        with self._lock:
            path = self._tree.bucket(name)
            document = self._metadata.bucket(name)
            if document is None:
                document = _new_bucket(_time(path.stat().st_mtime_ns))
                self._metadata.put_bucket(name, document)
        return document

    def buckets(self) -> list[str]:
        """Return the names of all buckets, in order."""
        return sorted(
            entry.name
            for entry in os.scandir(self._tree.top)
            if entry.is_dir(follow_symlinks=False) and names.bucket_name_problem(entry.name) is None
        )

    def update_bucket(
        self, name: str, change: Callable[[Resource], Resource], conditions: Conditions
    ) -> Resource:
        """Change a bucket's metadata."""
        with self._lock:
            document = self.bucket(name)
            conditions.check(document)
            document = change(document)
            document["metageneration"] = str(int(document["metageneration"]) + 1)
            document["updated"] = now()
            self._metadata.put_bucket(name, document)
        return document

    def delete_bucket(self, name: str, conditions: Conditions) -> None:
        """Delete an empty bucket."""
        with self._lock:
            conditions.check(self.bucket(name))
            if next(self._walk(name).names(), None) is not None:
                raise Conflict("The bucket you tried to delete is not empty.")
            with self._tree.opened():
                shutil.rmtree(self._tree.bucket(name))  # folders without any object
            self._metadata.drop_bucket(name)

    # Objects

    def get(
        self, bucket: str, name: str, conditions: Conditions = ANY, quick: bool = False
    ) -> Resource:
        """Return an object's metadata.

        Raises:
            Slow: if `quick`, and the file has no metadata yet and must be read for it.
        """
        return self._get(bucket, name, conditions, reading=True, quick=quick).resource

    def open(
        self, bucket: str, name: str, conditions: Conditions = ANY, quick: bool = False
    ) -> tuple[BinaryIO, Resource]:
        """Return an object's bytes as an open file, and its metadata.

        An open file keeps its content, even if the object is replaced.

        Raises:
            Slow: if `quick`, and the file has no metadata yet and must be read for it.
        """
        for _ in range(ATTEMPTS):
            live = self._get(bucket, name, conditions, reading=True, quick=quick)
            if live.identity == FOLDER:
                return open(os.devnull, "rb"), live.resource
            with suppress(FileNotFoundError):  # deleted meanwhile: ask again
                file = open(live.path, "rb")
                if identity(os.fstat(file.fileno())) == live.identity:
                    return file, live.resource
                file.close()  # replaced meanwhile
        raise _busy(bucket, name)

    def put(
        self,
        bucket: str,
        name: str,
        partial: Partial,
        fields: Mapping[str, Any],
        conditions: Conditions = ANY,
        hashes: Mapping[str, str | None] | None = None,
    ) -> Resource:
        """Make a completely received file the object's content, in one step.

        Args:
            bucket: the bucket's name.
            name: the object's name.
            partial: the received file.
            fields: metadata that the client gave.
            conditions: what must hold for the object that is there now.
            hashes: `md5Hash` and `crc32c` to store in place of the computed ones; a composite
                object has no MD5.
        """
        self.check_writable(bucket, name)
        partial.close()
        if name.endswith("/"):
            return self._put_folder(bucket, name, partial, fields, conditions)
        path = self._tree.top / bucket / name
        with self._lock, readable_disk_errors(name):
            self._tree.bucket(bucket)
            before = self._find(bucket, name)
            conditions.check(before.resource if before else None)
            self._tree.check_case(bucket, name)
            document = self._new_document(partial.digest, hashes, fields, before)
            known = self._metadata.of(bucket, name)
            new = identity(partial.path.stat())
            self._metadata.put(bucket, name, new, document)
            self._tree.make_folders(bucket, path)
            try:
                os.replace(partial.path, path)
            except OSError:
                self._metadata.drop(bucket, name, [new])
                self._tree.check_free(bucket, name)  # a folder may have come in between
                raise
            self._metadata.drop(bucket, name, known.keys() - {new})
        return document

    def check_writable(self, bucket: str, name: str) -> None:
        """Raise an error if an object cannot have this name, before its bytes are received."""
        self._tree.bucket(bucket)
        if problem := names.object_name_problem(name):
            raise BadRequest(f"Invalid object name: {name!r}: {problem}.")
        if limit := names.object_name_limit(name):
            raise NotEmulated(f"an object name {limit}, because local mode keeps objects as files")
        self._tree.check_free(bucket, name)

    def check_conditions(self, bucket: str, name: str, conditions: Conditions) -> None:
        """Raise PreconditionFailed if an upload could not be completed now."""
        with self._lock:
            live = self._find(bucket, name)
            conditions.check(live.resource if live else None)

    def update(
        self,
        bucket: str,
        name: str,
        change: Callable[[Resource], Resource],
        conditions: Conditions,
    ) -> Resource:
        """Change an object's metadata."""
        with self._lock:
            live = self._get(bucket, name, conditions)
            document = change(live.resource)
            document["metageneration"] = str(int(document["metageneration"]) + 1)
            document["updated"] = now()
            self._metadata.put(bucket, name, live.identity, document)
        return document

    def delete(self, bucket: str, name: str, conditions: Conditions = ANY) -> None:
        """Delete an object, and the folders that held nothing else."""
        with self._lock:
            live = self._get(bucket, name, conditions)
            if live.identity != FOLDER:
                live.path.unlink(missing_ok=True)
            self._metadata.drop(bucket, name, self._metadata.of(bucket, name))
            self._prune(bucket, live.path if live.identity == FOLDER else live.path.parent)

    def list(self, bucket: str, query: listing.Query) -> tuple[list[tuple[str, Resource]], Any]:
        """Return one page: the objects' names and metadata, and the `listing.Page`."""
        page = listing.page(self._walk(bucket), query)
        known = self._metadata.of_many(bucket, page.names)
        found = []
        for name in page.names:
            live = self._find(bucket, name, known)
            if live is not None:  # else it was deleted since the walk
                found.append((name, live.resource))
        return found, page

    # Inside

    def _walk(self, bucket: str) -> listing.Walk:
        path = self._tree.bucket(bucket)
        return listing.Walk(path, self._folders, self._metadata.folders(bucket))

    def _get(
        self,
        bucket: str,
        name: str,
        conditions: Conditions,
        reading: bool = False,
        quick: bool = False,
    ) -> Live:
        self._tree.bucket(bucket)
        live = self._find(bucket, name, quick=quick)
        if live is None or not conditions.names_generation(live.resource):
            raise no_object(bucket, name)
        conditions.check(live.resource, reading)
        return live

    def _find(
        self,
        bucket: str,
        name: str,
        known: Mapping[tuple[str, str], Resource] | None = None,
        quick: bool = False,
    ) -> Live | None:
        """Return an object as it is now, or None.

        Args:
            known: records that were read before, by name and file identity.
            quick: raise Slow rather than read a file that has no record yet.
        """
        if names.object_name_problem(name) or names.object_name_limit(name):
            return None
        path = self._tree.top / bucket / name
        if not self._tree.is_inside(bucket, name):
            return None
        records = None if known is not None else self._metadata.of(bucket, name)
        if name.endswith("/"):
            document = records.get(FOLDER) if records is not None else None
            if known is not None:
                document = known.get((name, FOLDER))
            return Live(path, FOLDER, document) if document and is_folder(path) else None
        try:
            status = path.lstat()
        except OSError:
            return None
        if not stat.S_ISREG(status.st_mode):
            return None
        key = identity(status)
        document = records.get(key) if records is not None else (known or {}).get((name, key))
        if document is None:
            if quick:
                raise Slow
            return self._make_up(bucket, name, path)
        return Live(path, key, document)

    def _make_up(self, bucket: str, name: str, path: Path) -> Live | None:
        """Give metadata to a file that another program added or changed."""
        for _ in range(ATTEMPTS):
            try:
                with open(path, "rb") as file:
                    key = identity(os.fstat(file.fileno()))
                    digest = digest_of(file)
                    status = os.fstat(file.fileno())
            except OSError:
                return None
            if identity(status) == key:
                break
            # Another program is writing it: try until it does not change while it is read.
        else:
            raise _busy(bucket, name)
        with self._lock:
            known = self._metadata.of(bucket, name)
            if key in known:
                return Live(path, key, known[key])
            before = max(known.values(), key=_generation, default=None)
            document = self._new_document(digest, None, {}, None)
            document["generation"] = str(
                max(status.st_mtime_ns // 1000, _generation(before) + 1 if before else 0)
            )
            document["timeCreated"] = document["updated"] = _time(status.st_mtime_ns)
            document["contentType"] = mimetypes.guess_type(name)[0] or DEFAULT_TYPE
            self._metadata.put(bucket, name, key, document)
            self._metadata.drop(bucket, name, known)
        return Live(path, key, document)

    def _new_document(
        self,
        digest: Digest,
        hashes: Mapping[str, str | None] | None,
        fields: Mapping[str, Any],
        before: Live | None,
    ) -> Resource:
        """Return the metadata of a new generation of an object."""
        moment = now()
        if hashes is None:
            hashes = {"md5Hash": digest.md5, "crc32c": digest.crc32c}
        last = max(self._last_generation, _generation(before.resource) if before else 0)
        self._last_generation = max(time.time_ns() // 1000, last + 1)
        return {
            "generation": str(self._last_generation),
            "metageneration": "1",
            "size": str(digest.size),
            "storageClass": "STANDARD",
            "timeCreated": moment,
            "updated": moment,
            **{key: value for key, value in hashes.items() if value},
            **{key: value for key, value in fields.items() if value not in (None, "")},
        }

    def _put_folder(
        self,
        bucket: str,
        name: str,
        partial: Partial,
        fields: Mapping[str, Any],
        conditions: Conditions,
    ) -> Resource:
        """Make the placeholder of a folder, as consoles and tools do: an empty object "name/"."""
        if partial.digest.size:
            raise NotEmulated("an object whose name ends with '/' and that is not empty")
        with self._lock, readable_disk_errors(name):
            before = self._find(bucket, name)
            conditions.check(before.resource if before else None)
            self._tree.check_case(bucket, name)
            document = self._new_document(partial.digest, None, fields, before)
            path = self._tree.top / bucket / name
            self._tree.make_folders(bucket, path / "x")
            self._metadata.put(bucket, name, FOLDER, document)
        return document

    def _prune(self, bucket: str, folder: Path) -> None:
        """Remove a folder, and those above it, up to one that is not empty or a placeholder."""
        top = self._tree.top / bucket
        while folder != top:
            name = f"{folder.relative_to(top).as_posix()}/"
            if FOLDER in self._metadata.of(bucket, name):
                return
            try:
                folder.rmdir()
            except OSError:  # not empty
                return
            folder = folder.parent


def now() -> str:
    """Return the current time as the API writes times."""
    return _time(time.time_ns())


def _time(nanoseconds: int) -> str:
    moment = datetime.fromtimestamp(nanoseconds / 1e9, tz=timezone.utc)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _busy(bucket: str, name: str) -> Unavailable:
    return Unavailable(f"{bucket}/{name} keeps changing: another program is writing it")


def _generation(document: Resource) -> int:
    return int(document["generation"])


def _new_bucket(created: str) -> Resource:
    return {
        "timeCreated": created,
        "updated": created,
        "metageneration": "1",
        "location": "US",
        "locationType": "multi-region",
        "storageClass": "STANDARD",
        "rpo": "DEFAULT",
        "iamConfiguration": {
            "bucketPolicyOnly": {"enabled": False},
            "publicAccessPrevention": "inherited",
            "uniformBucketLevelAccess": {"enabled": False},
        },
    }


def open_records(path: Path) -> Metadata:
    """Open the metadata of a root.

    Raises:
        LocalModeError: if the file is damaged.
    """
    import sqlite3

    try:
        return Metadata(path)
    except sqlite3.DatabaseError as err:
        raise unusable(
            path,
            err,
            "It holds content types, labels and checksums, not your files. Delete it: local mode "
            "then makes up new metadata for the files it finds.",
        ) from err
