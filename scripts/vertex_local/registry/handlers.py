"""What each operation on models and TensorBoard instances does; knows neither URLs nor processes.

Each function takes the registry, the resource name in the URL, the body and the query. It returns
a message, or a finished operation. Source of the rules: the documentation of `ModelService` and
`Model` in google.cloud.aiplatform_v1.
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
DEFAULT = "default"  # the alias of the version that a name without version stands for
MODEL_ID = re.compile(r"[a-z0-9_-]{1,63}")
ALIAS = re.compile(r"[a-z][a-zA-Z0-9-]{0,126}[a-z0-9]")
CHANGEABLE = ("display_name", "description", "labels", "version_description")
DEFAULT_PAGE_SIZE = 100


def upload_model(registry: Registry, name: str, body: bytes, _query: Query) -> dict[str, Any]:
    """Store a new model, or a new version of one."""
    request = wire.parse(UploadModelRequest, body)
    location = ResourceName.parse(name.removesuffix("/models"))
    model = add_model(registry, location, request.model, request.parent_model, request.model_id)
    response = UploadModelResponse(model=model.name, model_version_id=model.version_id)
    return _done(registry, ResourceName.of(model), response)


def add_model(
    registry: Registry, location: ResourceName, model: Model, parent: str, model_id: str
) -> Model:
    """Store a model that an upload or a training pipeline describes, and return it.

    Args:
        location: project and region.
        model: its description; `name` and times are set here.
        parent: name of the model of which it is a new version; "" for a new model.
        model_id: the id of a new model; "" for a generated one.

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
        raise InvalidArgument(
            f"model_id {model_id!r} must have 1 to 63 lowercase letters, digits, '-' and '_'."
        )
    aliases = list(model.version_aliases)
    _check_aliases(aliases)
    with registry.lock:
        if parent:
            before = _versions(registry, _split_version(ResourceName.parse(parent))[0])
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
            others = [alias for alias in each.version_aliases if alias not in aliases]
            _save_aliases(registry, each, others)
        _save_aliases(registry, added, aliases)
    return added


def get_model(registry: Registry, name: str, _body: bytes, _query: Query) -> Model:
    """Return the version of a model that the name gives, else the default one."""
    plain, wanted = _split_version(ResourceName.parse(name))
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
    plain, _ = _split_version(ResourceName.parse(name))
    page, token = _page(_versions(registry, plain)[::-1], query)
    return ListModelVersionsResponse(models=page, next_page_token=token)


def update_model(registry: Registry, name: str, body: bytes, query: Query) -> Model:
    """Change the fields of a model that `updateMask` names."""
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
    changes = list(wire.parse(MergeVersionAliasesRequest, body).version_aliases)
    removed = [each[1:] for each in changes if each.startswith("-")]
    added = [each for each in changes if not each.startswith("-")]
    _check_aliases(added)
    with registry.lock:
        plain, wanted = _split_version(ResourceName.parse(name))
        versions = _versions(registry, plain)
        model = _version(versions, wanted or DEFAULT)
        if DEFAULT in removed:
            raise InvalidArgument("The alias 'default' can only be moved to another version.")
        for each in versions:
            aliases = [alias for alias in each.version_aliases if alias not in added]
            if each.version_id == model.version_id:
                aliases = [alias for alias in aliases if alias not in removed] + added
            _save_aliases(registry, each, aliases)
        return _version(_versions(registry, plain), model.version_id)


def delete_model(registry: Registry, name: str, _body: bytes, _query: Query) -> dict[str, Any]:
    """Delete a model with all versions. Its artifacts stay in their bucket, as on Vertex AI."""
    plain, _ = _split_version(ResourceName.parse(name))
    _versions(registry, plain)
    registry.delete(plain)
    return _done(registry, plain)


def delete_version(registry: Registry, name: str, _body: bytes, _query: Query) -> dict[str, Any]:
    """Delete one version of a model, which must not be the default one."""
    with registry.lock:
        plain, wanted = _split_version(ResourceName.parse(name))
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
    """Store a TensorBoard instance, which jobs can name. Its data are the jobs' event files."""
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
    """Delete a TensorBoard instance."""
    found = get_tensorboard(registry, name, body, query)
    registry.delete(ResourceName.of(found))
    return _done(registry, ResourceName.of(found))


def _split_version(name: ResourceName) -> tuple[ResourceName, str]:
    """Split `MODEL@VERSION`: return the model's name, and the version or alias, or ""."""
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
                f"The alias {alias!r} is not allowed: it must have 2 to 128 letters, digits and "
                "dashes, begin with a lowercase letter and end with one or with a digit."
            )


def _save_aliases(registry: Registry, model: Model, aliases: list[str]) -> None:
    model.version_aliases = aliases
    registry.save(model, int(model.version_id))


def _page(entries: list[Any], query: Query) -> tuple[list[Any], str]:
    """Return one page of the entries that match the query's filter, and the next page's token.

    A page's token is the number of matches before it; "" says that there is no next page.
    """
    matches = compile_filter(query["filter"]) if query.get("filter") else lambda _entry: True
    size, token = query.get("pageSize") or "0", query.get("pageToken") or "0"
    if not re.fullmatch("[0-9]{1,9}", size) or not re.fullmatch("[0-9]{1,9}", token):
        raise InvalidArgument("pageSize must be a whole number, and pageToken one of local mode's.")
    found = [each for each in entries if matches(each)]
    end = int(token) + (int(size) or DEFAULT_PAGE_SIZE)
    return found[int(token) : end], str(end) if end < len(found) else ""


def _done(registry: Registry, name: ResourceName, response: Any = None) -> dict[str, Any]:
    operation = str(ResourceName(name.location).new("operations"))
    return registry.finished(wire.finished_operation(operation, response))


def _now() -> datetime:
    return datetime.now(timezone.utc)
