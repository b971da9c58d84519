"""Uploads in several requests: resumable ones, and the parts of the XML API's multipart uploads.

Both survive a restart of the server. Unfinished uploads are stored outside the buckets and never
listed.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
import time
import uuid
from collections import OrderedDict
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from vertex_local.storage.digest import digest_of, pieces
from vertex_local.storage.errors import BadRequest, NotFound, StorageError
from vertex_local.storage.metadata import Resource
from vertex_local.storage.partial import Partial, readable_disk_errors

KEPT_SECONDS = 7 * 24 * 3600.0  # Cloud Storage keeps an abandoned upload as long
KEPT_RESULTS = 1000  # finished uploads to remember: a client asks again if it lost the last answer
GRANULE = 256 * 1024  # a chunk that is not the last one must have a multiple of this many bytes


@dataclass
class Intent:
    """What an upload will become when it is complete.

    Attributes:
        bucket, name: of the object.
        fields: its metadata.
        params: the preconditions among the query parameters of the first request.
        hashes: the checksums that the sender announced.
    """

    bucket: str
    name: str
    fields: Resource
    params: dict[str, str]
    hashes: dict[str, str]


class Received(Partial):
    """What a resumable upload has received so far: a file, closed between requests."""

    def __init__(self, path: Path) -> None:
        self.path = path
        with open(path, "a+b") as self._file:
            self._file.seek(0)
            self.digest = digest_of(self._file)

    @property
    def size(self) -> int:
        """How many bytes have been received."""
        return self.digest.size

    def reopen(self) -> None:
        """Open the file again after `save`."""
        if self._file.closed:
            self._file = open(self.path, "a+b")

    def keep_only(self, size: int) -> None:
        """Discard the bytes after `size`: the client will send them again."""
        if size < self.size:
            with open(self.path, "r+b") as file:
                file.truncate(size)
                self.digest = digest_of(file)

    def save(self) -> None:
        """Write everything received to the file, before the client is told that it has arrived."""
        with readable_disk_errors():
            self._file.close()

    def close(self) -> None:
        """Flush the file to the disk and close it."""
        self.reopen()
        super().close()


@dataclass
class Session:
    """A resumable upload.

    Attributes:
        id: its id.
        intent: what it will become.
        received: what has arrived so far.
        result: the finished object's metadata.
        error: an error after which the upload cannot go on.
        busy: held by the request that is working on it.
    """

    id: str
    intent: Intent
    received: Received
    result: Resource | None = None
    error: StorageError | None = None
    busy: asyncio.Lock = field(default_factory=asyncio.Lock)


class Sessions:
    """All resumable uploads of one root, by id."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._open: dict[str, Session] = {}
        self._ended: OrderedDict[str, Session] = OrderedDict()
        for path in folder.iterdir():  # abandoned ones
            if time.time() - path.stat().st_mtime > KEPT_SECONDS:
                shutil.rmtree(path) if path.is_dir() else path.unlink()

    def begin(self, intent: Intent) -> Session:
        """Return a new upload."""
        number = uuid.uuid4().hex
        try:
            self._note(number).write_text(json.dumps(vars(intent)))
            session = Session(number, intent, Received(self._data(number)))
        except OSError:
            self._note(number).unlink(missing_ok=True)
            raise
        self._open[number] = session
        return session

    def get(self, number: str) -> Session:
        """Return an upload that this server or an earlier one began.

        Raises:
            NotFound: if there is none.
        """
        if session := self._open.get(number) or self._ended.get(number):
            return session
        if not re.fullmatch("[0-9a-f]{32}", number) or not self._note(number).is_file():
            raise NotFound("The upload session does not exist, or has ended.")
        intent = Intent(**json.loads(self._note(number).read_text()))
        session = Session(number, intent, Received(self._data(number)))
        return self._open.setdefault(number, session)

    def end(self, session: Session, result: Resource | None) -> None:
        """Delete the partial file, and remember the result.

        Args:
            session: the upload.
            result: the finished object's metadata, for which a client may ask again; None if the
                upload failed or was cancelled.
        """
        session.result = result
        with session.received:  # deletes the file if it was not moved into place
            self._note(session.id).unlink(missing_ok=True)
        self._open.pop(session.id, None)
        if result is not None or session.error is not None:
            self._ended[session.id] = session
            while len(self._ended) > KEPT_RESULTS:
                self._ended.popitem(last=False)

    def _note(self, number: str) -> Path:
        return self._folder / f"{number}.session"

    def _data(self, number: str) -> Path:
        return self._folder / f"{number}.received"


class Parts:
    """Multipart uploads of the XML API: each a folder with a file per part."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def begin(self, intent: Intent) -> str:
        """Return the id of a new upload."""
        number = uuid.uuid4().hex
        self._path(number).mkdir()
        try:
            (self._path(number) / "intent").write_text(json.dumps(vars(intent)))
        except OSError:
            self.end(number)
            raise
        return number

    def intent(self, number: str) -> Intent:
        """Return what an upload will become.

        Raises:
            NotFound: if there is no such upload.
        """
        try:
            if not re.fullmatch("[0-9a-f]{32}", number):
                raise FileNotFoundError
            return Intent(**json.loads((self._path(number) / "intent").read_text()))
        except FileNotFoundError:
            error = NotFound("The requested upload was not found.")
            error.code = "NoSuchUpload"
            raise error from None

    def add(self, number: str, part: int, partial: Partial) -> None:
        """Store a part in place of any earlier one with the same number."""
        partial.close()
        before = list(self._path(number).glob(f"{part:05}.*"))
        target = self._path(number) / f"{part:05}.{partial.digest.md5_hex}"
        os.replace(partial.path, target)
        for path in before:
            if path != target:
                path.unlink(missing_ok=True)

    def join(self, number: str, wanted: Iterable[tuple[int, str]], into: Partial) -> int:
        """Write the parts one after the other; return how many there were.

        Args:
            number: the upload's id.
            wanted: part numbers with their ETags, in order.
            into: receives the bytes.

        Raises:
            BadRequest: if a part is missing or has another ETag.
        """
        count = 0
        for part, etag in wanted:
            path = self._path(number) / f"{part:05}.{etag}"
            if not re.fullmatch("[0-9a-f]{32}", etag) or not path.is_file():
                error = BadRequest(f"Part {part} with ETag {etag!r} was not uploaded.")
                error.code = "InvalidPart"
                raise error
            with open(path, "rb") as file:
                for data in pieces(file):
                    into.write(data)
            count += 1
        return count

    def end(self, number: str) -> None:
        """Delete the parts."""
        with suppress(FileNotFoundError):
            shutil.rmtree(self._path(number))

    def _path(self, number: str) -> Path:
        return self._folder / f"{number}.parts"
