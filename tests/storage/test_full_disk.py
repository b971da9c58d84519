"""A full disk: each request is answered at once, in a sentence, and nothing of an upload stays."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from pathlib import Path

import pytest
import requests
from google.api_core.exceptions import GoogleAPICallError
from google.cloud import storage
from google.cloud.aiplatform_v1.types import CustomJob
from google.cloud.storage import transfer_manager
from google.cloud.storage.exceptions import InvalidResponse

from vertex_local.config import Root, ServerRecord, find_root
from vertex_local.kernel import clients
from vertex_local.server import daemon
from vertex_local.training import states
from vertex_local.training.records import Records

DISK_MB = 48
ENOUGH = 600_000  # bytes: a request can begin, and not end
CONTENT = os.urandom(2_000_000)
AT_ONCE_SECONDS = 10  # clients repeat for 30 seconds and more what seems to pass
JOB = {
    "displayName": "x",
    "jobSpec": {
        "workerPoolSpecs": [
            {
                "machineSpec": {"machineType": "n1-standard-4"},
                "replicaCount": 1,
                "containerSpec": {
                    "imageUri": "image/x",
                    "command": ["python3", "-c", f"pass {'#' * 90_000}"],
                },
            }
        ]
    },
}


class SmallDisk:
    """A root on a small disk of its own, with a server, a client and a bucket with two objects."""

    def __init__(self, root: Root, server: ServerRecord) -> None:
        self.root, self.server = root, server
        self.filler = root.path.parent / "filler"
        self.client = storage.Client(
            project="x", client_options={"api_endpoint": server.storage_url}
        )
        self.bucket = self.client.create_bucket("bucket")
        for name in ("a", "b"):
            self.bucket.blob(name).upload_from_string(CONTENT)

    def fill(self, free: int) -> None:
        """Leave so many bytes on the disk."""
        place = os.statvfs(self.root.path)
        size = place.f_bavail * place.f_frsize - free
        with suppress(OSError), open(self.filler, "ab") as file:  # full is full
            file.write(bytes(max(0, size)))

    def files(self) -> set[Path]:
        """Return every file and folder that objects and uploads consist of."""
        return {each for top in (self.root.buckets, self.root.uploads) for each in top.rglob("*")}

    def api(self, path: str, **body: object) -> requests.Response:
        """Send a request to the training API."""
        url = f"{self.server.api_url}/v1/projects/vertex-local/locations/us-central1/{path}"
        headers = {"Authorization": f"Bearer {self.server.token}"}
        return requests.post(url, json=body, headers=headers, timeout=60)


@pytest.fixture(scope="module")
def small_disk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SmallDisk]:
    place = tmp_path_factory.mktemp("disk")
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={DISK_MB}m", "tmpfs", place], capture_output=True
    )
    if mounted.returncode:
        pytest.skip("only root may mount a small disk, and not everywhere")
    before = find_root()
    root = Root(place / "root")
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("VERTEX_LOCAL_ROOT", str(root.path))
            server = daemon.start(root)
            for name, value in clients.environment(root, server).items():
                patch.setenv(name, value)
            yield SmallDisk(root, server)
    finally:
        daemon.stop(root)
        subprocess.run(["umount", "-l", place], check=True)
        assert find_root() == before


@pytest.fixture
def full(small_disk: SmallDisk) -> Iterator[SmallDisk]:
    """A disk that is full; afterwards there is room again."""
    small_disk.fill(0)
    yield small_disk
    small_disk.filler.unlink()


def in_parts(disk: SmallDisk) -> None:
    source = Path(disk.root.path.parent.parent / "big.bin")
    source.write_bytes(CONTENT * 3)
    transfer_manager.upload_chunks_concurrently(
        str(source), disk.bucket.blob("new/x"), chunk_size=1 << 20, worker_type="thread"
    )


WRITES: dict[str, Callable[[SmallDisk], object]] = {
    "in one request": lambda disk: disk.bucket.blob("new/x").upload_from_string(CONTENT),
    "resumable": lambda disk: disk.bucket.blob("new/x", chunk_size=1 << 18).upload_from_string(
        CONTENT
    ),
    "in parts": in_parts,
    "compose": lambda disk: disk.bucket.blob("new/x").compose([disk.bucket.blob("a")] * 2),
    "copy": lambda disk: disk.bucket.copy_blob(disk.bucket.blob("a"), disk.bucket, "new/x"),
    "rewrite": lambda disk: disk.bucket.blob("new/x").rewrite(disk.bucket.blob("a")),
}
SMALL: dict[str, Callable[[SmallDisk], object]] = {
    "rename": lambda disk: disk.bucket.move_blob(disk.bucket.blob("b"), "long/" * 40 + "b"),
    "metadata": lambda disk: _patched(disk),
    "bucket": lambda disk: disk.client.create_bucket("another"),
}


def _patched(disk: SmallDisk) -> None:
    blob = disk.bucket.blob("a")
    blob.metadata = {f"key{number}": "x" * 700 for number in range(10)}
    blob.patch()


@pytest.mark.parametrize("free", [0, ENOUGH])
@pytest.mark.parametrize("write", WRITES.values(), ids=WRITES.keys())
def test_nothing_of_a_failed_upload_stays(
    small_disk: SmallDisk, write: Callable[[SmallDisk], object], free: int
) -> None:
    small_disk.fill(free)
    before, start = small_disk.files(), time.monotonic()
    try:
        with pytest.raises((GoogleAPICallError, InvalidResponse)) as error:
            write(small_disk)
    finally:
        small_disk.filler.unlink()
    answer = error.value.response
    assert answer.status_code == 507 and "this machine has no room for it" in answer.text
    assert time.monotonic() - start < AT_ONCE_SECONDS
    assert small_disk.files() == before
    write(small_disk)  # it was the disk, and nothing else
    small_disk.bucket.blob("new/x").delete()
    assert small_disk.files() == before


@pytest.mark.parametrize("write", SMALL.values(), ids=SMALL.keys())
def test_small_changes_fail_whole(full: SmallDisk, write: Callable[[SmallDisk], object]) -> None:
    before = full.files()
    content = {name: full.bucket.get_blob(name).metadata for name in ("a", "b")}
    for _ in range(200):  # the last page of a database may have room for some
        try:
            write(full)
        except GoogleAPICallError as err:
            assert err.code == 507 and "no room" in str(err)
            break
    assert full.files() == before
    assert {name: full.bucket.get_blob(name).metadata for name in ("a", "b")} == content


def test_a_job_is_refused_until_there_is_room(full: SmallDisk) -> None:
    for _ in range(200):  # the log of the database may have room for some
        answer = full.api("customJobs", **JOB)
        if answer.status_code != 200:
            break
    error = answer.json()["error"]
    assert (error["code"], error["status"]) == (400, "FAILED_PRECONDITION")  # clients do not repeat
    assert error["message"].startswith("No room is left on the disk")
    model = {"displayName": "m", "artifactUri": "gs://bucket/m", "description": "x" * 9000}
    assert full.api("models:upload", model=model).status_code == 400
    full.filler.unlink()
    assert full.api("customJobs", **JOB).status_code == 200
    assert full.api("models:upload", model=model).status_code == 200
    full.fill(0)


def test_the_end_of_a_job_waits_for_room(tmp_path: Path) -> None:
    """A job that could not end would run for ever; nothing else waits."""
    path = tmp_path / "records.sqlite3"
    name = "projects/100000000000/locations/us-central1/customJobs/1"
    with closing(Records(path)) as records:
        records.add(CustomJob(name=name))
        records.move(name, states.RUNNING)
        database = records._db  # the limit holds for this connection alone
        pages = database.execute("PRAGMA page_count").fetchone()[0]
        database.execute(f"PRAGMA max_page_count = {pages}")
        end = threading.Thread(target=records.move, args=(name, states.FAILED, "why" * 9000, 3))
        end.start()
        with pytest.raises(sqlite3.OperationalError, match="full"):
            records.add(CustomJob(name=name[:-1] + "2", display_name="x" * 9000))
        assert end.is_alive() and records.get(name).state == states.RUNNING  # type: ignore[union-attr]
        database.execute("PRAGMA max_page_count = 1000")
        end.join(AT_ONCE_SECONDS)
        assert records.get(name).state == states.FAILED  # type: ignore[union-attr]
