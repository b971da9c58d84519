"""A pytest plugin for projects that use the SDK: the fixture `vertex_local`.

pip installs it with local mode, and pytest then loads it in every session. It starts nothing
until a test asks for the fixture.

    def test_training(vertex_local):
        job = aiplatform.CustomTrainingJob(display_name="test", script_path="train.py", ...)
        job.run()
        assert (vertex_local.bucket / "model.pt").exists()
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

STAGING = "vertex-local-staging"


@dataclass(frozen=True)
class LocalMode:
    """Local mode for one test.

    Attributes:
        project: the project that the clients use.
        location: the region that they use.
        staging_bucket: the bucket to which the SDK uploads packages, as a `gs://` URI.
        buckets: the folder in which every bucket is a folder, and every object a plain file.
        api_url: base URL of the training API.
        storage_url: base URL of Cloud Storage.
    """

    project: str
    location: str
    staging_bucket: str
    buckets: Path
    api_url: str
    storage_url: str

    @property
    def bucket(self) -> Path:
        """The folder of the staging bucket."""
        return self.buckets / STAGING


@pytest.fixture
def vertex_local(monkeypatch: pytest.MonkeyPatch) -> Iterator[LocalMode]:
    """Local mode for this test, with a root and ports of its own; Google's clients use it.

    At the end the server and its jobs are stopped, the root is deleted, and the clients' settings
    are restored. Tests may run in parallel, for example with pytest-xdist.
    """
    with _started(monkeypatch) as local:
        yield local


@contextmanager
def _started(monkeypatch: pytest.MonkeyPatch) -> Iterator[LocalMode]:
    from google.cloud import aiplatform, storage
    from google.cloud.aiplatform import initializer

    from vertex_local import config
    from vertex_local.kernel import clients
    from vertex_local.server import daemon
    from vertex_local.testing.sandbox import sandbox

    saved = dict(vars(initializer.global_config))
    with sandbox() as root:
        record = daemon.ensure(root)
        for name, value in clients.environment(root, record).items():
            monkeypatch.setenv(name, value)
        clients.init_sdk(aiplatform)
        storage.Client().create_bucket(STAGING)
        aiplatform.init(staging_bucket=f"gs://{STAGING}")
        try:
            yield LocalMode(
                project=config.PROJECT,
                location=config.DEFAULT_REGION,
                staging_bucket=f"gs://{STAGING}",
                buckets=root.buckets,
                api_url=record.api_url,
                storage_url=record.storage_url,
            )
        finally:
            vars(initializer.global_config).clear()
            vars(initializer.global_config).update(saved)


def pytest_load_initial_conftests(early_config: pytest.Config) -> None:
    """Refuse `--nbcheck-evidence FOLDER`, which pytest misreads before it knows the option.

    pytest takes the folder for a path of tests and reads its settings from there, so it loads
    neither the project's settings nor the plugin that they name. This plugin is loaded even so.
    """
    if "--nbcheck-evidence" in early_config.invocation_params.args:
        raise pytest.UsageError(
            "Write `--nbcheck-evidence=FOLDER`, with an equals sign: without it, pytest takes the "
            "folder for a path of tests."
        )
