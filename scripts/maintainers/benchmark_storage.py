"""Measure local mode's Cloud Storage against the package gcp-storage-emulator, in one run.

    python scripts/maintainers/benchmark_storage.py            # some minutes, about 4 GB of disk
    python scripts/maintainers/benchmark_storage.py --smoke    # small numbers, for a test

Ratios depend less on the machine than seconds do; both sides of a ratio are measured in one run.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path

import requests

THREADS = 8
TURNS = 10
CONTENT = b"x" * 1000
OURS = """
import sys
from pathlib import Path
from vertex_local.config import Root
from vertex_local.secret import Key
from vertex_local.server import access, ports
from vertex_local.storage import Buckets
root = Root(Path(sys.argv[1])); root.create()
with ports.listen(0) as listener:
    key, port = Key.of(root), ports.number(listener)
    def guarded(app, **settings):
        gate = access.Gate(app, port, key, access.Passes(key.in_path(port)), access.MOVED)
        return access.plain_http(gate, **settings)
    with Buckets(root, listener, guarded):
        print(f"{ports.url(listener)}/{key.in_path(port)}", flush=True)
        sys.stdin.read()
"""
OPEN = OURS.replace("listener, guarded", "listener")  # lets everybody in
OPEN = OPEN.replace("{ports.url(listener)}/{key.in_path(port)}", "{ports.url(listener)}")
# Answers at once with the bytes that the client needs, so all the time is the client's.
NOTHING = """
import asyncio, base64, hashlib, sys
BODY = b"x" * 1000
MD5 = base64.b64encode(hashlib.md5(BODY).digest()).decode()
NAME = b'{"name": "small-objects"}'
class Answers(asyncio.Protocol):
    def connection_made(self, transport):
        self.transport, self.data = transport, b""
    def data_received(self, data):
        self.data += data
        head, end, body = self.data.partition(b"\\r\\n\\r\\n")
        _, _, length = head.lower().partition(b"content-length:")
        if not end or len(body) < int(length.split()[0] if length else 0):
            return
        self.data, content = b"", BODY if head.startswith(b"GET") else NAME
        answer = f"HTTP/1.1 200 OK\\r\\nContent-Length: {len(content)}\\r\\nX-Goog-Hash: md5={MD5}"
        kind = "application/json" if content is NAME else "text/plain"
        self.transport.write(f"{answer}\\r\\nContent-Type: {kind}\\r\\n\\r\\n".encode() + content)
async def main():
    loop = asyncio.get_running_loop()
    server = await loop.create_server(Answers, "127.0.0.1", 0)
    print("http://%s:%d" % server.sockets[0].getsockname(), flush=True)
    await loop.run_in_executor(None, sys.stdin.read)
asyncio.run(main())
"""
PUBLISHED = """
import os, sys
os.environ["STORAGE_DIR"] = os.path.basename(sys.argv[1])
from gcp_storage_emulator.server import create_server
server = create_server("127.0.0.1", 0, in_memory=False, data_dir=os.path.dirname(sys.argv[1]))
server.start()
port = server._api._httpd.socket.getsockname()[1]
print(f"http://127.0.0.1:{port}", flush=True)
sys.stdin.read()
server.stop()
"""

SERVERS = {"nothing": NOTHING, "published": PUBLISHED, "without gate": OPEN, "ours": OURS}


@contextmanager
def server(code: str, folder: Path) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """Run one of SERVERS on a folder; yield its URL and process."""
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(folder)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert process.stdin and process.stdout  # because they are pipes
    try:
        yield process.stdout.readline().strip(), process
    finally:
        process.stdin.close()
        try:
            process.wait(15)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        process.stdout.close()


def seconds(work: Callable[[], object]) -> float:
    """Return how long `work` takes."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


class Client:
    """Google's client of one server, used by several threads; adds up their seconds."""

    def __init__(self, url: str) -> None:
        from google.auth.credentials import AnonymousCredentials
        from google.cloud import storage

        client = storage.Client(
            project="benchmark",
            credentials=AnonymousCredentials(),
            client_options={"api_endpoint": url},
        )
        self._bucket = client.create_bucket("small-objects")
        self.uploads = self.downloads = 0.0

    def turn(self, numbers: range) -> None:
        """Upload some small objects, and download them again."""
        with ThreadPoolExecutor(THREADS) as pool:
            self.uploads += seconds(lambda: list(pool.map(self._up, numbers)))
            self.downloads += seconds(lambda: list(pool.map(self._down, numbers)))

    def _up(self, number: int) -> None:
        self._bucket.blob(f"folder/{number:06}").upload_from_string(CONTENT)

    def _down(self, number: int) -> None:
        assert self._bucket.blob(f"folder/{number:06}").download_as_bytes() == CONTENT


def compare(folder: Path, count: int) -> None:
    """Print how long small objects take on each of SERVERS.

    They take turns, so that other work of this machine slows all of them down.
    """
    clients = {}
    with ExitStack() as running:
        for label, code in SERVERS.items():
            start = time.perf_counter()
            url, _ = running.enter_context(server(code, folder / label))
            print(f"{label}: starts in {time.perf_counter() - start:.2f} s")
            clients[label] = Client(url)
        for first in range(0, count, count // TURNS):
            for client in clients.values():
                client.turn(range(first, first + count // TURNS))
    nothing, published, without_gate, ours = clients.values()
    for label, client in clients.items():
        print(
            f"{label}: {count} uploads {client.uploads:.2f} s, downloads {client.downloads:.2f} s"
        )
    for kind in ("uploads", "downloads"):
        best, old, new = (getattr(client, kind) for client in (nothing, published, ours))
        print(
            f"small {kind}: {old / new:.1f} x as fast as published; a server that does nothing: "
            f"{old / best:.1f} x, because Google's client needs the rest"
        )
    both = (ours.uploads + ours.downloads) / (without_gate.uploads + without_gate.downloads)
    print(f"with the gate: {both:.3f} x the time without it (promised: at most 1.03 x)")
    total = (published.uploads + published.downloads) / (ours.uploads + ours.downloads)
    print(f"both: {total:.1f} x as fast as published (promised: at least 3 x)")


def large_object(url: str, process: subprocess.Popen[str], folder: Path, size: int) -> None:
    """Print how one large object compares with copying the file, and the server's memory."""
    source, copy, back = folder / "source", folder / "copy", folder / "back"
    with open(source, "wb") as file:
        for _ in range(size >> 20):
            file.write(os.urandom(1 << 20))

    def plain_copy() -> None:
        shutil.copyfile(source, copy)
        with open(copy, "rb") as file:
            os.fsync(file.fileno())  # as the server does before it acknowledges an object

    plain = seconds(plain_copy)
    requests.post(f"{url}/storage/v1/b", json={"name": "large"}, timeout=60)

    def up() -> None:
        with open(source, "rb") as file:
            path = f"{url}/upload/storage/v1/b/large/o?uploadType=media&name=big"
            requests.post(path, file, timeout=600).raise_for_status()

    def down() -> None:
        path = f"{url}/storage/v1/b/large/o/big?alt=media"
        with requests.get(path, stream=True, timeout=600) as answer, open(back, "wb") as file:
            for data in answer.iter_content(1 << 20):
                file.write(data)

    for name, work in (("up", up), ("down", down)):
        took = seconds(work)
        print(f"{size >> 20} MiB {name}: {took:.1f} s, {took / plain:.1f} x copying the file")
    assert back.stat().st_size == size
    print(f"server memory at most {peak_memory(process.pid)} MiB (limit 200)")


def peak_memory(pid: int) -> int:
    """Return the peak memory of a process, in MiB; 0 where it is not known."""
    try:
        text = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0
    return int(text.split("VmHWM:")[1].split()[0]) >> 10


def listing(url: str, root: Path, count: int) -> None:
    """Print how long listing takes by pages, for a tenth of the objects and for all of them."""
    for number in (count // 10, count):
        name = f"listed-{number}"
        folder = root / "buckets" / name
        for index in range(number):
            path = folder / f"{index % 100:02}" / f"{index:07}"
            if index < 100:
                path.parent.mkdir(parents=True)
            path.touch()
        for round_name in ("first", "again"):
            took = seconds(lambda name=name, number=number: pages(url, name, number))  # type: ignore[misc]
            print(
                f"listing {number:,} objects, {round_name}: {took:.1f} s, "
                f"{took / number * 1e6:.0f} microseconds each"
            )


def pages(url: str, bucket: str, expected: int) -> None:
    """List a bucket by pages of a thousand."""
    session, found, token = requests.Session(), 0, ""
    while True:
        params = {"pageToken": token} if token else {}
        answer = session.get(f"{url}/storage/v1/b/{bucket}/o", params=params, timeout=600).json()
        found += len(answer["items"])
        token = answer.get("nextPageToken", "")
        if not token:
            break
    assert found == expected


def main(argv: list[str] | None = None) -> int:
    """Run the benchmark."""
    os.environ["DISABLE_GCS_PYTHON_CLIENT_OTEL_BUCKET_METADATA"] = "1"  # as in local mode
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--smoke", action="store_true", help="small numbers, for a test")
    smoke = parser.parse_args(argv).smoke
    count, size, listed = (20, 4 << 20, 200) if smoke else (1000, 1 << 30, 100_000)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        compare(folder, count)
        with server(OURS, folder / "large") as (url, process):
            large_object(url, process, folder, size)
        with server(OURS, folder / "listed") as (url, _):
            listing(url, folder / "listed", listed)
    return 0


if __name__ == "__main__":
    sys.exit(main())
