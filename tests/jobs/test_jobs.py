"""Jobs through the real SDK and the real server: what succeeds, what fails, and in which words."""

from __future__ import annotations

import json
import os
import signal
import time
import zipfile
from pathlib import Path

import pytest
from google.api_core import exceptions
from google.cloud import aiplatform, storage
from google.cloud.aiplatform_v1.types import CustomJob, JobState, PipelineState

from vertex_local.config import PROJECT, Root, ServerRecord
from vertex_local.kernel import clients
from vertex_local.server import daemon
from vertex_local.training.records import Records

IMAGE = "us-docker.pkg.dev/vertex-ai/training/pytorch-xla.2-4.py310:latest"
GPU_IMAGE = "us-docker.pkg.dev/vertex-ai/training/pytorch-gpu.2-4.py310:latest"
LIMIT_SECONDS = 60.0

REPORT = """
import json, os, sys, warnings
warnings.simplefilter("ignore", FutureWarning)  # Google's, of Python 3.10
from google.cloud import storage
bucket = storage.Client().bucket(sys.argv[1])
seen = {"argv": sys.argv[1:], "environment": dict(os.environ), "folder": os.getcwd()}
bucket.blob("seen.json").upload_from_string(json.dumps(seen))
print("reported")
"""


def make_job(
    script: Path, bucket: storage.Bucket, text: str, **options: object
) -> aiplatform.CustomTrainingJob:
    """Return a job for a script with this text; its package is staged in `bucket`."""
    script.write_text(text)
    return aiplatform.CustomTrainingJob(
        display_name="a test",
        script_path=str(script),
        container_uri=IMAGE,
        staging_bucket=f"gs://{bucket.name}/staging",
        **options,
    )


def run(job: aiplatform.CustomTrainingJob, **options: object) -> None:
    """Run a job as the lesson does."""
    job.run(**{"replica_count": 1, "machine_type": "n1-standard-4", "sync": True} | options)


def custom_job(
    bucket: storage.Bucket, code: str, machine: dict[str, object] | None = None, workers: int = 0
) -> aiplatform.CustomJob:
    """Return a job that runs this Python on its replicas."""
    container = {"image_uri": GPU_IMAGE if machine else IMAGE, "command": ["python3", "-c", code]}
    spec = dict(machine or {"machine_type": "n1-standard-4"})
    if "accelerator_type" in spec:
        spec["accelerator_count"] = 1
    pool = {"machine_spec": spec, "replica_count": 1, "container_spec": container}
    pools = [pool, {**pool, "replica_count": workers}] if workers else [pool]
    return aiplatform.CustomJob("a test", pools, staging_bucket=f"gs://{bucket.name}")


def submit(bucket: storage.Bucket, text: str, **options: object) -> aiplatform.CustomJob:
    """Start a job that runs this Python text, and ask nothing about it yet.

    It has no package: packing one, as `make_job` does, takes setuptools a second.
    """
    job = custom_job(bucket, text)
    job.submit(**options)
    return job


def backing_job(pipeline: aiplatform.CustomTrainingJob) -> CustomJob:
    """Return the custom job that runs this pipeline, as the API tells it."""
    name = pipeline.gca_resource.training_task_metadata["backingCustomJob"]
    return aiplatform.CustomJob.get(name).gca_resource


def wait_until(condition: object, what: str) -> None:
    """Wait for something that another process does; fail in words when it takes too long."""
    deadline = time.monotonic() + LIMIT_SECONDS
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < deadline, f"not within {LIMIT_SECONDS} s: {what}"
        time.sleep(0.02)


def alive(pid: int) -> bool:
    """Return whether a process still runs; one that only waits to be reaped does not."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    state = Path(f"/proc/{pid}/stat")
    return not (state.exists() and state.read_text().rpartition(")")[2].split()[0] == "Z")


def test_a_job_runs_the_script_with_its_arguments_and_environment(
    script: Path, bucket: storage.Bucket, root: Root
) -> None:
    job = make_job(script, bucket, REPORT)
    run(
        job,
        args=[bucket.name, "--rate=0.5"],
        base_output_dir=f"gs://{bucket.name}/out",
        environment_variables={
            "GREETING": "to $(CLOUD_ML_REGION)",
            "LITERAL": "$$(GREETING) costs $$5, $(NOTHING) and $HOME",
            "TWICE": "$(LITERAL)",
            "PYTHONPATH": "/a/folder:/another",
        },
    )
    assert job.state == PipelineState.PIPELINE_STATE_SUCCEEDED

    seen = json.loads(bucket.blob("seen.json").download_as_bytes())
    environment = seen["environment"]
    assert seen["argv"] == [bucket.name, "--rate=0.5"]
    assert environment["AIP_MODEL_DIR"] == f"gs://{bucket.name}/out/model/"
    assert environment["AIP_CHECKPOINT_DIR"] == f"gs://{bucket.name}/out/checkpoints/"
    assert environment["AIP_TENSORBOARD_LOG_DIR"] == f"gs://{bucket.name}/out/logs/"
    assert environment["GREETING"] == "to us-central1"
    assert environment["LITERAL"] == "$(GREETING) costs $5, $(NOTHING) and $HOME"
    assert environment["TWICE"] == environment["LITERAL"]  # expanded once, and not again
    assert environment["PYTHONPATH"].startswith("/a/folder:/another:")  # and the package was found
    assert environment["CUDA_VISIBLE_DEVICES"] == ""
    assert (environment["RANK"], environment["WORLD_SIZE"]) == ("0", "1")
    assert json.loads(environment["CLUSTER_SPEC"])["task"] == {"type": "workerpool0", "index": 0}
    assert "VERTEX_LOCAL_TOKEN" not in environment
    assert environment["CLOUDSDK_CONFIG"].startswith(str(root.path))  # no real account in reach

    record = backing_job(job)
    number = record.name.rpartition("/")[2]
    assert environment["CLOUD_ML_JOB_ID"] == number
    assert record.state == JobState.JOB_STATE_SUCCEEDED
    assert record.create_time <= record.start_time <= record.end_time
    assert (root.jobs / number / "job.log").read_text() == "reported\n"


@pytest.mark.parametrize(
    ("image", "hidden"), [(GPU_IMAGE, False), (IMAGE, True), ("example.org/mine:1", False)]
)
def test_an_accelerator_makes_the_gpu_visible_in_an_image_made_for_one(
    bucket: storage.Bucket, root: Root, image: str, hidden: bool
) -> None:
    job = aiplatform.CustomContainerTrainingJob(
        display_name="gpu",
        container_uri=image,
        command=["python3", "-c", "import os; print(os.environ.get('CUDA_VISIBLE_DEVICES'))"],
        staging_bucket=f"gs://{bucket.name}",
    )
    job.run(machine_type="n1-standard-8", accelerator_type="NVIDIA_TESLA_T4", accelerator_count=1)
    log = root.jobs / backing_job(job).name.rpartition("/")[2] / "job.log"
    assert log.read_text() == ("\n" if hidden else "None\n")


def test_without_base_output_dir_the_sdk_chooses_a_folder_in_the_staging_bucket(
    script: Path, bucket: storage.Bucket
) -> None:
    run(make_job(script, bucket, REPORT), args=[bucket.name])
    seen = json.loads(bucket.blob("seen.json").download_as_bytes())
    start = f"gs://{bucket.name}/staging/aiplatform-custom-training-"
    assert seen["environment"]["AIP_MODEL_DIR"].startswith(start)
    packages = [blob.name for blob in bucket.list_blobs(prefix="staging/")]
    assert len(packages) == 1
    assert packages[0].endswith("-aiplatform_custom_trainer_script-0.1.tar.gz")


def test_a_failing_script_fails_the_job_with_status_and_traceback(
    script: Path, bucket: storage.Bucket, root: Root
) -> None:
    job = make_job(script, bucket, "print('before')\nraise ValueError('no such passenger')\n")
    with pytest.raises(RuntimeError) as caught:
        run(job)
    text = str(caught.value)
    assert text.startswith("Training failed with:\ncode: 3\n")
    assert "The replica workerpool0-0 exited with a non-zero status of 1." in text
    assert "Termination reason: Error." in text
    assert "Traceback (most recent call last):" in text
    assert "ValueError: no such passenger" in text
    assert "before" not in text  # the traceback says enough; the log has the rest
    assert "please check the logs: " + str(root.jobs) in text
    assert job.state == PipelineState.PIPELINE_STATE_FAILED
    assert job.has_failed
    assert backing_job(job).error.message == job.error.message


def test_the_error_says_how_the_script_ended(bucket: storage.Bucket) -> None:
    ends = {
        "raise SystemExit(7)": "non-zero status of 7.",
        "import os; os.kill(os.getpid(), 9)": "non-zero status of 137.",
        "raise SystemExit('the data are missing')": "the data are missing",
        "import no_such_module": "No module named 'no_such_module'",
    }
    jobs = [submit(bucket, f"print('the last line', flush=True)\n{text}\n") for text in ends]
    for job, words in zip(jobs, ends.values(), strict=True):
        with pytest.raises(RuntimeError):
            job.wait_for_completion()
        assert words in job.error.message


def make_wheel(folder: Path) -> str:
    """Write the smallest wheel; return a requirement that pip can fulfil without a network."""
    path = folder / "tiny_package-1.0-py3-none-any.whl"
    info = "tiny_package-1.0.dist-info"
    with zipfile.ZipFile(path, "w") as wheel:
        wheel.writestr("tiny_package.py", "WORD = 'installed'\n")
        metadata = ("Metadata-Version: 2.1", "Name: tiny-package", "Version: 1.0")
        wheel.writestr(f"{info}/METADATA", "\n".join(metadata))
        tags = ("Wheel-Version: 1.0", "Tag: py3-none-any", "Root-Is-Purelib: true")
        wheel.writestr(f"{info}/WHEEL", "\n".join(tags))
        wheel.writestr(f"{info}/RECORD", "")
    return f"tiny-package @ file://{path}"


def test_requirements_are_installed_for_that_job_alone(
    script: Path, bucket: storage.Bucket, tmp_path: Path
) -> None:
    text = "import tiny_package\nassert tiny_package.WORD == 'installed'\n"
    run(make_job(script, bucket, text, requirements=[make_wheel(tmp_path), "numpy>=1.20"]))
    with pytest.raises(RuntimeError, match=r"No module named .*tiny_package"):
        run(make_job(script, bucket, text))


def test_a_requirement_that_cannot_be_installed_fails_the_job_by_name(
    script: Path, bucket: storage.Bucket, tmp_path: Path
) -> None:
    gone = f"gone @ file://{tmp_path}/gone-1.0-py3-none-any.whl"
    with pytest.raises(RuntimeError, match=r"The packages gone ?@.* could not be installed"):
        run(make_job(script, bucket, "pass\n", requirements=[gone]))


def test_a_package_that_is_not_in_the_bucket_fails_the_job(
    script: Path, bucket: storage.Bucket
) -> None:
    uri = f"gs://{bucket.name}/gone.tar.gz"
    job = aiplatform.CustomPythonPackageTrainingJob(
        display_name="gone",
        python_package_gcs_uri=uri,
        python_module_name="trainer.task",
        container_uri=IMAGE,
        staging_bucket=f"gs://{bucket.name}/staging",
    )
    with pytest.raises(RuntimeError, match=f"there is no object {uri}"):
        run(job)
    assert job.state == PipelineState.PIPELINE_STATE_FAILED


def test_an_unknown_job_is_not_found(server: ServerRecord) -> None:
    with pytest.raises(exceptions.NotFound, match="trainingPipelines/123 does not exist"):
        aiplatform.CustomTrainingJob.get("123")


def test_another_project_is_refused(server: ServerRecord) -> None:
    with pytest.raises(exceptions.Forbidden, match="no access to 'somebody-else'"):
        aiplatform.CustomTrainingJob.get("123", project="somebody-else")


def test_submit_returns_while_the_job_runs_and_cancel_ends_it(
    script: Path, bucket: storage.Bucket
) -> None:
    marker = bucket.blob("pid")
    text = (
        "import os, signal, sys\nfrom google.cloud import storage\n"
        f"storage.Client().bucket('{bucket.name}').blob('pid').upload_from_string(str(os.getpid()))\n"
        "signal.pause()\n"
    )
    job = make_job(script, bucket, text)
    job.submit(machine_type="n1-standard-4", replica_count=1)  # one GET, which waits a little
    assert job.state == PipelineState.PIPELINE_STATE_RUNNING
    wait_until(marker.exists, "the script's first sign of life")
    pid = int(marker.download_as_bytes())
    assert alive(pid)

    job.cancel()
    wait_until(lambda: job.state == PipelineState.PIPELINE_STATE_CANCELLED, "the cancelled state")
    assert job.error.code == 1
    assert not alive(pid)


def test_whatever_a_script_leaves_behind_ends_with_it(bucket: storage.Bucket, root: Root) -> None:
    text = (
        "import subprocess, sys\n"
        "print(subprocess.Popen([sys.executable, '-c', 'import signal; signal.pause()']).pid)\n"
    )
    job = submit(bucket, text)
    job.wait_for_completion()
    log = root.jobs / job.name / "job.log"
    wait_until(lambda: not alive(int(log.read_text())), "the end of the left-over process")


@pytest.mark.parametrize(
    ("options", "feature"),
    [
        (
            {
                "replica_count": 2,
                "reduction_server_replica_count": 1,
                "reduction_server_container_uri": "any",
            },
            "job_spec.worker_pool_specs[2].container_spec",
        ),
        ({"enable_web_access": True}, "the interactive shell of a running job (enable_web_access)"),
        ({"network": "projects/1/global/networks/n"}, "VPC networks (network)"),
    ],
)
def test_what_is_not_emulated_is_refused_by_name(
    script: Path, bucket: storage.Bucket, options: dict[str, object], feature: str
) -> None:
    with pytest.raises(exceptions.MethodNotAllowed) as caught:
        run(make_job(script, bucket, "pass\n"), **options)
    assert "works on Vertex AI, not in local mode: " + feature in str(caught.value)


def test_other_services_are_refused_by_name(server: ServerRecord) -> None:
    with pytest.raises(exceptions.MethodNotAllowed, match=r"\(datasets: get or list\)"):
        aiplatform.TabularDataset.list()


def test_a_timeout_ends_the_job(bucket: storage.Bucket) -> None:
    job = submit(bucket, "import signal; signal.pause()\n", timeout=1)
    with pytest.raises(RuntimeError):
        job.wait_for_completion()
    assert "longer than its timeout of 1 seconds" in job.error.message


def test_a_stopped_or_killed_server_leaves_no_process_no_active_job_and_every_record(
    own_root: Root, own_server: ServerRecord, script: Path
) -> None:
    bucket = storage.Client().create_bucket("short-life")
    done = make_job(script, bucket, "pass\n")
    run(done)
    server, ended = own_server, [JobState.JOB_STATE_SUCCEEDED]
    for how, state in (
        (signal.SIGTERM, JobState.JOB_STATE_CANCELLED),
        (signal.SIGKILL, JobState.JOB_STATE_FAILED),
    ):
        job = submit(bucket, "import os, signal\nprint(os.getpid(), flush=True)\nsignal.pause()\n")
        log = own_root.jobs / job.name / "job.log"
        wait_until(lambda log=log: log.exists() and log.read_text().strip(), "the script's pid")
        pids = server.pid, int(log.read_text())
        os.kill(server.pid, how)
        wait_until(lambda pids=pids: not any(map(alive, pids)), "the end of server and script")

        server = daemon.start(own_root)
        clients.configure_clients(own_root, server)
        ended.append(state)
        records = Records(own_root.database)
        assert sorted(record.state for record in records.jobs()) == sorted(ended)
        assert records.jobs(active=True) == []
        records.close()
    again = aiplatform.CustomTrainingJob.get(done.resource_name)
    assert again.state == PipelineState.PIPELINE_STATE_SUCCEEDED
    assert [blob.name for blob in storage.Client().list_blobs("short-life")] != []


def test_the_clients_keep_local_mode_after_the_lessons_own_init(server: ServerRecord) -> None:
    aiplatform.init(project=PROJECT, location="us-central1", staging_bucket="gs://any")
    with pytest.raises(exceptions.NotFound):
        aiplatform.CustomJob.get("1")
