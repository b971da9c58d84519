"""Who may use the training API: clients of this machine that know the server's token."""

from __future__ import annotations

import secrets

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from vertex_local import errors, loopback

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
        if reason := loopback.refusal(headers):
            return errors.PermissionDenied(reason)
        given = headers.get("Authorization", "").encode()
        if scope["path"] not in OPEN_PATHS and not secrets.compare_digest(given, self.expected):
            return errors.Unauthenticated(
                "Request is missing local mode's token, or has an old one. Restart the kernel "
                "with the local-mode kernel chosen, or run `vertex-local env`."
            )
        return None
