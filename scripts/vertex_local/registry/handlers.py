"""What each operation on models and TensorBoard instances does; knows neither URLs nor processes.

Each takes the registry, the name in the URL, the body and the query, and returns a message, or a
finished operation. Source of the rules: the documentation of `ModelService` and `Model` in
google.cloud.aiplatform_v1.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import datetime, timezone
from typing import Any

from google.cloud.aiplatform_v1.types import (
    ListModelsResponse,
    ListModelVersionsResponse,
    ListTensorboardsResponse,
    MergeVersionAliasesRequest,
    Model,
    Tensorboard,
    UploadModelRequest,
    UploadModelResponse,
)

from vertex_local.errors import AlreadyExists, FailedPrecondition, InvalidArgument, NotFound
from vertex_local.registry.store import Entry, Registry
from vertex_local.training import wire
from vertex_local.training.filters import compile_filter
from vertex_local.training.names import ResourceName

Query = Mapping[str, str]
DEFAULT = "default"  # the alias of the version that is meant when none is named
MODEL_ID = re.compile(r"[a-z0-9_-]{1,63}")
ALIAS = re.compile(r"[a-z][a-zA-Z0-9-]{0,126}[a-z0-9]")
CHANGEABLE = ("display_name", "description", "labels", "version_description")
DEFAULT_PAGE_SIZE = 100


def upload_model(registry: Registry, name: str, body: bytes, _query: Query) -> dict[str, Any]:
    """Keep a model, or a new version of one."""
    request = wire.parse(UploadModelRequest, body)
    location = ResourceName.parse(name.removesuffix("/models"))
    model = add_model(registry, location, request.model, request.parent_model, request.model_id)
    response = UploadModelResponse(model=model.name, model_version_id=model.version_id)
    return _done(registry, ResourceName.of(model), response)


def add_model(
    registry: Registry, location: ResourceName, model: Model, parent: str, model_id: str
) -> Model:
    """Keep a model that an upload or a training pipeline describes.

    Args:
        location: where it is to be.
        model: what is said about it.
        parent: name of the model that it is a new version of, or "".
        model_id: the wanted id, or "" to make one up.

    Raises:
        InvalidArgument: if Vertex AI would refuse it.
        NotFound: if there is no such parent.
        AlreadyExists: if the id is taken.
    """
    if not 0 < len(model.display_name) <= 128:
        raise InvalidArgument("model.display_name must have between 1 and 128 characters.")
    if model.artifact_uri and not model.artifact_uri.startswith("gs://"):
        raise InvalidArgument(f"model.artifact_uri must start with gs://, not {model.artifact_uri}")
    if model_id and not MODEL_ID.fullmatch(model_id):
        raise InvalidArgument(f"model_id {model_id!r}: lowercase letters, digits, '-' and '_'.")
    aliases = list(model.version_aliases)
    _check_aliases(aliases)
    with registry.lock:
        if parent:
            before = _versions(registry, _own(ResourceName.parse(parent))[0])
            name = ResourceName.of(before[0])
        else:
            before = []
            name = location.new("models")
            name = ResourceName(name.location, name.kind, model_id or name.id)
            if registry.versions(name):
                raise AlreadyExists(f"The model {name} exists already; pass it as parent_model.")
            aliases = [DEFAULT, *(each for each in aliases if each != DEFAULT)]
        added = Model(model)
        added.name = str(name)
        added.version_id = str(max((int(each.version_id) for each in before), default=0) + 1)
        added.create_time = added.update_time = added.version_create_time = _now()
        added.version_update_time = added.create_time
        for each in before:  # an alias belongs to one version
            _keep_aliases(registry, each, [it for it in each.version_aliases if it not in aliases])
        _keep_aliases(registry, added, aliases)
    return added


def get_model(registry: Registry, name: str, _body: bytes, _query: Query) -> Model:
    """Return one version of a model: the named one, else the default."""
    plain, wanted = _own(ResourceName.parse(name))
    return _version(_versions(registry, plain), wanted or DEFAULT)


def list_models(registry: Registry, name: str, _body: bytes, query: Query) -> ListModelsResponse:
    """Return the default version of each model, newest first."""
    models = registry.children(ResourceName.parse(name))
    found = [each for each in models if isinstance(each, Model) and DEFAULT in each.version_aliases]
    page, token = _page(found, query)
    return ListModelsResponse(models=page, next_page_token=token)


def list_versions(
    registry: Registry, name: str, _body: bytes, query: Query
) -> ListModelVersionsResponse:
    """Return all versions of a model, newest first."""
    plain, _ = _own(ResourceName.parse(name))
    page, token = _page(_versions(registry, plain)[::-1], query)
    return ListModelVersionsResponse(models=page, next_page_token=token)


def update_model(registry: Registry, name: str, body: bytes, query: Query) -> Model:
    """Change what describes a model."""
    with registry.lock:
        model = get_model(registry, name, body, query)
        change = wire.parse(Model, body)
        names = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", query.get("updateMask", "")).lower().split(",")
        for field in filter(None, names):
            if field not in CHANGEABLE:
                raise InvalidArgument(f"The field {field} of a model cannot be changed.")
            setattr(model, field, getattr(change, field))
        model.update_time = model.version_update_time = _now()
        registry.save(model, int(model.version_id))
    return model


def merge_aliases(registry: Registry, name: str, body: bytes, query: Query) -> Model:
    """Add aliases to a version; `-ALIAS` removes one."""
    asked = list(wire.parse(MergeVersionAliasesRequest, body).version_aliases)
    removed = [each[1:] for each in asked if each.startswith("-")]
    added = [each for each in asked if not each.startswith("-")]
    _check_aliases(added)
    with registry.lock:
        plain, wanted = _own(ResourceName.parse(name))
        versions = _versions(registry, plain)
        model = _version(versions, wanted or DEFAULT)
        if DEFAULT in removed:
            raise InvalidArgument("The alias 'default' can only be moved to another version.")
        for each in versions:
            aliases = [it for it in each.version_aliases if it not in added]
            if each.version_id == model.version_id:
                aliases = [it for it in aliases if it not in removed] + added
            _keep_aliases(registry, each, aliases)
        return _version(_versions(registry, plain), model.version_id)


def delete_model(registry: Registry, name: str, _body: bytes, _query: Query) -> dict[str, Any]:
    """Forget a model with all versions. Its artifacts stay in their bucket, as on Vertex AI."""
    plain, _ = _own(ResourceName.parse(name))
    _versions(registry, plain)
    registry.delete(plain)
    return _done(registry, plain)


def delete_version(registry: Registry, name: str, _body: bytes, _query: Query) -> dict[str, Any]:
    """Forget one version of a model."""
    with registry.lock:
        plain, wanted = _own(ResourceName.parse(name))
        versions = _versions(registry, plain)
        model = _version(versions, wanted)
        if DEFAULT in model.version_aliases:
            raise FailedPrecondition(
                f"Version {model.version_id} of {plain} is the default one: give that alias to "
                "another version, or delete the model."
            )
        registry.delete(plain, int(model.version_id))
    return _done(registry, plain)


def create_tensorboard(registry: Registry, name: str, body: bytes, _query: Query) -> dict[str, Any]:
    """Keep a TensorBoard instance, which jobs can name. Its data are the jobs' event files."""
    tensorboard = wire.parse(Tensorboard, body)
    if not 0 < len(tensorboard.display_name) <= 128:
        raise InvalidArgument("display_name must have between 1 and 128 characters.")
    tensorboard.name = str(ResourceName.parse(name).new("tensorboards"))
    tensorboard.create_time = tensorboard.update_time = _now()
    registry.save(tensorboard)
    return _done(registry, ResourceName.of(tensorboard), tensorboard)


def get_tensorboard(registry: Registry, name: str, _body: bytes, _query: Query) -> Entry:
    """Return a TensorBoard instance."""
    return _versions(registry, ResourceName.parse(name))[0]


def list_tensorboards(
    registry: Registry, name: str, _body: bytes, query: Query
) -> ListTensorboardsResponse:
    """Return the TensorBoard instances, newest first."""
    page, token = _page(registry.children(ResourceName.parse(name)), query)
    return ListTensorboardsResponse(tensorboards=page, next_page_token=token)


def delete_tensorboard(registry: Registry, name: str, body: bytes, query: Query) -> dict[str, Any]:
    """Forget a TensorBoard instance."""
    found = get_tensorboard(registry, name, body, query)
    registry.delete(ResourceName.of(found))
    return _done(registry, ResourceName.of(found))


def _own(name: ResourceName) -> tuple[ResourceName, str]:
    """Return the name of a model, and the version or alias that stands behind an `@`."""
    number, _, version = name.id.partition("@")
    return ResourceName(name.location, name.kind, number), version


def _versions(registry: Registry, name: ResourceName) -> list[Any]:
    if found := registry.versions(name):
        return found
    raise NotFound(f"The resource {name} does not exist.")


def _version(versions: list[Model], wanted: str) -> Model:
    for each in versions:
        if wanted == each.version_id or wanted in each.version_aliases:
            return each
    raise NotFound(f"The model {versions[0].name} has no version {wanted!r}.")


def _check_aliases(aliases: list[str]) -> None:
    for alias in aliases:
        if not ALIAS.fullmatch(alias):
            raise InvalidArgument(
                f"The alias {alias!r} is not allowed: it must begin with a lowercase letter and "
                "hold letters, digits and dashes, two to 128."
            )


def _keep_aliases(registry: Registry, model: Model, aliases: list[str]) -> None:
    model.version_aliases = aliases
    registry.save(model, int(model.version_id))


def _page(entries: list[Any], query: Query) -> tuple[list[Any], str]:
    """Return the matches on one page, and the token of the next page: how many come before it."""
    matches = compile_filter(query["filter"]) if query.get("filter") else lambda _entry: True
    size, token = query.get("pageSize") or "0", query.get("pageToken") or "0"
    if not re.fullmatch("[0-9]{1,9}", size) or not re.fullmatch("[0-9]{1,9}", token):
        raise InvalidArgument("pageSize must be a whole number, and pageToken one of ours.")
    found = [each for each in entries if matches(each)]
    end = int(token) + (int(size) or DEFAULT_PAGE_SIZE)
    return found[int(token) : end], str(end) if end < len(found) else ""


def _done(registry: Registry, name: ResourceName, response: Any = None) -> dict[str, Any]:
    operation = str(ResourceName(name.location).new("operations"))
    return registry.finished(wire.finished_operation(operation, response))


def _now() -> datetime:
    return datetime.now(timezone.utc)
