"""Batches: up to a hundred small requests in the body of one, as `Client.batch()` sends them."""

from __future__ import annotations

import secrets
from http import HTTPStatus
from urllib.parse import urlsplit

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Message

from vertex_local.storage.api.multipart import boundary, parts
from vertex_local.storage.api.requests import read_limited
from vertex_local.storage.errors import BadRequest

MAX_BATCH_BYTES = 10 << 20
MAX_CALLS = 100


async def batch(request: Request) -> Response:
    """Answer each request of a batch in turn."""
    separator = boundary(request.headers.get("content-type", ""))
    calls = parts(await read_limited(request, MAX_BATCH_BYTES), separator)
    if len(calls) > MAX_CALLS:
        raise BadRequest(f"The batch has more than {MAX_CALLS} calls.")
    mark = f"batch_{secrets.token_hex(12)}"
    answers = []
    for headers, content in calls:
        status, kind, body = await _call(request, content)
        head = f"HTTP/1.1 {status} {HTTPStatus(status).phrase}\r\nContent-Type: {kind}\r\n"
        head += f"Content-Length: {len(body)}\r\n\r\n"
        outer = f"--{mark}\r\nContent-Type: application/http\r\n{_reply_id(headers)}\r\n"
        answers.append(outer.encode() + head.encode() + body + b"\r\n")
    text = b"".join(answers) + f"--{mark}--\r\n".encode()
    return Response(text, media_type=f"multipart/mixed; boundary={mark}")


async def _call(request: Request, content: bytes) -> tuple[int, str, bytes]:
    """Answer one request of the batch by this application; return status, type and body."""
    head, _, body = content.replace(b"\r\n", b"\n").partition(b"\n\n")
    first, *lines = head.decode("latin-1").split("\n")
    try:
        method, target, *_ = first.split(" ")
    except ValueError as err:
        raise BadRequest(f"Failed to parse batch request: {first!r}") from err
    url = urlsplit(target)
    path = url.path.removeprefix(request.scope["root_path"])  # each part repeats the secret
    if path.startswith(("/batch", "/upload", "/download")):
        raise BadRequest(f"A batch cannot contain {path}")
    headers = [(b"host", request.headers["host"].encode())]  # the gate has checked the batch
    for line in lines:
        key, _, value = line.partition(":")
        if key.strip().lower() not in ("host", "origin"):
            headers.append((key.strip().lower().encode(), value.strip().encode()))
    scope = {
        **request.scope,
        "method": method.upper(),
        "path": path,
        "raw_path": path.encode(),
        "query_string": url.query.encode(),
        "headers": headers,
        "state": {},
    }
    received: list[Message] = []

    async def receive() -> Message:
        return {"type": "http.request", "body": body, "more_body": False}

    async def send(message: Message) -> None:
        received.append(message)

    await request.app(scope, receive, send)
    start, *rest = received
    kinds = [value.decode() for key, value in start["headers"] if key == b"content-type"]
    text = b"".join(message.get("body", b"") for message in rest)
    return start["status"], (kinds or ["text/plain"])[0], text


def _reply_id(headers: bytes) -> str:
    """Return the header that tells the client which request an answer belongs to."""
    for line in headers.decode("latin-1").split("\n"):
        key, _, value = line.partition(":")
        if key.strip().lower() == "content-id":
            return f"Content-ID: <response-{value.strip().lstrip('<')}\r\n"
    return ""
