"""The gcloud command against local mode, with nothing but what `vertex-local env` exports."""

from __future__ import annotations

import os
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import requests
from google.cloud import aiplatform, storage
from test_jobs import backing_job, make_job, run, submit, wait_until

from vertex_local.config import PROJECT, PROJECT_NUMBER, Root, ServerRecord
from vertex_local.jobs import log
from vertex_local.kernel import clients

IMAGE = "us-docker.pkg.dev/vertex-ai/training/pytorch-xla.2-4.py310:latest"
needs_gcloud = pytest.mark.skipif(not shutil.which("gcloud"), reason="gcloud is not installed")


def gcloud(root: Root, server: ServerRecord, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run `gcloud ai …` with the exports and nothing else that names a project or an account."""
    return google_cloud_cli(root, server, "ai", *arguments)


def google_cloud_cli(
    root: Root, server: ServerRecord, *arguments: str
) -> subprocess.CompletedProcess[str]:
    kept = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
    return subprocess.run(
        ["gcloud", *arguments],
        env=kept | clients.environment(root, server),
        capture_output=True,
        text=True,
        timeout=120,
    )


@needs_gcloud
def test_gcloud_creates_lists_and_shows_the_log(
    root: Root, server: ServerRecord, script: Path, bucket: storage.Bucket
) -> None:
    """Reference: `gcloud ai custom-jobs` creates and lists jobs, and shows their logs as
    they grow.
    """
    run(make_job(script, bucket, "import sys\nprint('hello', sys.argv[1:])\n"))  # stages a package
    package = next(iter(bucket.list_blobs(prefix="staging/"))).name
    created = gcloud(
        root,
        server,
        "custom-jobs",
        "create",
        f"--display-name={bucket.name}",
        f"--python-package-uris=gs://{bucket.name}/{package}",
        f"--worker-pool-spec=machine-type=n1-standard-4,replica-count=1,executor-image-uri={IMAGE},"
        "python-module=aiplatform_custom_trainer_script.task",
        "--args=--epochs=3",
    )
    assert created.returncode == 0, created.stderr
    listing = ("custom-jobs", "list", f"--filter=displayName={bucket.name}")
    name = gcloud(root, server, *listing, "--format=value(name)").stdout.strip()
    job = aiplatform.CustomJob.get(name)
    wait_until(lambda: job.state.name == "JOB_STATE_SUCCEEDED", "the end of the job")

    # gcloud asks for what is older than 5 seconds, and gives up after some empty answers.
    shown = gcloud(root, server, "custom-jobs", "stream-logs", name, "--polling-interval=3")
    assert "workerpool0-0\thello ['--epochs=3']" in shown.stdout, shown.stderr
    assert "service\tJob completed successfully." in shown.stdout


@needs_gcloud
def test_gcloud_cancels_and_is_refused_in_words(
    root: Root, server: ServerRecord, bucket: storage.Bucket
) -> None:
    job = submit(bucket, "import signal\nsignal.pause()\n")
    name = job.resource_name
    with ThreadPoolExecutor() as threads:
        cancelled = threads.submit(gcloud, root, server, "custom-jobs", "cancel", name)
        missing = threads.submit(gcloud, root, server, "custom-jobs", "describe", name[:-1] + "x")
    assert cancelled.result().returncode == 0
    wait_until(lambda: job.state.name == "JOB_STATE_CANCELLED", "the end of the job")
    assert missing.result().returncode != 0 and "does not exist" in missing.result().stderr


@needs_gcloud
def test_gcloud_sets_and_describes_the_project_as_samples_begin(
    root: Root, server: ServerRecord
) -> None:
    with ThreadPoolExecutor() as threads:
        found = threads.submit(google_cloud_cli, root, server, "config", "set", "project", PROJECT)
        other = threads.submit(google_cloud_cli, root, server, "projects", "describe", "my-project")
        number = google_cloud_cli(
            root, server, "projects", "describe", PROJECT, "--format=value(projectNumber)"
        )
    assert found.result().returncode == 0, found.result().stderr
    assert "permission" not in found.result().stderr
    assert number.stdout.strip() == PROJECT_NUMBER
    assert other.result().returncode != 0
    assert "Local mode has one project, 'vertex-local'" in other.result().stderr


def test_log_entries_come_in_order_and_only_for_one_job(
    server: ServerRecord, script: Path, bucket: storage.Bucket
) -> None:
    job = make_job(script, bucket, "print('one')\nprint('two')\n")
    run(job)
    number = backing_job(job).name.rpartition("/")[2]
    expression = f'resource.type="ml_job" AND resource.labels.job_id="{number}"'

    def ask(text: str) -> requests.Response:
        return requests.post(
            f"{server.api_url}/v2/entries:list",
            json={"filter": text},
            headers={"Authorization": f"Bearer {server.token}"},
            timeout=60,
        )

    marks = ("warning of local mode:", "note of local mode:")  # these depend on the machine
    entries = [
        entry
        for entry in ask(expression).json()["entries"]
        if not entry["textPayload"].startswith(marks)
    ]
    texts = [entry["textPayload"] for entry in entries]
    assert texts[0] == "Waiting for job to be provisioned."
    assert texts[1].startswith("Vertex AI is provisioning job running framework. ")
    assert texts[2:6] == [
        "Vertex AI is setting up this job.",
        "Waiting for training program to start.",
        "Job is preparing.",
        "Job is running.",
    ]
    assert texts[6] == "Running module aiplatform_custom_trainer_script.task."
    assert texts[7].startswith(f"Downloading the package: gs://{bucket.name}/staging/")
    assert texts[8:] == [
        "Running command: python3 -m aiplatform_custom_trainer_script.task",
        "one",
        "two",
        "Task completed. Exit code (0). Exit reason (SUCCEEDED)",
        "Tearing down training program.",
        "Finished tearing down training program.",
        "Job completed successfully.",
    ]
    tasks = [entry["resource"]["labels"]["task_name"] for entry in entries]
    assert tasks == ["service"] * 6 + ["workerpool0-0"] * 5 + ["service"] * 4
    task = ' AND resource.labels.task_name="workerpool0-0"'
    only = ask(expression + task).json()["entries"]
    assert [entry["textPayload"] for entry in only[-2:]] == ["one", "two"]
    later = f'{expression} AND timestamp>="{only[-1]["timestamp"]}" AND timestamp<"9999"'
    assert "one" not in [entry["textPayload"] for entry in ask(later).json()["entries"]]
    assert ask(expression.replace(number, "1")).json()["entries"] == []
    assert ask('severity="ERROR"').status_code == 405
    assert ask("").status_code == 405


def test_a_line_has_the_time_at_which_it_was_written(bucket: storage.Bucket, root: Root) -> None:
    code = """
import time
for _ in range(3):
    print(time.time(), flush=True)
    time.sleep(1)
"""
    job = submit(bucket, code)
    job.wait_for_completion()
    lines = log.printed_lines(root.jobs / job.name / "job.log")
    late = [moment.timestamp() - float(text) for moment, text in lines]
    assert len(late) == 3 and all(-0.1 < each < 0.9 for each in late), late
