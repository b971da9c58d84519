"""Requests that no well-behaved client sends: always Google's error shape, never a crash."""

from __future__ import annotations

import json
import random
import string
from typing import Any

import pytest
import requests
from google.cloud.aiplatform_v1.types import CustomJob
from google.protobuf import json_format
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from test_jobs import wait_until

from vertex_local.config import Root, ServerRecord
from vertex_local.server import daemon
from vertex_local.training import states
from vertex_local.training.records import Records

PLACE = "/v1/projects/vertex-local/locations/us-central1"
SEED, SPECS = 20261123, 200


def send(server: ServerRecord, method: str, path: str, body: Any = None) -> requests.Response:
    return requests.request(
        method,
        server.api_url + path,
        data=body if isinstance(body, bytes | None) else json.dumps(body),
        headers={"Authorization": f"Bearer {server.token}"},
        timeout=60,
    )


def assert_google_error(response: requests.Response, status: int) -> str:
    """Return the message of an error that has the status and the shape of Google's."""
    assert response.status_code == status, response.text
    error = response.json()["error"]
    assert set(error) == {"code", "message", "status"}
    assert error["code"] == status
    assert error["status"].isupper() and error["message"]
    assert "Traceback" not in error["message"]
    return str(error["message"])


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"not JSON",
        b"\xff\xfe",
        b"[]",
        b"null",
        b'{"displayName": 7}',
        b'{"displayName": "x", "noSuchField": 1}',
        b'{"jobSpec": {"workerPoolSpecs": {}}}',
        b'{"jobSpec": {"workerPoolSpecs": []}}',
        b'{"jobSpec": {"workerPoolSpecs": [{"replicaCount": "-1"}]}}',
        b'{"jobSpec": {"workerPoolSpecs": [{"replicaCount": "1"}]}}',
        b'{"a": ' * 2000,
    ],
    ids=range(12),
)
@pytest.mark.parametrize("kind", ["customJobs", "hyperparameterTuningJobs", "trainingPipelines"])
def test_a_body_that_is_no_job_is_refused(server: ServerRecord, kind: str, body: bytes) -> None:
    response = send(server, "POST", f"{PLACE}/{kind}", body)
    assert response.status_code in (400, 405)
    assert_google_error(response, response.status_code)


def test_task_inputs_that_do_not_parse_are_refused_in_the_services_words(
    server: ServerRecord,
) -> None:
    pipeline = {
        "displayName": "x",
        "trainingTaskDefinition": "gs://google-cloud-aiplatform/schema/trainingjob/definition/"
        "custom_task_1.0.0.yaml",
        "trainingTaskInputs": {"worker_pool_specs": [{"no_such_field": 1}]},
    }
    message = assert_google_error(send(server, "POST", f"{PLACE}/trainingPipelines", pipeline), 400)
    assert message.startswith(
        "Unable to parse `training_pipeline.training_task_inputs` into custom task `inputs`"
    )


def test_a_huge_body_is_refused(server: ServerRecord) -> None:
    body = b'{"displayName": "' + b"x" * 11_000_000 + b'"}'
    message = assert_google_error(send(server, "POST", f"{PLACE}/customJobs", body), 400)
    assert "payload size exceeds the limit" in message


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/v1/projects/other/locations/us-central1/customJobs", 403),
        ("GET", "/v1/projects/vertex-local/locations/mars/customJobs", 400),
        ("GET", f"{PLACE}/customJobs/..%2f..", 400),
        ("DELETE", f"{PLACE}/trainingPipelines/..%2f..%2f1", 400),
        ("GET", "/v1/projects/%2e%2e%2fx/locations/us-central1/customJobs", 400),
        ("GET", f"{PLACE}/customJobs/%00", 404),
        ("GET", f"{PLACE}/customJobs?pageSize=many", 400),
        ("GET", f"{PLACE}/customJobs?pageSize=5000", 400),
        ("GET", f"{PLACE}/customJobs?pageSize=-1", 400),
        ("GET", f"{PLACE}/customJobs?pageSize=%C2%B2", 400),
        ("GET", f"{PLACE}/customJobs?pageSize={'9' * 5000}", 400),
        ("GET", f"{PLACE}/customJobs?pageToken=..", 400),
        ("GET", f"{PLACE}/customJobs?filter={'(' * 5000}", 400),
        ("GET", f"{PLACE}/customJobs?filter={'NOT%20' * 5000}state=x", 400),
        ("GET", f"{PLACE}/customJobs?orderBy=name", 400),
        ("GET", f"{PLACE}/customJobs?readMask=name", 405),
        ("GET", f"{PLACE}/customJobs?alt=media", 405),
        ("GET", f"{PLACE}/customJobs/1?force=true", 400),
        ("POST", f"{PLACE}/customJobs?validateOnly=true", 400),
        ("GET", "/v1/projects/other/locations/us-central1/hyperparameterTuningJobs", 403),
        ("POST", f"{PLACE}/hyperparameterTuningJobs", 400),
        ("GET", f"{PLACE}/hyperparameterTuningJobs/1", 404),
        ("GET", f"{PLACE}/endpoints", 405),
        ("GET", f"{PLACE}/models/1:listCheckpoints", 405),
        ("POST", f"{PLACE}/models/1:export", 405),
        ("GET", f"{PLACE.replace('v1', 'v1beta1')}/customJobs", 405),
        ("PUT", f"{PLACE}/customJobs", 404),
        ("PATCH", f"{PLACE}/customJobs/1", 404),
        ("DELETE", f"{PLACE}/trainingPipelines", 404),
        ("DELETE", f"{PLACE}/customJobs/1", 404),
        ("POST", f"{PLACE}/customJobs/1:cancel", 404),
        ("POST", f"{PLACE}/customJobs/1:explode", 404),
        ("GET", "/", 404),
    ],
)
def test_other_paths_and_methods_are_refused(
    server: ServerRecord, method: str, path: str, status: int
) -> None:
    assert_google_error(send(server, method, path), status)


PACKAGE = {"executorImageUri": "i", "packageUris": ["gs://bucket/p.tar.gz"], "pythonModule": "m"}
POOL = {
    "machineSpec": {"machineType": "n1-standard-4"},
    "replicaCount": "1",
    "pythonPackageSpec": PACKAGE,
}


@pytest.mark.parametrize(
    ("job", "words"),
    [
        ({"displayName": ""}, "display_name"),
        ({"displayName": "x" * 129}, "display_name"),
        ({"labels": {"owner": "DOE"}}, "label 'DOE'"),
        ({"labels": {"a/b": "x"}}, "label 'a/b'"),
        ({"labels": {"a": "x" * 65}}, "lowercase letters"),
    ],
)
def test_names_and_labels_that_google_does_not_allow(
    server: ServerRecord, job: dict[str, Any], words: str
) -> None:
    body = {"displayName": "x", "jobSpec": {"workerPoolSpecs": [POOL]}} | job
    assert words in assert_google_error(send(server, "POST", f"{PLACE}/customJobs", body), 400)


@pytest.mark.parametrize(
    ("pool", "spec", "words", "status"),
    [
        ({"replicaCount": "2"}, {}, "exactly one replica", 400),
        ({"diskSpec": {"bootDiskSizeGb": 99}}, {}, "boot_disk_size_gb must be between 100", 400),
        ({"pythonPackageSpec": PACKAGE | {"packageUris": ["x"]}}, {}, "not 'x'", 400),
        ({"pythonPackageSpec": PACKAGE | {"packageUris": ["gs://b/x"] * 101}}, {}, "100 pack", 400),
        ({"pythonPackageSpec": PACKAGE | {"args": ["x" * 100_001]}}, {}, "100000 characters", 400),
        ({"pythonPackageSpec": PACKAGE | {"env": [{"name": "a"}] * 101}}, {}, "100 environ", 400),
        ({"pythonPackageSpec": PACKAGE | {"env": [{"name": "A=B"}]}}, {}, "'A=B' is not a", 400),
        ({"pythonPackageSpec": PACKAGE | {"env": [{"name": "1A"}]}}, {}, "no digit at the", 400),
        ({"pythonPackageSpec": PACKAGE | {"env": [{"name": "É"}]}}, {}, "letters, digits", 400),
        ({"pythonPackageSpec": PACKAGE | {"env": [{}]}}, {}, "'' is not a name", 400),
        ({"pythonPackageSpec": PACKAGE | {"args": ["a\0"]}}, {}, "a NUL character", 400),
        (
            {"pythonPackageSpec": PACKAGE | {"env": [{"name": "A", "value": "\0"}]}},
            {},
            "a NUL character",
            400,
        ),
        ({"machineSpec": {"machineType": "../n1-standard-4"}}, {}, "is not supported", 400),
        ({}, {"baseOutputDirectory": {"outputUriPrefix": "/tmp"}}, "gs://BUCKET/FOLDER", 400),
        ({}, {"baseOutputDirectory": {"outputUriPrefix": "gs://"}}, "gs://BUCKET/FOLDER", 400),
        ({}, {"scheduling": {"timeout": "-1s"}}, "timeout must not be negative", 400),
        ({}, {"workerPoolSpecs": [POOL] * 5}, "5 worker_pool_specs", 400),
        ({}, {"workerPoolSpecs": [POOL, POOL | {"replicaCount": "64"}]}, "64 replicas", 405),
        ({"nfsMounts": [{"server": "s"}]}, {"network": "n"}, "VPC networks (network), NFS", 405),
    ],
)
def test_jobs_beyond_the_limits(
    server: ServerRecord, pool: dict[str, Any], spec: dict[str, Any], words: str, status: int
) -> None:
    body = {"displayName": "x", "jobSpec": {"workerPoolSpecs": [POOL | pool]} | spec}
    assert words in assert_google_error(send(server, "POST", f"{PLACE}/customJobs", body), status)


def random_message(rng: random.Random, kind: Descriptor, depth: int = 0) -> dict[str, Any]:
    """Return random JSON for a protobuf message: each field is there sometimes."""
    share = 0.7 if depth < 3 else 0.3
    fields = [field for field in kind.fields if rng.random() < share]
    return {field.json_name: random_field(rng, field, depth) for field in fields}


def random_field(rng: random.Random, field: FieldDescriptor, depth: int) -> Any:
    message = field.message_type
    if message is not None and message.GetOptions().map_entry:
        return {random_text(rng): random_text(rng)}
    if field.is_repeated:
        return [random_value(rng, field, depth) for _ in range(rng.randint(0, 3))]
    return random_value(rng, field, depth)


def random_value(rng: random.Random, field: FieldDescriptor, depth: int) -> Any:
    if field.message_type is not None:
        name = field.message_type.full_name
        if name == "google.protobuf.Duration":
            return f"{rng.randint(0, 5)}s"
        if name.startswith("google.protobuf.") or depth > 5:
            return None
        return random_message(rng, field.message_type, depth + 1)
    if field.enum_type is not None:
        return rng.choice(field.enum_type.values).number
    if field.type == FieldDescriptor.TYPE_BOOL:
        return rng.random() < 0.5
    if field.type in (FieldDescriptor.TYPE_STRING, FieldDescriptor.TYPE_BYTES):
        known = ["n1-standard-4", "gs://b/o.tar.gz", "gs://b", "a.b", "../../x", ""]
        return rng.choice([*known, random_text(rng)])
    return rng.choice([0, 1, 1, 2, 7, -1])


def random_text(rng: random.Random) -> str:
    return "".join(rng.choice(string.printable) for _ in range(rng.randint(0, 12)))


def test_random_jobs_neither_crash_the_server_nor_stay_active(own_root: Root) -> None:
    server = daemon.start(own_root)
    rng = random.Random(SEED)
    descriptor = CustomJob.pb(CustomJob()).DESCRIPTOR
    answers: dict[int, int] = {}
    for number in range(SPECS):
        job = random_message(rng, descriptor)
        if number % 4 == 0:  # and some that get far enough to be started
            job = json_format.MessageToDict(CustomJob.pb(runnable(rng)))
        response = send(server, "POST", f"{PLACE}/customJobs", job)
        answers[response.status_code] = answers.get(response.status_code, 0) + 1
        if response.status_code != 200:
            assert_google_error(response, response.status_code)
    assert set(answers) <= {200, 400, 405}
    assert answers[200] >= SPECS // 4 and answers[400] > 0, answers

    records = Records(own_root.database)
    wait_until(lambda: records.jobs(active=True) == [], "the end of all jobs")
    assert {job.state for job in records.jobs()} == {states.FAILED}  # none has a package
    records.close()
    assert daemon.find(own_root) == server
    assert "Traceback" not in own_root.log.read_text()


def runnable(rng: random.Random) -> CustomJob:
    """Return a job that would run if its package were in the bucket."""
    pool = {
        "machine_spec": {"machine_type": "n1-standard-4"},
        "replica_count": 1,
        "python_package_spec": {
            "executor_image_uri": random_text(rng) or "image",
            "package_uris": [f"gs://missing/{random_text(rng)}"],
            "python_module": random_text(rng) or "module",
            "args": [random_text(rng)],
        },
    }
    return CustomJob(display_name="random", job_spec={"worker_pool_specs": [pool]})


VALUE = (
    b'{"displayName": "x", "trainingTaskDefinition": "gs://x", "trainingTaskInputs": '
    b'{"workerPoolSpecs": [%s]}}'
)


@pytest.mark.parametrize("value", [b"NaN", b"Infinity", b"-Infinity", b"1e999", b'{"a": [NaN]}'])
def test_numbers_that_json_cannot_say_are_refused(server: ServerRecord, value: bytes) -> None:
    response = send(server, "POST", f"{PLACE}/trainingPipelines", VALUE % value)
    message = assert_google_error(response, 400)
    assert "Error(" not in message


@pytest.mark.parametrize(
    "body", [b"", b"[]", b"7", b"{}", b"[" * 100_000, *(b'{"filter": %s}' % each for each in
    (b"7", b"null", b"[]", b"{}", b"NaN", b"true"))], ids=lambda body: body[:20]
)  # fmt: skip
def test_log_filters_that_are_no_text_are_refused(server: ServerRecord, body: bytes) -> None:
    message = assert_google_error(send(server, "POST", "/v2/entries:list", body), 400)
    assert "Error" not in message


def test_an_operation_can_be_asked_for_at_both_addresses(server: ServerRecord) -> None:
    parent = "projects/vertex-local/locations/us-central1"
    for version in ("v1", "ui"):
        answer = send(server, "GET", f"/{version}/{parent}/operations/1").json()
        assert answer["done"] is True and answer["name"].endswith("/operations/1")
    assert_google_error(send(server, "GET", f"/v2/{parent}/operations/1"), 405)
