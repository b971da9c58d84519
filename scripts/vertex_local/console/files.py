"""What the page shows of buckets: folders, objects, and the beginning of an object's content."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from vertex_local.storage import listing
from vertex_local.storage.errors import NotFound, StorageError
from vertex_local.storage.objects import Objects

PREVIEW_BYTES = 64 * 1024
TABLE_ROWS, TABLE_COLUMNS = 50, 30
IMAGES = {"png": "image/png", "jpg": "image/jpeg", "jpeg": "image/jpeg", "gif": "image/gif"}
PAGE = 200  # entries
CURVE_BYTES = 4 * 1024 * 1024


@dataclass(frozen=True)
class Entry:
    """An object: its name, its size in bytes, and when it changed."""

    name: str
    size: int
    updated: datetime


@dataclass(frozen=True)
class Folder:
    """One page of the objects and folders below a prefix.

    Attributes:
        entries: the objects.
        folders: the prefixes that end with the delimiter.
        token: asks for the next page; "" on the last one.
    """

    entries: list[Entry]
    folders: list[str]
    token: str


@dataclass(frozen=True)
class Preview:
    """The beginning of an object's content. All fields are empty if it cannot be shown.

    Attributes:
        text: of a text file.
        table: rows of a CSV file.
        image: the media type of an image.
        is_whole: whether text or table are complete.
    """

    text: str = ""
    table: tuple[tuple[str, ...], ...] = ()
    image: str = ""
    is_whole: bool = True


def folder(
    objects: Objects, bucket: str, prefix: str, token: str = "", delimiter: str = "/"
) -> Folder:
    """Return one page of what lies below a prefix.

    Args:
        objects: the buckets.
        bucket: the bucket's name.
        prefix: how the names begin.
        token: of a page; "" for the first one.
        delimiter: "" lists the objects in subfolders, too.
    """
    resume = listing.read_token(token) if token else ""
    query = listing.Query(prefix=prefix, delimiter=delimiter, limit=PAGE, resume=resume)
    found, page = objects.list(bucket, query)
    entries = [Entry(name, int(resource["size"]), moment(resource)) for name, resource in found]
    return Folder(entries, list(page.prefixes), page.token)


def moment(resource: Mapping[str, object]) -> datetime:
    """Return when an object was last changed."""
    return datetime.fromisoformat(str(resource["updated"]).replace("Z", "+00:00"))


def below(objects: Objects, uri: str) -> Folder:
    """Return the first objects of a run's folder; an empty page if there is no such bucket."""
    bucket, _, prefix = uri.removeprefix("gs://").partition("/")
    try:
        return folder(objects, bucket, f"{prefix}/" if prefix else "", delimiter="")
    except StorageError:
        return Folder([], [], "")


def split(uri: str) -> tuple[str, str]:
    """Return bucket and object name of a `gs://` URI."""
    bucket, _, name = uri.removeprefix("gs://").partition("/")
    return bucket, name


def head(objects: Objects, bucket: str, name: str, limit: int) -> bytes:
    """Return at most the first `limit` bytes of an object; none if there is no such object."""
    try:
        file, _ = objects.open(bucket, name)
    except NotFound:
        return b""
    with file:
        return file.read(limit)


def _rows(text: str) -> list[list[str]]:
    """Return the rows of a CSV text with any kind of line ends; [] if it is not CSV."""
    try:
        return list(csv.reader(io.StringIO(text, newline=None)))
    except csv.Error:
        return []


def preview(data: bytes, name: str, is_whole: bool) -> Preview:
    """Return what to show of an object's first bytes; an empty Preview for binary data.

    SVG is shown as text, because an SVG image can contain script.
    """
    suffix = name.rpartition(".")[2].lower()
    if image := IMAGES.get(suffix):
        return Preview(image=image)
    try:
        text = data.decode()
    except UnicodeDecodeError as err:
        if is_whole or err.start < len(data) - 4:  # else only the last character is incomplete
            return Preview()
        text = data[: err.start].decode()
    if "\0" in text:
        return Preview()
    rows = _rows(text) if suffix == "csv" else []
    if rows:
        table = tuple(tuple(row[:TABLE_COLUMNS]) for row in rows[:TABLE_ROWS])
        return Preview(table=table, is_whole=is_whole and len(rows) <= TABLE_ROWS)
    return Preview(text=text, is_whole=is_whole)
