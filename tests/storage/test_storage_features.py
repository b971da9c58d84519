"""What Cloud Storage does beside storing: moves, checks, defaults; and what a full disk does."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import pytest
import requests
from google.api_core import exceptions
from google.cloud import storage

from vertex_local.config import Root, ServerRecord
from vertex_local.server import ports
from vertex_local.storage import Buckets, listing, partial

WRONG = base64.b64encode(b"\0\0\0\1").decode()


def names(bucket: storage.Bucket) -> list[str]:
    return [blob.name for blob in bucket.list_blobs()]


def test_an_object_is_moved(bucket: storage.Bucket) -> None:
    blob = bucket.blob("a/one")
    blob.metadata = {"key": "kept"}
    blob.upload_from_string("text", "text/x")
    moved = bucket.move_blob(blob, "b/two")
    assert names(bucket) == ["b/two"] and moved.download_as_text() == "text"
    assert (moved.metadata, moved.content_type) == ({"key": "kept"}, "text/x")
    with pytest.raises(exceptions.PreconditionFailed):
        bucket.move_blob(moved, "c", if_source_generation_match=1)
    with pytest.raises(exceptions.NotFound):
        bucket.move_blob(bucket.blob("nothing"), "c")
    with pytest.raises(exceptions.BadRequest):
        bucket.move_blob(moved, "b/two")
    assert names(bucket) == ["b/two"]


def test_predefined_access_lists_have_no_effect(server: ServerRecord) -> None:
    made = storage.Client().create_bucket(
        "with-acl", predefined_acl="private", predefined_default_object_acl="publicRead"
    )
    made.blob("x").upload_from_string("x", predefined_acl="publicRead")
    assert names(made) == ["x"]


@pytest.mark.parametrize("where", ["first", "last", "metadata"])
def test_a_wrong_checksum_of_a_resumable_upload_is_refused(
    server: ServerRecord, bucket: storage.Bucket, where: str
) -> None:
    url = f"{server.storage_url}/upload/storage/v1/b/{bucket.name}/o?uploadType=resumable&name=x"
    wrong = {"x-goog-hash": f"crc32c={WRONG}"}
    begun = requests.post(
        url,
        json={"crc32c": WRONG} if where == "metadata" else {},
        headers=wrong if where == "first" else {},
        timeout=30,
    )
    session = begun.headers["Location"]
    last = wrong if where == "last" else {}
    answer = requests.put(session, b"text", headers=last, timeout=30)
    assert answer.status_code == 400 and "doesn't match" in answer.text
    again = requests.put(session, headers={"Content-Range": "bytes */4"}, timeout=30)
    assert again.status_code == 404 and names(bucket) == []


@pytest.mark.parametrize(
    ("glob", "found"),
    [
        ("**/x", ["a/b/x", "a/x", "x"]),
        ("a/**/x", ["a/b/x", "a/x"]),
        ("**", ["a/b/x", "a/x", "ax", "x"]),
        ("*/x", ["a/x"]),
        ("**x", ["a/b/x", "a/x", "ax", "x"]),
    ],
)
def test_two_stars_and_a_slash_match_no_folder_as_well(glob: str, found: list[str]) -> None:
    matches = listing.glob_pattern(glob).fullmatch
    assert [name for name in ("a/b/x", "a/x", "ax", "x") if matches(name)] == found


def test_compose_can_delete_its_sources_and_refuses_what_it_does_not_know(
    server: ServerRecord, bucket: storage.Bucket
) -> None:
    for name in "ab":
        bucket.blob(name).upload_from_string(name)
    url = f"{server.storage_url}/storage/v1/b/{bucket.name}/o/c/compose"
    body = {"sourceObjects": [{"name": "a"}, {"name": "b"}]}
    answer = requests.post(url, json=body | {"surprise": True}, timeout=30)
    assert answer.status_code == 405 and "compose with surprise" in answer.text
    assert names(bucket) == ["a", "b"]
    assert requests.post(url, json=body | {"deleteSourceObjects": True}, timeout=30).ok
    assert names(bucket) == ["c"] and bucket.blob("c").download_as_text() == "ab"


def test_a_bucket_has_googles_defaults(bucket: storage.Bucket) -> None:
    bucket.reload()
    assert bucket.rpo == "DEFAULT"
    assert bucket.iam_configuration.public_access_prevention == "inherited"
    assert not bucket.iam_configuration.uniform_bucket_level_access_enabled
    bucket.iam_configuration.public_access_prevention = "enforced"
    bucket.patch()
    bucket.iam_configuration.public_access_prevention = "sometimes"
    with pytest.raises(exceptions.BadRequest, match="publicAccessPrevention"):
        bucket.patch()


def test_custom_metadata_has_8_kib_in_all(bucket: storage.Bucket) -> None:
    blob = bucket.blob("x")
    blob.metadata = {"a": "x" * 4000, "b": "x" * 4190}
    blob.upload_from_string("")
    blob.metadata = {"a": "x" * 4000, "b": "x" * 4191}
    with pytest.raises(exceptions.BadRequest, match="8192 bytes"):
        blob.upload_from_string("")


@pytest.fixture
def full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Root, str]]:
    """A storage server of its own, on whose disk there is no room for what is uploaded."""
    root = Root(tmp_path / "root")
    root.create()
    with ports.listen(0) as listener, Buckets(root, listener):
        url = ports.url(listener)
        assert requests.post(f"{url}/storage/v1/b", json={"name": "abc"}, timeout=30).ok
        real = open

        def open_full(path: Path, mode: str) -> IO[bytes]:
            path.touch()
            return real("/dev/full", "wb") if mode in ("xb", "a+b") else real(path, mode)

        monkeypatch.setattr(partial, "open", open_full, raising=False)
        yield root, url


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
@pytest.mark.parametrize("size", [10, 3_000_000])
@pytest.mark.parametrize("kind", ["media", "multipart"])
def test_a_full_disk_is_said_and_nothing_stays(
    full: tuple[Root, str], kind: str, size: int
) -> None:
    root, url = full
    body = b"x" * size
    headers = {}
    if kind == "multipart":
        head = b"--b\r\nContent-Type: application/json\r\n\r\n{}\r\n--b\r\n\r\n"
        body = head + body + b"\r\n--b--\r\n"
        headers = {"Content-Type": "multipart/related; boundary=b"}
    answer = requests.post(
        f"{url}/upload/storage/v1/b/abc/o?uploadType={kind}&name=x",
        body,
        headers=headers,
        timeout=30,
    )
    assert answer.status_code == 507 and "no room" in answer.text
    assert list(root.uploads.iterdir()) == [] and list((root.buckets / "abc").iterdir()) == []
