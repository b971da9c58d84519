"""The way of gRPC clients to local mode: a proxy that leads Google's host names to this machine.

The address of a gRPC client is a host name of Google's, over TLS; no variable changes it. But
gRPC honours `grpc_proxy`: it asks the proxy there to CONNECT it to that name. This one connects it
to local mode's gRPC service instead, and to any other name as any proxy would.
"""

from __future__ import annotations

import base64
import re
import selectors
import socket
import threading
from contextlib import ExitStack, closing, suppress

from vertex_local.config import HOST
from vertex_local.server.access import Passes
from vertex_local.server.account import GOOGLE

REQUEST = re.compile(rb"CONNECT ([\w.-]+):(\d{1,5}) HTTP/1\.[01]\r\n")
MAX_REQUEST_BYTES = 8192
PIECE_BYTES = 1 << 16
SECONDS = 30.0  # for a request to come, and for another host to answer


class Tunnel:
    """A context manager that serves the proxy in threads of its own.

    Args:
        listener: the socket to answer on.
        passes: one of these secrets is the password that clients must give.
        target: port of the gRPC service on this machine.
        users: is told as whom clients come to it, by the port from which they are led there.
    """

    def __init__(
        self, listener: socket.socket, passes: Passes, target: int, users: dict[int, str]
    ) -> None:
        self._listener, self._passes, self._target = listener, passes, target
        self._users = users
        self._thread = threading.Thread(target=self._serve, name="tunnel", daemon=True)

    def __enter__(self) -> Tunnel:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join()

    def _serve(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:  # closed: the server ends
                return
            threading.Thread(target=self._guide, args=(client,), daemon=True).start()

    def _guide(self, client: socket.socket) -> None:
        """Connect a client to where it wants to go, until one side has enough."""
        with closing(client), suppress(OSError), ExitStack() as opened:
            client.settimeout(SECONDS)
            request = _head(client)
            match = REQUEST.match(request)
            user = self._user(request)
            if match is None or user is None:
                client.sendall(b"HTTP/1.1 407 Proxy Authentication Required\r\n\r\n")
                return
            host, port = match[1].decode(), int(match[2])
            if f".{host}".endswith(f".{GOOGLE}"):
                host, port = HOST, self._target
            other = opened.enter_context(socket.create_connection((host, port), SECONDS))
            source = other.getsockname()[1]
            self._users[source] = user
            opened.callback(self._users.pop, source)
            client.sendall(b"HTTP/1.1 200 Connection established\r\n\r\n")
            _exchange(client, other)

    def _user(self, request: bytes) -> str | None:
        """Return the name that a client gives with the right password; None if it has neither."""
        given = re.search(rb"\r\nproxy-authorization: *basic +([\w+/=]+)\r\n", request, re.I)
        if given is None:
            return None
        name, _, password = base64.b64decode(given[1] + b"==").decode("latin-1").partition(":")
        return name if password in self._passes else None


def _head(client: socket.socket) -> bytes:
    """Return a request up to its empty line."""
    request = b""
    while b"\r\n\r\n" not in request and len(request) < MAX_REQUEST_BYTES:
        data = client.recv(MAX_REQUEST_BYTES)
        if not data:
            break
        request += data
    return request


def _exchange(one: socket.socket, other: socket.socket) -> None:
    """Pass on what each side sends, until one of them ends."""
    with selectors.DefaultSelector() as selector:
        for source, target in ((one, other), (other, one)):
            source.settimeout(None)
            selector.register(source, selectors.EVENT_READ, target)
        while True:
            for key, _ in selector.select():
                data = key.fileobj.recv(PIECE_BYTES)  # type: ignore[union-attr]
                if not data:
                    return
                key.data.sendall(data)
