"""Requests that carry several bodies: `multipart/related` uploads, and `multipart/mixed` batches.

An upload is read piece by piece, because its second part may be larger than the memory.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator

from vertex_local.storage.errors import BadRequest, TooLarge

MAX_METADATA_BYTES = 1 << 20


def boundary(content_type: str) -> bytes:
    """Return the boundary between the parts.

    Clients write it without quotes, in double quotes, or (those built on apitools) in single ones.

    Raises:
        BadRequest: if there is none.
    """
    found = re.search(r"""boundary=(?:"([^"]+)"|'([^']+)'|([^;,\s]+))""", content_type, re.I)
    if not found:
        raise BadRequest("Missing or malformed multipart boundary in the Content-Type header.")
    return next(group for group in found.groups() if group).encode()


class RelatedBody:
    """An upload's body: first its metadata, then its content."""

    def __init__(self, stream: AsyncIterator[bytes], separator: bytes) -> None:
        self._stream, self._separator = stream, b"--" + separator
        self._buffer = b""
        self._newline = b"\r\n"

    async def metadata(self) -> bytes:
        """Return the first part. The content can be read afterwards."""
        start = await self._find(self._separator)
        end_of_line = await self._find(b"\n", start)
        # Some clients end lines with \r\n, some with \n.
        self._newline = b"\r\n" if self._buffer[end_of_line - 1 : end_of_line] == b"\r" else b"\n"
        begin = await self._end_of_headers(start)
        end = await self._find(self._newline + self._separator, begin)
        metadata = self._buffer[begin:end]
        self._buffer = self._buffer[end + len(self._newline) :]
        return metadata

    async def media_type(self) -> str:
        """Return the content type that the second part names, or ""."""
        end = await self._end_of_headers(0)
        headers = self._buffer[:end].decode("latin-1")
        self._buffer = self._buffer[end:]
        found = re.search(r"^content-type:[ \t]*(.+?)\s*$", headers, re.I | re.M)
        return found.group(1) if found else ""

    async def media(self) -> AsyncIterator[bytes]:
        """Yield the second part, piece by piece.

        Raises:
            BadRequest: if the body ends before it is complete.
        """
        end_mark = self._newline + self._separator
        while (end := self._buffer.find(end_mark)) < 0:
            ready = len(self._buffer) - len(end_mark) + 1
            if ready > 0:
                yield self._buffer[:ready]
                self._buffer = self._buffer[ready:]
            if not await self._more():
                raise BadRequest("The request body ends before the last part is complete.")
        yield self._buffer[:end]
        self._buffer = b""
        async for _ in self._stream:  # read to the end: the connection will carry more requests
            pass

    async def _end_of_headers(self, start: int) -> int:
        blank = self._newline * 2
        return await self._find(blank, start) + len(blank)

    async def _find(self, what: bytes, start: int = 0) -> int:
        while (position := self._buffer.find(what, start)) < 0:
            if len(self._buffer) > MAX_METADATA_BYTES:
                raise TooLarge("The metadata of an upload must be smaller than 1 MiB.")
            if not await self._more():
                raise BadRequest("The request body is not a complete multipart message.")
        return position

    async def _more(self) -> bool:
        data = await anext(self._stream, None)
        if data is None:
            return False
        self._buffer += data
        return True


def parts(body: bytes, separator: bytes) -> list[tuple[bytes, bytes]]:
    """Split a `multipart/mixed` body into its parts: headers and content of each."""
    found = []
    for part in re.split(rb"(?:^|\r?\n)--" + re.escape(separator), body)[1:]:
        if part.startswith(b"--"):
            break
        head, _, content = part.replace(b"\r\n", b"\n").partition(b"\n\n")
        found.append((head.strip(), content))
    return found
