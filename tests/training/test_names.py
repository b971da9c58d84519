"""Resource names: what is read, what is refused, and that both forms of the project are one."""

from __future__ import annotations

import pytest

from vertex_local.config import PROJECT, PROJECT_NUMBER
from vertex_local.errors import ApiError, InvalidArgument, PermissionDenied
from vertex_local.training.names import ResourceName

STORED = f"projects/{PROJECT_NUMBER}/locations/us-central1/customJobs/12"


@pytest.mark.parametrize("project", [PROJECT, PROJECT_NUMBER])
def test_the_project_may_be_named_by_its_id_or_its_number(project: str) -> None:
    name = ResourceName.parse(f"projects/{project}/locations/us-central1/customJobs/12")
    assert name == ResourceName("us-central1", "customJobs", "12")
    assert str(name) == STORED
    assert str(name.parent) == STORED.removesuffix("/12")


def test_a_new_name_is_a_sibling_with_an_id_of_nineteen_digits() -> None:
    made = ResourceName.parse(STORED).new("operations")
    assert (made.location, made.kind) == ("us-central1", "operations")
    assert len(made.id) == 19 and ResourceName.parse(str(made)) == made


@pytest.mark.parametrize(
    ("text", "error", "words"),
    [
        ("projects/other/locations/us-central1/customJobs/12", PermissionDenied, "'other'"),
        ("projects/vertex-local/locations/nowhere/customJobs/12", InvalidArgument, "'nowhere'"),
        ("projects/vertex-local/customJobs/12", InvalidArgument, "is not a name such as"),
        (f"{STORED}/more", InvalidArgument, "is not a name such as"),
        (f"{STORED}\n", InvalidArgument, "is not a name such as"),
        ("", InvalidArgument, "is not a name such as"),
    ],
)
def test_anything_else_is_refused(text: str, error: type[ApiError], words: str) -> None:
    with pytest.raises(error, match=words):
        ResourceName.parse(text)
