"""Fixtures for the tests of the trainer; a test module names this file in `pytest_plugins`."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path

import pytest
from google.cloud import storage
from trainer_cases import BucketPlace, Case, LocalPlace, Trainers

from vertex_local.config import Root
from vertex_local.server import daemon

_numbers = itertools.count()


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


@pytest.fixture
def gcs(root: Root, monkeypatch: pytest.MonkeyPatch) -> Iterator[BucketPlace]:
    """A bucket of local mode's storage that no other test uses."""
    endpoint = daemon.ensure(root).storage_url
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", endpoint)
    monkeypatch.setenv("DISABLE_GCS_PYTHON_CLIENT_OTEL_BUCKET_METADATA", "1")
    client = storage.Client(project="test-project")
    yield BucketPlace(client.create_bucket(f"trainer-test-{next(_numbers)}"), endpoint)
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
