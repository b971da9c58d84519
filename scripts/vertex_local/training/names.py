"""Resource names of the training API: `projects/PROJECT/locations/LOCATION/KIND/ID`.

The only place that parses and builds them. The project is always local mode's own. A caller may
use its id or its number; stored names have its number, as those of Vertex AI do.
"""

from __future__ import annotations

import re
import secrets
from dataclasses import dataclass, replace
from typing import Any

from vertex_local.config import PROJECT, PROJECT_NUMBER
from vertex_local.errors import InvalidArgument, PermissionDenied

FORM = re.compile(
    r"projects/(?P<project>[^/\s]+)/locations/(?P<location>[^/\s]+)"
    r"(/(?P<kind>[^/\s]+)(/(?P<id>[^/\s]+))?)?"
)
REGION = re.compile(r"[a-z]+-[a-z]+\d+")  # the SDK checks names against a list


def check_project(project: str) -> None:
    """Raise PermissionDenied if this is neither the id nor the number of local mode's project."""
    if project not in (PROJECT, PROJECT_NUMBER):
        raise PermissionDenied(
            f"Local mode has one project, {PROJECT!r}; there is no access to {project!r}."
        )


@dataclass(frozen=True)
class ResourceName:
    """The name of a resource; without id, of a collection; without kind, of a location.

    Attributes:
        location: a region, such as `us-central1`.
        kind: such as `customJobs`, or "".
        id: such as "1234567890123456789", or "".
    """

    location: str
    kind: str = ""
    id: str = ""

    @classmethod
    def parse(cls, text: str) -> ResourceName:
        """Read a name as a caller gives it or as it is stored.

        Raises:
            InvalidArgument: if it has another form, or its location is no region.
            PermissionDenied: if it is in a project other than local mode's.
        """
        match = FORM.fullmatch(text)
        if match is None:
            raise InvalidArgument(f"{text!r} is not a name such as projects/…/locations/….")
        check_project(match["project"])
        if not REGION.fullmatch(match["location"]):
            raise InvalidArgument(
                f"{match['location']!r} is not the name of a region, such as us-central1."
            )
        return cls(match["location"], match["kind"] or "", match["id"] or "")

    @classmethod
    def of(cls, resource: Any) -> ResourceName:
        """Return the name of a stored resource."""
        return cls.parse(str(resource.name))

    def new(self, kind: str) -> ResourceName:
        """Return the name of a new resource in this location; ids have 19 digits, as Google's."""
        return ResourceName(self.location, kind, str(secrets.randbelow(9 * 10**18) + 10**18))

    @property
    def parent(self) -> ResourceName:
        """The collection that this resource is in."""
        return replace(self, id="")

    def __str__(self) -> str:
        parts = ("projects", PROJECT_NUMBER, "locations", self.location, self.kind, self.id)
        return "/".join(part for part in parts if part)
