"""Cloud Storage through the real client: files one can open, and nobody else let in."""

from __future__ import annotations

import http.client
import json
from urllib.parse import urlsplit

import pytest
from google.api_core import exceptions
from google.cloud import storage

from vertex_local.config import Root, ServerRecord
from vertex_local.storage import bucket_name_problem


def test_an_object_is_a_plain_file(bucket: storage.Bucket, root: Root) -> None:
    bucket.blob("a folder/text.txt").upload_from_string("hello")
    assert (root.buckets / bucket.name / "a folder" / "text.txt").read_text() == "hello"
    assert bucket.blob("a folder/text.txt").download_as_bytes() == b"hello"
    with pytest.raises(exceptions.NotFound):
        bucket.blob("another.txt").download_as_bytes()


@pytest.mark.parametrize(
    "name", ["ab", "Upper-Case", "under_", "-dash", "has space", "1.2.3.4", "goog-le", "a" * 64]
)
def test_a_bucket_name_that_cloud_storage_refuses_is_refused(
    server: ServerRecord, root: Root, name: str
) -> None:
    with pytest.raises((exceptions.BadRequest, ValueError)) as caught:
        storage.Client().create_bucket(name)
    assert "bucket name" in str(caught.value).lower()
    assert not (root.buckets / name).exists()


@pytest.mark.parametrize("name", ["doe-titanic", "a_b", "abc", "a" * 63, "data.example.org"])
def test_a_well_formed_bucket_name_has_no_problem(name: str) -> None:
    assert bucket_name_problem(name) is None


def test_the_refusal_of_a_bucket_name_says_which_rule_it_breaks(server: ServerRecord) -> None:
    with pytest.raises(exceptions.BadRequest, match="lowercase letters"):
        storage.Client().create_bucket("doeTitanic")


def test_a_slash_in_the_name_of_a_bucket_is_named_whatever_is_asked(server: ServerRecord) -> None:
    """Clients put such a name into the path as it is, where it looks like an unknown operation."""
    client = storage.Client()
    with pytest.raises(exceptions.BadRequest, match="Invalid bucket name: 'models/2026'"):
        client.create_bucket("models/2026")
    blob = client.bucket("models/2026").blob("x")
    for ask in (
        lambda: client.get_bucket("models/2026"),
        lambda: list(client.list_blobs("models/2026")),
        lambda: blob.upload_from_string("x"),
        blob.download_as_bytes,
        blob.delete,
    ):
        with pytest.raises(exceptions.NotFound) as error:
            ask()
        assert "'models/2026': it must not contain '/'" in str(error.value)
    assert client.lookup_bucket("models/2026") is None


def test_a_bucket_name_exists_once(bucket: storage.Bucket) -> None:
    with pytest.raises(exceptions.Conflict):
        storage.Client().create_bucket(bucket.name)


def ask(url: str, path: str, **headers: str) -> tuple[int, str]:
    """Send a GET as any program could; return status and body."""
    connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=30)
    connection.request("GET", path, headers=headers)
    answer = connection.getresponse()
    text = answer.read().decode()
    connection.close()
    return answer.status, text


FOREIGN = [
    {"Origin": "https://example.org"},
    {"Sec-Fetch-Site": "cross-site"},
    {"Host": "example.org"},
]


@pytest.mark.parametrize("headers", FOREIGN, ids=lambda headers: next(iter(headers)))
def test_web_pages_reach_neither_storage_nor_the_training_api(
    server: ServerRecord, bucket: storage.Bucket, headers: dict[str, str]
) -> None:
    jobs = "/v1/projects/vertex-local/locations/us-central1/customJobs"
    token = {"Authorization": f"Bearer {server.token}"}
    path = f"{urlsplit(server.storage_url).path}/storage/v1/b/{bucket.name}"
    assert ask(server.storage_url, path, **headers)[0] == 403
    assert ask(server.api_url, jobs, **headers, **token)[0] == 403
    assert ask(server.storage_url, path)[0] == 200  # without them
    assert ask(server.api_url, jobs, **token)[0] == 200


def test_the_training_api_wants_its_token(server: ServerRecord) -> None:
    jobs = "/v1/projects/vertex-local/locations/us-central1/customJobs"
    for headers in ({}, {"Authorization": "Bearer wrong"}):
        status, text = ask(server.api_url, jobs, **headers)
        assert status == 401
        assert json.loads(text)["error"]["status"] == "UNAUTHENTICATED"


def test_no_get_deletes_everything(server: ServerRecord, bucket: storage.Bucket) -> None:
    assert ask(server.storage_url, f"{urlsplit(server.storage_url).path}/wipe")[0] == 404
    assert bucket.exists()
