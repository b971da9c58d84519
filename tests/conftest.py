"""Fixtures that all tests share: one local mode for the session, a fresh bucket for each test."""

from __future__ import annotations

import itertools
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from google.cloud import storage

from vertex_local.config import Root, ServerRecord, find_root
from vertex_local.faults.store import Faults
from vertex_local.kernel import clients
from vertex_local.server import daemon

REPO = Path(__file__).resolve().parents[1]
# These take longest. They begin first, so that no worker is left alone with one at the end.
LONGEST = (
    "test_nbcheck.py",
    "test_orders.py",
    "test_learners.py",
    "test_packages.py",
    "test_selection.py",
    "06e-Tuning.ipynb",
    "06c-Distributed-training.ipynb",
    "test_storage_tools.py",
    "test_fixture.py",
    "test_mutate.py",
    "test_jobs.py",
    "test_workshop.py",
)
_numbers = itertools.count()
# Threads that wait for each other burn the cores that other workers need.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the longest files first; `--no-loadscope-reorder` lets pytest-xdist keep that order."""
    ranks = {name: rank for rank, name in enumerate(LONGEST)}
    items.sort(key=lambda item: ranks.get(item.path.name, len(ranks)))


@pytest.fixture(scope="session")
def repo() -> Path:
    """The clone."""
    return REPO


@pytest.fixture(scope="session")
def root() -> Root:
    """The session's root; no server need be running for it."""
    return find_root()


@pytest.fixture(scope="session")
def server(root: Root) -> ServerRecord:
    """The session's server, with this process's Google clients pointed at it."""
    record = daemon.ensure(root)
    clients.configure_clients(root, record)
    return record


@pytest.fixture
def bucket(server: ServerRecord) -> Iterator[storage.Bucket]:
    """A bucket that no other test uses."""
    yield storage.Client().create_bucket(f"test-bucket-{next(_numbers)}")


@pytest.fixture
def script(tmp_path: Path) -> Path:
    """The training script of one test, which writes its text."""
    return tmp_path / "script.py"


@pytest.fixture
def faults(root: Root) -> Iterator[Faults]:
    """The session's faults; none is left for the next test."""
    made = Faults(root)
    yield made
    made.clear()


@pytest.fixture
def own_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Root]:
    """A root for one test that starts and stops servers; nothing is left running."""
    monkeypatch.setenv("VERTEX_LOCAL_ROOT", str(tmp_path / "root"))
    root = find_root()
    yield root
    daemon.stop(root)


@pytest.fixture
def own_server(own_root: Root, root: Root, server: ServerRecord) -> Iterator[ServerRecord]:
    """A server of one test's own, which the clients talk to until the test is over."""
    record = daemon.start(own_root)
    clients.configure_clients(own_root, record)
    yield record
    clients.configure_clients(root, server)


@pytest.fixture(scope="session")
def vertex_local() -> list[str]:
    """The command line of `vertex-local`."""
    return [sys.executable, "-m", "vertex_local"]
