"""The two checksums that Cloud Storage stores for every object."""

from __future__ import annotations

import base64
import hashlib
import struct
from collections.abc import Iterable, Mapping
from typing import BinaryIO

import google_crc32c

from vertex_local.storage.errors import BadChecksum

PIECE_BYTES = 1 << 20  # bytes read or written at once


class Digest:
    """MD5, CRC32C and size of bytes that arrive in pieces."""

    def __init__(self) -> None:
        self.size = 0
        self._md5 = hashlib.md5(usedforsecurity=False)
        self._crc32c = 0

    def update(self, data: bytes) -> None:
        """Add the next bytes."""
        self.size += len(data)
        self._md5.update(data)
        self._crc32c = google_crc32c.extend(self._crc32c, data)

    @property
    def md5(self) -> str:
        """The MD5 in base64, as the API writes it."""
        return base64.b64encode(self._md5.digest()).decode()

    @property
    def md5_hex(self) -> str:
        """The MD5 as 32 hexadecimal digits, as in ETags of the XML API."""
        return self._md5.hexdigest()

    @property
    def crc32c(self) -> str:
        """The CRC32C in base64 of four big-endian bytes, as the API writes it."""
        return base64.b64encode(struct.pack(">I", self._crc32c)).decode()

    def verify(self, md5: str | None, crc32c: str | None) -> None:
        """Compare with what the sender computed.

        Raises:
            BadChecksum: if a checksum is given and differs.
        """
        if crc32c and crc32c != self.crc32c:
            raise BadChecksum(
                f'Provided CRC32C "{crc32c}" doesn\'t match calculated CRC32C "{self.crc32c}".'
            )
        if md5 and md5 != self.md5:
            raise BadChecksum(
                f'Provided MD5 hash "{md5}" doesn\'t match calculated MD5 hash "{self.md5}".'
            )


def pieces(file: BinaryIO) -> Iterable[bytes]:
    """Yield the rest of a file, piece by piece."""
    while data := file.read(PIECE_BYTES):
        yield data


def digest_of(file: BinaryIO) -> Digest:
    """Return the digest of the rest of a file."""
    digest = Digest()
    for data in pieces(file):
        digest.update(data)
    return digest


def combined(*announced: Mapping[str, str]) -> dict[str, str]:
    """Return the checksums that a sender announced in several places.

    Raises:
        BadChecksum: if two of the same kind differ.
    """
    together: dict[str, str] = {}
    for checksums in announced:
        for kind, value in checksums.items():
            if together.setdefault(kind, value) != value:
                raise BadChecksum(
                    f'Provided {kind} "{together[kind]}" doesn\'t match provided {kind} "{value}".'
                )
    return together


def from_header(values: Iterable[str]) -> dict[str, str]:
    """Return the checksums in `x-goog-hash` headers: `crc32c=…,md5=…`."""
    found = {}
    for item in ",".join(values).split(","):
        kind, separator, value = item.strip().partition("=")
        if separator:
            found[kind.strip().lower()] = value.strip()
    return found
