"""The routes of the training API: which method and path leads to which handler."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Sequence
from typing import Any

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from vertex_local import errors, features
from vertex_local.config import LocalModeError
from vertex_local.jobs import starter
from vertex_local.registry import handlers as models
from vertex_local.training import handlers, wire
from vertex_local.training.handlers import Service
from vertex_local.training.names import ResourceName

PLACE = "/projects/{project}/locations/{location}"
PARENT = f"/v1{PLACE}"
MAX_BODY_BYTES = 10 * 1024 * 1024
METHODS = ["GET", "POST", "PUT", "PATCH", "DELETE"]
# Query parameters of every Google API: those that change only the format of an answer, and those
# that local mode does not support. Google refuses any other, too.
FORM = frozenset({"$alt", "alt", "key", "prettyPrint", "$prettyPrint", "quotaUser", "$.xgafv"})
REFUSED_PARAMETERS = frozenset({"fields", "$fields", "readMask", "callback"})
CREATORS = {
    "trainingPipelines": handlers.create_training_pipeline,
    "customJobs": handlers.create_custom_job,
    "hyperparameterTuningJobs": handlers.create_hyperparameter_tuning_job,
}

# Operations on models and TensorBoard instances, with the query parameters that they take.
PAGES = ("filter", "pageSize", "pageToken")
REGISTRY = (
    ("POST", "models:upload", models.upload_model, ()),
    ("GET", "models", models.list_models, PAGES),
    ("GET", "models/{id}:listVersions", models.list_versions, PAGES),
    ("POST", "models/{id}:mergeVersionAliases", models.merge_aliases, ()),
    ("DELETE", "models/{id}:deleteVersion", models.delete_version, ()),
    ("GET", "models/{id}", models.get_model, ()),
    ("PATCH", "models/{id}", models.update_model, ("updateMask",)),
    ("DELETE", "models/{id}", models.delete_model, ()),
    ("POST", "tensorboards", models.create_tensorboard, ()),
    ("GET", "tensorboards", models.list_tensorboards, PAGES),
    ("GET", "tensorboards/{id}", models.get_tensorboard, ()),
    ("DELETE", "tensorboards/{id}", models.delete_tensorboard, ()),
)


def application(service: Service) -> Starlette:
    """Return the web application.

    Args:
        service: what the handlers need.
    """
    routes = []
    for kind in CREATORS:
        routes += [
            Route(f"{PARENT}/{kind}", create, methods=["POST"]),
            Route(f"{PARENT}/{kind}", list_kind, methods=["GET"]),
            Route(f"{PARENT}/{kind}/{{id}}:cancel", cancel, methods=["POST"]),
            Route(f"{PARENT}/{kind}/{{id}}", get, methods=["GET"]),
            Route(f"{PARENT}/{kind}/{{id}}", delete, methods=["DELETE"]),
        ]
    # The SDK's client for operations uses paths below /ui/.
    routes += [
        Route(f"{version}{PLACE}/operations/{{id}}", get_operation, methods=["GET"])
        for version in ("/v1", "/ui")
    ]
    routes.append(Route("/v2/entries:list", list_log_entries, methods=["POST"]))
    routes.append(Route("/v1/projects/{project}", get_project, methods=["GET"]))
    routes.append(Route("/token", access_token, methods=["POST"]))
    for kind in ("models", "tensorboards"):
        routes += [
            Route(f"{PARENT}/{path}", _registered(path, operation, known), methods=[method])
            for method, path, operation, known in REGISTRY
            if path.startswith(kind)
        ]
        # All other operations of these resources on Vertex AI.
        routes.append(Route(f"{PARENT}/{kind}/{{rest:path}}", refuse, methods=METHODS))
    app = Starlette(
        routes=routes,
        middleware=[Middleware(AskedByKernel)],
        exception_handlers={
            errors.ApiError: errors.handle_api_error,
            LocalModeError: errors.handle_local_mode_error,
            HTTPException: errors.handle_http_error,
            OSError: errors.handle_crash,
            sqlite3.Error: errors.handle_crash,
            Exception: errors.handle_crash,
        },
    )
    app.state.service = service
    return app


class AskedByKernel:
    """ASGI middleware: moves a kernel's name from the path into `starter.current`."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        match = starter.PREFIX.match(scope.get("path", ""))
        if match:
            raw_path = scope["raw_path"][match.end() :]  # the prefix has no escapes
            scope = {**scope, "path": scope["path"][match.end() :], "raw_path": raw_path}
        token = starter.current.set(match["kernel"] if match else "")
        try:
            await self._app(scope, receive, send)
        finally:
            starter.current.reset(token)


async def create(request: Request) -> Response:
    parent = _name(request)
    creator = CREATORS[ResourceName.parse(parent).kind]
    return await _answer(request, creator, parent, await _body(request))


async def get(request: Request) -> Response:
    return await _answer(request, handlers.get, _name(request))


async def list_kind(request: Request) -> Response:
    parent = _name(request, "filter", "pageSize", "pageToken")
    query = request.query_params
    page_size = query.get("pageSize", "0")
    if not re.fullmatch("[0-9]{1,9}", page_size):
        raise errors.InvalidArgument(f"pageSize must be a whole number, not {page_size!r}.")
    resources, next_page = await run_in_threadpool(
        handlers.list_resources,
        request.app.state.service,
        parent,
        query.get("filter", ""),
        int(page_size),
        query.get("pageToken", ""),
    )
    kind = ResourceName.parse(parent).kind
    listed = {kind: [wire.render(each, _numeric_enums(request)) for each in resources]}
    return JSONResponse(listed | ({"nextPageToken": next_page} if next_page else {}))


async def list_log_entries(request: Request) -> Response:
    found = await run_in_threadpool(
        handlers.list_log_entries, request.app.state.service, await _body(request)
    )
    return JSONResponse({"entries": found})


async def get_project(request: Request) -> Response:
    """Answer `gcloud config set project` and `gcloud projects describe`, of Resource Manager."""
    _name(request)
    return JSONResponse(handlers.get_project(request.path_params["project"]))


async def access_token(request: Request) -> Response:
    """Answer a client that signs in with local mode's own account: see `handlers.access_token`."""
    answer = handlers.access_token(await _body(request))
    return JSONResponse(answer, 400 if "error" in answer else 200)


async def refuse(request: Request) -> Response:
    raise errors.Unimplemented(*features.of_path(request.method, request.scope["path"]))


async def delete(request: Request) -> Response:
    operation = await run_in_threadpool(handlers.delete, request.app.state.service, _name(request))
    return JSONResponse(operation)


async def get_operation(request: Request) -> Response:
    operation = await run_in_threadpool(
        handlers.get_operation, request.app.state.service, _name(request)
    )
    return JSONResponse(operation)


async def cancel(request: Request) -> Response:
    name = _name(request).removesuffix(":cancel")
    await run_in_threadpool(handlers.cancel, request.app.state.service, name)
    return JSONResponse({})


def _registered(path: str, operation: Any, known: Sequence[str]) -> Any:
    """Return the endpoint of an operation on models or TensorBoard instances."""

    async def endpoint(request: Request) -> Response:
        name, _, verb = _name(request, *known).partition(":")
        if verb != path.partition(":")[2]:
            return await refuse(request)
        query = dict(request.query_params)
        registry = request.app.state.service.registry
        answer = await run_in_threadpool(operation, registry, name, await _body(request), query)
        if isinstance(answer, dict):
            return JSONResponse(answer)
        return JSONResponse(wire.render(answer, _numeric_enums(request)))

    return endpoint


def _name(request: Request, *parameters: str) -> str:
    """Return the resource name in the path, and check the query.

    Args:
        request: the request.
        parameters: the query parameters of its operation; those of every Google API may be there,
            too.
    """
    for name, value in request.query_params.items():
        if name in REFUSED_PARAMETERS or (name == "alt" and value != "json"):
            raise errors.Unimplemented(f"the parameter {name}={value}")
        if name not in FORM.union(parameters):
            reason = f'Unknown name "{name}": Cannot bind query parameter.'
            raise errors.InvalidArgument(f"Invalid JSON payload received. {reason}")
    return request.url.path.split("/", 2)[2]


async def _body(request: Request) -> bytes:
    body = b""
    async for part in request.stream():
        body += part
        if len(body) > MAX_BODY_BYTES:
            raise errors.InvalidArgument(
                f"Request payload size exceeds the limit: {MAX_BODY_BYTES} bytes."
            )
    return body


async def _answer(request: Request, operation: Any, *arguments: Any) -> Response:
    resource = await run_in_threadpool(operation, request.app.state.service, *arguments)
    return JSONResponse(wire.render(resource, _numeric_enums(request)))


def _numeric_enums(request: Request) -> bool:
    """Return whether the client asks for enums as numbers, as the SDK does; gcloud wants names."""
    return "enum-encoding=int" in request.query_params.get("$alt", "")
