"""A real browser for the tests: Chromium, driven by chromedriver with the W3C's WebDriver protocol.

Source of the commands: https://www.w3.org/TR/webdriver2/.
"""

from __future__ import annotations

import base64
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import requests

from vertex_local.server import ports

DRIVER = shutil.which("chromedriver")
CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
LIMIT_SECONDS = 60.0
ELEMENT = "element-6066-11e4-a52e-4f735466cecf"  # the key under which WebDriver returns elements
OPTIONS = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-sync "
    "--disable-background-networking --disable-component-update --disable-dev-shm-usage"
)


class Browser:
    """One window."""

    def __init__(self, session: str) -> None:
        self._session = session

    def _call(self, method: str, path: str, body: object = None) -> Any:
        answer = requests.request(
            method, f"{self._session}{path}", json=body, timeout=LIMIT_SECONDS
        )
        value = answer.json()["value"]
        if isinstance(value, dict) and "error" in value:
            raise AssertionError(f"{value['error']}: {value['message']}")
        return value

    def open(self, url: str) -> None:
        """Load a page, as if its address had been typed."""
        self._call("POST", "/url", {"url": url})

    @property
    def address(self) -> str:
        return str(self._call("GET", "/url"))

    @property
    def title(self) -> str:
        return str(self._call("GET", "/title"))

    def run(self, script: str, *arguments: object) -> Any:
        """Run script in the page and return its result; a promise is waited for."""
        return self._call("POST", "/execute/sync", {"script": script, "args": arguments})

    def texts(self, selector: str) -> list[str]:
        """Return the visible text of all elements that match a CSS selector."""
        script = "return [...document.querySelectorAll(arguments[0])].map(each => each.innerText)"
        found: list[str] = self.run(script, selector)
        return found

    def click(self, selector: str) -> None:
        """Click on the first element that matches a CSS selector."""
        found = self._call("POST", "/element", {"using": "css selector", "value": selector})
        self._call("POST", f"/element/{found[ELEMENT]}/click", {})

    def type(self, selector: str, text: str) -> None:
        """Type into the first element that matches a CSS selector."""
        found = self._call("POST", "/element", {"using": "css selector", "value": selector})
        self._call("POST", f"/element/{found[ELEMENT]}/value", {"text": text})

    def size(self, width: int, height: int) -> None:
        """Give the window a size."""
        self._call("POST", "/window/rect", {"width": width, "height": height})

    def theme(self, name: str) -> None:
        """Let the page think that the user prefers `dark` or `light`."""
        features = [{"name": "prefers-color-scheme", "value": name}]
        body = {"cmd": "Emulation.setEmulatedMedia", "params": {"features": features}}
        self._call("POST", "/goog/cdp/execute", body)

    def screenshot(self, path: Path) -> None:
        """Save what the window shows."""
        path.write_bytes(base64.b64decode(self._call("GET", "/screenshot")))

    def wait(self, condition: Any, what: str) -> None:
        """Wait until a condition holds; fail in words when it takes too long."""
        deadline = time.monotonic() + LIMIT_SECONDS
        while not condition():
            assert time.monotonic() < deadline, f"not within {LIMIT_SECONDS} s: {what}"
            time.sleep(0.05)

    def messages(self) -> list[str]:
        """Return errors and warnings that the browser has logged, such as of refused scripts."""
        found = self._call("POST", "/se/log", {"type": "browser"})
        return [entry["message"] for entry in found if entry["level"] in ("SEVERE", "WARNING")]


@contextmanager
def started(profile: Path) -> Iterator[Browser]:
    """Start a browser with an empty profile, and end it."""
    if DRIVER is None or CHROMIUM is None:
        pytest.skip("chromium and chromedriver are not installed")
    with ports.listen(0) as free:
        port = free.getsockname()[1]
    driver = subprocess.Popen(
        [DRIVER, f"--port={port}"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    base = f"http://127.0.0.1:{port}"
    session = ""
    try:
        _wait_for(base)
        args = [*OPTIONS.split(), f"--user-data-dir={profile}"]
        chrome = {"binary": CHROMIUM, "args": args}
        wanted = {
            "goog:chromeOptions": chrome,
            "goog:loggingPrefs": {"browser": "ALL"},
            "unhandledPromptBehavior": "ignore",
        }
        body = {"capabilities": {"alwaysMatch": wanted}}
        made = requests.post(f"{base}/session", json=body, timeout=LIMIT_SECONDS).json()["value"]
        session = f"{base}/session/{made['sessionId']}"
        yield Browser(session)
    finally:
        if session:
            requests.delete(session, timeout=LIMIT_SECONDS)
        driver.terminate()
        driver.wait()


def _wait_for(base: str) -> None:
    deadline = time.monotonic() + LIMIT_SECONDS
    while time.monotonic() < deadline:
        try:
            if requests.get(f"{base}/status", timeout=5).json()["value"]["ready"]:
                return
        except requests.ConnectionError:
            time.sleep(0.05)
    raise AssertionError("chromedriver did not start")
