"""One short function per way to upload: in one request, in several, or in parallel parts."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from typing import Any
from xml.etree import ElementTree

from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from vertex_local.storage import conditions
from vertex_local.storage.api import object_handlers, resources
from vertex_local.storage.api.multipart import RelatedBody, boundary
from vertex_local.storage.api.requests import (
    CONDITIONS,
    MAX_JSON_BYTES,
    announced,
    base,
    check_headers,
    check_params,
    intent,
    objects_of,
    parse_json,
    part,
    read_json,
    read_limited,
    receive,
)
from vertex_local.storage.digest import PIECE_BYTES, combined
from vertex_local.storage.errors import (
    BadRequest,
    Cancelled,
    DiskFull,
    NotEmulated,
    TooSmallChunk,
    no_object,
)
from vertex_local.storage.metadata import Resource
from vertex_local.storage.objects import Objects
from vertex_local.storage.partial import Partial
from vertex_local.storage.uploads import GRANULE, Intent, Parts, Session, Sessions

MAX_PARTS = 10_000
XML_FIELDS = {  # headers of the XML API that set metadata
    "cache-control": "cacheControl",
    "content-disposition": "contentDisposition",
    "content-encoding": "contentEncoding",
    "content-language": "contentLanguage",
    "content-type": "contentType",
    "x-goog-custom-time": "customTime",
    "x-goog-storage-class": "storageClass",
}


async def upload(request: Request) -> Response:
    """Answer the first request of an upload, which for most uploads is the only one."""
    check_params(request, *CONDITIONS, "contentEncoding")
    kind = request.query_params.get("uploadType")
    if "upload_id" in request.query_params:  # some clients go on with POST
        return await proceed(request)
    if request.headers.get("content-encoding"):
        raise NotEmulated("uploads that are compressed in transit (Content-Encoding)")
    if kind == "resumable":
        return await _begin(request)
    if kind == "multipart":
        body = RelatedBody(
            aiter(request.stream()), boundary(request.headers.get("content-type", ""))
        )
        metadata = parse_json(await body.metadata())
        media_type = await body.media_type()
        return await _whole(request, metadata, media_type, body.media())
    if kind == "media":
        media_type = request.headers.get("content-type", "")
        return await _whole(request, {}, media_type, aiter(request.stream()))
    raise BadRequest(f"Invalid upload type: {kind!r}")


async def _whole(
    request: Request, metadata: dict[str, Any], media_type: str, content: AsyncIterator[bytes]
) -> Response:
    """Store an object that comes in one request."""
    objects = objects_of(request)
    plan = intent(request, part(request, "bucket"), metadata, _fields(request, metadata))
    if media_type:
        plan.fields.setdefault("contentType", media_type)
    objects.check_writable(plan.bucket, plan.name)
    with Partial(objects.incoming) as partial:
        rest = await receive(content, partial)
        document = await run_in_threadpool(_finish, objects, plan, partial, rest)
    return object_handlers.answer(request, plan.bucket, plan.name, document)


def _fields(request: Request, metadata: dict[str, Any]) -> Resource:
    fields = resources.new_object_fields(metadata)
    if encoding := request.query_params.get("contentEncoding"):
        fields["contentEncoding"] = encoding
    return fields


def _finish(
    objects: Objects, plan: Intent, partial: Partial, rest: bytes = b"", components: int = 0
) -> Resource:
    """Make what was received the object; raise BadChecksum if a checksum differs."""
    if rest:
        partial.write(rest)
    partial.digest.verify(plan.hashes.get("md5"), plan.hashes.get("crc32c"))
    fields, hashes = plan.fields, None
    if components:  # a composite object, which has no MD5 on Cloud Storage
        fields = {**fields, "componentCount": components}
        hashes = {"crc32c": partial.digest.crc32c}
    wanted = conditions.read(plan.params)
    return objects.put(plan.bucket, plan.name, partial, fields, wanted, hashes)


# Resumable uploads


async def _begin(request: Request) -> Response:
    metadata = await read_json(request)
    plan = intent(request, part(request, "bucket"), metadata, _fields(request, metadata))
    if media_type := request.headers.get("x-upload-content-type"):
        plan.fields.setdefault("contentType", media_type)
    objects = objects_of(request)
    await run_in_threadpool(objects.check_writable, plan.bucket, plan.name)
    wanted = conditions.read(plan.params)
    await run_in_threadpool(objects.check_conditions, plan.bucket, plan.name, wanted)
    session = await run_in_threadpool(_sessions(request).begin, plan)
    location = f"{base(request)}{request.scope['path']}?uploadType=resumable&upload_id={session.id}"
    headers = {"Location": location, "X-GUploader-UploadID": session.id}
    return Response(status_code=200, headers=headers)


async def proceed(request: Request) -> Response:
    """Answer a request that continues an upload, or asks how many bytes have arrived."""
    check_params(request, *CONDITIONS)
    number = request.query_params.get("upload_id", "")
    session = await run_in_threadpool(_sessions(request).get, number)
    async with session.busy:  # an earlier request that was cut off may still be running
        if session.error is not None:
            raise session.error
        first, last, total = _content_range(request.headers.get("content-range"))
        if session.result is None and (first is not None or "content-range" not in request.headers):
            try:
                await _more(request, session, first or 0)
                _check_granule(session, first or 0, last, total)
            except (DiskFull, TooSmallChunk) as err:  # discard what has arrived
                session.error = err if isinstance(err, TooSmallChunk) else None
                await run_in_threadpool(_sessions(request).end, session, None)
                raise
        if session.result is None and _is_complete(request, session, total):
            await run_in_threadpool(_end, request, session)
        if session.result is not None:
            plan = session.intent
            return object_handlers.answer(request, plan.bucket, plan.name, session.result)
        return _resume_incomplete(session)


async def cancel(request: Request) -> Response:
    """Cancel a resumable upload."""
    number = request.query_params.get("upload_id", "")
    session = await run_in_threadpool(_sessions(request).get, number)
    async with session.busy:
        _sessions(request).end(session, None)
    raise Cancelled("The upload was cancelled.")


async def _more(request: Request, session: Session, first: int) -> None:
    received = session.received
    if first > received.size:
        raise BadRequest(
            f"The upload has {received.size} bytes so far, so it cannot go on at {first}."
        )
    received.keep_only(first)
    received.reopen()
    held = b""
    try:
        async for data in request.stream():
            held += data
            if len(held) >= PIECE_BYTES:
                await run_in_threadpool(received.write, held)
                held = b""
    except ClientDisconnect:  # the client will ask how much has arrived, and continue
        received.write(held)
        received.save()
        raise
    await run_in_threadpool(received.write, held)
    received.save()


def _content_range(header: str | None) -> tuple[int | None, int | None, int | None]:
    """Return first byte, last byte and total of `bytes 0-9/10`, `bytes 0-9/*`, `bytes */10`."""
    if header is None:
        return None, None, None
    found = re.fullmatch(r"bytes (?:(\d+)-(\d+)|\*)/(?:(\d+)|\*)", header.strip())
    if not found:
        raise BadRequest(f"Invalid Content-Range: {header!r}")
    first, last, total = (int(group) if group else None for group in found.groups())
    return first, last, total


def _check_granule(session: Session, first: int, last: int | None, total: int | None) -> None:
    """Check a chunk: its end, and, if it is not the last, that it is large enough."""
    if last is None:
        return
    if session.received.size != last + 1:
        raise BadRequest(
            f"Content-Range ends at {last}, but the upload now has {session.received.size} bytes."
        )
    if total == session.received.size:
        return
    if last + 1 - first < GRANULE:
        raise TooSmallChunk(last + 1 - first, GRANULE)
    if session.received.size % GRANULE:
        kept = session.received.size // GRANULE * GRANULE
        session.received.keep_only(kept)  # the answer tells the client to send the rest again


def _is_complete(request: Request, session: Session, total: int | None) -> bool:
    if "content-range" not in request.headers:
        return True
    if total is not None and session.received.size > total:
        raise BadRequest(f"More bytes were sent than the {total} that Content-Range announces.")
    return total == session.received.size


def _end(request: Request, session: Session) -> None:
    try:
        session.intent.hashes = combined(session.intent.hashes, announced(request))
        result = _finish(objects_of(request), session.intent, session.received)
    except Exception:
        _sessions(request).end(session, None)
        raise
    _sessions(request).end(session, result)


def _resume_incomplete(session: Session) -> Response:
    headers = {"X-GUploader-UploadID": session.id}
    if session.received.size:
        headers["Range"] = f"bytes=0-{session.received.size - 1}"
    return Response(status_code=308, headers=headers)


def _sessions(request: Request) -> Sessions:
    sessions: Sessions = request.app.state.sessions
    return sessions


# Multipart uploads of the XML API


async def xml_post(request: Request) -> Response:
    """Begin or complete an upload in parts."""
    bucket, name = part(request, "bucket"), part(request, "object")
    if "uploads" in request.query_params:
        plan = Intent(bucket, name, _xml_fields(request), {}, {})
        await run_in_threadpool(objects_of(request).check_writable, bucket, name)
        number = await run_in_threadpool(_parts(request).begin, plan)
        return _xml("InitiateMultipartUploadResult", Bucket=bucket, Key=name, UploadId=number)
    if "uploadId" not in request.query_params:
        raise NotEmulated("POST of the XML API")
    number = request.query_params["uploadId"]
    plan = _own_parts(request, number)
    wanted = _wanted_parts(await read_limited(request, MAX_JSON_BYTES))
    document = await run_in_threadpool(_complete, request, number, plan, wanted)
    etag = f'"{conditions.etag(document)}"'
    return _xml("CompleteMultipartUploadResult", Bucket=bucket, Key=name, ETag=etag)


async def xml_put(request: Request) -> Response:
    """Receive one part."""
    if "uploadId" not in request.query_params:
        raise NotEmulated("PUT of an object with the XML API")
    number = request.query_params["uploadId"]
    text = request.query_params.get("partNumber", "")
    if not text.isdecimal() or not 1 <= int(text) <= MAX_PARTS:
        raise BadRequest(f"partNumber must be between 1 and {MAX_PARTS}, not {text!r}.")
    _own_parts(request, number)
    checksums = announced(request)
    with Partial(objects_of(request).incoming) as partial:
        rest = await receive(aiter(request.stream()), partial)
        await run_in_threadpool(partial.write, rest)
        partial.digest.verify(checksums.get("md5"), checksums.get("crc32c"))
        await run_in_threadpool(_parts(request).add, number, int(text), partial)
        digest = partial.digest
    hashes = f"crc32c={digest.crc32c},md5={digest.md5}"
    return Response(headers={"ETag": f'"{digest.md5_hex}"', "X-Goog-Hash": hashes})


async def xml_delete(request: Request) -> Response:
    """Cancel an upload in parts."""
    if "uploadId" not in request.query_params:
        raise NotEmulated("DELETE of the XML API")
    number = request.query_params["uploadId"]
    _own_parts(request, number)
    await run_in_threadpool(_parts(request).end, number)
    return Response(status_code=204)


def _complete(
    request: Request, number: str, plan: Intent, wanted: list[tuple[int, str]]
) -> Resource:
    objects = objects_of(request)
    with Partial(objects.incoming) as partial:
        count = _parts(request).join(number, wanted, partial)
        document = _finish(objects, plan, partial, components=count)
    _parts(request).end(number)
    return document


def _own_parts(request: Request, number: str) -> Intent:
    plan = _parts(request).intent(number)
    if (plan.bucket, plan.name) != (part(request, "bucket"), part(request, "object")):
        raise no_object(part(request, "bucket"), part(request, "object"))
    return plan


def _wanted_parts(body: bytes) -> list[tuple[int, str]]:
    if b"<!DOCTYPE" in body or b"<!ENTITY" in body:  # entities could expand without limit
        raise BadRequest("The XML must not declare entities.")
    try:
        root = ElementTree.fromstring(body)
        wanted = [
            (int(item.findtext("{*}PartNumber", "")), item.findtext("{*}ETag", "").strip('"'))
            for item in root.iterfind("{*}Part")
        ]
    except (ElementTree.ParseError, ValueError) as err:
        raise BadRequest(f"The list of parts cannot be read: {err}") from err
    if not wanted or wanted != sorted(wanted):
        raise BadRequest("The list of parts must be in order and not empty.")
    return wanted


def _xml_fields(request: Request) -> Resource:
    fields: Resource = {
        field: request.headers[name]
        for name, field in XML_FIELDS.items()
        if request.headers.get(name)
    }
    prefix = "x-goog-meta-"
    metadata = {
        key.removeprefix(prefix): value
        for key, value in request.headers.items()
        if key.startswith(prefix)
    }
    check_headers(request)
    return resources.new_object_fields({**fields, "metadata": metadata} if metadata else fields)


def _xml(root: str, **values: str) -> Response:
    element = ElementTree.Element(root, xmlns="http://s3.amazonaws.com/doc/2006-03-01/")
    for key, value in values.items():
        ElementTree.SubElement(element, key).text = value
    body = ElementTree.tostring(element, encoding="UTF-8", xml_declaration=True)
    return Response(body, media_type="application/xml")


def _parts(request: Request) -> Parts:
    parts: Parts = request.app.state.parts
    return parts
