"""Parts of a log: its end, a page of it, the lines that contain a text.

A log may have many megabytes, so it is never read as a whole.
"""

from __future__ import annotations

import mmap
import re
from dataclasses import dataclass
from pathlib import Path

from vertex_local.secret import hide

PAGE_BYTES = 64 * 1024
MAX_FOUND = 200  # lines
COLOUR = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")  # escape codes that colour a terminal
LINE_BYTES = 2000  # longer lines are cut


@dataclass(frozen=True)
class Part:
    """Some lines of a log.

    Attributes:
        lines: each line, after the byte offset at which it begins.
        start: the byte offset at which the part begins.
        end: the byte offset at which it ends.
        size: bytes of the whole log.
        more: whether a search found more lines than these.
    """

    lines: list[tuple[int, str]]
    start: int
    end: int
    size: int
    more: bool = False

    @property
    def earlier(self) -> int | None:
        """The byte offset of the previous page; None if there is none."""
        return max(0, self.start - PAGE_BYTES) if self.start else None

    @property
    def later(self) -> int | None:
        """The byte offset of the next page; None if there is none."""
        return self.end if self.end < self.size else None


def part(path: Path, start: int | None = None) -> Part:
    """Return about `PAGE_BYTES` of a log as whole lines.

    Args:
        path: the log; one that does not exist is empty.
        start: a byte offset; the part begins with the first line from there on. None for the
            end of the log.
    """
    size = path.stat().st_size if path.is_file() else 0
    if not size:
        return Part([], 0, 0, size)
    begin = max(0, size - PAGE_BYTES) if start is None else min(max(0, start), size)
    with open(path, "rb") as file:
        file.seek(max(0, begin - 1))
        if begin:  # skip the rest of a line, up to PAGE_BYTES of it
            begin = max(0, begin - 1) + len(file.readline(PAGE_BYTES))
        data = file.read(PAGE_BYTES)
        if data and not data.endswith(b"\n"):
            data += file.readline(PAGE_BYTES)
    return Part(_lines(data, begin), begin, begin + len(data), size)


def _lines(data: bytes, begin: int) -> list[tuple[int, str]]:
    lines = []
    for raw in data.split(b"\n"):
        lines.append((begin, _text(raw)))
        begin += len(raw) + 1
    return lines[:-1] if data.endswith(b"\n") else lines


def _text(raw: bytes) -> str:
    text = hide(COLOUR.sub("", raw[:LINE_BYTES].decode(errors="replace"))).rstrip("\r")
    return text if len(raw) <= LINE_BYTES else f"{text} …"


def search(path: Path, text: str) -> Part:
    """Return the last `MAX_FOUND` lines that contain a text; case matters."""
    size = path.stat().st_size if path.is_file() else 0
    if not size or not text:
        return Part([], 0, size, size)
    found: list[tuple[int, str]] = []
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        position = len(data)
        while position > 0 and (match := data.rfind(text.encode(), 0, position)) >= 0:
            if len(found) == MAX_FOUND:
                return Part(found[::-1], 0, size, size, more=True)
            begin = data.rfind(b"\n", 0, match) + 1
            end = data.find(b"\n", match)
            end = len(data) if end < 0 else end
            found.append((begin, _text(data[begin : min(end, begin + LINE_BYTES + 1)])))
            position = begin
    return Part(found[::-1], 0, size, size)
