"""The way of clients that know only Google's host names: a proxy that leads these to this machine.

No variable changes the address of a gRPC client, or of a REST client built by hand. But they honour
`grpc_proxy` and `https_proxy`: they ask the proxy there to CONNECT them to that name. This one
connects them to local mode instead, and to any other name as any proxy would; where there is
another proxy on the way out, through that one.
"""

from __future__ import annotations

import base64
import re
import selectors
import socket
import threading
import urllib.request
from contextlib import ExitStack, closing, suppress
from dataclasses import dataclass
from urllib.parse import unquote, urlsplit

from vertex_local import config
from vertex_local.config import HOST
from vertex_local.server.access import Passes
from vertex_local.server.account import GOOGLE

REQUEST = re.compile(rb"CONNECT ([\w.-]+):(\d{1,5}) HTTP/1\.[01]\r\n")
MAX_REQUEST_BYTES = 8192
MAX_HELLO_BYTES = 5 + (1 << 14)  # a record of TLS: its head, and what it holds
PIECE_BYTES = 1 << 16
ESTABLISHED = b"HTTP/1.1 200 Connection established\r\n\r\n"
SECONDS = 30.0  # for a request to come, and for another host to answer


@dataclass(frozen=True)
class Targets:
    """Ports on this machine for Google's host names: of the gRPC service, and of HTTPS."""

    rpc: int
    https: int


class Tunnel:
    """A context manager that serves the proxy in threads of its own.

    Args:
        listener: the socket to answer on.
        passes: one of these secrets is the password that clients must give.
        targets: where Google's host names are on this machine.
        users: is told as whom clients come to it, by the port from which they are led there.
    """

    def __init__(
        self, listener: socket.socket, passes: Passes, targets: Targets, users: dict[int, str]
    ) -> None:
        self._listener, self._passes, self._targets = listener, passes, targets
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
            if not f".{host}".endswith(f".{GOOGLE}"):
                try:
                    other = opened.enter_context(_connection(host, port))
                except OSError as err:
                    client.sendall(f"HTTP/1.1 502 {err}\r\n\r\n".encode("latin-1", "replace"))
                    return
                client.sendall(ESTABLISHED)
                _exchange(client, other)
                return
            client.sendall(ESTABLISHED)
            hello = _hello(client)
            port = self._targets.rpc if _speaks_rpc(hello) else self._targets.https
            other = opened.enter_context(socket.create_connection((HOST, port), SECONDS))
            source = other.getsockname()[1]
            self._users[source] = user
            opened.callback(self._users.pop, source)
            other.sendall(hello)
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


def _hello(client: socket.socket) -> bytes:
    """Return the first record that a client sends over TLS, in which it says what it speaks."""
    record = b""
    while len(record) < min(MAX_HELLO_BYTES, 5 + int.from_bytes(record[3:5], "big")):
        data = client.recv(MAX_HELLO_BYTES)
        if not data:
            break
        record += data
    return record


def _speaks_rpc(hello: bytes) -> bool:
    """Return whether a client offers HTTP/2 alone, as only those of gRPC do (RFC 7301)."""
    return b"\x02h2" in hello and b"\x08http/1." not in hello


def _connection(host: str, port: int) -> socket.socket:
    """Connect to another host: directly, or through the proxy that this machine has for that."""
    proxy = urlsplit(config.way_out())
    if not proxy.hostname or urllib.request.proxy_bypass(host):
        return socket.create_connection((host, port), SECONDS)
    other = socket.create_connection((proxy.hostname, proxy.port or 80), SECONDS)
    request = f"CONNECT {host}:{port} HTTP/1.1\r\nHost: {host}:{port}\r\n"
    if proxy.username:
        given = f"{unquote(proxy.username)}:{unquote(proxy.password or '')}".encode()
        request += f"Proxy-Authorization: Basic {base64.b64encode(given).decode()}\r\n"
    try:
        other.sendall(f"{request}\r\n".encode())
        answer = _head(other).partition(b"\r\n")[0].decode("latin-1")
        if " 200" not in answer:
            raise OSError(f"{proxy.hostname} says {answer!r}")
    except OSError:
        other.close()
        raise
    return other


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
