"""Faults of Cloud Storage through the real client: its retries, its errors, its bytes."""

from __future__ import annotations

import time

import pytest
from google.api_core import exceptions
from google.cloud import storage
from test_job_faults import failure, printed
from test_jobs import custom_job

from vertex_local.config import Root
from vertex_local.faults.store import Fault, Faults
from vertex_local.storage import mount

CONTENT = bytes(range(256)) * 4096  # a megabyte


@pytest.fixture
def blob(bucket: storage.Bucket) -> storage.Blob:
    """An object of a megabyte."""
    made = bucket.blob("folder/data.bin")
    made.upload_from_string(CONTENT)
    return made


def happened(faults: Faults, fault: Fault) -> int:
    return next(each.happened for each in faults.all() if each.number == fault.number)


@pytest.mark.parametrize("kind", ["storage-429", "storage-503"])
def test_a_client_waits_and_tries_again(faults: Faults, blob: storage.Blob, kind: str) -> None:
    fault = faults.add(kind, {"times": "2", "bucket": blob.bucket.name})
    assert blob.download_as_bytes() == CONTENT
    assert happened(faults, fault) == 2


@pytest.mark.parametrize(
    ("kind", "error", "words"),
    [
        ("storage-429", exceptions.TooManyRequests, "exceeded the rate limit for object mutation"),
        ("storage-503", exceptions.ServiceUnavailable, "We encountered an internal error"),
    ],
)
def test_and_one_that_does_not_sees_the_words(
    faults: Faults, blob: storage.Blob, kind: str, error: type[Exception], words: str
) -> None:
    faults.add(kind, {"seconds": "60", "access": "write"})
    with pytest.raises(error, match=words):
        blob.delete(retry=None)
    assert blob.download_as_bytes() == CONTENT  # reading is another matter


def test_a_fault_of_some_seconds_ends_by_itself(faults: Faults, blob: storage.Blob) -> None:
    fault = faults.add("storage-503", {"seconds": "0.3"})
    assert blob.download_as_bytes() == CONTENT
    assert happened(faults, fault) >= 1
    assert [each.is_active for each in faults.all()] == [False]


def test_a_cut_connection_is_no_wrong_content(faults: Faults, blob: storage.Blob) -> None:
    fault = faults.add("storage-cut", {"times": "2"})
    assert blob.download_as_bytes() == CONTENT
    assert happened(faults, fault) == 2


def test_slow_requests_and_slow_bytes_take_their_time(faults: Faults, blob: storage.Blob) -> None:
    faults.add("storage-slow", {"request": "0.2"})
    start = time.monotonic()
    for _ in range(3):
        blob.reload()
    assert time.monotonic() - start >= 0.6
    faults.clear()
    faults.add("storage-slow", {"request": "0", "rate": "2"})
    start = time.monotonic()
    assert blob.download_as_bytes() == CONTENT
    assert time.monotonic() - start >= len(CONTENT) / 2e6
    start = time.monotonic()
    blob.upload_from_string(CONTENT)
    assert time.monotonic() - start >= len(CONTENT) / 2e6


def test_a_bucket_without_permission_says_which(faults: Faults, blob: storage.Blob) -> None:
    faults.add("bucket-denied", {"bucket": blob.bucket.name, "access": "read", "who": "all"})
    words = (
        "local-mode@.* does not have storage.objects.get access to the Google Cloud Storage "
        "object. Permission 'storage.objects.get' denied on resource"
    )
    with pytest.raises(exceptions.Forbidden, match=words):
        blob.download_as_bytes()
    with pytest.raises(exceptions.Forbidden, match=r"storage.objects.list access to .* bucket"):
        list(blob.bucket.list_blobs())
    blob.bucket.blob("new").upload_from_string("writing is allowed")
    faults.clear()
    faults.add("bucket-denied", {"bucket": "another-*", "who": "all"})
    assert blob.download_as_bytes() == CONTENT


def test_only_jobs_lack_the_permission_and_their_records_say_so(
    faults: Faults, blob: storage.Blob, root: Root
) -> None:
    faults.add("bucket-denied", {"bucket": blob.bucket.name})
    code = f"""
from google.cloud import storage
blob = storage.Client().bucket({blob.bucket.name!r}).blob("folder/data.bin")
try: blob.download_as_bytes()
except Exception as error: print(type(error).__name__, flush=True)
blob.download_as_bytes()
"""
    job = custom_job(blob.bucket, code)
    code_number, message = failure(job)
    assert code_number == 3 and "google.api_core.exceptions.Forbidden: 403" in message
    assert "gcp-sa-aiplatform-cc.iam.gserviceaccount.com does not have storage" in message
    assert printed(root, job).startswith("Forbidden\n")  # the first time; then the traceback
    assert blob.download_as_bytes() == CONTENT  # this notebook may read
    assert job.labels["injected-bucket-denied"] == "1"
    service_log = (root.jobs / job.name / "service.log").read_text()
    assert service_log.count("fault injected in local mode: bucket-denied") == 1
    faults.clear()
    job = custom_job(blob.bucket, code)
    job.run()
    assert "injected-bucket-denied" not in job.labels


@pytest.mark.parametrize("kind", ["storage-429", "storage-503"])
def test_a_job_that_a_fault_of_storage_only_delayed_says_so_too(
    faults: Faults, blob: storage.Blob, kind: str
) -> None:
    faults.add(kind, {"bucket": blob.bucket.name})
    read = f"storage.Client().bucket({blob.bucket.name!r}).blob('folder/data.bin')"
    job = custom_job(blob.bucket, f"from google.cloud import storage; {read}.download_as_bytes()")
    job.run()
    assert dict(job.labels) == {f"injected-{kind}": "1"}


def test_files_below_gcs_are_slow_or_forbidden_in_jobs(
    faults: Faults, blob: storage.Blob, root: Root
) -> None:
    if reason := mount.obstacle(root.buckets):
        pytest.skip(f"no {mount.MOUNT} on this machine: {reason}")
    path = f"/gcs/{blob.bucket.name}/folder/data.bin"
    code = f"""
import time
start = time.monotonic()
assert len(open({path!r}, "rb").read()) == {len(CONTENT)}
print(time.monotonic() - start)
"""
    faults.add("storage-slow", {"request": "0.2", "rate": "4", "bucket": blob.bucket.name})
    job = custom_job(blob.bucket, code)
    job.run()
    assert float(printed(root, job)) >= 0.2 + len(CONTENT) / 4e6
    faults.clear()
    job = custom_job(blob.bucket, code)
    job.run()
    assert float(printed(root, job)) < 0.4
    faults.add("bucket-denied", {"bucket": blob.bucket.name, "access": "read"})
    _, message = failure(custom_job(blob.bucket, code))
    assert f"PermissionError: [Errno 13] Permission denied: '{path}'" in message
