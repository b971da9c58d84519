"""Who may ask: clients of this machine that know the server's token, and no web page.

A page in the user's browser can send requests to 127.0.0.1 too. It cannot hide that it is a page:
the browser adds an `Origin` or `Sec-Fetch-Site` header, or, when the page's own host name was made
to point here, sends that name as `Host`.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from vertex_local import errors
from vertex_local.config import HOST

OWN_NAMES = frozenset({HOST, "localhost", "::1"})
OPEN_PATHS = frozenset({"/healthz"})


class OwnClientsOnly:
    """ASGI middleware that refuses web pages, foreign host names and missing or wrong tokens."""

    def __init__(self, app: ASGIApp, token: str) -> None:
        self.app, self.expected = app, f"Bearer {token}".encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and (error := self._refusal(scope)) is not None:
            await errors.response(error)(scope, receive, send)
        else:
            await self.app(scope, receive, send)

    def _refusal(self, scope: Scope) -> errors.ApiError | None:
        headers = Headers(scope=scope)
        if reason := refusal(headers):
            return errors.PermissionDenied(reason)
        given = headers.get("Authorization", "").encode()
        if scope["path"] not in OPEN_PATHS and not secrets.compare_digest(given, self.expected):
            return errors.Unauthenticated(
                "Request is missing local mode's token, or has an old one. Restart the kernel "
                "with the local-mode kernel chosen, or run `vertex-local env`."
            )
        return None


def refusal(headers: Mapping[str, str]) -> str | None:
    """Return why a request is not one of this machine's own clients, or None if it may pass.

    Args:
        headers: the request's headers, looked up without regard to case.
    """
    host = urlsplit(f"//{headers.get('Host') or ''}").hostname
    if host not in OWN_NAMES:
        return f"local mode answers to {HOST} and localhost only, not to {host}"
    if headers.get("Origin") or headers.get("Sec-Fetch-Site", "none") != "none":
        return "local mode does not answer requests from web pages"
    return None
