"""One short function per operation on buckets, and one that lists a bucket's objects."""

from __future__ import annotations

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from vertex_local.storage import conditions, listing
from vertex_local.storage.api import resources
from vertex_local.storage.api.requests import (
    CONDITIONS,
    base,
    check_params,
    objects_of,
    part,
    read_json,
)
from vertex_local.storage.errors import BadRequest


async def create(request: Request) -> Response:
    check_params(request)
    body = await read_json(request)
    name = body.get("name")
    if not isinstance(name, str):
        raise BadRequest("Required parameter: name")
    change = resources.patch(resources.bucket_fields(body))
    document = await run_in_threadpool(objects_of(request).create_bucket, name, change)
    return JSONResponse(resources.bucket_json(base(request), name, document))


async def get(request: Request) -> Response:
    check_params(request, *CONDITIONS)
    name = part(request, "bucket")
    document = await run_in_threadpool(objects_of(request).bucket, name)
    conditions.read(request.query_params, request.headers).check(document, reading=True)
    return JSONResponse(resources.bucket_json(base(request), name, document))


async def layout(request: Request) -> Response:
    """Tell gcloud, before it copies or deletes, that buckets have no hierarchical namespace."""
    check_params(request, "prefix")
    name = part(request, "bucket")
    document = await run_in_threadpool(objects_of(request).bucket, name)
    return JSONResponse(
        {
            "kind": "storage#storageLayout",
            "bucket": name,
            "location": document["location"],
            "locationType": document["locationType"],
            "hierarchicalNamespace": {"enabled": False},
        }
    )


async def managed_folders(request: Request) -> Response:
    """Tell gcloud, before it deletes a bucket, that the bucket has no managed folders."""
    check_params(request, "prefix", "pageSize", "pageToken")
    await run_in_threadpool(objects_of(request).bucket, part(request, "bucket"))
    return JSONResponse({"kind": "storage#managedFolders"})


async def list_all(request: Request) -> Response:
    check_params(request, "prefix", "maxResults", "pageToken")
    prefix = request.query_params.get("prefix", "")
    limit = _limit(request)
    resume = listing.read_token(request.query_params.get("pageToken", ""))
    names = await run_in_threadpool(objects_of(request).buckets)
    names = [name for name in names if name.startswith(prefix) and name >= resume]
    items = [
        resources.bucket_json(
            base(request), name, await run_in_threadpool(objects_of(request).bucket, name)
        )
        for name in names[:limit]
    ]
    answer = {"kind": "storage#buckets", "items": items}
    if len(names) > limit:
        answer["nextPageToken"] = listing.token(names[limit])
    return JSONResponse(answer)


async def patch(request: Request) -> Response:
    check_params(request, *CONDITIONS)
    return await _update(request, replace=False)


async def update(request: Request) -> Response:
    check_params(request, *CONDITIONS)
    return await _update(request, replace=True)


async def _update(request: Request, replace: bool) -> Response:
    fields = resources.bucket_fields(await read_json(request))
    change = (
        resources.replace(fields, resources.BUCKET_FIELDS) if replace else resources.patch(fields)
    )
    name = part(request, "bucket")
    document = await run_in_threadpool(
        objects_of(request).update_bucket,
        name,
        change,
        conditions.read(request.query_params, request.headers),
    )
    return JSONResponse(resources.bucket_json(base(request), name, document))


async def delete(request: Request) -> Response:
    check_params(request, *CONDITIONS)
    wanted = conditions.read(request.query_params, request.headers)
    await run_in_threadpool(objects_of(request).delete_bucket, part(request, "bucket"), wanted)
    return Response(status_code=204)


async def list_objects(request: Request) -> Response:
    check_params(
        request,
        *("prefix", "delimiter", "startOffset", "endOffset", "matchGlob", "maxResults"),
        *("pageToken", "includeTrailingDelimiter", "includeFoldersAsPrefixes"),
        "versions",  # buckets here have no old versions, so all versions are the live objects
    )
    params = request.query_params
    query = listing.Query(
        prefix=params.get("prefix", ""),
        delimiter=params.get("delimiter", ""),
        start=params.get("startOffset", ""),
        end=params.get("endOffset", ""),
        glob=params.get("matchGlob", ""),
        trailing_delimiter=params.get("includeTrailingDelimiter", "").lower() == "true",
        limit=_limit(request),
        resume=listing.read_token(params.get("pageToken", "")),
    )
    bucket = part(request, "bucket")
    return await run_in_threadpool(_page, request, bucket, query)


def _page(request: Request, bucket: str, query: listing.Query) -> Response:
    found, page = objects_of(request).list(bucket, query)
    url = base(request)
    answer: dict[str, object] = {"kind": "storage#objects"}
    if found:
        answer["items"] = [resources.object_json(url, bucket, *item) for item in found]
    if page.prefixes:
        answer["prefixes"] = page.prefixes
    if page.token:
        answer["nextPageToken"] = page.token
    return JSONResponse(answer)


def _limit(request: Request) -> int:
    text = request.query_params.get("maxResults") or str(listing.MAX_PAGE)
    if not text.isdecimal():
        raise BadRequest(f"Invalid value for maxResults: {text!r}")
    return min(int(text) or listing.MAX_PAGE, listing.MAX_PAGE)
