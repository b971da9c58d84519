"""What Cloud Storage does beside storing: moves, checks, defaults; and what a full disk does."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import google_crc32c
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


def test_a_piece_that_is_too_small_ends_a_resumable_upload(
    server: ServerRecord, bucket: storage.Bucket
) -> None:
    url = f"{server.storage_url}/upload/storage/v1/b/{bucket.name}/o?uploadType=resumable&name=x"

    def send(session: str, first: int, data: bytes, total: object) -> requests.Response:
        last = first + len(data) - 1
        headers = {"Content-Range": f"bytes {first}-{last}/{total}"}
        return requests.put(session, data, headers=headers, timeout=30)

    session = requests.post(url, timeout=30).headers["Location"]
    for data, total in ((b"x" * 1024, 300_000), (b"x" * 262_144, "*")):
        answer = send(session, 0, data, total)
        assert answer.status_code == 400
        assert answer.text.startswith("Invalid request.  The number of bytes uploaded")
        assert "contained 1024 bytes" in answer.text
    session = requests.post(url, timeout=30).headers["Location"]
    answer = send(session, 0, b"x" * 270_000, 280_000)
    assert (answer.status_code, answer.headers["Range"]) == (308, "bytes=0-262143")
    assert send(session, 262_144, b"y" * 17_856, 280_000).ok  # the last one may be small
    assert bucket.blob("x").download_as_bytes() == b"x" * 262_144 + b"y" * 17_856


def test_a_download_fails_with_a_sentence_and_metadata_with_json(
    server: ServerRecord, bucket: storage.Bucket
) -> None:
    bucket.blob("a").upload_from_string("a")
    with pytest.raises(exceptions.NotFound, match=r"alt=media: No such object: .*/none: \("):
        bucket.blob("none").download_as_bytes()
    with pytest.raises(exceptions.RequestRangeNotSatisfiable, match="media: Request range not"):
        bucket.blob("a").download_as_bytes(start=5)
    url = f"{server.storage_url}/storage/v1/b/{bucket.name}/o/none"
    assert requests.get(url, timeout=30).json()["error"]["code"] == 404


def test_the_list_of_buckets_may_end_with_a_slash(server: ServerRecord) -> None:
    url = f"{server.storage_url}/storage/v1/b/"
    assert requests.post(url, json={"name": "with-a-slash"}, timeout=30).ok
    assert "with-a-slash" in requests.get(url, timeout=30).text


@pytest.mark.parametrize("chunk", [None, 256 * 1024])
def test_a_checksum_that_the_user_gives_counts_beside_the_clients_own(
    bucket: storage.Bucket, chunk: int | None
) -> None:
    data = b"x" * 300_000
    right = base64.b64encode(google_crc32c.Checksum(data).digest()).decode()
    blob = bucket.blob("x", chunk_size=chunk)
    with pytest.raises(exceptions.BadRequest, match="doesn't match"):
        blob.upload_from_file(io.BytesIO(data), checksum="crc32c", crc32c_checksum_value=WRONG)
    assert names(bucket) == []
    blob.upload_from_file(io.BytesIO(data), checksum="crc32c", crc32c_checksum_value=right)
    assert names(bucket) == ["x"]


def test_an_object_without_a_content_type_is_served_as_bytes(bucket: storage.Bucket) -> None:
    blob = bucket.blob("a")
    blob.upload_from_string("a", "text/x")
    blob.content_type = None
    blob.patch()
    both = bucket.blob("both")
    both.compose([blob, blob])
    copied = bucket.copy_blob(both, bucket, "copied")
    for each in (blob, both, copied):
        assert bucket.get_blob(each.name).content_type is None
        each.download_as_bytes()
        assert each.content_type == "application/octet-stream"  # a header of the answer


def test_a_download_has_the_etag_of_the_metadata(bucket: storage.Bucket) -> None:
    blob = bucket.blob("a")
    blob.upload_from_string("a")
    again = bucket.blob("a")
    again.download_as_bytes()
    assert again.etag == blob.etag
    url = f"{bucket.client._connection.API_BASE_URL}/{bucket.name}/a"
    assert requests.get(url, timeout=30).headers["ETag"] == f'"{blob.etag}"'  # of the XML API


def test_an_etag_is_a_condition_of_changes_too(
    server: ServerRecord, bucket: storage.Bucket
) -> None:
    blob = bucket.blob("a")
    blob.upload_from_string("a")
    bucket.reload()
    url = f"{server.storage_url}/storage/v1/b/{bucket.name}"
    for path, etag in ((f"{url}/o/a", blob.etag), (url, bucket.etag)):
        for verb in ("PATCH", "DELETE"):
            wrong = {"If-Match": "another"}
            assert (
                requests.request(verb, path, json={}, headers=wrong, timeout=30).status_code == 412
            )
        assert requests.patch(path, json={}, headers={"If-Match": etag}, timeout=30).ok
    assert names(bucket) == ["a"]


def test_a_missing_source_is_missing_whatever_the_target_is_called(
    bucket: storage.Bucket,
) -> None:
    bucket.blob("folder/x").upload_from_string("x")
    nothing = bucket.blob("nothing")
    with pytest.raises(exceptions.NotFound):
        bucket.copy_blob(nothing, bucket, "folder")
    with pytest.raises(exceptions.NotFound):
        bucket.move_blob(nothing, "folder")
    with pytest.raises(exceptions.NotFound):
        bucket.blob("folder").compose([nothing])
    with pytest.raises(exceptions.NotFound):
        storage.Client().bucket("no-such-bucket").blob("a/../b").upload_from_string("")
    with pytest.raises(exceptions.MethodNotAllowed, match="beside an object"):
        bucket.copy_blob(bucket.blob("folder/x"), bucket, "folder")


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
    for wrong in (["a"], [{}], [{"name": 1}]):
        answer = requests.post(url, json={"sourceObjects": wrong}, timeout=30)
        assert answer.status_code == 400 and "must have a name" in answer.text
    assert requests.post(url, json=body | {"destination": [1]}, timeout=30).status_code == 400
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


def test_what_is_said_to_be_off_is_kept_as_it_was_said(server: ServerRecord) -> None:
    bucket = storage.Client().bucket("everything-off")
    assert bucket.hierarchical_namespace_enabled is None
    bucket.hierarchical_namespace_enabled = False
    bucket.versioning_enabled = False
    bucket.create()
    bucket.soft_delete_policy.retention_duration_seconds = 0
    bucket.requester_pays = False
    bucket.patch()
    bucket = storage.Client().get_bucket("everything-off")
    assert bucket.hierarchical_namespace_enabled is False
    assert bucket._properties["versioning"] == {"enabled": False}
    assert bucket._properties["billing"] == {"requesterPays": False}
    assert bucket.soft_delete_policy.retention_duration_seconds == 0
    blob = bucket.blob("x")
    blob.upload_from_string("x")
    blob.temporary_hold = False
    blob.patch()
    assert bucket.get_blob("x").temporary_hold is False
    bucket.soft_delete_policy.retention_duration_seconds = 604800
    with pytest.raises(exceptions.MethodNotAllowed, match="softDeletePolicy"):
        bucket.patch()
    url = f"{server.storage_url}/storage/v1/b/{bucket.name}"
    assert requests.patch(url, json={"softDeletePolicy": None}, timeout=30).ok
    assert requests.patch(url, json={"iamConfiguration": []}, timeout=30).status_code == 400


def test_what_always_has_a_value_goes_back_to_its_default(
    server: ServerRecord, bucket: storage.Bucket
) -> None:
    blob = bucket.blob("x")
    blob.storage_class = "NEARLINE"
    blob.upload_from_string("x")
    url = f"{server.storage_url}/storage/v1/b/{bucket.name}"
    everything = {"storageClass": None, "location": None, "rpo": None, "iamConfiguration": None}
    assert requests.patch(url, json=everything, timeout=30).ok
    assert requests.patch(f"{url}/o/x", json={"storageClass": None}, timeout=30).ok
    assert blob.download_as_bytes() == b"x"
    blob.reload()
    bucket.reload()
    assert (blob.storage_class, bucket.storage_class, bucket.rpo) == (
        "STANDARD",
        "STANDARD",
        "DEFAULT",
    )
    assert (bucket.location, bucket.location_type) == ("US", "multi-region")
    blob.storage_class = "LUKEWARM"
    with pytest.raises(exceptions.BadRequest, match="storageClass"):
        blob.upload_from_string("x")


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ('{"metadata": {"gone": null, "kept": "x"}}', 200),
        ('{"contentType": "a\\nb\\u0000ä", "contentEncoding": "\\u0007"}', 200),
        ('{"contentLanguage": "\\ud800"}', 400),
        ('{"contentDisposition": "' + "x" * 8193 + '"}', 400),
        ('{"customTime": "yesterday"}', 400),
        ('{"metadata": []}', 400),
        ("[]", 400),
    ],
)
def test_no_metadata_makes_an_object_unreadable(
    server: ServerRecord, bucket: storage.Bucket, body: str, status: int
) -> None:
    blob = bucket.blob("a")
    blob.upload_from_string("a")
    url = f"{server.storage_url}/storage/v1/b/{bucket.name}/o/a"
    resumable = f"{server.storage_url}/upload/storage/v1/b/{bucket.name}/o?uploadType=resumable"
    for verb, path in (
        ("PATCH", url),
        ("PUT", url),
        ("POST", f"{url}/rewriteTo/b/{bucket.name}/o/b"),
        ("POST", f"{resumable}&name=c"),
    ):
        answer = requests.request(verb, path, data=body.encode(), timeout=30)
        assert answer.status_code == status
        if "Location" in answer.headers:
            assert requests.put(answer.headers["Location"], b"a", timeout=30).ok
    for each in bucket.list_blobs():
        assert each.download_as_bytes(raw_download=True) == b"a"
        assert "gone" not in (each.metadata or {})


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


@pytest.mark.parametrize(
    ("address", "feature"), [("bigquery/v2/projects", "BigQuery"), ("v1/models", "Gemini models")]
)
def test_another_service_is_not_called_a_feature_of_cloud_storage(
    server: ServerRecord, address: str, feature: str
) -> None:
    answer = requests.get(f"{server.storage_url}/storage/elsewhere/{address}", timeout=30)
    assert (
        f"works on Google Cloud, not in local mode: {feature}" in answer.json()["error"]["message"]
    )
