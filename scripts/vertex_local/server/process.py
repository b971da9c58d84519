"""The server process of one root: opens the sockets, serves both APIs, and ends the jobs."""

from __future__ import annotations

import os
import signal
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import anyio.to_thread
import uvicorn
from starlette.types import ASGIApp

from vertex_local import config, secret
from vertex_local.config import HOST, Root, ServerRecord, unusable
from vertex_local.console import routes as console
from vertex_local.console.gate import Session
from vertex_local.console.routes import Console
from vertex_local.faults.store import Faults
from vertex_local.jobs import reaper, runner
from vertex_local.jobs.runner import Runner
from vertex_local.registry.store import Registry
from vertex_local.secret import Key
from vertex_local.server import access, ports
from vertex_local.server.access import Gate, Passes
from vertex_local.server.account import Account, certificate
from vertex_local.server.front import FrontDoor, server_context
from vertex_local.server.identity import identity
from vertex_local.server.lock import exclusive
from vertex_local.server.rpc import RpcService
from vertex_local.server.tunnel import Targets, Tunnel
from vertex_local.storage import Buckets
from vertex_local.storage.api.faults import Note
from vertex_local.storage.api.routes import application as storage_application
from vertex_local.storage.objects import Objects
from vertex_local.training.handlers import Service, register_model
from vertex_local.training.records import Records
from vertex_local.training.routes import application
from vertex_local.tuning.tuner import Tuner

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
    reaper.adopt_orphans()
    os.umask(0o077)  # only the owner may read what this process and its jobs write
    for name in ("https_proxy", "HTTPS_PROXY"):
        if config.SECRET in os.environ.get(name, ""):  # a kernel restarts the server: not ours
            os.environ[name] = config.way_out()
    root.create()
    try:
        _serve(root, api_port, storage_port)
    except (OSError, sqlite3.Error) as err:
        path = Path(getattr(err, "filename2", None) or getattr(err, "filename", None) or root.path)
        raise unusable(path, err, "Move it away, or run `vertex-local doctor`.") from err


def _serve(root: Root, api_port: int, storage_port: int) -> None:
    last = ServerRecord.read(root.record)  # clients of running notebooks use its ports
    with (
        exclusive(root),
        ports.listen(api_port, last.api_url if last else "") as api,
        ports.listen(storage_port, last.storage_url if last else "") as storage,
        ports.listen(0, f"//{last.tunnel}" if last else "") as tunnel,
        closing(Records(root.database)) as records,
        closing(Registry(root.database)) as registry,
    ):
        key, token = Key.of(root), secret.new()
        in_path = key.in_path(ports.number(storage))
        passes, address = Passes(in_path, token), ports.url(storage)

        def behind_gate(app: ASGIApp, **settings: Any) -> uvicorn.Config:
            gate = Gate(app, ports.number(storage), key, passes, access.MOVED)
            return access.plain_http(gate, **settings)

        account = Account(root, f"{ports.url(api)}/{token}/token")
        users: dict[int, str] = {}
        certified = certificate(root)
        with (
            ports.listen(0) as front,
            Buckets(root, storage, behind_gate) as buckets,
            RpcService(ports.url(api), token, account, certified, users) as rpc,
        ):
            runner.recover(records)
            jobs = Runner(root, records, buckets.read, partial(_lent, passes, address))
            tuner = Tuner(records, jobs)
            process = str(identity(os.getpid()))
            record = ServerRecord(
                os.getpid(),
                process,
                ports.url(api),
                f"{address}/{in_path}",
                token,
                f"{HOST}:{ports.number(tunnel)}",
            )
            service = Service(records, jobs, tuner, registry)
            jobs.on_success = partial(register_model, service)
            app = _application(service, buckets.objects, ports.number(api), key, token)
            door = FrontDoor(
                front,
                application(service),
                storage_application(buckets.objects, Faults(root)),
                users,
                server_context(root, certified),
            )
            targets = Targets(rpc.port, ports.number(front))
            server = _Server(access.plain_http(app, lifespan="off", log_level="warning"), records)
            # uvicorn stops at SIGTERM, and then raises it again: ignore it, and clean up.
            signal.signal(signal.SIGTERM, lambda *_: None)
            with door, Tunnel(tunnel, passes, targets, users):
                try:
                    record.write(root)
                    tuner.resume()
                    server.run(sockets=[api])
                finally:
                    tuner.stop()
                    jobs.stop()


def _application(service: Service, objects: Objects, port: int, key: Key, token: str) -> ASGIApp:
    """Return the training API behind its gate, and beside it the page, which has its own gate."""
    proxy = config.proxy()
    session = Session(port, f"{proxy}/proxy/{port}" if proxy else "")
    page = Console(service, objects, session)
    api = application(service)
    api.router.routes.append(console.new_link(page))
    gate = Gate(api, port, key, Passes(token), access.NO_TOKEN)
    return console.beside(page, gate)


@contextmanager
def _lent(passes: Passes, address: str, on_fault: Note) -> Iterator[str]:
    """Yield a URL of Cloud Storage for one job, which is valid until the context ends.

    So it does no harm that a log shows it afterwards.
    """
    with passes.lent(on_fault) as in_path:
        yield f"{address}/{in_path}"


class _Server(uvicorn.Server):
    """A uvicorn server that answers waiting requests at once when it has to stop."""

    def __init__(self, config: uvicorn.Config, records: Records) -> None:
        super().__init__(config)
        self._records = records

    async def startup(self, sockets: list | None = None) -> None:  # type: ignore[type-arg]
        anyio.to_thread.current_default_thread_limiter().total_tokens = MAX_WAITING_REQUESTS
        await super().startup(sockets)

    async def shutdown(self, sockets: list | None = None) -> None:  # type: ignore[type-arg]
        self._records.release_waiting()
        await super().shutdown(sockets)
