"""One short function per operation on objects: metadata, copies, and downloads."""

from __future__ import annotations

import re
import zlib
from collections.abc import AsyncIterator, Callable
from contextlib import ExitStack
from datetime import datetime
from email.utils import formatdate
from typing import Any, BinaryIO, TypeVar
from urllib.parse import quote

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse

from vertex_local.storage import conditions
from vertex_local.storage.api import resources
from vertex_local.storage.api.requests import (
    CONDITIONS,
    base,
    check_params,
    is_xml,
    objects_of,
    part,
    read_json,
)
from vertex_local.storage.digest import PIECE_BYTES, pieces
from vertex_local.storage.errors import BadRange, BadRequest, NotEmulated
from vertex_local.storage.metadata import Resource
from vertex_local.storage.objects import DEFAULT_TYPE, Objects, Slow
from vertex_local.storage.partial import Partial

SOURCE_CONDITIONS = tuple(name.replace("if", "ifSource", 1) for name in conditions.NAMES)
MAX_COMPOSED = 32
COMPOSE_KEYS = frozenset({"kind", "sourceObjects", "destination", "deleteSourceObjects"})
T = TypeVar("T")


def answer(request: Request, bucket: str, name: str, document: Resource) -> Response:
    """Return an object's metadata as the response."""
    return JSONResponse(resources.object_json(base(request), bucket, name, document))


async def get(request: Request) -> Response:
    """Answer with metadata, or with the content if `alt=media` asks for it."""
    check_params(request, *CONDITIONS)
    if request.query_params.get("alt") == "media":
        return await download(request)
    bucket, name = part(request, "bucket"), part(request, "object")
    wanted = conditions.read(request.query_params, request.headers)
    document = await soon(objects_of(request).get, bucket, name, wanted)
    return answer(request, bucket, name, document)


async def soon(ask: Callable[..., T], *args: object) -> T:
    """Call a method in this thread, which is faster; if it must read a file, in another one."""
    try:
        return ask(*args, quick=True)
    except Slow:
        return await run_in_threadpool(ask, *args)


async def patch(request: Request) -> Response:
    return await _update(request, replace=False)


async def update(request: Request) -> Response:
    return await _update(request, replace=True)


async def _update(request: Request, replace: bool) -> Response:
    check_params(request, *CONDITIONS)
    bucket, name = part(request, "bucket"), part(request, "object")
    fields = resources.object_fields(await read_json(request))
    change = (
        resources.replace(fields, resources.OBJECT_FIELDS) if replace else resources.patch(fields)
    )
    wanted = conditions.read(request.query_params, request.headers)
    document = await run_in_threadpool(objects_of(request).update, bucket, name, change, wanted)
    return answer(request, bucket, name, document)


async def delete(request: Request) -> Response:
    check_params(request, *CONDITIONS)
    wanted = conditions.read(request.query_params, request.headers)
    await run_in_threadpool(
        objects_of(request).delete, part(request, "bucket"), part(request, "object"), wanted
    )
    return Response(status_code=204)


async def copy(request: Request) -> Response:
    """Copy an object; for `rewriteTo`, the answer says that nothing is left to rewrite."""
    check_params(
        request, *CONDITIONS, *SOURCE_CONDITIONS, "sourceGeneration", "maxBytesRewrittenPerCall"
    )
    fields = resources.object_fields(await read_json(request))
    target = part(request, "bucket"), part(request, "object")
    document = await run_in_threadpool(
        _copy,
        objects_of(request),
        (part(request, "source_bucket"), part(request, "source")),
        target,
        fields,
        conditions.read(request.query_params, source=True),
        conditions.read(request.query_params),
    )
    resource = resources.object_json(base(request), *target, document)
    if "/rewriteTo/" not in request.scope["path"]:
        return JSONResponse(resource)
    size = document["size"]
    return JSONResponse(
        {
            "kind": "storage#rewriteResponse",
            "done": True,
            "objectSize": size,
            "totalBytesRewritten": size,
            "resource": resource,
        }
    )


def _copy(
    objects: Objects,
    source: tuple[str, str],
    target: tuple[str, str],
    fields: Resource,
    source_wanted: conditions.Conditions,
    wanted: conditions.Conditions,
) -> Resource:
    file, document = objects.open(*source, source_wanted)  # before the target's name is checked
    with file, Partial(objects.incoming) as partial:
        objects.check_writable(*target)
        for data in pieces(file):
            partial.write(data)
        # As on Cloud Storage: if metadata is given, none is copied from the source.
        kept = resources.patch(fields)({}) if fields else resources.copied_fields(document)
        if "contentType" in document:
            kept = {"contentType": document["contentType"], **kept}
        hashes = None if "md5Hash" in document else {"crc32c": partial.digest.crc32c}
        return objects.put(*target, partial, kept, wanted, hashes)


async def move(request: Request) -> Response:
    """Give an object another name in its bucket."""
    check_params(request, *CONDITIONS, *SOURCE_CONDITIONS)
    bucket, source = part(request, "bucket"), part(request, "source")
    target = bucket, part(request, "object")
    objects = objects_of(request)
    source_wanted = conditions.read(request.query_params, source=True)
    wanted = conditions.read(request.query_params)

    def act() -> Resource:
        document = _copy(objects, (bucket, source), target, {}, source_wanted, wanted)
        objects.delete(bucket, source)
        return document

    if target[1] == source:
        raise BadRequest("The source and the destination of a move must have different names.")
    return answer(request, *target, await run_in_threadpool(act))


async def compose(request: Request) -> Response:
    check_params(request, *CONDITIONS)
    body = await read_json(request)
    bucket, name = part(request, "bucket"), part(request, "object")
    if unknown := sorted(body.keys() - COMPOSE_KEYS):
        raise NotEmulated(f"compose with {', '.join(unknown)}")
    sources = body.get("sourceObjects")
    if not isinstance(sources, list) or not 1 <= len(sources) <= MAX_COMPOSED:
        raise BadRequest(
            "The number of source components provided must be between 1 and "
            f"{MAX_COMPOSED} inclusive."
        )
    if not all(map(_is_source, sources)):
        raise BadRequest("Each source object of a compose must have a name.")
    fields = resources.new_object_fields(body.get("destination") or {})
    wanted = conditions.read(request.query_params)
    document = await run_in_threadpool(
        _compose, objects_of(request), bucket, name, sources, fields, wanted
    )
    if body.get("deleteSourceObjects"):
        for source in {source["name"] for source in sources} - {name}:
            await run_in_threadpool(objects_of(request).delete, bucket, source)
    return answer(request, bucket, name, document)


def _is_source(source: Any) -> bool:
    return (
        isinstance(source, dict)
        and isinstance(source.get("name"), str)
        and isinstance(source.get("objectPreconditions") or {}, dict)
    )


def _compose(
    objects: Objects,
    bucket: str,
    name: str,
    sources: list[dict[str, Any]],
    fields: Resource,
    wanted: conditions.Conditions,
) -> Resource:
    with Partial(objects.incoming) as partial, ExitStack() as files:
        opened = []
        for each in sources:
            file, document = objects.open(bucket, each["name"], _source_wanted(each))
            opened.append((files.enter_context(file), document))
        objects.check_writable(bucket, name)
        for file, _ in opened:
            for data in pieces(file):
                partial.write(data)
        components = sum(int(document.get("componentCount", 1)) for _, document in opened)
        hashes = {"crc32c": partial.digest.crc32c}  # like Cloud Storage: no MD5 of a composite
        return objects.put(
            bucket, name, partial, {**fields, "componentCount": components}, wanted, hashes
        )


def _source_wanted(source: dict[str, Any]) -> conditions.Conditions:
    params = {**(source.get("objectPreconditions") or {}), **source}
    return conditions.read(
        {
            key: str(value)
            for key, value in params.items()
            if key in CONDITIONS and value is not None
        }
    )


async def download(request: Request) -> Response:
    """Answer with an object's content, or a range of it."""
    check_params(request, *CONDITIONS)
    bucket, name = part(request, "bucket"), part(request, "object")
    wanted = conditions.read(request.query_params, request.headers)
    file, document = await soon(objects_of(request).open, bucket, name, wanted)
    try:
        return await _send(request, file, document)
    except BaseException:
        file.close()
        raise


async def _send(request: Request, file: BinaryIO, document: Resource) -> Response:
    headers = _headers(document)
    if not is_xml(request.scope["path"]):
        headers["ETag"] = headers["ETag"].strip('"')  # as it is in the object's metadata
    kind = _header_text(document.get("contentType", DEFAULT_TYPE))
    if _wants_unpacked(request, document):
        headers |= {"Warning": "214 UploadServer gunzipped", "Vary": "Accept-Encoding"}
        return StreamingResponse(_unpacked(file), headers=headers, media_type=kind)
    if encoding := document.get("contentEncoding"):
        headers["Content-Encoding"] = _header_text(encoding)
    size = int(document["size"])
    start, end = _range(request.headers.get("range"), size)
    status = 200
    if (start, end) != (0, size) or "range" in request.headers:
        status = 206
        headers["Content-Range"] = f"bytes {start}-{end - 1}/{size}"
    headers |= {"Content-Length": str(end - start), "Content-Type": kind}
    if request.method == "HEAD":
        file.close()
        return Response(None, status, headers)
    if end - start <= PIECE_BYTES:
        return Response(_read_all(file, start, end - start), status, headers)
    return StreamingResponse(_range_of(file, start, end), status, headers)


def _read_all(file: BinaryIO, start: int, length: int) -> bytes:
    with file:
        file.seek(start)
        return file.read(length)


async def _range_of(file: BinaryIO, start: int, end: int) -> AsyncIterator[bytes]:
    with file:
        file.seek(start)
        while start < end:
            data = await run_in_threadpool(file.read, min(PIECE_BYTES, end - start))
            if not data:
                raise OSError("the file became shorter while it was sent")
            start += len(data)
            yield data


async def _unpacked(file: BinaryIO) -> AsyncIterator[bytes]:
    unpack = zlib.decompressobj(wbits=31)
    with file:
        while data := await run_in_threadpool(file.read, PIECE_BYTES):
            # A megabyte of gzip may hold a gigabyte, so it is unpacked a megabyte at a time.
            while data:
                yield await run_in_threadpool(unpack.decompress, data, PIECE_BYTES)
                data = unpack.unconsumed_tail


def _wants_unpacked(request: Request, document: Resource) -> bool:
    """Return whether gzip content must be decompressed for this client ("transcoding")."""
    return (
        document.get("contentEncoding") == "gzip"
        and "gzip" not in request.headers.get("accept-encoding", "")
        and "no-transform" not in document.get("cacheControl", "")
    )


def _headers(document: Resource) -> dict[str, str]:
    hashes = [("crc32c", document.get("crc32c")), ("md5", document.get("md5Hash"))]
    changed = datetime.fromisoformat(document["updated"].replace("Z", "+00:00")).timestamp()
    headers = {
        "Accept-Ranges": "bytes",
        "Cache-Control": document.get("cacheControl", "no-cache"),
        "ETag": f'"{conditions.etag(document)}"',
        "Last-Modified": formatdate(changed, usegmt=True),
        "X-Goog-Generation": document["generation"],
        "X-Goog-Metageneration": document["metageneration"],
        "X-Goog-Hash": ",".join(f"{kind}={value}" for kind, value in hashes if value),
        "X-Goog-Storage-Class": document["storageClass"],
        "X-Goog-Stored-Content-Encoding": document.get("contentEncoding", "identity"),
        "X-Goog-Stored-Content-Length": document["size"],
    }
    for field, header in (
        ("contentDisposition", "Content-Disposition"),
        ("contentLanguage", "Content-Language"),
    ):
        if field in document:
            headers[header] = document[field]
    for key, value in document.get("metadata", {}).items():
        headers[f"X-Goog-Meta-{quote(key)}"] = value
    return {key: _header_text(value) for key, value in headers.items()}


def _header_text(value: str) -> str:
    """Return a value that is valid in a header: metadata may contain any characters."""
    if value.isascii() and value.isprintable():
        return value
    return quote(value)


def _range(header: str | None, size: int) -> tuple[int, int]:
    """Return where the bytes of a `Range` header begin and end (exclusive); all without one.

    Raises:
        BadRange: if there are no such bytes.
    """
    found = re.fullmatch(r"bytes=(\d*)-(\d*)", (header or "").replace(" ", ""))
    if not found or not any(found.groups()):
        return 0, size
    first, last = found.groups()
    if not first:  # a suffix range: the last N bytes
        start, end = max(0, size - int(last)), size
    else:
        start, end = int(first), min(size, int(last) + 1) if last else size
    if start >= size or start >= end:
        raise BadRange
    return start, end
