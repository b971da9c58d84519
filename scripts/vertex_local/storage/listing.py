"""Listing: the names of a bucket in order, by prefix, delimiter, glob, offsets and pages.

Names are ordered as Cloud Storage orders them, by their UTF-8 bytes. A folder sorts as its name
with the slash, so one walk through the sorted folders gives that order, and can begin anywhere.
"""

from __future__ import annotations

import base64
import bisect
import os
import re
import threading
import time
from collections import OrderedDict
from collections.abc import Iterator, Set
from dataclasses import dataclass
from pathlib import Path

from vertex_local.storage.errors import BadRequest

MAX_PAGE = 1000  # names and prefixes
KEPT_FOLDERS = 32  # in the cache
# A folder that has just changed may change again within the resolution of its time of change.
SETTLED_NS = 2_000_000_000


@dataclass(frozen=True)
class Query:
    """What a list request asks for; see the API's objects.list.

    Attributes:
        resume: the name or prefix at which this page begins; "" for the first page.
    """

    prefix: str = ""
    delimiter: str = ""
    start: str = ""
    end: str = ""
    glob: str = ""
    trailing_delimiter: bool = False
    limit: int = MAX_PAGE
    resume: str = ""


@dataclass(frozen=True)
class Page:
    """One page of a listing; `token` is empty on the last one."""

    names: list[str]
    prefixes: list[str]
    token: str


class Folders:
    """A cache of sorted folder contents, used as long as a folder does not change. Thread-safe."""

    def __init__(self) -> None:
        self._kept: OrderedDict[Path, tuple[int, list[str]]] = OrderedDict()
        self._lock = threading.Lock()

    def sorted(self, path: Path) -> list[str]:
        """Return the names in a folder in order; those of folders end with a slash.

        Links are left out, because they could lead out of the root, and so are names that are
        not Unicode.
        """
        try:
            changed = path.stat().st_mtime_ns
        except OSError:
            return []
        with self._lock:
            kept = self._kept.get(path)
        if kept is not None and kept[0] == changed:
            return kept[1]
        read_at = time.time_ns()
        names = sorted(_scan(path))
        if read_at - changed > SETTLED_NS:
            with self._lock:
                self._kept[path] = (changed, names)
                while len(self._kept) > KEPT_FOLDERS:
                    self._kept.popitem(last=False)
        return names


def _scan(path: Path) -> Iterator[str]:
    try:
        with os.scandir(path) as entries:
            for entry in entries:
                if not _is_unicode(entry.name):
                    continue
                if entry.is_file(follow_symlinks=False):
                    yield entry.name
                elif entry.is_dir(follow_symlinks=False):
                    yield f"{entry.name}/"
    except FileNotFoundError:  # deleted meanwhile
        return


def _is_unicode(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


class Walk:
    """Goes through the names of one bucket in order, for one request."""

    def __init__(self, bucket: Path, folders: Folders, placeholders: Set[str]) -> None:
        self._bucket, self._folders, self._placeholders = bucket, folders, placeholders
        self._seen: dict[str, list[str]] = {}  # each folder is read once per request

    def names(self, start: str = "") -> Iterator[str]:
        """Yield the names from `start` on."""
        return self._below("", start)

    def _below(self, base: str, start: str) -> Iterator[str]:
        entries = self._entries(base)
        first = 0
        if start.startswith(base):
            # The folder that `start` lies in sorts before the rest of `start` itself.
            head, slash, _ = start[len(base) :].partition("/")
            first = bisect.bisect_left(entries, head + slash)
        for entry in entries[first:] if first else entries:
            name = base + entry
            if not entry.endswith("/"):
                if name >= start:
                    yield name
                continue
            if name in self._placeholders and name >= start:
                yield name
            yield from self._below(name, max(start, name))

    def _entries(self, base: str) -> list[str]:
        if base not in self._seen:
            self._seen[base] = self._folders.sorted(self._bucket / base)
        return self._seen[base]


def page(walk: Walk, query: Query) -> Page:
    """Return one page of a listing."""
    names: list[str] = []
    prefixes: list[str] = []
    matches = glob_pattern(query.glob).fullmatch if query.glob else None
    position = max(query.prefix, query.start, query.resume)
    running = walk.names(position)
    while (name := next(running, None)) is not None:
        if not name.startswith(query.prefix) or (query.end and name >= query.end):
            break
        prefix = _common_prefix(name, query)
        listed = (prefix is None or (query.trailing_delimiter and prefix == name)) and (
            matches is None or matches(name) is not None
        )
        if prefix is not None and matches and not matches(name) and not matches(prefix):
            prefix = None
        if not listed and prefix is None:
            continue
        if len(names) + len(prefixes) >= query.limit:
            return Page(names, prefixes, token(prefix if prefix is not None else name))
        if listed:
            names.append(name)
        if prefix is not None:
            prefixes.append(prefix)
            running = walk.names(_after(prefix))
    return Page(names, prefixes, "")


def _common_prefix(name: str, query: Query) -> str | None:
    """Return the prefix that the listing shows in place of `name`, or None if it shows `name`."""
    if not query.delimiter:
        return None
    position = name.find(query.delimiter, len(query.prefix))
    return None if position < 0 else name[: position + len(query.delimiter)]


def _after(prefix: str) -> str:
    """Return the smallest name that sorts after everything with this prefix."""
    return prefix[:-1] + chr(ord(prefix[-1]) + 1)


def token(resume: str) -> str:
    """Return a page token that says where the next page begins."""
    return base64.urlsafe_b64encode(resume.encode()).decode()


def read_token(text: str) -> str:
    """Return where a page begins.

    Raises:
        BadRequest: if `token` has not made it.
    """
    try:
        return base64.urlsafe_b64decode(text.encode()).decode()
    except ValueError as err:
        raise BadRequest(f"Invalid page token: {text}") from err


def glob_pattern(glob: str) -> re.Pattern[str]:
    """Translate a `matchGlob` into a regular expression.

    Source: https://cloud.google.com/storage/docs/json_api/v1/objects/list#list-objects-and-prefixes-using-glob
    """
    simple = {"?": "[^/]", "{": "(?:", "}": ")"}
    braces = 0
    pattern = ""
    for item in re.findall(r"\*\*/|\*+|\\.|\[!?\]?[^\]]*\]|.", glob, re.DOTALL):
        if item == "**/":  # any number of folders, also none
            pattern += "(?:.*/)?"
        elif item.startswith("*"):
            pattern += "[^/]*" if item == "*" else ".*"
        elif len(item) > 1 and item.startswith("["):
            inside = item[1:-1].replace("\\", "\\\\").replace("[", "\\[").replace("^", "\\^")
            pattern += f"[^/{inside[1:]}]" if inside.startswith("!") else f"[{inside}]"
        elif item == "," and braces:
            pattern += "|"
        elif item in simple:
            braces += {"{": 1, "}": -1}.get(item, 0)
            pattern += simple[item]
        else:
            pattern += re.escape(item[-1])
    try:
        return re.compile(pattern, re.DOTALL)
    except re.error as err:
        raise BadRequest(f"Invalid matchGlob: {glob}") from err
