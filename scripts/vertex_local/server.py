"""The server process of one root: storage and training API, from the first socket to the last."""

from __future__ import annotations

import os
import secrets
import signal
from contextlib import closing

import anyio.to_thread
import uvicorn

from vertex_local import loopback
from vertex_local.config import Root, ServerRecord
from vertex_local.handlers import Service
from vertex_local.jobs import runner
from vertex_local.jobs.runner import Runner
from vertex_local.lock import exclusive
from vertex_local.routes import application
from vertex_local.storage import Buckets
from vertex_local.store import Store

MAX_WAITING_REQUESTS = 200  # a GET of an active job waits in a thread of its own


def serve(root: Root, api_port: int, storage_port: int) -> None:
    """Serve `root` until SIGTERM or Ctrl-C, then end all jobs.

    Args:
        root: the folder to serve; created if it is missing.
        api_port: TCP port of the training API; 0 takes any free one.
        storage_port: TCP port of Cloud Storage; 0 takes any free one.

    Raises:
        LocalModeError: if the folder cannot be used or a port is taken.
    """
    root.create()
    last = ServerRecord.read(root.record)  # its ports are in the clients of running notebooks
    with (
        exclusive(root),
        loopback.listen(api_port, last.api_url if last else "") as api,
        loopback.listen(storage_port, last.storage_url if last else "") as storage,
        Buckets(root, storage) as buckets,
        closing(Store(root.database)) as store,
    ):
        runner.recover(store)
        record = ServerRecord(
            os.getpid(), loopback.url(api), loopback.url(storage), secrets.token_urlsafe(32)
        )
        jobs = Runner(root, store, buckets.read, record.storage_url)
        app = application(Service(store, jobs), record.token)
        server = _Server(uvicorn.Config(app, log_level="warning", lifespan="off"), store)
        # uvicorn stops at SIGTERM and then raises it again; there is still cleaning up to do.
        signal.signal(signal.SIGTERM, lambda *_: None)
        try:
            record.write(root)
            server.run(sockets=[api])
        finally:
            jobs.stop()


class _Server(uvicorn.Server):
    """A uvicorn server that lets go of waiting requests when it has to stop."""

    def __init__(self, config: uvicorn.Config, store: Store) -> None:
        super().__init__(config)
        self._store = store

    async def startup(self, sockets: list | None = None) -> None:  # type: ignore[type-arg]
        anyio.to_thread.current_default_thread_limiter().total_tokens = MAX_WAITING_REQUESTS
        await super().startup(sockets)

    async def shutdown(self, sockets: list | None = None) -> None:  # type: ignore[type-arg]
        self._store.release_waiting()
        await super().shutdown(sockets)
