"""Who may see the page: the browser in which its owner opened a link that works once.

The link holds a code. Opening it gives the browser a cookie for this server only, and only below a
path that nobody can guess: cookies do not know ports, so another server of this machine would get
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
CODE_SECONDS = 3600.0  # after which an unopened link no longer works
MAX_CODES = 1000
READING = ("GET", "HEAD")
# Load nothing from elsewhere, run only the page's own script file, allow no frame around it.
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
        proxy: the address of a proxy that shows what is at this port, such as
            `https://example.org/proxy/8080`. The page is then there, and there only.

    Attributes:
        prefix: the path of the page on this server.
        path: the same as a browser sees it: below that of the proxy, if there is one.
        origins: scheme and host of the page in a browser, all that are allowed.
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
        self._codes: dict[str, float] = {}  # digest of a code, and when it expires
        self._lock = threading.Lock()

    def link(self, path: str) -> str:
        """Return an address of the page that opens it once, for somebody who has the token.

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
        """Return whether a code is valid; it is used up either way."""
        with self._lock:
            return self._codes.pop(_digest(code), 0.0) > time.monotonic()

    @property
    def set_cookie(self) -> str:
        """The header that gives a browser the cookie."""
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
    """Return why a request does not come from the page itself or its owner, or None.

    Whoever opens a link in another program or page may do so, for that shows only what the cookie
    allows; everything else must come from the page.

    Args:
        method: the request's method.
        headers: its headers.
        origins: scheme and host of the page.
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
    opened = (headers.get("sec-fetch-mode"), headers.get("sec-fetch-dest"))
    if site not in ("none", "same-origin") and opened != ("navigate", "document"):
        return "Pages of other sites may not use this one."
    if origin not in (None, own):
        return "Pages of other sites may not use this one."
    return None
