"""Buckets and objects as JSON: the fields that clients may set, and those that they get."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import quote

from vertex_local.config import PROJECT_NUMBER
from vertex_local.storage.api.features import refusal
from vertex_local.storage.conditions import etag
from vertex_local.storage.errors import BadRequest
from vertex_local.storage.metadata import Resource

OBJECT_FIELDS = frozenset(
    "cacheControl contentDisposition contentEncoding contentLanguage contentType customTime "
    "metadata storageClass".split()
)
OBJECT_OUTPUTS = frozenset(
    "bucket componentCount crc32c etag generation id kind md5Hash mediaLink metageneration name "
    "owner selfLink size timeCreated timeFinalized timeStorageClassUpdated updated".split()
)
# Local mode has no permissions, so `iamConfiguration` is stored and has no effect.
BUCKET_FIELDS = frozenset("iamConfiguration labels location rpo storageClass".split())
BUCKET_OUTPUTS = frozenset(
    "etag generation id kind locationType metageneration name owner projectNumber selfLink "
    "timeCreated updated".split()
)
MAX_CUSTOM = 8192  # bytes of keys and values: https://cloud.google.com/storage/quotas#objects
CHOICES = {  # source: the documentation of the resource representations
    "rpo": ("DEFAULT", "ASYNC_TURBO"),
    "publicAccessPrevention": ("inherited", "unspecified", "enforced"),
    "storageClass": (
        *("STANDARD", "NEARLINE", "COLDLINE", "ARCHIVE"),
        *("MULTI_REGIONAL", "REGIONAL", "DURABLE_REDUCED_AVAILABILITY"),
    ),
}
DEFAULTS = {"rpo": "DEFAULT", "storageClass": "STANDARD"}
FIXED = frozenset({"iamConfiguration", "location"})  # null does not remove these
RFC_3339 = re.compile(r"\d{4}-\d\d-\d\d[Tt]\d\d:\d\d:\d\d(\.\d+)?([Zz]|[+-]\d\d:\d\d)")
MAPPINGS = frozenset({"labels", "metadata"})  # of names to texts
MERGED = MAPPINGS | {"iamConfiguration"}  # a patch changes single keys of these
DERIVED = frozenset(  # not copied from the source of a copy
    "generation metageneration size md5Hash crc32c timeCreated updated componentCount".split()
)


def object_fields(body: Mapping[str, Any]) -> Resource:
    """Return the metadata that a request sets for an object.

    Raises:
        NotEmulated: if it sets something that local mode does not do.
    """
    return _fields(body, OBJECT_FIELDS, OBJECT_OUTPUTS, "an object with")


def new_object_fields(body: Mapping[str, Any]) -> Resource:
    """Return the metadata that a request gives a new object, without fields that are null."""
    return patch(object_fields(body))({})


def bucket_fields(body: Mapping[str, Any]) -> Resource:
    """Return the metadata that a request sets for a bucket.

    Raises:
        NotEmulated: if it sets something that local mode does not do.
    """
    fields = _fields(body, BUCKET_FIELDS, BUCKET_OUTPUTS, "a bucket with")
    prevention = (fields.get("iamConfiguration") or {}).get("publicAccessPrevention")
    _check_choice("publicAccessPrevention", prevention)
    if location := fields.get("location"):
        fields["location"] = str(location).upper()
        multi = fields["location"] in ("US", "EU", "ASIA")
        fields["locationType"] = "multi-region" if multi else "region"
    return fields


def _fields(
    body: Mapping[str, Any], writable: frozenset[str], outputs: frozenset[str], what: str
) -> Resource:
    if not isinstance(body, dict):
        raise BadRequest(f"Invalid value: {body!r} is not an object")
    fields = {}
    for key, value in body.items():
        if key in writable:
            fields[key] = _checked(key, value)
        elif key in outputs:
            continue
        elif not _is_off(value):
            raise refusal(key, f"{what} {key}")
        elif _is_said(value):
            fields[key] = value
    return fields


def _checked(key: str, value: Any) -> Any:
    if value is None:
        return value
    if key in MERGED:
        if not isinstance(value, dict):
            raise BadRequest(f"Invalid value for: {key} is not an object")
    elif not isinstance(value, str):
        raise BadRequest(f"Invalid value for: {key}: {value!r} is not a string")
    elif len(value.encode()) > MAX_CUSTOM:  # it becomes a header
        raise BadRequest(f"Invalid value for: {key}: it has more than {MAX_CUSTOM} bytes")
    if key in MAPPINGS:
        _check_mapping(key, value)
    if key == "customTime" and not RFC_3339.fullmatch(value):
        raise BadRequest(f"Invalid value for: customTime: {value!r} is not a time of RFC 3339")
    _check_choice(key, value)
    return value


def _check_mapping(key: str, value: dict[str, Any]) -> None:
    for item in value.values():
        if not isinstance(item, str | None):
            raise BadRequest(f"Invalid value for: {key}: {item!r} is not a string")
    if sum(len(f"{name}{text or ''}".encode()) for name, text in value.items()) > MAX_CUSTOM:
        raise BadRequest(f"The {key} of a resource may have {MAX_CUSTOM} bytes in all.")


def _check_choice(key: str, value: Any) -> None:
    if value is not None and value not in CHOICES.get(key, (value,)):
        raise BadRequest(f"Invalid argument: {key} {value!r} is none of {CHOICES[key]}.")


def _is_off(value: Any) -> bool:
    """Return whether a value only says that a feature is not used."""
    if isinstance(value, dict):
        return all(_is_off(item) for item in value.values())
    return value in (None, False, "", 0, "0", [])


def _is_said(value: Any) -> bool:
    """Return whether a value says explicitly that a feature is not used: Google stores that."""
    if isinstance(value, dict):
        return any(_is_said(item) for item in value.values())
    return value in (False, "0")  # and 0


def patch(fields: Mapping[str, Any]) -> Callable[[Resource], Resource]:
    """Return the change of a PATCH: null removes a field, or a key of a mapping."""

    def change(document: Resource) -> Resource:
        changed = dict(document)
        for key, value in fields.items():
            if value is None and key in FIXED:
                continue
            if value is None:
                value = DEFAULTS.get(key)
            if key in MERGED and isinstance(value, dict):
                value = {**changed.get(key, {}), **value}
                value = {item: text for item, text in value.items() if text is not None}
            if value is None or value == {}:
                changed.pop(key, None)
            else:
                changed[key] = value
        return changed

    return change


def replace(fields: Mapping[str, Any], writable: frozenset[str]) -> Callable[[Resource], Resource]:
    """Return the change of a PUT: it removes the fields that it does not name."""

    def change(document: Resource) -> Resource:
        kept = {key: value for key, value in document.items() if key not in writable}
        for key in ("contentType", *DEFAULTS, *FIXED):  # always have a value
            if key in document and key in writable:
                kept[key] = document[key]
        return patch(fields)(kept)

    return change


def copied_fields(source: Resource) -> Resource:
    """Return the metadata that a copy takes from its source."""
    return {key: value for key, value in source.items() if key not in DERIVED}


def object_json(base: str, bucket: str, name: str, document: Resource) -> Resource:
    """Return an object as clients see it.

    Args:
        base: the base URL that the client uses for this server.
        bucket: the bucket's name.
        name: the object's name.
        document: its metadata.
    """
    path = f"storage/v1/b/{bucket}/o/{quote(name, safe='')}"
    generation = document["generation"]
    return {
        "kind": "storage#object",
        "id": f"{bucket}/{name}/{generation}",
        "selfLink": f"{base}/{path}",
        "mediaLink": f"{base}/download/{path}?generation={generation}&alt=media",
        "name": name,
        "bucket": bucket,
        "etag": etag(document),
        "timeStorageClassUpdated": document["timeCreated"],
        "timeFinalized": document["timeCreated"],
        **document,
    }


def bucket_json(base: str, name: str, document: Resource) -> Resource:
    """Return a bucket as clients see it."""
    return {
        "kind": "storage#bucket",
        "id": name,
        "name": name,
        "selfLink": f"{base}/storage/v1/b/{name}",
        "projectNumber": PROJECT_NUMBER,
        "etag": etag(document),
        **document,
    }
