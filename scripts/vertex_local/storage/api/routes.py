"""The routes of Cloud Storage's API: which method and path leads to which handler.

Paths are matched as they were sent: `a%2Fcompose` is an object, `a/compose` an operation on `a`.
"""

from __future__ import annotations

import logging
import re
import sqlite3
from urllib.parse import unquote

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from vertex_local.config import no_room
from vertex_local.faults.store import Faults
from vertex_local.storage.api import batch, bucket_handlers, object_handlers, upload_handlers
from vertex_local.storage.api.faults import StorageFaults
from vertex_local.storage.api.features import FEATURES, refusal
from vertex_local.storage.api.requests import is_xml, objects_of, part
from vertex_local.storage.errors import DiskFull, NotEmulated, NotFound, StorageError
from vertex_local.storage.objects import Objects
from vertex_local.storage.uploads import Parts, Sessions

logger = logging.getLogger(__name__)

API = "/storage/v1/b"
OBJECT = f"{API}/{{bucket}}/o/{{object}}"
COPY = f"{API}/{{source_bucket}}/o/{{source}}/{{verb}}/b/{{bucket}}/o/{{object}}"
MOVE = f"{API}/{{bucket}}/o/{{source}}/moveTo/o/{{object}}"
METHODS = ["GET", "POST", "PUT", "PATCH", "DELETE"]
# A client that is given `a/b` as the name of a bucket does not escape the slash.
SLASH = re.compile(rf"(/(upload|download))?{API}/(?P<name>[^/]+(/[^/]+)+?)(/o(/.*)?)?")
XML_OBJECT = "/{bucket}/{object:path}"
ELSEWHERE = {"bigquery": "BigQuery", "v1": "Gemini models", "v1beta1": "Gemini models"}


def _routes() -> list[Route]:
    on_bucket, on_object, upload = bucket_handlers, object_handlers, upload_handlers
    routes = [
        Route(API, on_bucket.list_all, methods=["GET"]),
        Route(API, on_bucket.create, methods=["POST"]),
        Route(f"{API}/", on_bucket.list_all, methods=["GET"]),
        Route(f"{API}/", on_bucket.create, methods=["POST"]),
        Route(f"{API}/{{bucket}}", on_bucket.get, methods=["GET"]),
        Route(f"{API}/{{bucket}}", on_bucket.patch, methods=["PATCH"]),
        Route(f"{API}/{{bucket}}", on_bucket.update, methods=["PUT"]),
        Route(f"{API}/{{bucket}}", on_bucket.delete, methods=["DELETE"]),
        Route(f"{API}/{{bucket}}/storageLayout", on_bucket.layout, methods=["GET"]),
        Route(f"{API}/{{bucket}}/managedFolders", on_bucket.managed_folders, methods=["GET"]),
        Route(f"{API}/{{bucket}}/o", on_bucket.list_objects, methods=["GET"]),
        Route(OBJECT, on_object.get, methods=["GET"]),
        Route(OBJECT, on_object.patch, methods=["PATCH"]),
        Route(OBJECT, on_object.update, methods=["PUT"]),
        Route(OBJECT, on_object.delete, methods=["DELETE"]),
        Route(f"{OBJECT}/compose", on_object.compose, methods=["POST"]),
        Route(COPY.replace("{verb}", "copyTo"), on_object.copy, methods=["POST"]),
        Route(COPY.replace("{verb}", "rewriteTo"), on_object.copy, methods=["POST"]),
        Route(MOVE, on_object.move, methods=["POST"]),
        Route(f"/download{OBJECT}", on_object.download, methods=["GET"]),
    ]
    for prefix in ("/upload", "/resumable/upload"):
        path = f"{prefix}{API}/{{bucket}}/o"
        routes += [
            Route(path, upload.upload, methods=["POST"]),
            Route(path, upload.proceed, methods=["PUT"]),
            Route(path, upload.cancel, methods=["DELETE"]),
        ]
    routes += [
        Route("/batch/storage/v1", batch.batch, methods=["POST"]),
        Route("/batch", batch.batch, methods=["POST"]),
        Route("/storage/{rest:path}", not_emulated, methods=METHODS),
        Route("/upload/{rest:path}", not_emulated, methods=METHODS),
        Route("/download/{rest:path}", not_emulated, methods=METHODS),
        Route(XML_OBJECT, on_object.download, methods=["GET"]),
        Route(XML_OBJECT, upload.xml_post, methods=["POST"]),
        Route(XML_OBJECT, upload.xml_put, methods=["PUT"]),
        Route(XML_OBJECT, upload.xml_delete, methods=["DELETE"]),
        Route("/{bucket}", xml_bucket, methods=["GET"]),
    ]
    return routes


def application(objects: Objects, faults: Faults) -> Starlette:
    """Return the web application for these buckets and their faults."""
    app = Starlette(
        routes=_routes(),
        middleware=[
            Middleware(_AsSent),
            Middleware(StorageFaults, faults=faults, answer=_response),
        ],
        exception_handlers={
            StorageError: _error,
            OSError: _system_error,
            sqlite3.OperationalError: _system_error,
            HTTPException: _no_route,
            ClientDisconnect: _gone,
            Exception: _crash,
        },
    )
    app.state.objects = objects
    app.state.sessions = Sessions(objects.incoming)
    app.state.parts = Parts(objects.incoming)
    return app


class _AsSent:
    """ASGI middleware that lets routes see the path as it was sent."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        path = scope.get("raw_path", b"").split(b"?")[0].decode("latin-1")
        await self._app({**scope, "path": path or scope["path"]}, receive, send)


async def xml_bucket(request: Request) -> Response:
    objects_of(request).bucket(part(request, "bucket"))
    raise NotEmulated("listing with the XML API")


async def not_emulated(request: Request) -> Response:
    parts = request.scope["path"].split("/")
    if parts[2] == "elsewhere":  # see config.google_clients
        raise NotEmulated(ELSEWHERE.get(parts[3], "this service of Google's"))
    for each in parts[4:]:
        if each in FEATURES and (parts[-1] == each or each in parts[5:7]):
            raise refusal(each, f"{request.method} …/{each}")
    if slash := SLASH.fullmatch(request.scope["path"]):  # as on Cloud Storage: nothing is there
        raise NotFound(f"Invalid bucket name: '{unquote(slash['name'])}': it must not contain '/'.")
    raise NotEmulated(f"{request.method} {request.scope['path']}")


def _response(error: StorageError, path: str) -> Response:
    status = int(error.http)
    if status == 304:
        return Response(status_code=status)
    if is_xml(path):
        return Response(error.xml(), status, media_type="application/xml")
    if error.plain or path.startswith("/download/"):
        return PlainTextResponse(str(error), status)
    return JSONResponse(error.json(), status)


def _error(request: Request, error: Exception) -> Response:
    assert isinstance(error, StorageError)  # Starlette calls this for StorageError only
    return _response(error, request.scope["path"])


def _system_error(request: Request, error: Exception) -> Response:
    """Answer a request that failed because the disk is full, or for an unforeseen reason."""
    if not no_room(error):
        return _crash(request, error)
    answer = DiskFull(f"this machine has no room for it ({error})")
    return _response(answer, request.scope["path"])


def _no_route(request: Request, _error: Exception) -> Response:
    feature = NotEmulated(f"{request.method} {request.scope['path']}")
    return _response(feature, request.scope["path"])


def _gone(_request: Request, _error: Exception) -> Response:
    return Response(status_code=400)  # nobody reads it: the client closed the connection


def _crash(request: Request, error: Exception) -> Response:
    logger.error("%s %s failed", request.method, request.url.path, exc_info=error)
    answer = StorageError(f"local mode failed to answer: {error!r}; its server.log says more")
    return _response(answer, request.scope["path"])
