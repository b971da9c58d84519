"""The file tree is the truth: files from elsewhere, names that must not get out, sudden deaths."""

from __future__ import annotations

import base64
import hashlib
import http.client
import json
import os
import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote, urlsplit

import pytest
import requests
from google.api_core import exceptions
from google.cloud import storage

from vertex_local.config import Root, ServerRecord
from vertex_local.server import daemon, ports
from vertex_local.storage import Buckets
from vertex_local.storage import uploads as uploads_in_steps


def md5(data: bytes) -> str:
    """Return the MD5 as the API writes it."""
    return base64.b64encode(hashlib.md5(data).digest()).decode()


# Folders for people


def test_a_file_dropped_into_a_bucket_is_an_object(bucket: storage.Bucket, root: Root) -> None:
    folder = root.buckets / bucket.name
    (folder / "data").mkdir()
    (folder / "data" / "table.csv").write_text("a,b\n1,2\n")
    assert [blob.name for blob in bucket.list_blobs()] == ["data/table.csv"]
    blob = bucket.get_blob("data/table.csv")
    assert (blob.content_type, blob.size, blob.md5_hash) == ("text/csv", 8, md5(b"a,b\n1,2\n"))
    assert blob.download_as_text() == "a,b\n1,2\n"
    assert bucket.get_blob("data/table.csv").generation == blob.generation


def test_a_file_that_is_changed_is_a_new_generation(bucket: storage.Bucket, root: Root) -> None:
    blob = bucket.blob("x.txt")
    blob.metadata = {"old": "yes"}
    blob.upload_from_string("old")
    (root.buckets / bucket.name / "x.txt").write_text("newer")
    changed = bucket.get_blob("x.txt")
    assert changed.generation > blob.generation
    assert (changed.metadata, changed.md5_hash) == (None, md5(b"newer"))
    with pytest.raises(exceptions.PreconditionFailed):
        blob.upload_from_string("mine", if_generation_match=blob.generation)
    (root.buckets / bucket.name / "x.txt").unlink()
    assert not blob.exists()


def test_a_folder_made_by_hand_is_a_bucket(server: ServerRecord, root: Root) -> None:
    root.buckets.chmod(0o700)  # closed as long as local mode runs
    (root.buckets / "by-hand").mkdir()
    (root.buckets / "Not a bucket").mkdir()
    client = storage.Client()
    names = [bucket.name for bucket in client.list_buckets()]
    assert "by-hand" in names and "Not a bucket" not in names
    client.bucket("by-hand").blob("x").upload_from_string("x")
    (root.buckets / "by-hand" / "x").unlink()
    (root.buckets / "by-hand").rmdir()
    root.buckets.chmod(0o500)
    assert client.lookup_bucket("by-hand") is None


@contextmanager
def storage_of(root: Root) -> Iterator[str]:
    """Serve a root's buckets in this process; give the address."""
    root.create()
    with ports.listen(0) as listener, Buckets(root, listener):
        yield ports.url(listener)


def test_lost_metadata_is_made_up_again(tmp_path: Path) -> None:
    root = Root(tmp_path)
    with storage_of(root) as url:
        requests.post(f"{url}/storage/v1/b", json={"name": "kept"}, timeout=30)
        upload = f"{url}/upload/storage/v1/b/kept/o?uploadType=media&name=x.txt"
        requests.post(upload, b"content", headers={"Content-Type": "x/y"}, timeout=30)
    for path in root.path.glob(f"{root.metadata.name}*"):
        path.unlink()
    with storage_of(root) as url:
        found = requests.get(f"{url}/storage/v1/b/kept/o/x.txt", timeout=30).json()
    assert (found["md5Hash"], found["contentType"]) == (md5(b"content"), "text/plain")


# Names that a file tree cannot hold, or that would lead out of it


@pytest.mark.parametrize(
    ("name", "status"),
    [
        ("..", 400),
        (".", 400),
        ("x\ny", 400),
        ("x" * 1025, 400),
        ("../../outside", 405),
        ("a/../../../outside", 405),
        ("/etc/passwd", 405),
        ("a//b", 405),
        ("a/./b", 405),
        ("nul\0", 405),
        ("y" * 256, 405),
    ],
    ids=repr,
)
def test_no_name_leaves_the_bucket(
    server: ServerRecord, bucket: storage.Bucket, root: Root, name: str, status: int
) -> None:
    before = sorted(root.buckets.rglob("*"))
    (root.path / "outside").write_text("private")
    url = f"{server.storage_url}/upload/storage/v1/b/{bucket.name}/o?uploadType=media&name="
    assert requests.post(url + quote(name, safe=""), b"x", timeout=30).status_code == status
    for path in (
        f"/storage/v1/b/{bucket.name}/o/{quote(name, safe='')}?alt=media",
        f"/download/storage/v1/b/{bucket.name}/o/{quote(name, safe='')}",
        f"/{bucket.name}/{quote(name, safe='/')}",
        f"/storage/v1/b/{quote('../' + name, safe='')}/o",
        f"/storage/v1/b/..%2F/o/{quote(name, safe='')}?alt=media",
    ):
        connection = http.client.HTTPConnection(urlsplit(server.storage_url).netloc, timeout=30)
        path = urlsplit(server.storage_url).path + path
        connection.request("GET", path)  # as it stands: `requests` would tidy it up
        answer = connection.getresponse()
        assert answer.status in (400, 404), path
        assert b"private" not in answer.read()
        connection.close()
    assert (root.path / "outside").read_text() == "private"
    (root.path / "outside").unlink()
    assert sorted(root.buckets.rglob("*")) == before
    assert list(root.uploads.glob("*.partial")) == []


def test_links_do_not_lead_out_of_a_bucket(
    bucket: storage.Bucket, root: Root, tmp_path: Path
) -> None:
    (tmp_path / "secret").write_text("private")
    folder = root.buckets / bucket.name
    (folder / "link").symlink_to(tmp_path / "secret")
    (folder / "folder").symlink_to(tmp_path)
    (folder / "real").write_text("mine")
    assert [blob.name for blob in bucket.list_blobs()] == ["real"]
    for name in ("link", "folder/secret"):
        with pytest.raises(exceptions.NotFound):
            bucket.blob(name).download_as_bytes()
    with pytest.raises(exceptions.MethodNotAllowed, match="beside an object"):
        bucket.blob("folder/new").upload_from_string("x")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["secret"]


def test_a_name_is_a_file_or_a_folder(bucket: storage.Bucket) -> None:
    bucket.blob("a").upload_from_string("a")
    bucket.blob("b/c").upload_from_string("c")
    for name in ("a/b", "b"):
        with pytest.raises(exceptions.MethodNotAllowed, match="a file and a folder"):
            bucket.blob(name).upload_from_string("x")
    bucket.blob("a").delete()
    bucket.blob("a/b").upload_from_string("x")
    assert [blob.name for blob in bucket.list_blobs()] == ["a/b", "b/c"]


def test_names_that_differ_in_case(bucket: storage.Bucket, tmp_path: Path) -> None:
    root = Root(tmp_path)
    root.create()
    with ports.listen(0) as listener, Buckets(root, listener) as buckets:
        buckets.objects._tree.ignores_case = True  # as if this were macOS
        url = ports.url(listener)
        requests.post(f"{url}/storage/v1/b", json={"name": "case"}, timeout=30)
        upload = f"{url}/upload/storage/v1/b/case/o?uploadType=media&name="
        assert requests.post(f"{upload}Dir/x", b"1", timeout=30).status_code == 200
        assert requests.post(f"{upload}Dir/x", b"2", timeout=30).status_code == 200
        for name in ("Dir/X", "dir/y"):
            answer = requests.post(upload + name, b"3", timeout=30)
            assert answer.status_code == 405 and "only in case" in answer.text


# Hostile requests


def test_oversized_and_broken_requests_are_refused(
    server: ServerRecord, bucket: storage.Bucket
) -> None:
    url = server.storage_url
    huge = b'{"name": "' + b"x" * (2 << 20) + b'"}'
    assert requests.post(f"{url}/storage/v1/b", huge, timeout=30).status_code == 413
    upload = f"{url}/upload/storage/v1/b/{bucket.name}/o?uploadType=multipart"
    kind = {"Content-Type": "multipart/related; boundary=B"}
    metadata = b"--B\r\n\r\n" + b" " * (3 << 20)
    assert requests.post(upload, metadata, headers=kind, timeout=30).status_code == 413
    cut = b'--B\r\n\r\n{"name": "cut"}\r\n--B\r\n\r\nhalf of the cont'
    assert requests.post(upload, cut, headers=kind, timeout=30).status_code == 400
    assert requests.post(upload, cut, timeout=30).status_code == 400
    for body in (b"[1]", b"{", b"[" * 100_000):
        assert requests.post(f"{url}/storage/v1/b", body, timeout=30).status_code == 400
    upload = f"{url}/upload/storage/v1/b/{bucket.name}/o?uploadType=media&name="
    assert requests.post(f"{upload}%ff", b"x", timeout=30).status_code == 400
    assert list(bucket.list_blobs()) == []
    assert requests.post(f"{upload}%EF%BF%BD", b"x", timeout=30).status_code == 200  # a letter
    assert [blob.name for blob in bucket.list_blobs()] == ["\ufffd"]


@pytest.mark.parametrize("headers", [{"Origin": "https://example.org"}, {"Host": "example.org"}])
@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"])
def test_no_method_is_open_to_web_pages(
    server: ServerRecord, bucket: storage.Bucket, method: str, headers: dict[str, str]
) -> None:
    bucket.blob("x").upload_from_string("x")
    for path in (
        f"/storage/v1/b/{bucket.name}/o/x",
        f"/upload/storage/v1/b/{bucket.name}/o?uploadType=media&name=evil",
        f"/{bucket.name}/x",
        "/batch/storage/v1",
    ):
        url = server.storage_url + path
        assert requests.request(method, url, headers=headers, timeout=30).status_code == 403
    assert [blob.name for blob in bucket.list_blobs()] == ["x"]


def test_only_this_machine_is_listened_to(server: ServerRecord) -> None:
    port = urlsplit(server.storage_url).port
    for family, _, _, _, address in socket.getaddrinfo(socket.gethostname(), port):
        if address[0].startswith("127.") or address[0] == "::1":
            continue
        with socket.socket(family) as client, pytest.raises(OSError):
            client.settimeout(5)
            client.connect(address)


# Nothing lost


def test_an_upload_that_is_cut_off_is_not_visible(
    server: ServerRecord, bucket: storage.Bucket, root: Root
) -> None:
    bucket.blob("x").upload_from_string("before")
    address = urlsplit(server.storage_url)
    with socket.create_connection((address.hostname, address.port)) as client:
        path = f"{address.path}/upload/storage/v1/b/{bucket.name}/o?uploadType=media&name=x"
        head = f"POST {path} HTTP/1.1\r\nHost: {address.netloc}\r\nContent-Length: 9000000\r\n\r\n"
        client.sendall(head.encode() + b"y" * 5_000_000)
    assert bucket.blob("x").download_as_bytes() == b"before"
    assert [blob.name for blob in bucket.list_blobs()] == ["x"]


def uploads(url: str, worker: int, done: dict[str, str]) -> None:
    """Upload objects until the server dies; note those that it acknowledged."""
    session = requests.Session()
    for number in range(100_000):
        data = os.urandom(1000 + 977 * (number % 300))
        name = f"w{worker}/{number % 40:02}"  # each name again and again
        try:
            answer = session.post(
                f"{url}/upload/storage/v1/b/crash/o?uploadType=media&name={quote(name)}",
                data,
                headers={"Content-Type": f"x/{number}"},
                timeout=30,
            )
        except requests.RequestException:
            done[f"{name} unsure"] = f"x/{number} {md5(data)}"
            return
        assert answer.status_code == 200
        done[name] = f"x/{number} {md5(data)}"


@dataclass(frozen=True)
class Crash:
    """A server that was killed while it received objects, and the one that came after it.

    Attributes:
        root: their root.
        url: the address of storage, before and after.
        notes: what each client was told.
        session: a resumable upload of `BIG`, of which the first half was sent.
    """

    root: Root
    url: str
    notes: list[dict[str, str]]
    session: str


BIG, HALF = os.urandom(700_000), 512 * 1024


@pytest.fixture(scope="module")
def crash(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Crash]:
    root = Root(tmp_path_factory.mktemp("crash") / "root")
    record = daemon.start(root)
    api = f"{record.storage_url}/storage/v1/b"
    assert requests.post(api, json={"name": "crash"}, timeout=30).status_code == 200
    begin = f"{record.storage_url}/upload/storage/v1/b/crash/o?uploadType=resumable&name=big"
    session = requests.post(begin, b'{"contentType": "x/y"}', timeout=30).headers["Location"]
    headers = {"Content-Range": f"bytes 0-{HALF - 1}/700000"}
    assert requests.put(session, BIG[:HALF], headers=headers, timeout=30).status_code == 308
    notes: list[dict[str, str]] = [{} for _ in range(6)]
    threads = [
        threading.Thread(target=uploads, args=(record.storage_url, worker, done))
        for worker, done in enumerate(notes)
    ]
    for thread in threads:
        thread.start()
    while min(map(len, notes)) < 45 - 5:  # every name once, some more often
        threads[0].join(0.01)
    os.kill(record.pid, signal.SIGKILL)
    for thread in threads:
        thread.join()
    daemon._started[-1].wait()
    again = daemon.start(root)
    assert again.storage_url == record.storage_url
    yield Crash(root, again.storage_url, notes, session)
    daemon.stop(root)


def test_a_killed_server_loses_nothing_that_it_acknowledged(crash: Crash) -> None:
    answer = requests.get(f"{crash.url}/storage/v1/b/crash/o?prefix=w", timeout=30).json()
    found = {item["name"]: f"{item['contentType']} {item['md5Hash']}" for item in answer["items"]}
    allowed = {}
    for done in crash.notes:
        for name, value in done.items():
            allowed.setdefault(name.removesuffix(" unsure"), []).append(value)
    assert set(found) <= set(allowed) and len(found) >= 6 * 40 - 6
    for name, values in allowed.items():  # what was acknowledged, or what was on its way then
        if len(values) > 1 or name in {key for done in crash.notes for key in done}:
            assert found[name] in values, name
    for item in answer["items"]:
        content = (crash.root.buckets / "crash" / item["name"]).read_bytes()
        assert md5(content) == item["md5Hash"] and len(content) == int(item["size"])
    assert list(crash.root.uploads.glob("*.partial")) == []


def test_a_resumable_upload_outlives_its_server(crash: Crash) -> None:
    headers = {"Content-Range": "bytes */700000"}
    asked = requests.put(crash.session, headers=headers, timeout=30)
    assert asked.headers["Range"] == f"bytes=0-{HALF - 1}"
    headers = {"Content-Range": f"bytes {HALF}-699999/700000"}
    finished = requests.put(crash.session, BIG[HALF:], headers=headers, timeout=30)
    assert finished.status_code == 200
    assert json.loads(finished.text)["md5Hash"] == md5(BIG)
    assert json.loads(finished.text)["contentType"] == "x/y"


def begin(url: str, name: str) -> str:
    """Begin a resumable upload with a part of its content; return its URL."""
    path = f"{url}/upload/storage/v1/b/many/o?uploadType=resumable&name={name}"
    session = requests.post(path, timeout=30).headers["Location"]
    headers = {"Content-Range": f"bytes 0-{PART - 1}/*"}
    assert requests.put(session, bytes(PART), headers=headers, timeout=30).status_code == 308
    return session


PART = 256 * 1024


def test_many_uploads_at_once_cost_no_open_files_and_little_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(uploads_in_steps, "KEPT_RESULTS", 2)
    root = Root(tmp_path)
    with storage_of(root) as url:
        requests.post(f"{url}/storage/v1/b", json={"name": "many"}, timeout=30)
        sessions = [begin(url, f"x{number}") for number in range(20)]
        received = {str(path) for path in root.uploads.glob("*.received")}
        assert len(received) == 20
        if Path("/proc/self/fd").exists():
            held = {os.path.realpath(path) for path in Path("/proc/self/fd").iterdir()}
            assert not received & held
        end = {"Content-Range": f"bytes */{PART}"}
        for session in sessions[:3]:
            assert requests.put(session, headers=end, timeout=30).status_code == 200
        states = [requests.put(each, headers=end, timeout=30).status_code for each in sessions[:3]]
        assert states == [404, 200, 200]  # the results of the newest two are kept
        listed = requests.get(f"{url}/storage/v1/b/many/o", timeout=30).json()["items"]
        assert [item["size"] for item in listed] == [str(PART)] * 3
