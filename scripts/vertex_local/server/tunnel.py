"""A proxy that leads Google's host names to this machine, for clients that know no other address.

No variable changes the address of a gRPC client, or of a REST client built by hand. But they use
the proxy in `grpc_proxy` or `https_proxy`, and ask it to CONNECT them to Google's host. This proxy
connects them to local mode instead. To any other host it connects them like every proxy, through
this machine's own proxy if it has one.
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
MAX_HELLO_BYTES = 5 + (1 << 14)  # a TLS record: its header, and its content
PIECE_BYTES = 1 << 16
ESTABLISHED = b"HTTP/1.1 200 Connection established\r\n\r\n"
SECONDS = 30.0  # limit for a client to send its request, and for another host to answer


@dataclass(frozen=True)
class Targets:
    """The ports of the gRPC service and of the HTTPS front on this machine."""

    rpc: int
    https: int


class Tunnel:
    """A context manager that serves the proxy in threads of its own.

    Args:
        listener: the socket to answer on.
        passes: clients must give one of these secrets as password.
        targets: where connections to Google's host names lead.
        users: filled with the user name of each such connection, by its source port.
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
        """Connect a client to the host that it asks for, until one side closes the connection."""
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
        """Return the user name of a client that gives a valid password; None for any other."""
        given = re.search(rb"\r\nproxy-authorization: *basic +([\w+/=]+)\r\n", request, re.I)
        if given is None:
            return None
        name, _, password = base64.b64decode(given[1] + b"==").decode("latin-1").partition(":")
        return name if password in self._passes else None


def _head(client: socket.socket) -> bytes:
    """Return a request, or an answer, up to its empty line."""
    request = b""
    while b"\r\n\r\n" not in request and len(request) < MAX_REQUEST_BYTES:
        data = client.recv(MAX_REQUEST_BYTES)
        if not data:
            break
        request += data
    return request


def _hello(client: socket.socket) -> bytes:
    """Return the first TLS record of a client, which lists the protocols that it offers."""
    record = b""
    while len(record) < min(MAX_HELLO_BYTES, 5 + int.from_bytes(record[3:5], "big")):
        data = client.recv(MAX_HELLO_BYTES)
        if not data:
            break
        record += data
    return record


def _speaks_rpc(hello: bytes) -> bool:
    """Return whether a client offers HTTP/2 and no HTTP/1 (RFC 7301): only gRPC clients do."""
    return b"\x02h2" in hello and b"\x08http/1." not in hello


def _connection(host: str, port: int) -> socket.socket:
    """Connect to another host, directly or through this machine's own proxy.

    Raises:
        OSError: if it cannot be reached, or the proxy refuses.
    """
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
    """Forward what each side sends to the other, until one of them closes."""
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
