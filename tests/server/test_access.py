"""Other users of the machine, and programs that pretend: what they ask, hear, and get to see."""

from __future__ import annotations

import http.server
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import requests
from google.api_core import exceptions
from google.cloud import aiplatform, storage
from starlette.responses import PlainTextResponse
from starlette.types import Receive, Scope, Send
from urllib3.exceptions import InsecureRequestWarning

from vertex_local import cli, secret
from vertex_local.config import LocalModeError, Root, ServerRecord
from vertex_local.secret import Key
from vertex_local.server import daemon, front, lock, ports
from vertex_local.server.access import Passes, objection
from vertex_local.server.account import certificate
from vertex_local.server.identity import identity
from vertex_local.server.tunnel import Targets, Tunnel

JOBS = "/v1/projects/vertex-local/locations/us-central1/customJobs"
NOBODY = 65534
AS_ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="only root can act as a second user")


def send(port: int, head: str) -> bytes:
    """Send a request as it stands, with lines that end in `\\n`; return all that comes back."""
    with socket.create_connection(("127.0.0.1", port), timeout=30) as client:
        client.sendall(f"{head}\nConnection: close\n\n".replace("\n", "\r\n").encode())
        received = b""
        while data := client.recv(65536):
            received += data
    return received


def status(answer: bytes) -> int:
    return int(answer.split(b" ", 2)[1])


def port_of(url: str) -> int:
    return urlsplit(url).port or 0


def secret_of(server: ServerRecord) -> str:
    return urlsplit(server.storage_url).path.strip("/")


# What proves that a request comes from the owner


@pytest.mark.parametrize("service", ["api", "storage"])
def test_without_the_secret_every_path_is_unknown(server: ServerRecord, service: str) -> None:
    port = port_of(server.api_url if service == "api" else server.storage_url)
    right = secret_of(server)
    wrong = right[:-1] + ("A" if right[-1] != "A" else "B")
    paths = ["/", "/wipe", "/healthz", "/healthz?nonce=0", "/storage/v1/b", JOBS, "/.ssh/id_rsa"]
    paths += [f"/{wrong}/storage/v1/b", f"/{right}", "/secret-/storage/v1/b", "//", "/%00"]
    paths += [f"/{right.upper()}/storage/v1/b", f"/storage/v1/b?secret={right}"]
    answers = {send(port, f"GET {path} HTTP/1.1\nHost: 127.0.0.1:{port}") for path in paths}
    for kind in ("Bearer wrong", f"Basic {right}", "Bearer", f"Bearer  {wrong}"):
        head = f"GET /storage/v1/b HTTP/1.1\nHost: 127.0.0.1:{port}\nAuthorization: {kind}"
        answers.add(send(port, head))
    same = {re.sub(rb"date: .*\r\n", b"", answer) for answer in answers}
    assert len(same) == 1, same
    assert status(same.pop()) == (401 if service == "api" else 404)


def test_with_the_secret_or_the_token_storage_answers(
    server: ServerRecord, bucket: storage.Bucket
) -> None:
    path = f"/storage/v1/b/{bucket.name}"
    assert requests.get(server.storage_url + path, timeout=30).status_code == 200
    token = {"Authorization": f"Bearer {server.token}"}
    assert requests.get(server.storage_address + path, headers=token, timeout=30).ok
    assert requests.get(server.storage_address + path, timeout=30).status_code == 404


def test_every_link_that_storage_gives_back_opens(
    server: ServerRecord, bucket: storage.Bucket
) -> None:
    blob = bucket.blob("a/b c")
    blob.upload_from_string("content")
    for link in (blob.self_link, blob.media_link, bucket.self_link):
        assert link.startswith(server.storage_url + "/"), link
        assert requests.get(link, timeout=30).status_code == 200
    assert requests.get(blob.media_link, timeout=30).text == "content"
    session = bucket.blob("session").create_resumable_upload_session()
    assert session.startswith(server.storage_url + "/")
    assert requests.put(session, b"x", timeout=30).status_code == 200
    with bucket.client.batch():  # each part carries the secret again
        bucket.blob("a/b c").delete()
        bucket.blob("session").delete()
    assert list(bucket.list_blobs()) == []


# Host, Origin and their like, as the wire has them

GOOD_HOSTS = ["127.0.0.1:7", "localhost:7"]
BAD_HOSTS = """evil.example evil.example:7 evil.com@127.0.0.1:7 127.0.0.1:7#evil.com
127.0.0.1#evil.com:7 [::1]evil.com:7 [::1]:7 localhost:evil localhost:77 user:pw@localhost:7
evil.com\\@localhost:7 127.0.0.1 localhost 127.0.0.1: 127.0.0.1:07 127.0.0.1:7/ 127.1:7
2130706433:7 127.0.0.1.evil.example:7 localhost.:7 LOCALHOST:7 [ [:7 0.0.0.0:7
127.0.0.1:7,evil.example""".split()


@pytest.mark.parametrize("host", GOOD_HOSTS)
def test_the_servers_own_names_may_pass(host: str) -> None:
    own = {"origin": f"http://{host}", "referer": f"http://{host}/page", "sec-fetch-site": "none"}
    assert refused([("host", host)]) is None
    for header in own.items():
        assert refused([("host", host), header]) is None


@pytest.mark.parametrize("host", BAD_HOSTS)
def test_no_other_host_does(host: str) -> None:
    assert "answers to 127.0.0.1:7 only" in str(refused([("host", host)]))


def refused(headers: list[tuple[str, str]]) -> str | None:
    return objection([(name.encode(), value.encode()) for name, value in headers], 7)


@pytest.mark.parametrize(
    "headers",
    [
        [("origin", "http://evil.example")],
        [("origin", "")],
        [("origin", "null")],
        [("origin", "http://127.0.0.1:7/")],
        [("origin", "http://localhost:7")],
        [("origin", "http://127.0.0.1:8")],
        [("origin", "https://127.0.0.1:7")],
        [("referer", "http://evil.example/")],
        [("referer", "http://127.0.0.1:70/")],
        [("referer", "http://127.0.0.1:7.evil.example/")],
        [("referer", "http://127.0.0.1:7@evil.example/")],
        [("referer", "")],
        [("sec-fetch-site", "cross-site")],
        [("sec-fetch-site", "same-site")],
        [("sec-fetch-site", "")],
        [("sec-fetch-mode", "cors")],
        [("sec-fetch-dest", "image")],
        [("origin", ""), ("origin", "http://evil.example")],
        [("origin", "http://127.0.0.1:7"), ("origin", "http://evil.example")],
        [("host", "evil.example")],
        [("host", "127.0.0.1:7")],
        [("authorization", "Bearer a"), ("authorization", "Bearer b")],
        [("sec-fetch-site", "none"), ("sec-fetch-site", "cross-site")],
    ],
    ids=str,
)
def test_no_page_and_no_two_of_a_kind(headers: list[tuple[str, str]]) -> None:
    assert refused([("host", "127.0.0.1:7"), *headers])


def test_a_request_without_a_host_is_refused() -> None:
    assert refused([("accept", "*/*")])


@pytest.mark.parametrize(
    ("line", "more", "expected"),
    [
        ("GET {path} HTTP/1.1", "", 200),
        ("GET {path} HTTP/1.1", "Host: evil.example\n", 403),
        ("GET {path} HTTP/1.1", "Host: [\n", 403),
        ("GET http://evil.example{path} HTTP/1.1", "", 400),
        ("GET http://127.0.0.1{path} HTTP/1.1", "", 400),
        ("OPTIONS * HTTP/1.1", "", 400),
        ("CONNECT evil.example:443 HTTP/1.1", "", 400),
        ("GET {path} HTTP/1.1", "Origin:\nOrigin: http://evil.example\n", 403),
        ("GET {path} HTTP/1.1", "Referer: http://evil.example/\n", 403),
        ("GET {path} HTTP/1.1", "X-Forwarded-Host: evil.example\n", 200),
    ],
)
def test_both_servers_have_the_gate(
    server: ServerRecord, line: str, more: str, expected: int
) -> None:
    for url, path in (
        (server.storage_url, f"/{secret_of(server)}/storage/v1/b"),
        (server.api_url, JOBS),
    ):
        port = port_of(url)
        first = "" if more.startswith("Host: [") else f"Host: 127.0.0.1:{port}\n"
        head = f"{line.format(path=path)}\n{first}{more}Authorization: Bearer {server.token}"
        answer = send(port, head)
        assert status(answer) == expected, answer


def test_a_websocket_gets_a_plain_answer(server: ServerRecord, root: Root) -> None:
    upgrade = "Connection: Upgrade, close\nUpgrade: websocket\nSec-WebSocket-Version: 13\n"
    upgrade += "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=="
    for url in (server.storage_url, server.api_url):
        port = port_of(url)
        assert status(send(port, f"GET /x HTTP/1.1\nHost: 127.0.0.1:{port}\n{upgrade}")) in (
            401,
            404,
        )
    assert "Traceback" not in root.log.read_text()


# Who answers is who we think


class Stranger(http.server.BaseHTTPRequestHandler):
    """Another user's server on a port that was ours: says what is wanted, and notes all."""

    heard: list[str]
    relay = ""

    def do_GET(self) -> None:
        self.heard.append(f"{self.path}\n{self.headers}")
        text = str(os.getpid()).encode()
        if self.relay:  # asks the real server
            text = requests.get(self.relay + self.path, timeout=30).content
        self.send_response(200)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def stranger(port: int = 0, relay: str = "") -> Iterator[tuple[str, list[str]]]:
    """Listen as somebody else; give the address, and all that was sent there."""
    handler = type("Handler", (Stranger,), {"heard": [], "relay": relay})
    with http.server.ThreadingHTTPServer(("127.0.0.1", port), handler) as listener:
        thread = threading.Thread(target=listener.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{listener.server_address[1]}", handler.heard
        listener.shutdown()
        thread.join()


def kill(record: ServerRecord) -> None:
    os.kill(record.pid, signal.SIGKILL)
    daemon._started[-1].wait()


def test_a_dead_server_is_noticed_and_its_ports_may_be_a_strangers(
    own_root: Root, capsys: pytest.CaptureFixture[str]
) -> None:
    first = daemon.start(own_root)
    assert lock.is_held(own_root) and identity(first.pid) == first.process
    kill(first)
    assert not lock.is_held(own_root) and identity(first.pid) != first.process
    assert daemon.find(own_root) is None
    assert cli.main(["status"]) == 3 and "not running" in capsys.readouterr().out
    record = daemon.start(own_root)
    assert record.pid != first.pid
    assert record.storage_url == first.storage_url  # a notebook's clients go on working
    kill(record)
    ports = port_of(record.api_url), port_of(record.storage_url)
    with stranger(ports[0]) as (_, heard), stranger(ports[1]):  # old clients still send it a secret
        assert daemon.find(own_root) is None
        assert not daemon.proves_itself(record.api_url, Key.of(own_root))
        assert cli.main(["status"]) == 3 and cli.main(["env"]) == 1 and cli.main(["down"]) == 0
        again = daemon.start(own_root)  # elsewhere, as the ports are taken
        assert again.api_url != record.api_url and daemon.find(own_root) == again
        stolen = f"{again.storage_address}/{secret_of(record)}/storage/v1/b"
        assert requests.get(stolen, timeout=30).status_code == 404
        assert requests.get(f"{again.storage_url}/storage/v1/b", timeout=30).status_code == 200
    said = "".join(heard) + str(capsys.readouterr())
    for given in (record.token, secret_of(record), again.token, Key.of(own_root).value.hex()):
        assert given not in said
    assert heard  # it was asked to prove itself, at least


def test_a_stranger_cannot_let_the_real_server_prove_it(root: Root, server: ServerRecord) -> None:
    with stranger(relay=server.api_url) as (address, heard):
        key = Key.of(root)
        assert not daemon.proves_itself(address, key)
        assert len(heard) == 1
        assert daemon.proves_itself(server.api_url, key)
        assert daemon.proves_itself(server.storage_url, key)
        assert not daemon.proves_itself(server.api_url, Key(b"another key" * 3))


def test_a_foreign_process_is_never_ended(root: Root, server: ServerRecord) -> None:
    assert identity(1) != identity(os.getpid()) is not None
    text = root.record.read_text()
    with subprocess.Popen(["sleep", "300"]) as other, stranger() as (address, _):
        try:
            for lie in (
                {"pid": other.pid},
                {"pid": other.pid, "process": "0 0 python"},
                {"pid": other.pid, "process": identity(other.pid), "api_url": address},
            ):
                root.record.write_text(json.dumps(json.loads(text) | lie))
                assert daemon.find(root) is None
                with pytest.raises(LocalModeError, match="does not answer"):
                    daemon.stop(root)
            assert other.poll() is None
        finally:
            root.record.write_text(text)
            other.kill()
    assert daemon.find(root) == server


def test_a_server_that_hangs_is_named_and_not_taken_for_none(
    root: Root, server: ServerRecord, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(daemon, "ANSWER_SECONDS", 0.2)
    os.kill(server.pid, signal.SIGSTOP)
    try:
        with pytest.raises(LocalModeError, match=f"kill -9 {server.pid}"):
            daemon.stop(root)
    finally:
        os.kill(server.pid, signal.SIGCONT)
        monkeypatch.undo()
    assert daemon.find(root) == server


# Files


@pytest.mark.parametrize("umask", [0, 0o777], ids=oct)
def test_everything_is_the_owners_alone_whatever_the_umask(
    tmp_path: Path, umask: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = Root(tmp_path / "new" / "root")
    monkeypatch.setenv("VERTEX_LOCAL_ROOT", str(root.path))
    before = os.umask(umask)
    try:
        record = daemon.start(root)
    finally:
        os.umask(before)
    try:
        api = f"{record.storage_url}/storage/v1/b"
        requests.post(api, json={"name": "kept"}, timeout=30)
        upload = f"{record.storage_url}/upload/storage/v1/b/kept/o?uploadType=media&name=a/x.txt"
        assert requests.post(upload, b"content", timeout=30).status_code == 200
        begin = upload.replace("media", "resumable")
        assert requests.post(begin, timeout=30).status_code == 200  # and left as it is
        for path in (root.path.parent, *root.path.parent.rglob("*")):
            mode = path.stat().st_mode & 0o777
            own = 0o500 if path == root.buckets else 0o600  # who makes a bucket asks the server
            assert mode & 0o077 == 0 and mode & own == own, (path, oct(mode))
        assert (root.buckets / "kept" / "a" / "x.txt").read_text() == "content"
    finally:
        daemon.stop(root)


@pytest.mark.parametrize("mode", [0o777, 0o770, 0o702], ids=oct)
def test_a_root_that_others_may_write_to_is_refused(
    own_root: Root, mode: int, capsys: pytest.CaptureFixture[str]
) -> None:
    own_root.path.mkdir()
    own_root.path.chmod(mode)
    for command in ("up", "status", "env"):
        assert cli.main([command]) == 1
        said = capsys.readouterr().err.strip()
        assert "Others may write to" in said and "chmod 700" in said and "\n" not in said
    own_root.path.chmod(0o755)  # that others may read it is put right
    own_root.create()
    assert own_root.path.stat().st_mode & 0o777 == 0o700


@AS_ROOT
def test_a_root_of_somebody_else_is_refused(
    own_root: Root, capsys: pytest.CaptureFixture[str]
) -> None:
    own_root.create()
    os.chown(own_root.path, NOBODY, NOBODY)
    for command in ("up", "status", "env", "down"):
        assert cli.main([command]) == 1
        said = capsys.readouterr().err.strip()
        assert "belongs to another user" in said and "\n" not in said
    os.chown(own_root.path, 0, 0)


# A second user of the machine

OTHER_USER = """
import json, os, sys, urllib.error, urllib.request
api, storage, pid, root = sys.argv[1:]
bucket = "own"
jobs = "/v1/projects/vertex-local/locations/us-central1/customJobs"
seen = {}
for name, url, body in [
    ("list", f"{storage}/storage/v1/b", None),
    ("read", f"{storage}/storage/v1/b/{bucket}/o/mine?alt=media", None),
    ("xml", f"{storage}/{bucket}/mine", None),
    ("change", f"{storage}/upload/storage/v1/b/{bucket}/o?uploadType=media&name=mine", b"evil"),
    ("batch", f"{storage}/batch/storage/v1", b"--x--"),
    ("jobs", api + jobs, None),
    ("start", api + jobs, b"{}"),
]:
    try:
        with urllib.request.urlopen(urllib.request.Request(url, body), timeout=30) as answer:
            seen[name] = answer.status
    except urllib.error.HTTPError as error:
        seen[name] = error.code
readable = []
for name in (root, f"/proc/{pid}/environ", f"/proc/{pid}/cwd", f"/proc/{pid}/fd"):
    try:
        readable.append(os.listdir(name) if os.path.isdir(name) else open(name, "rb").read())
    except PermissionError:
        pass
words = []
for number in filter(str.isdigit, os.listdir("/proc")):
    try:
        words.append(open(f"/proc/{number}/cmdline", errors="replace").read())
    except OSError:
        pass
print(json.dumps([seen, str(readable), "".join(words)]))
"""


@AS_ROOT
def test_a_second_user_reads_changes_and_learns_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    python = shutil.which("python3", path="/usr/local/bin:/usr/bin:/bin")
    if python is None:
        pytest.skip("no Python that a second user could run")
    with tempfile.TemporaryDirectory() as place:  # pytest's own folders are closed to others
        os.chmod(place, 0o755)
        root = Root(Path(place, "root"))
        monkeypatch.setenv("VERTEX_LOCAL_ROOT", str(root.path))
        record = daemon.start(root)
        try:
            requests.post(f"{record.storage_url}/storage/v1/b", json={"name": "own"}, timeout=30)
            upload = f"{record.storage_url}/upload/storage/v1/b/own/o?uploadType=media&name=mine"
            requests.post(upload, b"mine", timeout=30)
            addresses = record.api_url, record.storage_address
            finished = subprocess.run(
                [python, "-I", "-c", OTHER_USER, *addresses, str(record.pid), str(root.path)],
                capture_output=True,
                text=True,
                timeout=100,
                cwd="/",
                env={},
                user=NOBODY,
                group=NOBODY,
                extra_groups=(),
            )
            assert finished.returncode == 0, finished.stderr
            seen, readable, words = json.loads(finished.stdout)
            assert set(seen.values()) == {401, 404} and len(seen) == 7, seen
            assert readable == "[]"
            for given in (record.token, secret_of(record), Key.of(root).value.hex()):
                assert given not in words
            assert "vertex_local" in words  # it did look
            assert (root.buckets / "own" / "mine").read_text() == "mine"
        finally:
            daemon.stop(root)


# Where a secret could be read later

TELLS = """
import os, traceback
from google.cloud import storage
print(os.environ["STORAGE_EMULATOR_HOST"], flush=True)
storage.Client().bucket("no-such-bucket").blob("x").download_as_bytes()
"""


def test_a_job_has_a_secret_of_its_own_that_ends_with_it(
    server: ServerRecord, bucket: storage.Bucket, root: Root, tmp_path: Path
) -> None:
    script = tmp_path / "task.py"
    script.write_text(TELLS)
    aiplatform.init(staging_bucket=f"gs://{bucket.name}")
    image = "us-docker.pkg.dev/vertex-ai/training/pytorch-xla.2-4.py310:latest"
    job = aiplatform.CustomTrainingJob("tells", script_path=str(script), container_uri=image)
    with pytest.raises(RuntimeError) as caught:
        job.run(replica_count=1, machine_type="n1-standard-4")
    log = max(root.jobs.glob("*/job.log"), key=lambda path: path.stat().st_mtime)
    address = log.read_text().split()[0]
    assert secret_of(server) not in log.read_text() and address != server.storage_url
    assert requests.get(f"{address}/storage/v1/b", timeout=30).status_code == 404  # it has ended
    assert "no-such-bucket" in str(caught.value) and "/…/" in str(caught.value)
    assert address.rpartition("/")[2] not in str(caught.value)
    for path in (root.database, *root.path.glob(f"{root.database.name}-*")):
        assert b"secret-" not in path.read_bytes()


def test_hidden_is_what_opens_and_nothing_else() -> None:
    made = secret.new()
    assert (
        secret.hide(f"GET http://127.0.0.1:7/{made}/storage") == "GET http://127.0.0.1:7/…/storage"
    )
    assert secret.hide("a secret-service, ä") == "a secret-service, ä"


def test_errors_of_the_client_do_not_show_it_in_a_notebook(
    server: ServerRecord, tmp_path: Path
) -> None:
    import nbformat
    from nbclient import NotebookClient

    cells = [
        "import os, sys\nprint(os.environ['STORAGE_EMULATOR_HOST'])",
        "!env | grep -a -e TOKEN -e CLOUDSDK_API",
        "os.environ['VERTEX_LOCAL_TOKEN']",
        "from google.cloud import storage\nstorage.Client().get_bucket('no-such-bucket')",
    ]
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(text) for text in cells])
    NotebookClient(notebook, kernel_name="vertex-local", timeout=100, allow_errors=True).execute()
    shown = nbformat.writes(notebook)
    assert server.token not in shown and secret_of(server) not in shown
    assert f"{server.storage_address}/\\u2026" in shown or f"{server.storage_address}/…" in shown
    assert notebook.cells[3].outputs[-1].ename == exceptions.NotFound.__name__


@pytest.fixture
def front_door(own_root: Root) -> Iterator[tuple[int, int]]:
    """The ports of a front door to something open to all, and of the tunnel that leads there."""

    async def open_to_all(scope: Scope, receive: Receive, send: Send) -> None:
        await PlainTextResponse("inside")(scope, receive, send)

    own_root.create()
    context = front.server_context(own_root, certificate(own_root))
    users: dict[int, str] = {}
    with ports.listen(0) as listener, ports.listen(0) as way:
        port = ports.number(listener)
        with front.FrontDoor(listener, open_to_all, open_to_all, users, context):
            with Tunnel(way, Passes("right"), Targets(port, port), users):
                yield port, ports.number(way)


def test_the_front_door_answers_the_tunnel_alone(
    own_root: Root, front_door: tuple[int, int]
) -> None:
    """Whoever finds its port, and has not come through the tunnel, is told nothing."""
    port, tunnel = front_door
    host = "storage.googleapis.com"
    with requests.Session() as session:
        session.trust_env, session.verify = False, str(own_root.trusted)
        session.headers["Connection"] = "close"
        through = {"https": f"http://nobody:right@127.0.0.1:{tunnel}"}
        assert session.get(f"https://{host}/", proxies=through, timeout=30).text == "inside"
        wrong = {"https": f"http://nobody:wrong@127.0.0.1:{tunnel}"}
        with pytest.raises(requests.exceptions.ProxyError, match="407"):
            session.get(f"https://{host}/", proxies=wrong, timeout=30)
        session.verify = False
        with pytest.warns(InsecureRequestWarning):
            direct = session.get(f"https://127.0.0.1:{port}/", headers={"Host": host}, timeout=30)
        assert direct.status_code == 401 and "inside" not in direct.text
    assert not (own_root.path / "identity.pem").exists()
