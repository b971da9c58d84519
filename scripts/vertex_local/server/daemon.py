"""The server seen from outside: start it in the background, find it, stop it.

Imports nothing heavy, so that `vertex-local status` and a starting kernel answer quickly.
"""

from __future__ import annotations

import hmac
import http.client
import os
import signal
import subprocess
import sys
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any
from urllib.parse import urlsplit

from vertex_local import secret
from vertex_local.config import HOST, LocalModeError, Root, ServerRecord, open_private, unusable
from vertex_local.secret import Key
from vertex_local.server import lock, ports
from vertex_local.server.identity import identity

START_SECONDS = 90.0  # a cold start imports the Google SDK, which a busy machine does slowly
STOP_SECONDS = 20.0
OTHER_SECONDS = 10.0  # from the lock to the first answer of a server that another process started
POLL_SECONDS = 0.05
ANSWER_SECONDS = 5.0
ANSWER_BYTES = 1000  # the right answer has 64; another program may send any number
# Kept, because Popen warns if it is garbage-collected while its process runs; a server may outlive
# this process.
_started: list[subprocess.Popen[bytes]] = []

ALREADY_SERVED = 4  # exit status of a server that found its root locked by another one


def find(root: Root) -> ServerRecord | None:
    """Return the record of the server that serves `root` now, or None.

    All of these must hold: the root's lock is held, the recorded process is still the same one and
    this user's, and the program that answers on the recorded port has the root's key.

    Raises:
        LocalModeError: if another user owns the root or may write to it.
    """
    with suppress(OSError):  # there is no such folder
        root.check_owner()
    record, key = ServerRecord.read(root.record), Key.read(root)
    if record is None or key is None or not lock.is_held(root):
        return None
    if identity(record.pid) != record.process or not proves_itself(record.api_url, key):
        return None
    return record


def proves_itself(url: str, key: Key) -> bool:
    """Return whether the program that answers at `url` has the key. No secret is sent to it."""
    nonce, parts = secret.new_nonce(), urlsplit(url)
    address = f"http://{HOST}:{parts.port}/healthz?nonce={nonce}"
    try:
        with ask(address, ANSWER_SECONDS) as response:
            answer: str = response.read(ANSWER_BYTES).decode("latin-1")
    except (OSError, http.client.HTTPException, ValueError):
        return False
    return hmac.compare_digest(answer.encode(), key.proof(parts.port or 0, nonce).encode())


def ask(url: str | urllib.request.Request, seconds: float) -> Any:
    """Open a URL of local mode directly: without a proxy, and without following redirects."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}), _NoRedirects)
    return opener.open(url, timeout=seconds)


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """Follows no redirect: local mode sends none, so it would be another program's."""

    def redirect_request(self, *_: Any, **__: Any) -> None:
        return None


def page_link(record: ServerRecord, page: str = "") -> str:
    """Return a link to the server's page, which works once.

    Args:
        record: the server.
        page: which page, such as `jobs/123`; "" for the list of jobs.

    Raises:
        LocalModeError: if the server does not answer.
    """
    url = f"{record.api_url}/console-link?{urllib.parse.urlencode({'page': page})}"
    headers = {"Authorization": f"Bearer {record.token}"}
    try:
        with ask(urllib.request.Request(url, b"", headers), 5) as response:
            return str(response.read().decode())
    except OSError as err:
        raise LocalModeError(
            f"Local mode's server does not give a link to its page: {err}"
        ) from err


def start(root: Root, api_port: int = 0, storage_port: int = 0) -> ServerRecord:
    """Start a server in the background and return once it answers.

    Raises:
        LocalModeError: if one is running for this root already, or it cannot start.
    """
    if running := find(root):
        raise LocalModeError(
            f"Local mode is already running for {root.path} (process {running.pid}, "
            f"{running.api_url}). Use it as it is, or stop it first with `vertex-local down`."
        )
    for port in (api_port, storage_port):
        ports.listen(port).close()  # a port in use is reported now, not after slow imports
    return _launch(root, api_port, storage_port)


def ensure(root: Root) -> ServerRecord:
    """Return the record of the running server, starting one if there is none.

    Raises:
        LocalModeError: if none is running and none can be started.
    """
    return find(root) or _launch(root, 0, 0)


@contextmanager
def running(root: Root) -> Iterator[ServerRecord]:
    """Yield the record of a running server; one that was started here is stopped at the end.

    Raises:
        LocalModeError: if none is running and none can be started.
    """
    found = find(root)
    record = found or ensure(root)
    try:
        yield record
    finally:
        if found is None:
            stop(root)


def _launch(root: Root, api_port: int, storage_port: int) -> ServerRecord:
    root.create()
    process, log_start = _spawn(root, api_port, storage_port)
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        if record := find(root):  # ours, or that of another caller who was a moment faster
            return record
        if process.poll() == ALREADY_SERVED:
            if not lock.is_held(root):
                return _launch(root, api_port, storage_port)  # the other one has ended
            deadline = min(deadline, time.monotonic() + OTHER_SECONDS)
        elif process.poll() is not None:
            raise LocalModeError(_last_words(root, log_start))
        time.sleep(POLL_SECONDS)
    if process.poll() == ALREADY_SERVED:
        raise LocalModeError(_does_not_answer(root))
    process.kill()
    raise LocalModeError(f"Local mode did not start within {START_SECONDS:g} s; see {root.log}.")


def _spawn(root: Root, api_port: int, storage_port: int) -> tuple[subprocess.Popen[bytes], int]:
    """Start the server's process; return it, and the byte at which its part of the log begins."""
    command = [sys.executable, "-m", "vertex_local", "up", "--foreground"]
    command += [f"--api-port={api_port}", f"--storage-port={storage_port}"]
    try:
        log = os.fdopen(open_private(root.log, os.O_WRONLY | os.O_APPEND), "ab")
    except OSError as err:
        raise unusable(root.log, err, "It is only for people to read. Delete it.") from err
    with log:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            cwd=root.path,
            env={**os.environ, "VERTEX_LOCAL_ROOT": str(root.path)},
            start_new_session=True,
        )
        _started.append(process)
        return process, os.fstat(log.fileno()).st_size


def _last_words(root: Root, log_start: int) -> str:
    """Return why the server ended: its last line, unless the disk has no room even for that."""
    lines = root.log.read_bytes()[log_start:].decode(errors="replace").strip().splitlines()
    if lines:
        return lines[-1].removeprefix("vertex-local: ")
    return str(
        unusable(root.log, Exception("empty"), f"Local mode could not start; see {root.log}.")
    )


def stop(root: Root) -> bool:
    """Stop the server of `root` with its jobs; return whether there was one.

    Raises:
        LocalModeError: if a server holds the root but does not answer, or does not end in time.
    """
    record = find(root)
    if record is None:
        _forget(0)
        if lock.is_held(root):
            raise LocalModeError(_does_not_answer(root))
        return False
    with suppress(ProcessLookupError):
        os.kill(record.pid, signal.SIGTERM)
    deadline = time.monotonic() + STOP_SECONDS
    while lock.is_held(root):
        if time.monotonic() > deadline:
            raise LocalModeError(
                f"The local-mode server (process {record.pid}) does not stop; end it with "
                f"`kill -9 {record.pid}`. Its jobs end with it."
            )
        time.sleep(POLL_SECONDS)
    _forget(record.pid)
    return True


def _does_not_answer(root: Root) -> str:
    number = root.lock.read_text(errors="replace").strip()
    return (
        f"A local-mode server (process {number}) holds {root.path}, but does not answer, or "
        f"{root.record} is damaged. If it stays so, end it with `kill -9 {number}`; its jobs end "
        "with it, and buckets and the records of jobs are kept."
    )


def _forget(pid: int) -> None:
    """Reap servers that this process started: the one that is just ending, and any dead ones."""
    for process in _started:
        if process.pid == pid:
            process.wait()
    _started[:] = [process for process in _started if process.poll() is None]
