"""Preconditions: what must hold for an object or a bucket before a request may go on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from vertex_local.storage.errors import BadRequest, NotModified, PreconditionFailed
from vertex_local.storage.metadata import Resource

NAMES = (
    "ifGenerationMatch",
    "ifGenerationNotMatch",
    "ifMetagenerationMatch",
    "ifMetagenerationNotMatch",
)


@dataclass(frozen=True)
class Conditions:
    """The conditions of one request; None means that there is none of that kind.

    Attributes:
        generation: the generation that the request names; here only the live one exists.
        etags, other_etags: from the headers `If-Match` and `If-None-Match`.
    """

    generation: int | None = None
    generation_match: int | None = None
    generation_not_match: int | None = None
    metageneration_match: int | None = None
    metageneration_not_match: int | None = None
    etags: frozenset[str] | None = None
    other_etags: frozenset[str] | None = None

    def names_generation(self, document: Resource) -> bool:
        """Return whether the live object is the generation that the request names."""
        return self.generation is None or self.generation == int(document["generation"])

    def check(self, document: Resource | None, reading: bool = False) -> None:
        """Compare the conditions with what is stored.

        Args:
            document: the stored metadata, or None if there is no object.
            reading: whether the request only reads.

        Raises:
            PreconditionFailed: if a condition is not met.
            NotModified: if the request only reads, and a `…NotMatch` or `If-None-Match` is not met.
        """
        generation = int((document or {}).get("generation", 0))
        metageneration = int((document or {}).get("metageneration", 0))
        if (
            self.generation_match not in (None, generation)
            or self.metageneration_match not in (None, metageneration)
            or (self.etags is not None and etag(document) not in self.etags)
        ):
            raise PreconditionFailed
        if (
            self.generation_not_match == generation
            or self.metageneration_not_match == metageneration
            or (self.other_etags is not None and etag(document) in self.other_etags)
        ):
            raise NotModified("Not Modified") if reading else PreconditionFailed


ANY = Conditions()


def etag(document: Resource | None) -> str:
    """Return the ETag, which changes with every change of a resource or its metadata."""
    if document is None:
        return ""
    return f"{int(document.get('generation', 0)):x}.{int(document['metageneration']):x}"


def read(
    params: Mapping[str, str], headers: Mapping[str, str] | None = None, source: bool = False
) -> Conditions:
    """Return the conditions of a request.

    Args:
        params: its query parameters.
        headers: its headers; None if conditions in headers do not count.
        source: whether to return the conditions for the source of a copy.
    """
    infix = "Source" if source else ""
    generation = _integer(params, "sourceGeneration" if source else "generation")
    match, not_match, meta_match, meta_not_match = (
        _integer(params, name.replace("if", f"if{infix}", 1)) for name in NAMES
    )
    headers = headers or {}
    return Conditions(
        generation,
        match,
        not_match,
        meta_match,
        meta_not_match,
        etags=_etags(headers.get("if-match")),
        other_etags=_etags(headers.get("if-none-match")),
    )


def _integer(params: Mapping[str, str], name: str) -> int | None:
    try:
        return int(params[name]) if name in params else None
    except ValueError as err:
        raise BadRequest(f"Invalid value for {name}: {params[name]!r}") from err


def _etags(header: str | None) -> frozenset[str] | None:
    if header is None:
        return None
    return frozenset(part.strip().strip('"') for part in header.split(","))
