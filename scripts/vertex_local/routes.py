"""The whole API on one screen: which method and path leads to which handler."""

from __future__ import annotations

import os
from typing import Any

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from vertex_local import errors, handlers, wire
from vertex_local.access import OwnClientsOnly
from vertex_local.handlers import Service

PARENT = "/v1/projects/{project}/locations/{location}"
KINDS = ("trainingPipelines", "customJobs")
CREATORS = {
    "trainingPipelines": handlers.create_training_pipeline,
    "customJobs": handlers.create_custom_job,
}


def application(service: Service, token: str) -> Starlette:
    """Return the web application.

    Args:
        service: what the handlers work on.
        token: bearer token that every request must carry.
    """
    routes = [Route("/healthz", healthz, methods=["GET"])]
    for kind in KINDS:
        routes += [
            Route(f"{PARENT}/{kind}", create, methods=["POST"]),
            Route(f"{PARENT}/{kind}", list_kind, methods=["GET"]),
            Route(f"{PARENT}/{kind}/{{id}}:cancel", cancel, methods=["POST"]),
            Route(f"{PARENT}/{kind}/{{id}}", get, methods=["GET"]),
        ]
    app = Starlette(
        routes=routes,
        middleware=[Middleware(OwnClientsOnly, token=token)],
        exception_handlers={
            errors.ApiError: errors.handle_api_error,
            HTTPException: errors.handle_http_error,
            Exception: errors.handle_crash,
        },
    )
    app.state.service = service
    return app


async def healthz(_request: Request) -> Response:
    return Response(str(os.getpid()))


async def create(request: Request) -> Response:
    parent, _, kind = _name(request).rpartition("/")
    return await _answer(CREATORS[kind], request.app.state.service, parent, await request.body())


async def get(request: Request) -> Response:
    return await _answer(handlers.get, request.app.state.service, _name(request))


async def list_kind(request: Request) -> Response:
    if unknown := set(request.query_params) - {"$alt"}:
        raise errors.Unimplemented(f"list with {', '.join(sorted(unknown))}")
    resources = await run_in_threadpool(
        handlers.list_resources, request.app.state.service, _name(request)
    )
    kind = _name(request).rpartition("/")[2]
    return JSONResponse({kind: [wire.render(resource) for resource in resources]})


async def cancel(request: Request) -> Response:
    name = _name(request).removesuffix(":cancel")
    await run_in_threadpool(handlers.cancel, request.app.state.service, name)
    return JSONResponse({})


def _name(request: Request) -> str:
    return request.url.path.removeprefix("/v1/")


async def _answer(operation: Any, *arguments: Any) -> Response:
    return JSONResponse(wire.render(await run_in_threadpool(operation, *arguments)))
