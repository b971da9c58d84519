"""Cloud Storage on this machine: the `gcp-storage-emulator` package, kept on disk and private.

The emulator does the work. What is added here is what local mode must not do without: it binds in
the caller, keeps requests of web pages out, refuses bucket names that Cloud Storage would refuse,
has no URL that deletes everything, and never leaves half a metadata file behind.
"""

from __future__ import annotations

import io
import json
import os
import re
import socket
import threading
from collections.abc import Callable
from functools import partial
from http import HTTPStatus
from http.server import ThreadingHTTPServer

from vertex_local import loopback
from vertex_local.config import PROJECT_NUMBER, LocalModeError, Root

# The emulator reads the name of its folder from this variable when it is imported.
os.environ["STORAGE_DIR"] = "buckets"
from gcp_storage_emulator.exceptions import NotFound
from gcp_storage_emulator.server import RequestHandler
from gcp_storage_emulator.storage import Storage, _FileStore

SOCKET_TIMEOUT_SECONDS = 60
RULES = "https://cloud.google.com/storage/docs/buckets#naming"


def bucket_name_problem(name: str) -> str | None:
    """Return why Cloud Storage refuses this bucket name, or None if it is well-formed.

    Source: the bucket naming rules, https://cloud.google.com/storage/docs/buckets#naming.
    """
    if not 3 <= len(name) <= 63 and "." not in name:
        return "it must have 3 to 63 characters"
    if not re.fullmatch(r"[a-z0-9]([a-z0-9._-]*[a-z0-9])?", name):
        return (
            "it may contain only lowercase letters, digits, dashes, underscores and dots, and "
            "must begin and end with a letter or a digit"
        )
    if any(not 1 <= len(part) <= 63 for part in name.split(".")) or len(name) > 222:
        return "each part between dots must have 1 to 63 characters, all together at most 222"
    if re.fullmatch(r"\d+\.\d+\.\d+\.\d+", name):
        return "it must not look like an IP address"
    if name.startswith("goog") or "google" in name or "g00gle" in name:
        return "it must not begin with 'goog' or contain 'google'"
    return None


class _AtomicFiles(_FileStore):  # type: ignore[misc]  # the emulator has no type information
    """The emulator's files, each visible completely or not at all."""

    def write_bytes(self, rel: str, content: bytes) -> None:
        """Write beside the buckets, then rename into place."""
        target = self._disk_path(rel)
        target.parent.mkdir(parents=True, exist_ok=True)
        partial_file = self._disk_path(".partial")
        partial_file.write_bytes(content)
        os.replace(partial_file, target)


class _Storage(Storage):  # type: ignore[misc]
    """The emulator's state, on files that a killed server cannot truncate."""

    def __init__(self, root: Root) -> None:
        super().__init__(data_dir=str(root.path), project_number=PROJECT_NUMBER)
        self._store = _AtomicFiles(use_memory=False, root=root.buckets)


class _Handler(RequestHandler):  # type: ignore[misc]
    """Lets a request through to the emulator if it comes from this machine's own clients."""

    timeout = SOCKET_TIMEOUT_SECONDS
    one_at_a_time = threading.Lock()  # the emulator's state is not made for several threads

    def parse_request(self) -> bool:
        """Return whether the request may be handled; otherwise the refusal is already sent."""
        if not super().parse_request():
            return False
        path = self.path.split("?")[0]
        refusal = loopback.refusal(self.headers)
        if refusal:
            return self._refuse(HTTPStatus.FORBIDDEN, refusal)
        if path == "/wipe":  # one GET must not be able to delete everything
            return self._refuse(HTTPStatus.NOT_FOUND, "`vertex-local reset` empties local mode")
        if (self.command, path) == ("POST", "/storage/v1/b"):
            return self._new_bucket_allowed()
        return True

    def _new_bucket_allowed(self) -> bool:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.rfile: io.BufferedIOBase = io.BytesIO(body)  # for the emulator, which reads it again
        try:
            name = str(json.loads(body)["name"])
        except (ValueError, KeyError, TypeError):
            return self._refuse(HTTPStatus.BAD_REQUEST, "Required parameter: name")
        problem = bucket_name_problem(name)
        if problem:
            message = f"Invalid bucket name: '{name}': {problem}. The rules: {RULES}"
            return self._refuse(HTTPStatus.BAD_REQUEST, message)
        return True

    def _refuse(self, status: HTTPStatus, message: str) -> bool:
        body = json.dumps({"error": {"code": status.value, "message": message}}).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
        return False

    def _answer(self, method: Callable[[], None]) -> None:
        with self.one_at_a_time:
            method()

    def do_GET(self) -> None:
        self._answer(super().do_GET)

    def do_POST(self) -> None:
        self._answer(super().do_POST)

    def do_PUT(self) -> None:
        self._answer(super().do_PUT)

    def do_PATCH(self) -> None:
        self._answer(super().do_PATCH)

    def do_DELETE(self) -> None:
        self._answer(super().do_DELETE)


class Buckets:
    """The storage server of one root, a context manager.

    Args:
        root: its `buckets` folder holds the data.
        listener: the socket to answer on.

    Raises:
        LocalModeError: if the emulator's metadata cannot be read.
    """

    def __init__(self, root: Root, listener: socket.socket) -> None:
        try:
            self._storage = _Storage(root)
        except ValueError as err:
            raise LocalModeError(
                f"{root.buckets / '.meta'} is damaged ({err}), so local mode cannot tell which "
                "objects exist. Save what you need from the folders beside it, then run "
                "`vertex-local reset`."
            ) from err
        self._server = ThreadingHTTPServer(
            listener.getsockname(), partial(_Handler, self._storage), bind_and_activate=False
        )
        self._server.socket.close()
        self._server.socket = listener
        self._thread = threading.Thread(target=self._server.serve_forever, name="storage")

    def read(self, uri: str) -> bytes:
        """Return the bytes of a `gs://` object; raise FileNotFoundError if there is none."""
        bucket, _, name = uri.removeprefix("gs://").partition("/")
        try:
            with _Handler.one_at_a_time:
                content: bytes = self._storage.get_file(bucket, name, show_error=False)
        except (NotFound, ValueError):
            raise FileNotFoundError(f"there is no object {uri}") from None
        return content

    def __enter__(self) -> Buckets:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
