"""Who may send requests: only clients that the owner of the root started.

Other users of the machine can send requests to 127.0.0.1, too. So each request must carry a secret:
as the first part of its path, which clients keep in front of every path, or as bearer token.

A web page in the owner's browser is refused even with the secret. It cannot hide that it is a page:
the browser adds an `Origin`, `Referer` or `Sec-Fetch-Site` header, or, if the page's host name was
made to resolve to this machine, sends that name as `Host`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import parse_qsl

import uvicorn
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from vertex_local import errors, secret
from vertex_local.config import HOST
from vertex_local.secret import Key
from vertex_local.storage.api.faults import ON_FAULT, Note

PROOF_PATH = "/healthz"
# The answers to requests without a valid secret: of the training API, and of Cloud Storage.
NO_TOKEN = errors.Unauthenticated(
    "Request is missing local mode's token, or has an old one. Restart the kernel with the "
    "local-mode kernel chosen, or run `vertex-local env`."
)
MOVED = errors.NotFound(
    "There is nothing at this address. If it was local mode's Cloud Storage, restart the kernel "
    "with the local-mode kernel chosen, or run `vertex-local env`."
)
SINGLE = frozenset({b"authorization", b"host", b"origin", b"referer"})  # never sent twice


class Passes:
    """The secrets with which a server may be used at present.

    Only their digests are compared, so that the time of an answer reveals nothing about them.

    Args:
        lasting: secrets that are valid as long as the server runs.
    """

    def __init__(self, *lasting: str) -> None:
        self._digests: dict[bytes, Note | None] = {_digest(each): None for each in lasting}

    def __contains__(self, given: str) -> bool:
        return _digest(given) in self._digests

    def on_fault(self, given: str) -> Note | None:
        """Return what to call when a fault hits a request with this secret; None for most."""
        return self._digests.get(_digest(given))

    @contextmanager
    def lent(self, on_fault: Note) -> Iterator[str]:
        """Yield a new secret for a job; it is valid until the context ends."""
        lent = secret.new()
        self._digests[_digest(lent)] = on_fault
        try:
            yield lent
        finally:
            self._digests.pop(_digest(lent), None)


def _digest(given: str) -> bytes:
    return hashlib.sha256(given.encode("latin-1", "replace")).digest()


class Gate:
    """ASGI middleware around a whole application: admits requests of the owner's clients only.

    A secret in the path is taken out of it. The application finds it in `root_path`, with a slash
    before it, and puts it into the URLs in its answers.

    Args:
        app: the application.
        port: the TCP port of the server.
        key: the key of the root, with which this server proves itself to its clients.
        passes: the valid secrets.
        closed: the answer to every request without one of them.
    """

    def __init__(
        self, app: ASGIApp, port: int, key: Key, passes: Passes, closed: errors.ApiError
    ) -> None:
        self._app, self._port, self._key = app, port, key
        self._passes, self._closed = passes, errors.response(closed)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers: list[tuple[bytes, bytes]] = scope["headers"]
        if reason := objection(headers, self._port):
            await errors.response(errors.PermissionDenied(reason))(scope, receive, send)
        elif proof := self._proof(scope):
            await PlainTextResponse(proof)(scope, receive, send)
        elif (admitted := self._admitted(scope, headers)) is not None:
            await self._app(admitted, receive, send)
        else:
            await self._closed(scope, receive, send)

    def _proof(self, scope: Scope) -> str | None:
        """Return the proof that this is the root's server; None if a request does not ask."""
        if scope["path"] != PROOF_PATH:
            return None
        nonce = dict(parse_qsl(scope["query_string"].decode("latin-1"))).get("nonce", "")
        return self._key.proof(self._port, nonce) if secret.NONCE.fullmatch(nonce) else None

    def _admitted(self, scope: Scope, headers: list[tuple[bytes, bytes]]) -> Scope | None:
        """Return the request as the application gets it; None if it has no valid secret."""
        first, slash, rest = scope["raw_path"].decode("latin-1")[1:].partition("/")
        if slash and first in self._passes:
            path = scope["path"].removeprefix(f"/{first}")
            raw_path = f"/{rest}".encode("latin-1")
            place = {"path": path, "raw_path": raw_path, "root_path": f"/{first}"}
            return {**scope, **place, ON_FAULT: self._passes.on_fault(first)}
        kind, _, token = dict(headers).get(b"authorization", b"").decode("latin-1").partition(" ")
        return scope if kind.lower() == "bearer" and token in self._passes else None


def objection(headers: Iterable[tuple[bytes, bytes]], port: int) -> str | None:
    """Return why a request does not come from a program on this machine, or None if it may.

    Args:
        headers: the request's headers, with their names in lower case.
        port: the TCP port on which the request came.
    """
    found: dict[bytes, bytes] = {}
    for name, value in headers:
        if name in SINGLE or name.startswith(b"sec-fetch-"):
            if name in found:
                return f"a request must not have two {name.decode('latin-1')} headers"
            found[name] = value
    host = found.get(b"host", b"")
    if host not in (f"{HOST}:{port}".encode(), f"localhost:{port}".encode()):
        return f"local mode answers to {HOST}:{port} only, not to {host.decode('latin-1')!r}"
    own = b"http://" + host
    site = [value for name, value in found.items() if name.startswith(b"sec-fetch-")]
    if (
        found.get(b"origin", own) != own
        or not (found.get(b"referer", own) + b"/").startswith(own + b"/")
        or (site and found.get(b"sec-fetch-site") not in (b"none", b"same-origin"))
    ):
        return "local mode does not answer requests from web pages"
    return None


def plain_http(app: ASGIApp, **settings: Any) -> uvicorn.Config:
    """Return uvicorn's settings for an application: HTTP only, without headers of a proxy."""
    return uvicorn.Config(app, http=OriginForm, ws="none", proxy_headers=False, **settings)


class OriginForm(HttpToolsProtocol):
    """uvicorn's HTTP, which refuses the form of request that clients send to a proxy.

    `GET http://elsewhere/path` can name another host than its `Host` header does, and an
    application of uvicorn sees only the path.
    """

    def on_headers_complete(self) -> None:
        if not self.url.startswith(b"/"):
            raise ValueError("not a path")  # answered with 400
        super().on_headers_complete()

    def _unsupported_upgrade_warning(self) -> None:
        """Do not warn: a request for a WebSocket is answered like any other."""
