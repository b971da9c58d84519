"""The secret of a root, what is derived from it, and how it stays out of what people read.

The key itself is in a file of the root, and is never sent. What is sent (a part of an address, the
bearer token, the answer by which a server proves itself) is made from it or beside it, and all
that opens a door looks the same: `secret-` and 43 letters, which `hide` can find anywhere.
"""

from __future__ import annotations

import base64
import hmac
import re
import secrets
from dataclasses import dataclass, field

from vertex_local.config import SECRET, LocalModeError, Root, write_private

KEY_BYTES = 32
PREFIX = SECRET
SHOWN = re.compile(rb"secret-[\w-]{43}")
NONCE = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class Key:
    """The key of one root.

    Attributes:
        value: 32 random bytes.
    """

    value: bytes = field(repr=False)

    @classmethod
    def read(cls, root: Root) -> Key | None:
        """Return the key of a root, or None if it has none that can be used."""
        try:
            value = bytes.fromhex(root.key.read_text())
        except (OSError, ValueError):
            return None
        return cls(value) if len(value) == KEY_BYTES else None

    @classmethod
    def of(cls, root: Root) -> Key:
        """Return the key of a root that this process serves; make one if there is none.

        Raises:
            LocalModeError: if it cannot be written.
        """
        if found := cls.read(root):
            return found
        made = cls(secrets.token_bytes(KEY_BYTES))
        try:
            write_private(root.key, made.value.hex())
        except OSError as err:
            raise LocalModeError(
                f"Local mode cannot write its key {root.key} ({err.strerror}). Delete what is "
                "there, or make room on the disk."
            ) from err
        return made

    def in_path(self, port: int) -> str:
        """Return the first part of the path of addresses on `port`, which opens them.

        It stays the same for the clients of running notebooks as long as the port does. If
        somebody else takes the port of a server that died, what old clients still send there
        opens nothing: the next server has another port.
        """
        return PREFIX + _text(self._digest(f"path {port}"))

    def proof(self, port: int, nonce: str) -> str:
        """Return what only a server with this key can answer, asked on `port` with `nonce`.

        The port is in it, so that nobody can pass the question on to the real server elsewhere.
        """
        return self._digest(f"proof {port} {nonce}").hex()

    def _digest(self, text: str) -> bytes:
        return hmac.digest(self.value, text.encode(), "sha256")


def new() -> str:
    """Return a secret that opens something for a while: the token, the address of one job."""
    return PREFIX + _text(secrets.token_bytes(KEY_BYTES))


def new_nonce() -> str:
    """Return a question that was never asked before."""
    return secrets.token_hex(KEY_BYTES)


def hide(text: str) -> str:
    """Return `text` with an ellipsis in place of each secret."""
    return hide_in(text.encode(errors="surrogatepass")).decode(errors="surrogatepass")


def hide_in(text: bytes) -> bytes:
    """Return UTF-8 `text` with an ellipsis in place of each secret."""
    return SHOWN.sub("…".encode(), text) if PREFIX.encode() in text else text


def _text(digest: bytes) -> str:
    return base64.urlsafe_b64encode(digest).decode().rstrip("=")
