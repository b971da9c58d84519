"""The error answers of the training API, with their HTTP status codes.

Those of Cloud Storage are in `storage.errors`.
"""

from __future__ import annotations

import logging
import re
from http import HTTPStatus

from google.rpc import code_pb2
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse

from vertex_local import features
from vertex_local.config import LocalModeError, no_room

logger = logging.getLogger(__name__)

API_PATH = re.compile(r"/(v\d\w*|ui)/")  # below these, Google has more services than local mode


class ApiError(Exception):
    """An error that the API reports to its caller, in Google's shape.

    Attributes:
        http: the HTTP status.
        code: the canonical google.rpc code.
        detail: which fault caused it, if it was injected on purpose; else "".
    """

    http = HTTPStatus.INTERNAL_SERVER_ERROR
    code = code_pb2.INTERNAL
    detail = ""


class InvalidArgument(ApiError):
    """The request itself is wrong."""

    http, code = HTTPStatus.BAD_REQUEST, code_pb2.INVALID_ARGUMENT


class Unauthenticated(ApiError):
    """The request does not carry this server's token."""

    http, code = HTTPStatus.UNAUTHORIZED, code_pb2.UNAUTHENTICATED


class PermissionDenied(ApiError):
    """The request comes from a web page, or asks for another project."""

    http, code = HTTPStatus.FORBIDDEN, code_pb2.PERMISSION_DENIED


class FailedPrecondition(ApiError):
    """The resource is not in a state in which this can be done."""

    http, code = HTTPStatus.BAD_REQUEST, code_pb2.FAILED_PRECONDITION


class ResourceExhausted(ApiError):
    """There is not enough of something, such as quota or machines."""

    http, code = HTTPStatus.TOO_MANY_REQUESTS, code_pb2.RESOURCE_EXHAUSTED


class NotFound(ApiError):
    """There is no such resource."""

    http, code = HTTPStatus.NOT_FOUND, code_pb2.NOT_FOUND


class AlreadyExists(ApiError):
    """There is such a resource already."""

    http, code = HTTPStatus.CONFLICT, code_pb2.ALREADY_EXISTS


class Unimplemented(ApiError):
    """Vertex AI can do this; local mode cannot. Not 501: gcloud repeats that for half a minute.

    Args:
        feature: in Vertex AI's terms.
        instead: what to do instead, if anything.
    """

    http, code = HTTPStatus.METHOD_NOT_ALLOWED, code_pb2.UNIMPLEMENTED

    def __init__(self, feature: str, instead: str = "") -> None:
        super().__init__(features.sentence("Vertex AI", feature, instead))


def response(error: ApiError) -> JSONResponse:
    """Return `error` as Google APIs write errors: https://cloud.google.com/apis/design/errors."""
    status = code_pb2.Code.Name(error.code)
    content = {"code": error.http.value, "message": str(error), "status": status}
    if error.detail:
        kind = "type.googleapis.com/google.rpc.DebugInfo"
        content["details"] = [{"@type": kind, "detail": error.detail}]
    return JSONResponse({"error": content}, status_code=error.http.value)


def handle_api_error(_request: Request, error: Exception) -> JSONResponse:
    """Answer a request whose handler raised an ApiError."""
    assert isinstance(error, ApiError)  # Starlette calls this for ApiError only
    return response(error)


def handle_local_mode_error(_request: Request, error: Exception) -> JSONResponse:
    """Answer a request that failed for a reason that the user can correct."""
    assert isinstance(error, LocalModeError)  # Starlette calls this for LocalModeError only
    return response(ApiError(str(error)))


def handle_http_error(request: Request, error: Exception) -> JSONResponse:
    """Answer a request for which there is no route, or whose method the route does not have."""
    assert isinstance(error, HTTPException)  # Starlette calls this for HTTPException only
    method, path = request.method, request.url.path
    if ".." in path.split("/"):
        return response(InvalidArgument(f"Invalid resource name: {path}"))
    if error.status_code == HTTPStatus.METHOD_NOT_ALLOWED or not API_PATH.match(path):
        return response(NotFound(f"Method not found: {method} {path}"))
    return response(Unimplemented(*features.of_path(method, path)))


def handle_crash(request: Request, error: Exception) -> JSONResponse:
    """Answer a request whose handler raised an unforeseen exception, and log the traceback."""
    if no_room(error):  # not 507: gcloud repeats that for half a minute
        return response(
            FailedPrecondition(
                f"No room is left on the disk of local mode's folder ({error}): delete something."
            )
        )
    logger.error("%s %s failed", request.method, request.url.path, exc_info=error)
    return response(ApiError(f"local mode failed to answer: {error!r}; its server.log says more"))
