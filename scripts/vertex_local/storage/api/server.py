"""The storage server of one root: the application, in a thread of its own, on a given socket."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Callable

import uvicorn

from vertex_local.config import Root
from vertex_local.faults.store import Faults
from vertex_local.storage.api.routes import application
from vertex_local.storage.errors import StorageError
from vertex_local.storage.objects import Objects

STOP_SECONDS = 5  # how long requests may go on when the server stops
KEEP_ALIVE_SECONDS = 75  # longer than clients keep an idle connection


class Buckets:
    """The storage server of one root, a context manager.

    Args:
        root: its `buckets` folder holds the data.
        listener: the socket to answer on.
        configure: returns uvicorn's settings for an application; may put a gate around it.

    Raises:
        LocalModeError: if the metadata of the buckets cannot be read.
    """

    def __init__(
        self,
        root: Root,
        listener: socket.socket,
        configure: Callable[..., uvicorn.Config] = uvicorn.Config,
    ) -> None:
        self.objects = Objects(root)
        config = configure(
            application(self.objects, Faults(root)),
            log_level="warning",
            access_log=False,
            lifespan="off",
            timeout_keep_alive=KEEP_ALIVE_SECONDS,
            timeout_graceful_shutdown=STOP_SECONDS,
        )
        self._listener = listener
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._serve, name="storage")

    def read(self, uri: str) -> bytes:
        """Return the bytes of a `gs://` object; raise FileNotFoundError if there is none."""
        bucket, _, name = uri.removeprefix("gs://").partition("/")
        try:
            file, _ = self.objects.open(bucket, name)
        except StorageError:
            raise FileNotFoundError(f"there is no object {uri}") from None
        with file:
            return file.read()

    def _serve(self) -> None:
        asyncio.run(self._server.serve(sockets=[self._listener]))

    def __enter__(self) -> Buckets:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.should_exit = True
        self._thread.join()
        self.objects.close()
