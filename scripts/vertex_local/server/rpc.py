"""The training API over gRPC, the default transport of Google's clients.

Google's own REST transport of the same service turns each call into a request to the REST API. So
gRPC clients can do whatever REST clients can.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from importlib import import_module
from typing import Any
from urllib.parse import urlsplit

import grpc
import proto
from google.api_core.exceptions import GoogleAPICallError
from google.longrunning import operations_pb2
from google.oauth2.credentials import Credentials

from vertex_local import errors, features
from vertex_local.config import HOST
from vertex_local.jobs import starter
from vertex_local.server.access import Passes
from vertex_local.server.account import Account

METHOD = re.compile(r"/(?P<package>[\w.]+)\.(?P<service>\w+)/(?P<call>\w+)")
VERTEX, OPERATIONS = "google.cloud.aiplatform.v1", "google.longrunning"
CLIENTS = "google.cloud.aiplatform_v1"
WORKERS = 100  # a GET of an active job waits in a thread of its own


class RpcService:
    """A context manager that serves gRPC on a free port of this machine.

    Args:
        api_url: base URL of the training API.
        token: the bearer token of that API, which calls may carry.
        account: calls may also carry a token that is signed with its key.
        identity: private key and certificate, in PEM.
        users: the user name that each connection gave to the tunnel, by its source port. Kernels
            give their name.
    """

    def __init__(
        self,
        api_url: str,
        token: str,
        account: Account,
        identity: tuple[bytes, bytes],
        users: Mapping[int, str],
    ) -> None:
        self._api = urlsplit(api_url).netloc
        self._token = token
        self._passes = Passes(token)
        self._account = account
        self._users = users
        handlers = [_Every(self._answer)]
        self._server = grpc.server(ThreadPoolExecutor(WORKERS), handlers=handlers)
        security = grpc.ssl_server_credentials([identity])
        self.port: int = self._server.add_secure_port(f"{HOST}:0", security)

    def __enter__(self) -> RpcService:
        self._server.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.stop(grace=None)

    def _answer(self, method: str, body: bytes, context: grpc.ServicerContext) -> bytes:
        """Answer one call; its messages are bytes here."""
        if not self._may_ask(context):
            context.abort(
                grpc.StatusCode.UNAUTHENTICATED,
                "Request is not made with local mode's account. Restart the kernel with the "
                "local-mode kernel chosen, or run `vertex-local env`.",
            )
        try:
            return _passed_on(self._api_for(context), self._token, method, body)
        except GoogleAPICallError as err:
            error = err.response.json()["error"]
            context.abort(grpc.StatusCode[error["status"]], error["message"])
        except (errors.Unimplemented, ValueError) as err:
            context.abort(grpc.StatusCode.UNIMPLEMENTED, str(err))
        raise AssertionError("abort raises")

    def _api_for(self, context: grpc.ServicerContext) -> str:
        """Return host and path of the API for the caller, which depends on its kernel."""
        port = int(context.peer().rpartition(":")[2])
        return starter.address(self._api, self._users.get(port, ""))

    def _may_ask(self, context: grpc.ServicerContext) -> bool:
        given = str(dict(context.invocation_metadata()).get("authorization", ""))
        token = given.removeprefix("Bearer ")
        return token in self._passes or self._account.signed(token)


class _Every(grpc.GenericRpcHandler):  # type: ignore[misc]  # grpc has no types
    """Handles every method by one function."""

    def __init__(self, answer: Any) -> None:
        self._answer = answer

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler:
        method = handler_call_details.method
        return grpc.unary_unary_rpc_method_handler(
            lambda body, context: self._answer(method, body, context)
        )


def _passed_on(api: str, token: str, method: str, body: bytes) -> bytes:
    """Send a call to the REST API, and return the answer as a serialised message."""
    match = METHOD.fullmatch(method)
    assert match  # gRPC lets no other names through
    refusal = errors.Unimplemented(
        *features.of_method(f"{match['package']}.{match['service']}", match["call"])
    )
    if match["package"] not in (VERTEX, OPERATIONS):
        raise refusal
    if match["package"] == OPERATIONS:
        call = _transport(api, token, "JobService").get_operation
        request = operations_pb2.GetOperationRequest.FromString(body)
        if match["call"] != "GetOperation":
            raise refusal
    else:
        kind = getattr(import_module(f"{CLIENTS}.types"), f"{match['call']}Request", None)
        call = getattr(_transport(api, token, match["service"]), _snake(match["call"]), None)
        if kind is None or call is None:
            raise refusal
        request = kind.deserialize(body)
    answer = call(request)
    if answer is None:  # an empty message
        return b""
    if isinstance(answer, proto.Message):
        return bytes(type(answer).serialize(answer))
    return bytes(answer.SerializeToString())


@lru_cache
def _transport(api: str, token: str, service: str) -> Any:
    """Return Google's REST transport of a service, which sends its requests to this server."""
    try:
        module = import_module(f"{CLIENTS}.services.{_snake(service)}.transports.rest")
    except ImportError:
        raise errors.Unimplemented(service) from None
    kind = getattr(module, f"{service}RestTransport")
    return kind(host=api, credentials=Credentials(token=token), url_scheme="http")


def _snake(name: str) -> str:
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower()
