"""The server process of one root: storage and training API, from the first socket to the last."""

from __future__ import annotations

import os
import secrets
import signal
from contextlib import closing

import anyio.to_thread
import uvicorn

from vertex_local.config import Root, ServerRecord
from vertex_local.console import routes as console
from vertex_local.console.gate import Session
from vertex_local.console.routes import Console
from vertex_local.jobs import runner
from vertex_local.jobs.runner import Runner
from vertex_local.server import ports
from vertex_local.server.lock import exclusive
from vertex_local.storage import Buckets
from vertex_local.training.handlers import Service
from vertex_local.training.records import Records
from vertex_local.training.routes import application

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
        ports.listen(api_port, last.api_url if last else "") as api,
        ports.listen(storage_port, last.storage_url if last else "") as storage,
        Buckets(root, storage) as buckets,
        closing(Records(root.database)) as records,
    ):
        runner.recover(records)
        record = ServerRecord(
            os.getpid(), ports.url(api), ports.url(storage), secrets.token_urlsafe(32)
        )
        jobs = Runner(root, records, buckets.read, record.storage_url)
        service = Service(records, jobs)
        session = Session(record.api_url)
        app = application(service, record.token)
        app.router.routes.append(console.new_link(session))
        page = Console(service, buckets.objects, session, ports.number(api))
        server = _Server(
            uvicorn.Config(console.beside(page, app), log_level="warning", lifespan="off"), records
        )
        # uvicorn stops at SIGTERM and then raises it again; there is still cleaning up to do.
        signal.signal(signal.SIGTERM, lambda *_: None)
        try:
            record.write(root)
            server.run(sockets=[api])
        finally:
            jobs.stop()


class _Server(uvicorn.Server):
    """A uvicorn server that lets go of waiting requests when it has to stop."""

    def __init__(self, config: uvicorn.Config, records: Records) -> None:
        super().__init__(config)
        self._records = records

    async def startup(self, sockets: list | None = None) -> None:  # type: ignore[type-arg]
        anyio.to_thread.current_default_thread_limiter().total_tokens = MAX_WAITING_REQUESTS
        await super().startup(sockets)

    async def shutdown(self, sockets: list | None = None) -> None:  # type: ignore[type-arg]
        self._records.release_waiting()
        await super().shutdown(sockets)
