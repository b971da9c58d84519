"""Sockets that listen on this machine only."""

from __future__ import annotations

import errno
import socket
from contextlib import suppress
from urllib.parse import urlsplit

from vertex_local.config import HOST, LocalModeError


def listen(port: int, preferred_url: str = "") -> socket.socket:
    """Return a socket that listens on the loopback interface.

    Args:
        port: TCP port; 0 takes any free one.
        preferred_url: with port 0, take the port of this URL if it is free.

    Raises:
        LocalModeError: if the port is taken or not allowed.
    """
    if not 0 <= port <= 65535:
        raise LocalModeError(f"There is no port {port}. Choose one from 1024 to 65535.")
    if port == 0 and preferred_url:
        with suppress(OSError, ValueError):  # it is taken, or the URL is damaged
            return _server(urlsplit(preferred_url).port or 0)
    try:
        return _server(port)
    except OSError as err:
        if err.errno == errno.EADDRINUSE:
            raise LocalModeError(
                f"Port {port} on {HOST} is in use by another program. Choose another port, or "
                "leave the option out: local mode then takes a free one."
            ) from err
        raise LocalModeError(
            f"Local mode cannot listen on port {port} ({err.strerror}). Choose one from 1024 to "
            "65535, or leave the option out: local mode then takes a free one."
        ) from err


def _server(port: int) -> socket.socket:
    listener = socket.create_server((HOST, port))
    # Connections inherit it. Without it, each answer in two pieces waits 40 ms for the client.
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listener


def url(listener: socket.socket) -> str:
    """Return the base URL of a listening socket."""
    return f"http://{HOST}:{number(listener)}"


def number(listener: socket.socket) -> int:
    """Return the TCP port of a listening socket."""
    return int(listener.getsockname()[1])
