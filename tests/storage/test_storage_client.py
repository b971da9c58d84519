"""Every operation of the Cloud Storage client that lessons use, through the client itself."""

from __future__ import annotations

import base64
import datetime
import gzip
import hashlib
import io
import os
import re
from pathlib import Path

import google_crc32c
import pytest
import requests
from google.api_core import exceptions
from google.cloud import storage
from google.cloud.storage import transfer_manager
from google.cloud.storage.exceptions import InvalidResponse

from vertex_local.config import Root, ServerRecord

MIB = 1 << 20


@pytest.fixture
def client(server: ServerRecord) -> storage.Client:
    """A client of the session's server."""
    return storage.Client()


def put(bucket: storage.Bucket, *names: str) -> None:
    """Make objects whose content is their name."""
    for name in names:
        bucket.blob(name).upload_from_string(name)


def names(blobs: object) -> list[str]:
    """Return the names of blobs."""
    return [blob.name for blob in blobs]  # type: ignore[attr-defined]


# Buckets


def test_buckets_are_made_found_changed_and_deleted(client: storage.Client) -> None:
    made = client.create_bucket("bucket-life", location="europe-west1")
    assert (made.location, made.location_type) == ("EUROPE-WEST1", "region")
    assert client.lookup_bucket("bucket-life").time_created == made.time_created
    assert "bucket-life" in names(client.list_buckets(prefix="bucket-li"))
    made.labels = {"team": "a"}
    made.patch()
    assert client.get_bucket("bucket-life").labels == {"team": "a"}
    made.labels = {}
    made.update()
    assert client.get_bucket("bucket-life").labels == {}
    put(made, "a/b/c", "d")
    with pytest.raises(exceptions.Conflict, match="The bucket you tried to delete is not empty"):
        made.delete()
    made.delete(force=True)
    assert client.lookup_bucket("bucket-life") is None
    with pytest.raises(exceptions.NotFound, match="The specified bucket does not exist"):
        client.get_bucket("bucket-life")
    assert list(client.list_buckets(prefix="bucket-li")) == []


def test_buckets_are_listed_by_pages(client: storage.Client) -> None:
    for number in range(5):
        client.create_bucket(f"paged-{number}")
    found = client.list_buckets(prefix="paged-", page_size=2)
    assert [len(list(page)) for page in found.pages] == [2, 2, 1]
    assert len(list(client.list_buckets(prefix="paged-", max_results=3))) == 3


def test_nothing_goes_into_a_bucket_that_does_not_exist(client: storage.Client) -> None:
    with pytest.raises(exceptions.NotFound, match="The specified bucket does not exist"):
        client.bucket("no-such-bucket").blob("x").upload_from_string("x")
    with pytest.raises(exceptions.NotFound, match="The specified bucket does not exist"):
        list(client.list_blobs("no-such-bucket"))


# Uploads and downloads


def test_upload_and_download_in_every_form(bucket: storage.Bucket, tmp_path: Path) -> None:
    """Reference: `google-cloud-storage` uploads and downloads in every form that it has."""
    data = os.urandom(100_000)
    (tmp_path / "up.bin").write_bytes(data)
    bucket.blob("file.bin").upload_from_filename(tmp_path / "up.bin")
    bucket.blob("handle.bin").upload_from_file(io.BytesIO(data))
    bucket.blob("text").upload_from_string("ä text", content_type="text/markdown")
    with bucket.blob("written.bin").open("wb") as file:
        file.write(data)
    for name in ("file.bin", "handle.bin", "written.bin"):
        assert bucket.blob(name).download_as_bytes() == data
    assert bucket.blob("text").download_as_text() == "ä text"
    assert bucket.get_blob("text").content_type == "text/markdown"
    bucket.blob("file.bin").download_to_filename(tmp_path / "down.bin")
    assert (tmp_path / "down.bin").read_bytes() == data
    with bucket.blob("file.bin").open("rb") as file:
        file.seek(99_990)
        assert file.read() == data[99_990:]
    xml = f"{bucket.client._connection.API_BASE_URL}/{bucket.name}/file.bin"  # as Arrow reads
    assert requests.get(xml, timeout=30).content == data
    with pytest.raises(exceptions.NotFound, match=f"No such object: {bucket.name}/none"):
        bucket.blob("none").download_as_bytes()


@pytest.mark.parametrize(
    "name", ["a b+c%2F?.txt", "ä/ß.txt", "o/b/o/x", "tail/compose", "copyTo/x", "a\\b:*?<>|\"'"]
)
def test_names_are_what_they_are(bucket: storage.Bucket, root: Root, name: str) -> None:
    put(bucket, name)
    assert names(bucket.list_blobs()) == [name]
    assert bucket.blob(name).download_as_text() == name
    assert (root.buckets / bucket.name / name).read_text() == name
    bucket.blob(name).delete()
    assert list((root.buckets / bucket.name).iterdir()) == []


@pytest.mark.parametrize("size", [0, 1, 256 * 1024, MIB, MIB + 1, 3 * MIB])
def test_chunked_uploads_arrive_as_they_were(bucket: storage.Bucket, size: int) -> None:
    data = os.urandom(size)
    blob = bucket.blob("chunked", chunk_size=256 * 1024)
    blob.upload_from_file(io.BytesIO(data))
    assert bucket.get_blob("chunked").md5_hash == md5(data)
    assert bucket.get_blob("chunked").crc32c == crc32c(data)
    if size:
        assert bucket.blob("chunked", chunk_size=256 * 1024).download_as_bytes() == data


def md5(data: bytes) -> str:
    """Return the MD5 as the API writes it."""
    return base64.b64encode(hashlib.md5(data).digest()).decode()


def crc32c(data: bytes) -> str:
    """Return the CRC32C as the API writes it."""
    return base64.b64encode(google_crc32c.Checksum(data).digest()).decode()


def test_a_resumable_upload_says_how_far_it_is(bucket: storage.Bucket) -> None:
    data = os.urandom(600_000)
    url = bucket.blob("resumed").create_resumable_upload_session(content_type="image/png")
    middle = 256 * 1024

    def send(first: int, last: int, total: str = "600000") -> requests.Response:
        headers = {"Content-Range": f"bytes {first}-{last}/{total}"}
        return requests.put(url, data[first : last + 1], headers=headers, timeout=30)

    def ask() -> requests.Response:
        return requests.put(url, headers={"Content-Range": "bytes */600000"}, timeout=30)

    assert ask().status_code == 308 and "Range" not in ask().headers
    assert send(0, middle - 1, "*").headers["Range"] == f"bytes=0-{middle - 1}"
    assert send(middle + 7, 599_999).status_code == 400  # a gap
    assert ask().headers["Range"] == f"bytes=0-{middle - 1}"
    assert not bucket.blob("resumed").exists()  # nothing is visible before the end
    assert send(middle - 1000, middle * 2 - 1, "*").status_code == 308  # an overlap
    finished = send(middle * 2, 599_999)
    assert finished.status_code == 200 and finished.json()["md5Hash"] == md5(data)
    assert ask().json()["generation"] == finished.json()["generation"]  # asked once more
    assert bucket.get_blob("resumed").content_type == "image/png"
    assert bucket.blob("resumed").download_as_bytes() == data


def test_a_cancelled_upload_is_gone(bucket: storage.Bucket, root: Root) -> None:
    url = bucket.blob("cancelled").create_resumable_upload_session()
    assert requests.delete(url, timeout=30).status_code == 499
    assert requests.put(url, b"x", timeout=30).status_code == 404
    assert not bucket.blob("cancelled").exists()


def test_ranges(bucket: storage.Bucket) -> None:
    bucket.blob("digits").upload_from_string("0123456789")
    blob = bucket.blob("digits")
    assert blob.download_as_bytes(start=2, end=4) == b"234"
    assert blob.download_as_bytes(start=7) == b"789"
    assert blob.download_as_bytes(start=-3) == b"789"
    assert blob.download_as_bytes(start=8, end=99) == b"89"
    with pytest.raises(exceptions.RequestRangeNotSatisfiable):
        blob.download_as_bytes(start=10)


def test_wrong_checksums_are_refused_and_nothing_is_stored(bucket: storage.Bucket) -> None:
    for field in ("md5_hash", "crc32c"):
        blob = bucket.blob("damaged")
        setattr(blob, field, md5(b"other") if field == "md5_hash" else crc32c(b"other"))
        with pytest.raises(exceptions.BadRequest, match="doesn't match calculated"):
            blob.upload_from_string("content", checksum=None)
    url = bucket.blob("damaged").create_resumable_upload_session()
    headers = {"x-goog-hash": f"crc32c={crc32c(b'other')}"}
    assert requests.put(url, b"content", headers=headers, timeout=30).status_code == 400
    assert not bucket.blob("damaged").exists()
    blob = bucket.blob("intact")
    blob.md5_hash = md5(b"content")
    blob.upload_from_string("content", checksum="md5")
    assert blob.exists()


@pytest.mark.parametrize("checksum", ["md5", "crc32c"])
def test_transfer_manager_with_many_workers(
    bucket: storage.Bucket, tmp_path: Path, checksum: str
) -> None:
    """Reference: `transfer_manager` of `google-cloud-storage` uploads in parts, with as many
    workers as you like.
    """
    threads = transfer_manager.THREAD
    files = [f"{number:03}/file" for number in range(40)]
    for name in files:
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_text(name)
    done = transfer_manager.upload_many_from_filenames(
        bucket, files, tmp_path, worker_type=threads, max_workers=8
    )
    assert done == [None] * 40
    out = tmp_path / "out"
    done = transfer_manager.download_many_to_path(
        bucket, files, out, worker_type=threads, max_workers=8
    )
    assert [(out / name).read_text() for name in files] == files
    assert any(
        isinstance(result, Exception)
        for result in transfer_manager.download_many_to_path(
            bucket, ["000/none"], out, worker_type=threads
        )
    )
    data = os.urandom(6 * MIB + 11)
    (tmp_path / "big").write_bytes(data)
    big = bucket.blob("big ä")
    big.metadata = {"kind": "test"}
    big.storage_class = "NEARLINE"
    transfer_manager.upload_chunks_concurrently(
        tmp_path / "big", big, chunk_size=MIB, worker_type=threads, checksum=checksum
    )
    stored = bucket.get_blob("big ä")
    assert (stored.size, stored.crc32c, stored.md5_hash) == (len(data), crc32c(data), None)
    assert (stored.metadata, stored.storage_class) == ({"kind": "test"}, "NEARLINE")
    transfer_manager.download_chunks_concurrently(
        stored, tmp_path / "again", chunk_size=MIB, worker_type=threads
    )
    assert (tmp_path / "again").read_bytes() == data


def test_a_part_that_was_not_sent_fails_the_upload(bucket: storage.Bucket) -> None:
    host = bucket.client._connection.API_BASE_URL
    url = f"{host}/{bucket.name}/parts"
    text = requests.post(f"{url}?uploads", timeout=30).text
    number = re.search("<UploadId>(.*)</UploadId>", text)
    assert number
    etag = "0" * 32
    body = f"<C><Part><PartNumber>1</PartNumber><ETag>{etag}</ETag></Part></C>"
    answer = requests.post(f"{url}?uploadId={number[1]}", body, timeout=30)
    assert answer.status_code == 400 and "<Code>InvalidPart</Code>" in answer.text
    wrong = {"x-goog-hash": f"crc32c={crc32c(b'other')}"}
    part = f"{url}?partNumber=1&uploadId={number[1]}"
    assert "<Code>BadDigest" in requests.put(part, b"x", headers=wrong, timeout=30).text
    assert requests.delete(f"{url}?uploadId={number[1]}", timeout=30).status_code == 204
    assert "NoSuchUpload" in requests.put(part, b"x", timeout=30).text
    assert list(bucket.list_blobs()) == []


# Listing


LISTED = ["a", "b/1", "b/2", "b/c/3", "b-/x", "b0", "d/e/f/4", "z.txt"]


@pytest.fixture
def listed(bucket: storage.Bucket) -> storage.Bucket:
    """A bucket with some objects in folders."""
    put(bucket, *LISTED)
    return bucket


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ({}, sorted(LISTED)),
        ({"prefix": "b"}, ["b-/x", "b/1", "b/2", "b/c/3", "b0"]),
        ({"prefix": "b/"}, ["b/1", "b/2", "b/c/3"]),
        ({"prefix": "b/c/3x"}, []),
        ({"prefix": "nothing/"}, []),
        ({"start_offset": "b/2"}, ["b/2", "b/c/3", "b0", "d/e/f/4", "z.txt"]),
        ({"end_offset": "b/2"}, ["a", "b-/x", "b/1"]),
        ({"start_offset": "b/", "end_offset": "b0", "max_results": 2}, ["b/1", "b/2"]),
        ({"match_glob": "*"}, ["a", "b0", "z.txt"]),
        ({"match_glob": "b/*"}, ["b/1", "b/2"]),
        ({"match_glob": "**/[34]"}, ["b/c/3", "d/e/f/4"]),
        ({"match_glob": "{a,**.t?t}"}, ["a", "z.txt"]),
        ({"match_glob": "b/[!1]"}, ["b/2"]),
        ({"max_results": 3}, ["a", "b-/x", "b/1"]),
    ],
    ids=str,
)
def test_listing(listed: storage.Bucket, query: dict[str, object], expected: list[str]) -> None:
    assert names(listed.list_blobs(**query)) == expected
    assert names(listed.list_blobs(**query, page_size=1)) == expected


@pytest.mark.parametrize("page_size", [None, 1, 2])
@pytest.mark.parametrize(
    ("query", "objects", "prefixes"),
    [
        ({}, ["a", "b0", "z.txt"], ["b-/", "b/", "d/"]),
        ({"prefix": "b"}, ["b0"], ["b-/", "b/"]),
        ({"prefix": "b/"}, ["b/1", "b/2"], ["b/c/"]),
        ({"prefix": "d/"}, [], ["d/e/"]),
        ({"start_offset": "b/2"}, ["b0", "z.txt"], ["b/", "d/"]),
    ],
    ids=str,
)
def test_listing_with_a_delimiter(
    listed: storage.Bucket,
    query: dict[str, str],
    objects: list[str],
    prefixes: list[str],
    page_size: int | None,
) -> None:
    found = listed.list_blobs(delimiter="/", page_size=page_size, **query)
    assert names(found) == objects
    assert sorted(found.prefixes) == prefixes


def test_any_text_may_be_the_delimiter(listed: storage.Bucket) -> None:
    found = listed.list_blobs(delimiter="-/")
    assert "b-/x" not in names(found) and found.prefixes == {"b-/"}


def test_folder_placeholders(bucket: storage.Bucket, root: Root) -> None:
    put(bucket, "f/x")
    bucket.blob("f/").upload_from_string("")
    bucket.blob("g/").upload_from_string("")
    assert names(bucket.list_blobs()) == ["f/", "f/x", "g/"]
    assert bucket.blob("g/").download_as_bytes() == b""
    found = bucket.list_blobs(delimiter="/", include_trailing_delimiter=True)
    assert names(found) == ["f/", "g/"] and found.prefixes == {"f/", "g/"}
    bucket.blob("f/x").delete()
    assert names(bucket.list_blobs()) == ["f/", "g/"]
    bucket.blob("f/").delete()
    bucket.blob("g/").delete()
    assert list((root.buckets / bucket.name).iterdir()) == []
    with pytest.raises(exceptions.MethodNotAllowed, match="not empty"):
        bucket.blob("h/").upload_from_string("content")


def test_the_live_objects_are_the_only_versions(listed: storage.Bucket) -> None:
    assert names(listed.list_blobs(versions=True)) == sorted(LISTED)
    with pytest.raises(exceptions.MethodNotAllowed, match=r"soft delete \(GET with the parameter"):
        list(listed.list_blobs(soft_deleted=True))


# Copies


def test_copy_rename_rewrite_compose(bucket: storage.Bucket, client: storage.Client) -> None:
    first = bucket.blob("first")
    first.metadata = {"k": "v"}
    first.upload_from_string("1", content_type="text/plain")
    other = client.create_bucket(f"{bucket.name}-other")
    copied = bucket.copy_blob(first, other, "copied")
    assert copied.download_as_bytes() == b"1"
    assert other.get_blob("copied").metadata == {"k": "v"}
    renamed = other.rename_blob(copied, "new/name")
    assert names(other.list_blobs()) == ["new/name"]
    token, done, total = other.blob("rewritten").rewrite(renamed)
    assert (token, done, total) == (None, 1, 1)
    assert other.get_blob("rewritten").md5_hash == first.md5_hash
    put(bucket, "second")
    bucket.blob("both").compose([first, bucket.blob("second")])
    both = bucket.get_blob("both")
    assert (both.component_count, both.md5_hash, both.content_type) == (2, None, None)
    assert both.download_as_bytes() == b"1second"
    with pytest.raises(exceptions.NotFound, match="No such object"):
        bucket.blob("bad").compose([first, bucket.blob("none")])
    with pytest.raises(exceptions.NotFound):
        bucket.copy_blob(bucket.blob("none"), other, "copied")
    assert not bucket.blob("bad").exists()


def test_batch(bucket: storage.Bucket) -> None:
    client = bucket.client
    put(bucket, "a", "b", "c d")
    with client.batch():
        for name in ("a", "c d"):
            bucket.blob(name).delete()
    assert names(bucket.list_blobs()) == ["b"]
    with pytest.raises(exceptions.NotFound), client.batch():
        bucket.blob("b").delete()
        bucket.blob("a").delete()
    assert names(bucket.list_blobs()) == []
    older = f"{client._connection.API_BASE_URL}/batch"
    path = f"GET /storage/v1/b/{bucket.name} HTTP/1.1"
    body = f"--x\r\nContent-Type: application/http\r\n\r\n{path}\r\n\r\n\r\n--x--"
    kind = {"Content-Type": 'multipart/mixed; boundary="x"'}
    assert "HTTP/1.1 200" in requests.post(older, body, headers=kind, timeout=30).text
    put(bucket, "x", "y")
    with client.batch():
        for name in ("x", "y"):
            blob = bucket.blob(name)
            blob.metadata = {"n": name}
            blob.patch()
    assert [blob.metadata for blob in bucket.list_blobs()] == [{"n": "x"}, {"n": "y"}]


# Metadata and preconditions


def test_metadata(bucket: storage.Bucket) -> None:
    blob = bucket.blob("m")
    blob.metadata = {"one": "1", "two": "2"}
    blob.cache_control = "no-store"
    blob.upload_from_string("m")
    assert (blob.metageneration, blob.metadata) == (1, {"one": "1", "two": "2"})
    blob.metadata = {"one": None, "three": "drei ä"}
    blob.content_type = "text/csv"
    blob.custom_time = datetime.datetime(2026, 1, 2, tzinfo=datetime.timezone.utc)
    blob.patch()
    again = bucket.get_blob("m")
    assert again.metadata == {"two": "2", "three": "drei ä"}
    assert (again.metageneration, again.content_type) == (2, "text/csv")
    assert (again.cache_control, again.custom_time) == ("no-store", blob.custom_time)
    assert again.download_as_bytes() == b"m"
    assert again.updated >= again.time_created
    again.update()  # sends everything, to the same end
    assert bucket.get_blob("m").metadata == {"two": "2", "three": "drei ä"}
    with pytest.raises(exceptions.BadRequest, match="not a string"):
        bucket.client._connection.api_request(
            method="PATCH", path=again.path, data={"metadata": {"n": 1}}
        )


def test_preconditions(bucket: storage.Bucket) -> None:
    blob = bucket.blob("p")
    blob.upload_from_string("1", if_generation_match=0)
    first = blob.generation
    with pytest.raises(exceptions.PreconditionFailed, match="At least one of the pre-conditions"):
        blob.upload_from_string("2", if_generation_match=0)
    assert blob.download_as_bytes() == b"1"
    blob.upload_from_string("2", if_generation_match=first)
    assert blob.generation > first
    for options in (
        {"if_generation_match": first},
        {"if_metageneration_match": 7},
        {"if_generation_not_match": blob.generation},
    ):
        with pytest.raises(exceptions.PreconditionFailed):
            bucket.blob("p").upload_from_string("3", **options)
        with pytest.raises(exceptions.PreconditionFailed):
            bucket.blob("p").delete(**options)
    with pytest.raises(InvalidResponse, match="412"):
        bucket.blob("p").open("w", if_generation_match=0).close()
    with pytest.raises(exceptions.NotFound):
        bucket.blob("p", generation=first).download_as_bytes()
    source = bucket.blob("p")
    with pytest.raises(exceptions.PreconditionFailed):
        bucket.copy_blob(source, bucket, "q", if_source_generation_match=first)
    assert bucket.blob("p").download_as_bytes(if_generation_match=blob.generation) == b"2"
    bucket.blob("p").delete(if_generation_match=blob.generation)
    assert not bucket.blob("p").exists()


def test_gzip_content_is_unpacked_for_clients_that_cannot(bucket: storage.Bucket) -> None:
    plain = b"many words " * 300_000
    blob = bucket.blob("packed")
    blob.content_encoding = "gzip"
    packed = gzip.compress(plain)
    blob.upload_from_string(packed, content_type="text/plain")
    assert blob.download_as_bytes() == plain
    assert blob.download_as_bytes(raw_download=True) == packed
    url = blob._get_download_url(bucket.client)
    answer = requests.get(url, headers={"Accept-Encoding": "identity"}, timeout=30)
    assert answer.content == plain and "Content-Encoding" not in answer.headers
    as_is = requests.get(url, headers={"Accept-Encoding": "gzip"}, timeout=30)
    assert as_is.headers["Content-Encoding"] == "gzip"


# Refusals


def test_what_is_not_emulated_is_refused_by_name(
    bucket: storage.Bucket, client: storage.Client
) -> None:
    refused = exceptions.MethodNotAllowed
    with pytest.raises(refused, match="works on Cloud Storage, not in local mode: IAM"):
        bucket.get_iam_policy()
    with pytest.raises(refused, match="Pub/Sub notifications"):
        list(bucket.list_notifications())
    with pytest.raises(refused, match="access control lists"):
        bucket.blob("x").make_public()
    with pytest.raises(refused, match=r"retention policies and holds \(a bucket with"):
        bucket.retention_period = 60
        bucket.patch()
    with pytest.raises(refused, match=r"Object Versioning \(a bucket with versioning"):
        other = client.bucket("versioned-bucket")
        other.versioning_enabled = True
        client.create_bucket(other)
    assert client.lookup_bucket("versioned-bucket") is None
    with pytest.raises(refused, match="encryption keys of your own"):
        bucket.blob("x", encryption_key=b"0" * 32).upload_from_string("x")
    with pytest.raises(refused, match="encryption keys of your own"):
        bucket.blob("x", kms_key_name="projects/p/k").upload_from_string("x")
    with pytest.raises(refused, match="retention policies and holds"):
        blob = bucket.blob("y")
        blob.upload_from_string("y")
        blob.temporary_hold = True
        blob.patch()
    assert names(bucket.list_blobs()) == ["y"]
    url = f"{client._connection.API_BASE_URL}/{bucket.name}"
    condition = {"x-goog-if-generation-match": "0"}
    signed = f"{url}/y?X-Goog-Algorithm=GOOG4-RSA-SHA256&X-Goog-Expires=60&X-Goog-Signature=00"
    for answer, feature in (
        (requests.get(signed, timeout=30), "signed URLs"),
        (requests.get(url, timeout=30), "listing with the XML API"),
        (requests.put(f"{url}/z", b"z", timeout=30), "PUT of an object with the XML API"),
        (requests.post(f"{url}/z?uploads", headers=condition, timeout=30), "preconditions"),
    ):
        assert answer.status_code == 405 and f"not in local mode: {feature}" in answer.text
