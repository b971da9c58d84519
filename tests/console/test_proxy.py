"""The page below the address of a Jupyter, as jupyter-server-proxy hands its requests on.

That proxy was tried by hand, in Chromium; what these tests send is what it sent then: a path
without its own part, and the `Host`, `Origin` and cookies of the browser.
"""

from __future__ import annotations

import re
from urllib.parse import urlsplit

import pytest
import requests

from vertex_local import config
from vertex_local.config import LocalModeError, Root, ServerRecord
from vertex_local.faults.store import Faults
from vertex_local.server import daemon

JUPYTER = "https://hub.example/user/doe/"
BROWSER = {"Host": "hub.example", "Sec-Fetch-Site": "same-origin"}


@pytest.fixture
def behind(own_root: Root, monkeypatch: pytest.MonkeyPatch) -> ServerRecord:
    """A server whose page is shown by a proxy."""
    monkeypatch.setenv("VERTEX_LOCAL_PROXY", JUPYTER)
    return daemon.ensure(own_root)


def test_the_page_is_there_and_only_there(behind: ServerRecord, own_root: Root) -> None:
    link = daemon.page_link(behind)
    port = urlsplit(behind.api_url).port
    shown, hidden = f"/user/doe/proxy/{port}", behind.api_url
    assert link.startswith(f"https://hub.example{shown}/console/")
    path = urlsplit(link).path.removeprefix(shown)
    entrance = requests.get(f"{hidden}{path}", headers=BROWSER)
    prefix = path.partition("/enter/")[0]
    told = entrance.headers["Set-Cookie"]
    assert f"Path={shown}{prefix}/;" in told and told.endswith("; Secure")
    assert f"url={shown}{prefix}/" in entrance.text
    cookie = {"Cookie": told.partition(";")[0]}
    page = requests.get(f"{hidden}{prefix}/faults", headers=BROWSER | cookie)
    assert page.status_code == 200
    links = re.findall(r'(?:href|src|action)="(/[^"]*)"', page.text)
    assert len(links) > 5 and all(each.startswith(f"{shown}{prefix}/") for each in links)

    def post(**more: str) -> requests.Response:
        url, told = f"{hidden}{prefix}/faults/add", BROWSER | cookie | more
        return requests.post(url, data={"kind": "quota"}, headers=told, allow_redirects=False)

    for wrong in ("http://hub.example", "https://evil.example", behind.api_url):
        assert post(Origin=wrong).status_code == 403
    assert post(Origin="https://hub.example", Host="evil.example").status_code == 403
    assert Faults(own_root).all() == []
    sent = post(Origin="https://hub.example")
    assert sent.status_code == 303 and len(Faults(own_root).all()) == 1
    assert sent.headers["Location"] == f"https://hub.example{shown}{prefix}/faults"
    assert requests.get(f"{hidden}{prefix}/", headers=cookie).status_code == 403
    assert requests.get(f"{hidden}{prefix}/", headers=BROWSER).status_code == 403


@pytest.mark.parametrize(
    "wrong", ["hub.example", "ftp://a.b/", "https://", "https://a@b.c", "https://a.b/?x=1"]
)
def test_what_is_no_address_of_jupyter_is_refused(
    monkeypatch: pytest.MonkeyPatch, wrong: str
) -> None:
    monkeypatch.setenv("VERTEX_LOCAL_PROXY", wrong)
    with pytest.raises(LocalModeError, match="the address of Jupyter in the browser"):
        config.proxy()
