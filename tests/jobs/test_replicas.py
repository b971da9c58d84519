"""Jobs with several replicas, crashes that are retried, and the queue of jobs that wait."""

from __future__ import annotations

import io
import json
from contextlib import redirect_stdout
from pathlib import Path

import pytest
from google.cloud import aiplatform, storage
from google.cloud.aiplatform_v1.types import JobState, PipelineState
from test_jobs import backing_job, make_job, run, submit, wait_until

from vertex_local.cli import report
from vertex_local.config import Root
from vertex_local.jobs.runner import SLOTS
from vertex_local.training import states

REPORT = """
import json, os, sys
from google.cloud import storage
names = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT", "CLUSTER_SPEC", "TF_CONFIG")
seen = {name: os.environ[name] for name in names}
bucket = storage.Client().bucket(sys.argv[1])
bucket.blob(f"rank-{seen['RANK']}").upload_from_string(json.dumps(seen))
"""
MEET = """
import os, socket
rank, place = int(os.environ["RANK"]), (os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]))
if rank == 0:
    with socket.create_server(place) as server:
        server.settimeout(60)
        for _ in range(int(os.environ["WORLD_SIZE"]) - 1):
            server.accept()
else:
    import time
    for _ in range(600):
        try:
            socket.create_connection(place).close()
            break
        except OSError:
            time.sleep(0.1)
"""
PAUSE = "import signal\nsignal.pause()\n"
LOGS = ("job", "service")


def job_folder(root: Root, job: aiplatform.CustomTrainingJob) -> Path:
    return root.jobs / backing_job(job).name.rpartition("/")[2]


def test_every_replica_knows_the_others(script: Path, bucket: storage.Bucket) -> None:
    run(make_job(script, bucket, REPORT + MEET), args=[bucket.name], replica_count=3)
    seen = [json.loads(bucket.blob(f"rank-{rank}").download_as_bytes()) for rank in range(3)]
    assert [each["RANK"] for each in seen] == ["0", "1", "2"]
    assert {each["WORLD_SIZE"] for each in seen} == {"3"}
    clusters = [json.loads(each["CLUSTER_SPEC"]) for each in seen]
    assert [each["task"] for each in clusters] == [
        {"type": "workerpool0", "index": 0},
        {"type": "workerpool1", "index": 0},
        {"type": "workerpool1", "index": 1},
    ]
    cluster = clusters[0]["cluster"]
    assert all(each["cluster"] == cluster for each in clusters)
    assert cluster["workerpool0"] == [f"{seen[2]['MASTER_ADDR']}:{seen[2]['MASTER_PORT']}"]
    assert len({*cluster["workerpool0"], *cluster["workerpool1"]}) == 3
    tensorflow = json.loads(seen[1]["TF_CONFIG"])
    assert tensorflow["task"] == {"type": "worker", "index": 0}
    assert tensorflow["cluster"]["chief"] == cluster["workerpool0"]


def test_the_primary_decides_and_the_workers_end_with_it(
    script: Path, bucket: storage.Bucket, root: Root
) -> None:
    text = f"import os\nif os.environ['RANK'] != '0':\n    {PAUSE.replace(chr(10), '; ')}\n"
    job = make_job(script, bucket, text)
    run(job, replica_count=2)
    assert job.state == PipelineState.PIPELINE_STATE_SUCCEEDED
    assert (job_folder(root, job) / "workerpool1-0.log").exists()


def test_a_worker_that_fails_fails_the_job_by_name(script: Path, bucket: storage.Bucket) -> None:
    text = f"import os\nif os.environ['RANK'] == '1':\n    raise ValueError('worker')\n{PAUSE}"
    with pytest.raises(RuntimeError) as caught:
        run(make_job(script, bucket, text), replica_count=2)
    assert "The replica workerpool1-0 exited with a non-zero status of 1." in str(caught.value)
    assert "ValueError: worker" in str(caught.value)


CRASH = """
import os, pathlib, signal
tries = pathlib.Path("tries")
tries.write_text(tries.read_text() + "." if tries.exists() else ".")
print("attempt", len(tries.read_text()), flush=True)
if len(tries.read_text()) < 3:
    os.kill(os.getpid(), signal.SIGABRT)
"""


@pytest.mark.parametrize(
    ("code", "options", "status", "attempts"),
    [
        (CRASH, {}, 0, 3),
        (CRASH.replace("SIGABRT", "SIGSEGV").replace("< 3", "< 99"), {}, 139, 4),
        (CRASH, {"disable_retries": True}, 134, 1),
        (CRASH.replace("os.kill(os.getpid(), signal.SIGABRT)", "exit(1)"), {}, 1, 1),
    ],
    ids=["recovers", "crashes for ever", "no retries", "ordinary failure"],
)
def test_a_crash_is_retried_three_times_and_nothing_else_is(
    bucket: storage.Bucket,
    root: Root,
    code: str,
    options: dict[str, bool],
    status: int,
    attempts: int,
) -> None:
    job = submit(bucket, code, **options)
    wait_until(lambda: states.is_final(job.state), "the end of the job")
    printed, service = ((root.jobs / job.name / f"{name}.log").read_text() for name in LOGS)
    assert printed.splitlines() == [f"attempt {number + 1}" for number in range(attempts)]
    if status:
        assert job.state == JobState.JOB_STATE_FAILED
        assert f"non-zero status of {status}." in job.error.message
    else:
        assert job.state == JobState.JOB_STATE_SUCCEEDED
        assert service.count("non-zero status of 134") == 2


def test_jobs_beyond_the_machines_room_wait_in_pending(bucket: storage.Bucket) -> None:
    jobs = {job.name: job for job in [submit(bucket, PAUSE) for _ in range(SLOTS + 1)]}
    try:
        found = {job.name: job.gca_resource.state.name for job in aiplatform.CustomJob.list()}
        waiting = [name for name in jobs if found[name] == "JOB_STATE_PENDING"]
        assert len(waiting) == 1
        last = jobs.pop(waiting[0])
        next(iter(jobs.values())).cancel()
        wait_until(lambda: last.state == JobState.JOB_STATE_RUNNING, "its turn")
    finally:
        for job in (*jobs.values(), last):
            job.cancel()
    wait_until(lambda: last.state == JobState.JOB_STATE_CANCELLED, "the end")


def test_status_shows_what_to_know_about_the_image(
    script: Path, bucket: storage.Bucket, root: Root
) -> None:
    job = make_job(script, bucket, "pass\n")
    job._container_uri = "example.org/mine:1"
    run(job)
    printed = io.StringIO()
    with redirect_stdout(printed):
        report.print_jobs(root)
    assert "warning of local mode: the image example.org/mine:1 is not on" in printed.getvalue()
