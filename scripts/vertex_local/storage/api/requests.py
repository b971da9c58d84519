"""Helpers of all handlers: read names, JSON and bytes from a request, and check its parameters."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import parse_qsl, unquote

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request

from vertex_local.storage import conditions
from vertex_local.storage.api.features import refusal
from vertex_local.storage.digest import PIECE_BYTES, combined, from_header
from vertex_local.storage.errors import BadRequest, NotEmulated, TooLarge
from vertex_local.storage.objects import Objects
from vertex_local.storage.partial import Partial
from vertex_local.storage.uploads import Intent

MAX_JSON_BYTES = 1 << 20
# These change the format of an answer, who pays, or what is logged, but not what is done.
HARMLESS = frozenset(
    "alt fields prettyPrint projection quotaUser userProject userIp key uploadType upload_id "
    "uploadId name project access_token $alt $.xgafv "
    "predefinedAcl predefinedDefaultObjectAcl destinationPredefinedAcl".split()
)
SIGNED = re.compile(r"x-goog-.*|googleaccessid|signature|expires", re.I)  # parameters of both kinds
HEADERS = {  # how a header begins, and its key in `features.FEATURES`
    "x-goog-copy-source-encryption": "encryption",
    "x-goog-encryption": "encryption",
    "x-goog-if": "ifGenerationMatch",
    "x-goog-object-lock": "objectRetention",
}
CONDITIONS = frozenset([*conditions.NAMES, "generation"])


def objects_of(request: Request) -> Objects:
    """Return the buckets that this server serves."""
    found: Objects = request.app.state.objects
    return found


def base(request: Request) -> str:
    """Return the base URL that the client uses for this server, with the secret if it has it."""
    return f"{request.scope['scheme']}://{request.headers['host']}{request.scope['root_path']}"


def part(request: Request, key: str) -> str:
    """Return one decoded part of the path: a bucket or an object name."""
    try:
        return unquote(request.path_params[key], errors="strict")
    except UnicodeDecodeError as err:
        raise BadRequest("The name in the URL is not valid UTF-8.") from err


def _check_text(query: bytes) -> None:
    try:
        parse_qsl(query.decode("latin-1"), errors="strict")
    except UnicodeDecodeError as err:
        raise BadRequest("The name in the URL is not valid UTF-8.") from err


def check_params(request: Request, *known: str) -> None:
    """Refuse query parameters that this operation does not know, and headers as `check_headers`.

    Args:
        request: the request.
        known: the parameters that the operation knows, beside HARMLESS ones.

    Raises:
        NotEmulated: if there is another one with a value.
    """
    for key, value in request.query_params.items():
        if key not in HARMLESS and key not in known and value.lower() not in ("", "false"):
            if SIGNED.fullmatch(key):
                raise NotEmulated("signed URLs")
            raise refusal(key, f"{request.method} with the parameter {key}")
    check_headers(request)


def check_headers(request: Request) -> None:
    """Refuse headers that ask for a feature which local mode does not have.

    Raises:
        NotEmulated: if there is one.
    """
    for key in request.headers:
        for start, feature in HEADERS.items():
            if key.startswith(start):
                raise refusal(feature, f"the header {key}")


async def read_json(request: Request) -> dict[str, Any]:
    """Return the JSON object in a request's body, `{}` if it has none."""
    return parse_json(await read_limited(request, MAX_JSON_BYTES))


async def read_limited(request: Request, limit: int) -> bytes:
    """Return a request's body; raise TooLarge if it has more than `limit` bytes."""
    body = b""
    async for data in request.stream():
        body += data
        if len(body) > limit:
            raise TooLarge(f"The body of this request must not be longer than {limit} bytes.")
    return body


def parse_json(text: bytes) -> dict[str, Any]:
    """Return a JSON object; `{}` for an empty text."""
    try:
        body = json.loads(text) if text.strip() else {}
    except (ValueError, RecursionError) as err:
        raise BadRequest(f"Parse Error: {err}") from err
    if not isinstance(body, dict):
        raise BadRequest("Parse Error: the body is not a JSON object.")
    if b"\\ud" in text.lower():  # perhaps half of a surrogate pair
        try:
            json.dumps(body, ensure_ascii=False).encode()
        except UnicodeEncodeError as err:
            raise BadRequest(f"Parse Error: {err}") from err
    return body


async def receive(stream: AsyncIterator[bytes], partial: Partial) -> bytes:
    """Write a stream to a file, except for its last piece, which is returned.

    The caller writes that piece in the thread that completes the object. So a small object needs a
    single change of threads, and a large one little memory.
    """
    held: list[bytes] = []
    size = 0
    async for data in stream:
        held.append(data)
        size += len(data)
        if size >= PIECE_BYTES:
            await run_in_threadpool(partial.write, b"".join(held))
            held, size = [], 0
    return b"".join(held)


def intent(request: Request, bucket: str, body: dict[str, Any], fields: dict[str, Any]) -> Intent:
    """Return what an upload will become: read its URL, its metadata and its headers.

    Args:
        request: the first request of the upload.
        bucket: the bucket's name.
        body: the metadata as sent.
        fields: the metadata to store.
    """
    name = request.query_params.get("name") or body.get("name")
    if not isinstance(name, str):
        raise BadRequest("Required")
    if "\ufffd" in name:  # it may stand for bytes that are not UTF-8
        _check_text(request.scope["query_string"])
    in_body = {
        key: body[field]
        for key, field in (("md5", "md5Hash"), ("crc32c", "crc32c"))
        if isinstance(body.get(field), str)
    }
    params = {key: value for key, value in request.query_params.items() if key in CONDITIONS}
    conditions.read(params)  # refuse a malformed one now
    return Intent(bucket, name, fields, params, combined(announced(request), in_body))


def announced(request: Request) -> dict[str, str]:
    """Return the checksums of the content that a request's headers announce."""
    md5 = request.headers.get("content-md5")
    in_headers = from_header(request.headers.getlist("x-goog-hash"))
    return combined(in_headers, {"md5": md5} if md5 else {})


def is_xml(path: str) -> bool:
    """Return whether a path is one of the XML API, whose paths begin with the bucket."""
    first = path.split("/")[1]
    return first not in ("storage", "upload", "download", "resumable", "batch")
