"""A site of somebody else, whose pages try to use local mode behind its user's back."""

from __future__ import annotations

import http.server
import queue
import threading
from collections.abc import Iterator
from contextlib import contextmanager

# What the pages share: `attempt` notes in `report` what came of an attack.
SCRIPT = """
const report = {};
async function attempt(name, work) {
  try { report[name] = String(await work()); } catch (error) { report[name] = "refused"; }
}
function element(kind, source) {
  return new Promise((done) => {
    const made = document.createElement(kind);
    made.onload = () => done("loaded");
    made.onerror = () => done("refused");
    made.src = source;
    document.documentElement.append(made);
  });
}
"""


class Site(http.server.ThreadingHTTPServer):
    """Serves one page, and keeps what pages send to it and the cookies that it is given."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Visitor)
        self.page = ""
        self.received: queue.Queue[tuple[str, str]] = queue.Queue()
        self.cookies: list[str] = []

    @property
    def port(self) -> int:
        return int(self.server_address[1])

    def show(self, script: str) -> None:
        """Let the page run this JavaScript."""
        self.page = f"<!DOCTYPE html><title>evil</title><script>{SCRIPT}{script}</script>"


class Visitor(http.server.BaseHTTPRequestHandler):
    """Lets everybody do everything: what a server must not be like."""

    server: Site

    def do_GET(self) -> None:
        self.server.cookies.append(self.headers.get("Cookie", ""))
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


@contextmanager
def serving() -> Iterator[Site]:
    """Serve the site until the end of the block."""
    with Site() as site:
        thread = threading.Thread(target=site.serve_forever)
        thread.start()
        try:
            yield site
        finally:
            site.shutdown()
            thread.join()
