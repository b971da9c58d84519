"""Google's own host names over HTTPS, for clients whose address cannot be changed.

The tunnel leads connections to `*.googleapis.com` here if they gave its password; other connections
are refused. The training API and Cloud Storage have the same paths as on Google Cloud; every other
service is refused by name.
"""

from __future__ import annotations

import asyncio
import os
import re
import socket
import ssl
import threading
from collections.abc import Mapping

import uvicorn
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

from vertex_local import errors, features
from vertex_local.config import Root, write_private
from vertex_local.jobs import starter
from vertex_local.server import access

TRAINING = re.compile(r"([a-z0-9-]+-)?aiplatform\.googleapis\.com")
STORAGE = re.compile(r"(storage|www)\.googleapis\.com")
REQUEST = re.compile(rb"[A-Z]+ /\S* HTTP/1\.1\r\n")
STORAGE_PATHS = re.compile(r"/((upload|download|resumable/upload|batch)/)?storage/")
STOP_SECONDS = 5  # how long requests may go on when the server stops


class FrontDoor:
    """A context manager that serves Google's host names in a thread of its own.

    Args:
        listener: the socket to answer on.
        training: the training API.
        storage: Cloud Storage.
        users: the user name that each connection gave to the tunnel, by its source port.
        context: TLS with the certificate for `*.googleapis.com`.
    """

    def __init__(
        self,
        listener: socket.socket,
        training: ASGIApp,
        storage: ASGIApp,
        users: Mapping[int, str],
        context: ssl.SSLContext,
    ) -> None:
        self._training, self._storage, self._users = training, storage, users
        config = uvicorn.Config(
            self._answer,
            interface="asgi3",
            http=OldForm,
            ws="none",
            proxy_headers=False,
            log_level="warning",
            lifespan="off",
            timeout_graceful_shutdown=STOP_SECONDS,
        )
        config.load()
        config.ssl = context
        self._server = uvicorn.Server(config)
        serve = self._server.serve(sockets=[listener])
        self._thread = threading.Thread(target=asyncio.run, args=(serve,), name="front")

    def __enter__(self) -> FrontDoor:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.should_exit = True
        self._thread.join()

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        user = self._users.get((scope["client"] or ("", 0))[1])
        hosts = [value.decode("latin-1") for name, value in scope["headers"] if name == b"host"]
        host = hosts[0].removesuffix(":443") if len(hosts) == 1 else ""
        path = scope["path"]
        if user is None:
            await errors.response(access.NO_TOKEN)(scope, receive, send)
        elif TRAINING.fullmatch(host):
            prefix = starter.address("", user)
            raw_path = prefix.encode() + scope["raw_path"]
            await self._training(
                {**scope, "path": prefix + path, "raw_path": raw_path}, receive, send
            )
        elif STORAGE.fullmatch(host) and (host[0] == "s" or STORAGE_PATHS.match(path)):
            await self._storage(scope, receive, _capitals(send))
        else:
            refusal = errors.Unimplemented(features.of_host(host))
            await errors.response(refusal)(scope, receive, send)


def _capitals(send: Send) -> Send:
    """Return `send` with header names that begin with capitals: TensorFlow reads no others."""

    async def sending(message: Message) -> None:
        if message["type"] == "http.response.start":
            message["headers"] = [(name.title(), value) for name, value in message["headers"]]
        await send(message)

    return sending


class OldForm(H11Protocol):
    """HTTP for TensorFlow: without its `Transfer-Encoding: identity`, obsolete since RFC 7230."""

    def data_received(self, data: bytes) -> None:
        head, end, body = data.partition(b"\r\n\r\n")
        if REQUEST.match(head):  # else it is a piece of a body
            head = head.replace(b"\r\nTransfer-Encoding: identity", b"")
        super().data_received(head + end + body)


def server_context(root: Root, identity: tuple[bytes, bytes]) -> ssl.SSLContext:
    """Return the TLS context of a server with this private key and certificate, in PEM."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    path = root.path / "identity.pem"  # OpenSSL reads it from a file only
    write_private(path, b"".join(identity).decode())
    try:
        context.load_cert_chain(path)
    finally:
        os.unlink(path)
    return context
