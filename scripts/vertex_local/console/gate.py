"""Who may see the page: the browser in which its owner opened a link that works once.

The link contains a code. Opening it gives the browser a cookie, which is sent only below a path
that nobody can guess: cookies are not bound to a port, so other servers on this machine would get
it otherwise. Pages of other sites can use neither the cookie (`SameSite`) nor the page.
"""

from __future__ import annotations

import hashlib
import secrets
import threading
import time
from collections.abc import Mapping, Sequence
from http.cookies import CookieError, SimpleCookie
from urllib.parse import urlsplit

from starlette.datastructures import Headers

from vertex_local.config import HOST

COOKIE = "vertex-local-console"
CODE_SECONDS = 3600.0  # an unopened link stops working after this time
MAX_CODES = 1000  # unopened links; older ones stop working
READING = ("GET", "HEAD")
# Load nothing from other sites, run only the page's own script file, refuse to be framed.
HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
        "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    ),
    "Cache-Control": "no-store",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "same-origin",  # with `no-referrer`, forms would have no origin either
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}


class Session:
    """The secrets of one server's page: its path, its cookie, and links that work once.

    Args:
        port: the TCP port on which the server answers.
        proxy: the URL at which a proxy shows this port, such as `https://example.org/proxy/8080`.
            The page can then be opened at this URL only.

    Attributes:
        prefix: the path of the page on this server.
        path: the path of the page in a browser: with the proxy's path in front, if there is one.
        origins: every origin (scheme, host and port) at which a browser may open the page.
    """

    def __init__(self, port: int, proxy: str = "") -> None:
        self.prefix = f"/console/{secrets.token_urlsafe(12)}"
        self.origins = [f"http://{host}:{port}" for host in (HOST, "localhost")]
        self._base = proxy or self.origins[0]
        parts = urlsplit(self._base)
        self.path = f"{parts.path}{self.prefix}"
        if proxy:
            self.origins = [f"{parts.scheme}://{parts.netloc}"]
        self._secure = "; Secure" if parts.scheme == "https" else ""
        self._cookie = secrets.token_urlsafe(32)
        self._codes: dict[str, float] = {}  # when each code expires, by its digest
        self._lock = threading.Lock()

    def link(self, path: str) -> str:
        """Return a URL that opens the page once. Give it only to somebody who has the token.

        Args:
            path: which page, such as `jobs/123`, or "".
        """
        code = secrets.token_urlsafe(18)
        now = time.monotonic()
        with self._lock:
            kept = {old: end for old, end in self._codes.items() if end > now}
            self._codes = dict(list(kept.items())[-MAX_CODES + 1 :])
            self._codes[_digest(code)] = now + CODE_SECONDS
        return f"{self._base}{self.prefix}/enter/{code}/{path.lstrip('/')}"

    def redeem(self, code: str) -> bool:
        """Return whether a code is valid; afterwards it no longer is."""
        with self._lock:
            return self._codes.pop(_digest(code), 0.0) > time.monotonic()

    @property
    def set_cookie(self) -> str:
        """The value of the header `Set-Cookie` that gives a browser the cookie."""
        where = f"Path={self.path}/; HttpOnly; SameSite=Strict{self._secure}"
        return f"{COOKIE}={self._cookie}; {where}"

    def has_entered(self, headers: Mapping[str, str]) -> bool:
        """Return whether a request carries the cookie."""
        try:
            found = SimpleCookie(headers.get("cookie", "")).get(COOKIE)
        except CookieError:
            return False
        return found is not None and secrets.compare_digest(
            found.value.encode(), self._cookie.encode()
        )


def _digest(code: str) -> str:
    return hashlib.sha256(code.encode()).hexdigest()


def refusal(method: str, headers: Headers, origins: Sequence[str]) -> str | None:
    """Return why a request is refused, or None if it comes from the page itself or its owner.

    Opening a link in another program or page is allowed, because it shows nothing without the
    cookie. Every other request must come from the page.

    Args:
        method: the request's method.
        headers: its headers.
        origins: every origin of the page, see `Session`.
    """
    host = headers.get("host", "")
    own = next((each for each in origins if each.partition("//")[2] == host), None)
    if own is None:
        return f"This page answers to {origins[0]} only."
    site = headers.get("sec-fetch-site", "none")
    origin = headers.get("origin")
    if method not in READING:
        is_own = origin == own and site in ("none", "same-origin")
        return None if is_own else "Only this page's own forms may change something."
    purpose = (headers.get("sec-fetch-mode"), headers.get("sec-fetch-dest"))
    if site not in ("none", "same-origin") and purpose != ("navigate", "document"):
        return "Pages of other sites may not use this one."
    if origin not in (None, own):
        return "Pages of other sites may not use this one."
    return None
