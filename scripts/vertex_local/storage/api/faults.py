"""Faults of Cloud Storage: refusals, slow answers, and connections that end too early."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from dataclasses import dataclass
from fnmatch import fnmatchcase
from http import HTTPStatus
from typing import TypeAlias
from urllib.parse import parse_qs, unquote

from starlette.concurrency import run_in_threadpool
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from vertex_local.config import LOCAL_ACCOUNT, PROJECT_NUMBER
from vertex_local.faults.kinds import ALL, ANY_ACCESS, READ, WRITE
from vertex_local.faults.store import Fault, Faults
from vertex_local.storage.errors import Forbidden, StorageError, Unavailable

KINDS = ("bucket-denied", "storage-429", "storage-503", "storage-slow", "storage-cut")
JSON_PATH = re.compile(
    r"(?:/(?:upload|resumable/upload|download))?/storage/v1/b/(?P<bucket>[^/]+)"
    r"(?:/(?P<o>o)(?:/(?P<object>[^/]+))?)?"
)
XML_PATH = re.compile(r"/(?P<bucket>[^/]+)/(?P<object>.+)")
ON_FAULT = "vertex_local.on_fault"  # in the scope of a job's request: what to call
AGENT = f"service-{PROJECT_NUMBER}@gcp-sa-aiplatform-cc.iam.gserviceaccount.com"
Answer = Callable[[StorageError, str], Response]
Note: TypeAlias = "Callable[[Fault], None]"


class TooManyRequests(StorageError):
    """There were too many requests; clients wait and try again."""

    http, reason, code = HTTPStatus.TOO_MANY_REQUESTS, "rateLimitExceeded", "SlowDown"


@dataclass(frozen=True)
class Request:
    """The object that a request is about, and the permission that it needs."""

    bucket: str
    object: str
    permission: str

    @property
    def access(self) -> str:
        """Whether it reads or writes."""
        return READ if self.permission.endswith((".get", ".list")) else WRITE

    @classmethod
    def of(cls, scope: Scope) -> Request | None:
        """Return the object and permission of a request; None if it concerns no bucket."""
        path = scope["path"]
        match = JSON_PATH.match(path)
        if match is None and path.startswith(("/storage/", "/batch", "/upload/", "/download/")):
            return None
        match = match or XML_PATH.match(path)
        if match is None:
            return None
        parts = match.groupdict()
        name = unquote(parts["object"] or "")
        query = parse_qs(scope.get("query_string", b"").decode("latin-1"))
        name = name or query.get("name", [""])[0]
        kind = "objects" if name or "object" not in parts or parts.get("o") else "buckets"
        verb = {"GET": "get", "HEAD": "get", "DELETE": "delete", "PATCH": "update"}.get(
            scope["method"], "create"
        )
        if kind == "objects" and verb == "get" and not name:
            verb = "list"
        return cls(unquote(parts["bucket"]), name, f"storage.{kind}.{verb}")


class StorageFaults:
    """ASGI middleware that applies the faults of Cloud Storage.

    Args:
        app: answers requests that no fault refuses.
        faults: those of the root.
        answer: makes the response for an error and the path of the request.
    """

    def __init__(self, app: ASGIApp, faults: Faults, answer: Answer) -> None:
        self._app, self._faults, self._answer = app, faults, answer

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request.of(scope) if self._faults.active(*KINDS) else None
        if request is None:
            await self._app(scope, receive, send)
            return
        if slow := self._slow(request):
            await asyncio.sleep(slow.options["request"])
            receive, send = _slowed(receive, send, slow.options["rate"])
        if error := await self._error(request, scope.get(ON_FAULT)):
            await self._answer(error, scope["path"])(scope, receive, send)
        elif self._is_download(scope, request) and self._take("storage-cut", request):
            await self._app(scope, receive, Cut(send))
        else:
            await self._app(scope, receive, send)

    def _slow(self, request: Request) -> Fault | None:
        found = self._faults.active("storage-slow")
        return next((each for each in found if _concerns(each, request)), None)

    def _take(self, kind: str, request: Request, by_job: bool = False) -> Fault | None:
        def is_meant(fault: Fault) -> bool:
            whose = fault.options.get("who", ALL)
            return fault.kind == kind and (by_job or whose == ALL) and _concerns(fault, request)

        return self._faults.take(is_meant)

    async def _error(self, request: Request, note: Note | None) -> StorageError | None:
        """Return the error of a fault that hits this request, or None; note it for a job."""
        account = LOCAL_ACCOUNT if note is None else AGENT
        errors = {
            "bucket-denied": denied(request, account),
            "storage-429": too_many(request),
            "storage-503": Unavailable("We encountered an internal error. Please try again."),
        }
        for kind, error in errors.items():
            if fault := self._take(kind, request, note is not None):
                if note is not None:
                    await run_in_threadpool(note, fault)
                return error
        return None

    def _is_download(self, scope: Scope, request: Request) -> bool:
        is_content = b"alt=media" in scope["query_string"] or not scope["path"].startswith(
            "/storage/"
        )
        return scope["method"] == "GET" and is_content and bool(request.object)


def _concerns(fault: Fault, request: Request) -> bool:
    access = fault.options.get("access", ANY_ACCESS)
    return fnmatchcase(request.bucket, fault.options["bucket"]) and access in (
        ANY_ACCESS,
        request.access,
    )


def denied(request: Request, account: str) -> StorageError:
    """Return Cloud Storage's answer to an account without a permission."""
    what = "object" if request.object else "bucket"
    return Forbidden(
        f"{account} does not have {request.permission} access to the Google Cloud Storage {what}. "
        f"Permission '{request.permission}' denied on resource (or it may not exist)."
    )


def too_many(request: Request) -> StorageError:
    """Return Cloud Storage's answer to too many requests."""
    if request.access == READ:
        return TooManyRequests("Too many requests. Please reduce your request rate.")
    return TooManyRequests(
        f"The object {request.bucket}/{request.object} exceeded the rate limit for object mutation "
        "operations (create, update, and delete). Please reduce your request rate. See "
        "https://cloud.google.com/storage/docs/gcs429."
    )


def _slowed(receive: Receive, send: Send, rate: float | None) -> tuple[Receive, Send]:
    """Return both functions slowed down to `rate` megabytes per second; None: not slowed."""

    async def wait(message: Message) -> None:
        if rate:
            await asyncio.sleep(len(message.get("body", b"")) / (rate * 1e6))

    async def slow_receive() -> Message:
        message = await receive()
        await wait(message)
        return message

    async def slow_send(message: Message) -> None:
        await wait(message)
        await send(message)

    return slow_receive, slow_send


class Cut:
    """A `send` that sends half of an answer; the server then closes the connection."""

    def __init__(self, send: Send) -> None:
        self._send, self._left = send, 0

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = dict(message["headers"])
            self._left = int(headers.get(b"content-length", b"2")) // 2
            await self._send(message)
        elif self._left:
            body = message.get("body", b"")[: self._left]
            self._left -= len(body)
            await self._send({"type": "http.response.body", "body": body, "more_body": True})
