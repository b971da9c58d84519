"""The key of a root, the secrets derived from it or random, and how they stay out of texts.

The key is in a file of the root, and is never sent. A proof that a server has the key is derived
from it, and so is the secret in the path of Cloud Storage's URLs; bearer tokens and the secrets of
jobs are random. All secrets have the form `secret-` and 43 characters, which `hide` can find.
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
        """Return the key of a root, or None if there is none or it is damaged."""
        try:
            value = bytes.fromhex(root.key.read_text())
        except (OSError, ValueError):
            return None
        return cls(value) if len(value) == KEY_BYTES else None

    @classmethod
    def of(cls, root: Root) -> Key:
        """Return the key of a root; make one if there is none.

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
        """Return the secret of `port`: the first part of the path of every URL there.

        It stays the same as long as the port does, for the clients of running notebooks. If another
        program takes the port of a server that died, the secrets that old clients send there are
        worthless: the next server has another port.
        """
        return PREFIX + _text(self._digest(f"path {port}"))

    def proof(self, port: int, nonce: str) -> str:
        """Return the answer that only a server with this key can give, on `port` for `nonce`.

        It depends on the port, so that another program cannot get it from the real server.
        """
        return self._digest(f"proof {port} {nonce}").hex()

    def _digest(self, text: str) -> bytes:
        return hmac.digest(self.value, text.encode(), "sha256")


def new() -> str:
    """Return a new random secret, such as a server's token or the secret of a job."""
    return PREFIX + _text(secrets.token_bytes(KEY_BYTES))


def new_nonce() -> str:
    """Return a random number of 64 hexadecimal digits, to be used once."""
    return secrets.token_hex(KEY_BYTES)


def hide(text: str) -> str:
    """Return `text` with an ellipsis in place of each secret."""
    return hide_in(text.encode(errors="surrogatepass")).decode(errors="surrogatepass")


def hide_in(text: bytes) -> bytes:
    """Return UTF-8 `text` with an ellipsis in place of each secret."""
    return SHOWN.sub("…".encode(), text) if PREFIX.encode() in text else text


def _text(digest: bytes) -> str:
    return base64.urlsafe_b64encode(digest).decode().rstrip("=")
