"""Protobuf messages to and from REST JSON; nothing else in local mode knows JSON field names.

The Google clients use plain `json_format`, too. Two things need care: the clients ask for enums as
numbers, and the SDK sends a training pipeline's job spec as a free-form Struct with snake_case
keys, in which every number is a float.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping
from typing import Any, TypeVar
from urllib.parse import parse_qs

import proto
from google.auth import jwt
from google.auth.exceptions import GoogleAuthError
from google.cloud.aiplatform_v1.types import CustomJobSpec, TrainingPipeline
from google.protobuf import json_format, struct_pb2

from vertex_local.errors import InvalidArgument

Message = TypeVar("Message", bound=proto.Message)

TASK_DEFINITION = (
    "gs://google-cloud-aiplatform/schema/trainingjob/definition/custom_task_1.0.0.yaml"
)


def parse(kind: type[Message], body: bytes) -> Message:
    """Return the message of type `kind` that a request carries.

    Raises:
        InvalidArgument: if `body` is not JSON, or not such a message.
    """
    message: Message = kind()
    try:
        json_format.Parse(body, kind.pb(message))
        json_format.MessageToDict(kind.pb(message))  # fails for NaN, which `Parse` accepts
    except (json_format.Error, UnicodeDecodeError, RecursionError) as err:
        raise InvalidArgument(f"Invalid JSON payload received. {err}") from err
    return message


def render(message: proto.Message, numeric_enums: bool) -> Mapping[str, Any]:
    """Return `message` as data for JSON, with enums as numbers or as names."""
    kind: Any = type(message)
    return _rendered(kind, kind.serialize(message), numeric_enums)


@functools.lru_cache(maxsize=2000)  # most jobs of a list have ended, and will not change again
def _rendered(
    kind: type[proto.Message], serialised: bytes, numeric_enums: bool
) -> Mapping[str, Any]:
    content: dict[str, Any] = json_format.MessageToDict(
        kind.pb(kind.deserialize(serialised)), use_integers_for_enums=numeric_enums
    )
    return content


def log_filter(body: bytes) -> str:
    """Return the filter in a request for log entries.

    Raises:
        InvalidArgument: if there is none.
    """
    try:
        request = json.loads(body)
    except (ValueError, RecursionError) as err:
        raise InvalidArgument(f"Invalid JSON payload received. {err}") from err
    expression = request.get("filter") if isinstance(request, dict) else None
    if not isinstance(expression, str):
        raise InvalidArgument('A request for log entries needs a "filter" that is a text.')
    return expression


def scopes(body: bytes) -> list[str]:
    """Return the scopes in a service account's request for a token (RFC 7523).

    Raises:
        InvalidArgument: if the request has another form.
    """
    try:
        assertion = parse_qs(body.decode())["assertion"][0]
        return str(jwt.decode(assertion, verify=False).get("scope", "")).split()
    except (UnicodeDecodeError, KeyError, ValueError, GoogleAuthError) as err:
        raise InvalidArgument(f"A request for an access token needs an assertion: {err!r}") from err


def finished_operation(name: str, response: proto.Message | None = None) -> dict[str, Any]:
    """Return a long-running operation that has succeeded, with its result if it has one."""
    content: dict[str, Any] = {"@type": "type.googleapis.com/google.protobuf.Empty"}
    if response is not None:
        kind = type(response).pb(response).DESCRIPTOR.full_name
        content = {"@type": f"type.googleapis.com/{kind}", **render(response, numeric_enums=True)}
    return {"name": name, "done": True, "response": content}


def job_spec(pipeline: TrainingPipeline) -> CustomJobSpec:
    """Return the job spec inside a training pipeline's `training_task_inputs`.

    Raises:
        InvalidArgument: in the service's own words, if the inputs are not a custom job spec.
    """
    inputs = json_format.MessageToDict(TrainingPipeline.pb(pipeline).training_task_inputs)
    spec = CustomJobSpec()
    try:
        json_format.ParseDict(_with_text_arguments(inputs), CustomJobSpec.pb(spec))
    except (json_format.ParseError, AttributeError, TypeError) as err:
        raise InvalidArgument(
            "Unable to parse `training_pipeline.training_task_inputs` into custom task `inputs` "
            f"defined in the file: {TASK_DEFINITION}"
        ) from err
    return spec


def task_inputs(spec: CustomJobSpec) -> struct_pb2.Value:
    """Return a job spec as the service shows it inside a training pipeline: in camelCase."""
    value = struct_pb2.Value()
    content = json_format.MessageToDict(CustomJobSpec.pb(spec))
    return json_format.ParseDict(content, value)


def _with_text_arguments(inputs: Any) -> Any:
    """Return `inputs` with numeric script arguments as text.

    A Struct has floats only, so the SDK turns `args=["--epochs", 3]` into `3.0`. Whole numbers
    become "3" again, because a script's `type=int` does not accept "3.0".
    """
    if isinstance(inputs, dict):
        return {
            key: [_argument(arg) for arg in value]
            if key == "args" and isinstance(value, list)
            else _with_text_arguments(value)
            for key, value in inputs.items()
        }
    if isinstance(inputs, list):
        return [_with_text_arguments(item) for item in inputs]
    return inputs


def _argument(value: Any) -> str:
    whole = isinstance(value, float) and value.is_integer()
    return str(int(value)) if whole else str(value)


def pipeline_metadata(custom_job_name: str) -> struct_pb2.Value:
    """Return the `training_task_metadata` that names a pipeline's backing custom job."""
    value = struct_pb2.Value()
    value.struct_value["backingCustomJob"] = custom_job_name
    return value


def backing_job(pipeline: TrainingPipeline) -> str:
    """Return the name of the custom job that runs this pipeline."""
    metadata = TrainingPipeline.pb(pipeline).training_task_metadata
    return str(metadata.struct_value["backingCustomJob"])
