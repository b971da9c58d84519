"""Fixtures for the tests of the trainer; a test module names this file in `pytest_plugins`."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from gcp_storage_emulator.server import create_server
from google.cloud import storage
from trainer_cases import BucketPlace, Case, LocalPlace, Trainers


@pytest.fixture(scope="session")
def trainers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Trainers]:
    """One warm process for the whole session."""
    started = Trainers(tmp_path_factory.mktemp("trainers"))
    yield started
    started.close()


@pytest.fixture(scope="session")
def cloud_trainers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Trainers]:
    """The same with Google's client imported."""
    started = Trainers(tmp_path_factory.mktemp("trainers"), "google.cloud.storage")
    yield started
    started.close()


@pytest.fixture(scope="session")
def emulator() -> Iterator[str]:
    """The address of a storage emulator."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    server = create_server("127.0.0.1", port, in_memory=True)
    server.start()
    yield f"http://127.0.0.1:{port}"
    server.stop()


@pytest.fixture
def gcs(
    emulator: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> Iterator[BucketPlace]:
    """A bucket that no other test uses."""
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", emulator)
    monkeypatch.setenv("DISABLE_GCS_PYTHON_CLIENT_OTEL_BUCKET_METADATA", "1")
    client = storage.Client(project="test-project")
    number = sum(1 for _ in client.list_buckets())
    yield BucketPlace(client.create_bucket(f"trainer-test-{number}"), emulator)
    client.close()


@pytest.fixture
def local(trainers: Trainers, tmp_path: Path) -> Case:
    """Data in a local folder."""
    return Case(LocalPlace(tmp_path), trainers)


@pytest.fixture
def cloud(cloud_trainers: Trainers, gcs: BucketPlace) -> Case:
    """Data in a bucket."""
    return Case(gcs, cloud_trainers)


@pytest.fixture(params=["local", "cloud"])
def case(request: pytest.FixtureRequest) -> Case:
    """The same test in a local folder and in a bucket."""
    found: Case = request.getfixturevalue(request.param)
    return found
