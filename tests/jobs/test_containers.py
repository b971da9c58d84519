"""Jobs that name a container: its command runs with the Python that stands for the image."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from google.api_core import exceptions
from google.cloud import aiplatform, storage
from google.cloud.aiplatform_v1.types import JobState

from vertex_local.config import Root

PREBUILT = "us-docker.pkg.dev/vertex-ai/training/pytorch-xla.2-4.py310:latest"
OWN = "example.org/mine/trainer:1"
REPORT = """
import os, sys
from google.cloud import storage
bucket = storage.Client().bucket(sys.argv[1])
bucket.blob("seen").upload_from_string(f"{sys.argv[2:]} {os.environ.get('GREETING')}")
"""
MACHINE = {"machine_type": "n1-standard-4", "replica_count": 1}


@pytest.fixture
def script(tmp_path: Path) -> Path:
    path = tmp_path / "script.py"
    path.write_text(REPORT)
    return path


@pytest.mark.parametrize("image", [PREBUILT, OWN])
def test_a_custom_job_from_a_local_script(script: Path, bucket: storage.Bucket, image: str) -> None:
    job = aiplatform.CustomJob.from_local_script(
        display_name="from a script",
        script_path=str(script),
        container_uri=image,
        args=[bucket.name, "--x=1"],
        environment_variables={"GREETING": "hello"},
        staging_bucket=f"gs://{bucket.name}/staging",
        **MACHINE,
    )
    job.run()
    assert job.state == JobState.JOB_STATE_SUCCEEDED
    assert bucket.blob("seen").download_as_bytes() == b"['--x=1'] hello"


def container_job(
    bucket: storage.Bucket, *command: str, **options: object
) -> aiplatform.CustomContainerTrainingJob:
    return aiplatform.CustomContainerTrainingJob(
        display_name="container",
        container_uri=OWN,
        command=list(command),
        staging_bucket=f"gs://{bucket.name}/staging",
        **options,
    )


def test_a_containers_python_command(bucket: storage.Bucket) -> None:
    text = REPORT.replace("sys.argv[1]", repr(bucket.name)).replace("sys.argv[2:]", "sys.argv[1:]")
    container_job(bucket, "python3", "-c", text).run(args=["--epochs", "3"], **MACHINE)
    assert bucket.blob("seen").download_as_bytes() == b"['--epochs', '3'] None"


def test_a_containers_failing_command_fails_the_job(bucket: storage.Bucket) -> None:
    job = container_job(bucket, "sh", "-c", "echo no such layer; exit 5")
    with pytest.raises(RuntimeError, match=r"non-zero status of 5\.(.|\n)*no such layer"):
        job.run(**MACHINE)


def test_a_path_below_gcs_in_a_command_is_the_bucket(bucket: storage.Bucket) -> None:
    bucket.blob("in.txt").upload_from_string("42")
    job = container_job(bucket, "sh", "-c", f"test $(cat /gcs/{bucket.name}/in.txt) = 42")
    job.run(**MACHINE)
    other = container_job(bucket, "sh", "-c", f"test $(cat /gcs/{bucket.name}/in.txt) = 43")
    with pytest.raises(RuntimeError, match=r"non-zero status of 1\."):
        other.run(**MACHINE)


@pytest.mark.parametrize(
    ("command", "words"),
    [((), "without a command"), (("/opt/train", "--fast"), "command '/opt/train'")],
)
def test_a_container_that_only_its_image_can_run_is_refused_by_name(
    bucket: storage.Bucket, command: tuple[str, ...], words: str
) -> None:
    with pytest.raises(exceptions.MethodNotAllowed, match="not in local mode") as caught:
        container_job(bucket, *command).run(**MACHINE)
    assert words in str(caught.value)


def test_the_image_map_decides_which_python_runs_which_image(
    bucket: storage.Bucket, root: Root, tmp_path: Path
) -> None:
    python = tmp_path / "python-of-the-image"
    python.write_text(f'#!/bin/sh\nGREETING=mapped exec {sys.executable} "$@"\n')
    python.chmod(0o755)
    text = REPORT.replace("sys.argv[1]", repr(bucket.name)).replace("sys.argv[2:]", "sys.argv[1:]")
    root.images.write_text(json.dumps({"example.org/*": str(python)}))
    try:
        container_job(bucket, "python", "-c", text).run(**MACHINE)
        assert bucket.blob("seen").download_as_bytes() == b"[] mapped"
        root.images.write_text("not JSON")
        with pytest.raises(RuntimeError, match=r"images.json must map image patterns"):
            container_job(bucket, "python", "-c", text).run(**MACHINE)
    finally:
        root.images.unlink()
