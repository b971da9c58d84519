"""Others who would like to use the page: other sites, other users, an old link, another name."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import browser
import hostile
import pytest
import requests
from google.cloud import storage
from test_page import Page

from vertex_local.config import Root, ServerRecord
from vertex_local.console import gate, routes
from vertex_local.faults.store import Faults
from vertex_local.server import daemon

# What somebody else's page may send without being asked. It is told the true address of the page,
# which no attacker knows: so only the checks of the page itself are left.
EVIL = """
const base = %s;
const form = "kind=quota";
async function main() {
  await attempt("read", async () => (await fetch(base + "/", {credentials: "include"})).text());
  await attempt("post", async () => (await fetch(base + "/faults/add", {method: "POST",
    mode: "no-cors", credentials: "include", body: new URLSearchParams(form)})).type);
  await attempt("beacon", () => navigator.sendBeacon(base + "/faults/add",
    new URLSearchParams(form)));
  await attempt("script", () => element("script", base + "/static/live.js"));
  await attempt("image", () => element("img", base + "/static/icon.svg"));
  await attempt("frame", async () => {
    const frame = document.createElement("iframe");
    frame.src = base + "/";
    document.documentElement.append(frame);
    await new Promise((done) => { frame.onload = done; });
    try { return frame.contentDocument.title; } catch (error) { return "refused"; }
  });
  await attempt("form", () => new Promise((done) => {
    const frame = document.createElement("iframe"), made = document.createElement("form");
    frame.name = "target";
    frame.onload = () => done("sent");
    Object.assign(made, {action: base + "/faults/add", method: "POST", target: "target"});
    made.innerHTML = "<input name=kind value=quota>";
    document.documentElement.append(frame, made);
    made.submit();
  }));
  document.title = "done";
}
window.report = report;
main();
"""


@pytest.fixture
def page(server: ServerRecord) -> Page:
    return Page(server)


@pytest.mark.parametrize(
    "headers",
    [
        {"Host": "evil.example"},
        {"Host": "127.0.0.1"},  # another port than ours
        {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "no-cors"},
        {"Sec-Fetch-Site": "same-site", "Sec-Fetch-Mode": "cors"},
        {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "iframe"},
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
    ],
)
def test_requests_of_others_read_nothing_even_with_the_cookie(
    page: Page, headers: dict[str, str]
) -> None:
    answer = page.client.get(f"{page.base}/", headers=headers)
    assert answer.status_code == 403 and "<table>" not in answer.text
    assert "Name or id" in page.get("")  # without them, it is the page


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Origin": "null"},
        {"Origin": "http://127.0.0.1:1"},
        {"Origin": "https://{own}"},
        {"Origin": "http://{own}", "Sec-Fetch-Site": "cross-site"},
        {"Origin": "http://{own}", "Sec-Fetch-Site": "same-site"},
        {"Origin": "http://{own}", "Host": "evil.example"},
    ],
)
def test_forms_of_others_change_nothing(
    page: Page, faults: Faults, headers: dict[str, str]
) -> None:
    own = urlsplit(page.base).netloc
    told = {name: value.format(own=own) for name, value in headers.items()}
    url, fields = f"{page.base}/faults/add", {"kind": "quota"}
    assert page.client.post(url, data=fields, headers=told).status_code == 403
    assert page.client.get(url).status_code == 405
    assert faults.all() == []
    page.post("faults/add", kind="quota")
    assert len(faults.all()) == 1


def test_without_the_cookie_there_is_nothing(page: Page) -> None:
    for cookie in ("", f"{gate.COOKIE}=guess", f"{gate.COOKIE}=", "\x80;;=", "a" * 5000):
        answer = requests.get(f"{page.base}/", headers={"Cookie": cookie.encode("latin-1")})
        assert answer.status_code == 403 and "vertex-local page" in answer.text
        assert "Set-Cookie" not in answer.headers
    other = page.base.rpartition("/")[0] + "/another-path/"
    assert page.client.get(other).status_code == 404


def test_a_link_opens_the_page_once(server: ServerRecord) -> None:
    link = daemon.page_link(server, "buckets")
    first = requests.get(link)
    told = first.headers["Set-Cookie"]
    assert "HttpOnly" in told and "SameSite=Strict" in told and "Path=/console/" in told
    assert urlsplit(link).path.split("/")[2] in told  # only below the path that nobody can guess
    again = requests.get(link)
    assert again.status_code == 200 and "Set-Cookie" not in again.headers
    assert "Set-Cookie" not in requests.get(link.replace("/enter/", "/enter/x")).headers


def test_only_who_has_the_token_gets_a_link(server: ServerRecord) -> None:
    url = f"{server.api_url}/console-link"
    assert requests.post(url).status_code == 401
    wrong = {"Authorization": "Bearer guess"}
    assert requests.post(url, headers=wrong).status_code == 401
    right = {"Authorization": f"Bearer {server.token}"}
    assert requests.post(url, headers={**right, "Origin": "http://a.b"}).status_code == 403
    assert "/enter/" in requests.post(url, headers=right).text


def test_a_link_may_not_lead_elsewhere(server: ServerRecord) -> None:
    for target in ("//evil.example/", "https://evil.example/", "\\\\evil.example", "javascript:1"):
        link = daemon.page_link(server, target)
        text = requests.get(link).text
        own = urlsplit(link).path.split("/enter/")[0]
        assert f"url={own}/" in text and "url=//" not in text and "url=http" not in text


def test_every_answer_forbids_scripts_and_frames_of_others(
    page: Page, bucket: storage.Bucket
) -> None:
    for path in ("", "jobs/1", "buckets", f"folder?bucket={bucket.name}", "faults", "none", "raw"):
        headers = page.client.get(f"{page.base}/{path}").headers
        policy = headers["Content-Security-Policy"]
        assert "default-src 'none'" in policy and "unsafe" not in policy
        assert headers["X-Frame-Options"] == "DENY" and headers["Cache-Control"] == "no-store"
        assert headers["Cross-Origin-Resource-Policy"] == "same-origin"


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_a_page_of_another_user_of_this_machine_gets_nowhere(
    server: ServerRecord, faults: Faults, tmp_path: Path, host: str
) -> None:
    link = daemon.page_link(server)
    base = link.partition("/enter/")[0]
    with hostile.serving() as site, browser.started(tmp_path) as window:
        site.show(EVIL % json.dumps(base))
        window.open(link)
        window.wait(lambda: window.title.startswith("Jobs"), "the page, for its owner")
        window.open(f"http://{host}:{site.port}/")
        window.wait(lambda: window.title == "done", "the end of the attacks")
        report = window.run("return window.report")
        window.open(f"http://{host}:{site.port}/console/")
    assert report["read"] == report["script"] == report["image"] == "refused"
    assert report["frame"] in ("refused", "null")
    assert faults.all() == []
    assert not any(gate.COOKIE in cookie for cookie in site.cookies)


@pytest.mark.parametrize("view", ["raw", "object"])
@pytest.mark.parametrize(
    "name",
    ["../../token", "..", "", "/etc/passwd", "a/../../token", "%2e%2e/token", "link", "x\0y"],
)
def test_no_address_leads_out_of_a_bucket(
    page: Page, bucket: storage.Bucket, root: Root, view: str, name: str
) -> None:
    link = root.buckets / bucket.name / "link"
    link.symlink_to(root.path / "token")
    secret = (root.path / "token").read_text()
    for holder in (bucket.name, "..", ".", "", f"{bucket.name}/.."):
        text = page.get(view, 404, bucket=holder, name=name)
        assert secret not in text and "This is not possible" in text
    link.unlink()


@pytest.mark.parametrize(
    "path",
    ["jobs/1/log/..%2Ftoken", "static/..%2Froutes.py", "jobs/%25", "searches/%00", "jobs/٣"],
)
def test_nor_out_of_the_pages(page: Page, path: str) -> None:
    assert "This is not possible" in page.get(path, 404)


def test_what_nobody_expected_becomes_a_page_as_well() -> None:
    session, sent = gate.Session(80), []
    app = routes.application(routes.Console(None, None, session))  # type: ignore[arg-type]
    cookie = session.set_cookie.partition(";")[0]
    headers = [(b"host", b"127.0.0.1:80"), (b"cookie", cookie.encode())]
    scope = {"type": "http", "method": "GET", "path": f"{session.prefix}/", "headers": headers}

    async def send(message: Any) -> None:
        sent.append(message)

    with pytest.raises(AttributeError):  # for the server's log
        asyncio.run(app({**scope, "query_string": b"", "root_path": ""}, None, send))  # type: ignore[arg-type]
    assert sent[0]["status"] == 500 and b"server.log in its folder says why" in sent[1]["body"]
