"""Faults of jobs through the SDK: which status, which words, at which moment, and what comes next.

The words are those of the project's facts about Vertex AI, not those of the code.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from google.api_core import exceptions
from google.cloud import aiplatform, storage
from google.cloud.aiplatform_v1.types import CustomJob
from test_jobs import custom_job, make_job, run, wait_until

from vertex_local.config import PROJECT, Root
from vertex_local.faults.store import Faults
from vertex_local.jobs import log

GPU = {"machine_type": "n1-standard-8", "accelerator_type": "NVIDIA_TESLA_T4"}
SPOT = {"scheduling_strategy": aiplatform.gapic.Scheduling.Strategy.SPOT}
STOCKOUT = (
    "Resources are insufficient in region: us-central1. Try a different region or use a "
    "different accelerator."
)
CALL = "import time; print('attempt', flush=True); "


def failure(job: aiplatform.CustomJob, **options: object) -> tuple[int, str]:
    """Run a job that fails; return code and message of its error."""
    with pytest.raises(RuntimeError, match="Job failed"):
        job.run(**options)
    error = job.gca_resource.error
    return error.code, error.message


def finish(job: aiplatform.CustomJob) -> None:
    """Wait until a job that was submitted has succeeded."""
    wait_until(lambda: job.state.name == "JOB_STATE_SUCCEEDED", "the end of the job")


def said(root: Root, job: aiplatform.CustomJob) -> list[str]:
    """Return the lines of the service's own log."""
    return [line.text for line in log.service_lines(root.jobs / job.name)]


def printed(root: Root, job: aiplatform.CustomJob) -> str:
    return (root.jobs / job.name / "job.log").read_text()


# ------------------------------------------------------------------------------ refused at once


@pytest.mark.parametrize(
    ("machine", "options", "metric"),
    [
        (None, {}, "custom_model_training_cpus"),
        (GPU, {}, "custom_model_training_nvidia_t4_gpus"),
        (GPU, SPOT, "custom_model_training_preemptible_nvidia_t4_gpus"),
    ],
)
def test_a_custom_job_without_quota_is_refused(
    faults: Faults, bucket: storage.Bucket, machine: dict[str, object], options: dict, metric: str
) -> None:
    faults.add("quota", {"times": "1"})
    with pytest.raises(exceptions.TooManyRequests) as caught:
        custom_job(bucket, "pass", machine).submit(**options)
    words = f"The following quota metrics exceed quota limits: aiplatform.googleapis.com/{metric}"
    assert caught.value.message.endswith(words) and caught.value.code == 429
    assert "fault injected in local mode: quota" in str(caught.value.details)
    custom_job(bucket, "pass", machine).run(**options)  # it was one time only


def test_a_training_pipeline_without_quota_fails_after_it_was_created(
    faults: Faults, bucket: storage.Bucket, tmp_path: Path
) -> None:
    faults.add("quota", {})
    job = make_job(tmp_path / "script.py", bucket, "pass\n")
    with pytest.raises(RuntimeError, match="Training failed with:\ncode: 8") as caught:
        run(job)
    assert "exceed quota limits: aiplatform.googleapis.com/custom_model_training_cpus" in str(
        caught.value
    )
    assert job.gca_resource.labels["injected-quota"] == "1"
    assert not job.gca_resource.start_time  # it never ran


def test_a_machine_that_a_region_does_not_have_is_refused(
    faults: Faults, bucket: storage.Bucket
) -> None:
    faults.add("machine-unavailable", {"region": "us-central1", "machine": "NVIDIA_TESLA_T4"})
    with pytest.raises(exceptions.BadRequest, match="Machine type n1-standard-8 is not supported"):
        custom_job(bucket, "pass", GPU).submit()
    custom_job(bucket, "pass").run()  # another machine


def test_a_service_account_that_one_may_not_use_is_refused(
    faults: Faults, bucket: storage.Bucket
) -> None:
    faults.add("service-account-denied", {})
    account = "trainer@vertex-local.iam.gserviceaccount.com"
    words = f"You do not have permission to act as service_account: {account}"
    with pytest.raises(exceptions.BadRequest, match=words):
        custom_job(bucket, "pass").submit(service_account=account)
    custom_job(bucket, "pass").run()  # with the usual account


# ------------------------------------------------------------------------------ no machine yet


@pytest.mark.parametrize(
    ("options", "attempts"), [({}, 4), (SPOT, 7), ({"disable_retries": True}, 1)]
)
def test_a_region_without_machines_fails_the_job_after_retries(
    faults: Faults, bucket: storage.Bucket, root: Root, options: dict, attempts: int
) -> None:
    faults.add("stockout", {})
    job = custom_job(bucket, "pass")
    assert failure(job, **options) == (8, STOCKOUT)
    assert said(root, job).count(STOCKOUT) == attempts + 1  # and the last word
    assert job.labels["injected-stockout"] == str(attempts)
    assert not job.start_time


def test_and_a_machine_that_is_found_in_time_runs_it(
    faults: Faults, bucket: storage.Bucket, root: Root
) -> None:
    faults.add("stockout", {"times": "3"})
    job = custom_job(bucket, "print('ran')")
    job.run()
    assert said(root, job).count(STOCKOUT) == 3 and printed(root, job) == "ran\n"


def test_a_slow_start_is_pending(faults: Faults, bucket: storage.Bucket, root: Root) -> None:
    faults.add("slow-start", {"minutes": "4", "factor": "480"})  # half a second
    job = custom_job(bucket, "print('ran')")
    job.submit()
    finish(job)
    took = job.start_time - job.create_time
    assert 0.5 <= took.total_seconds() < 5 and printed(root, job) == "ran\n"


def test_and_can_be_cancelled_meanwhile(faults: Faults, bucket: storage.Bucket, root: Root) -> None:
    faults.add("slow-start", {"factor": "1"})  # four minutes
    job = custom_job(bucket, "print('ran')")
    # The SDK's own `submit` asks for the state at once, and that waits for its next change.
    parent = f"projects/{PROJECT}/locations/us-central1"
    made = job.api_client.create_custom_job(parent=parent, custom_job=job._gca_resource)
    assert made.state.name == "JOB_STATE_PENDING"
    job.api_client.cancel_custom_job(name=made.name)
    name = made.name

    def state() -> str:
        return str(job.api_client.get_custom_job(name=name).state.name)

    wait_until(lambda: state() == "JOB_STATE_CANCELLED", "the end of the job")
    assert not (root.jobs / name.rpartition("/")[2] / "job.log").exists()


# ------------------------------------------------------------------------------ while it runs


def test_a_spot_machine_that_is_taken_away_starts_the_whole_script_again(
    faults: Faults, bucket: storage.Bucket, root: Root
) -> None:
    code = CALL + "open('mark', 'x'); time.sleep(3600)"
    faults.add("preemption", {"log": "attempt", "times": "7"})
    job = custom_job(bucket, code)
    assert failure(job, **SPOT) == (8, STOCKOUT)
    # Seven attempts began, each on an empty disk: `mark` was never there yet.
    assert printed(root, job) == "attempt\n" * 7
    assert job.labels["injected-preemption"] == "7"
    assert "fault injected in local mode: preemption" in " ".join(said(root, job))


def test_and_a_machine_on_demand_is_not(faults: Faults, bucket: storage.Bucket, root: Root) -> None:
    faults.add("preemption", {})
    job = custom_job(bucket, CALL + "time.sleep(0.5)")
    job.run()
    assert printed(root, job) == "attempt\n" and not job.labels


def test_a_button_takes_a_running_job_away(
    faults: Faults, bucket: storage.Bucket, root: Root
) -> None:
    mark = root.path / "second"
    code = f"import os; os.path.exists({str(mark)!r}) or time.sleep(3600)"
    job = custom_job(bucket, CALL + code)
    job.submit(**SPOT)
    path = root.jobs / job.name / "job.log"
    wait_until(lambda: path.exists() and path.read_text() == "attempt\n", "the first attempt")
    mark.touch()
    faults.add("preemption", {"job": job.name})
    finish(job)
    assert printed(root, job) == "attempt\n" * 2
    mark.unlink()


def test_without_retries_the_first_preemption_ends_the_job(
    faults: Faults, bucket: storage.Bucket
) -> None:
    faults.add("preemption", {})
    job = custom_job(bucket, CALL + "time.sleep(3600)")
    assert failure(job, disable_retries=True, **SPOT) == (8, STOCKOUT)


@pytest.mark.parametrize(("status", "attempts"), [(139, 4), (134, 4), (1, 1), (42, 1)])
def test_a_replica_that_dies_ends_the_job_or_starts_it_again(
    faults: Faults, bucket: storage.Bucket, root: Root, status: int, attempts: int
) -> None:
    options = {"status": str(status), "log": "attempt", "times": "9"}
    faults.add("replica-dies", {**options, "replica": "workerpool1-0"})
    job = custom_job(bucket, CALL + "time.sleep(3600)", workers=1)
    code, message = failure(job)
    assert code == 3
    words = f"The replica workerpool1-0 exited with a non-zero status of {status}."
    assert message.startswith(words)
    assert printed(root, job) == "attempt\n" * attempts
    assert job.labels["injected-replica-dies"] == str(attempts)


def test_a_replica_that_dies_twice_is_no_end(
    faults: Faults, bucket: storage.Bucket, root: Root
) -> None:
    faults.add("replica-dies", {"log": "attempt", "times": "2"})
    job = custom_job(bucket, CALL + "time.sleep(0.5)")
    job.run()
    assert printed(root, job) == "attempt\n" * 3


def test_a_job_that_needs_too_much_memory_fails_in_vertex_words(
    faults: Faults, bucket: storage.Bucket, root: Root
) -> None:
    faults.add("out-of-memory", {"log": "attempt"})
    job = custom_job(bucket, CALL + "time.sleep(3600)")
    code, message = failure(job)
    words = "The replica workerpool0-0 ran out of memory and exited with a non-zero status of 137."
    assert message.startswith(words) and code == 3
    assert printed(root, job) == "attempt\n"  # no second attempt


def test_random_moments_come_from_the_seed(
    faults: Faults, bucket: storage.Bucket, root: Root
) -> None:
    def seconds(seed: int) -> float:
        faults.add("out-of-memory", {"random": "2", "seed": str(seed)})
        job = custom_job(bucket, "import time; time.sleep(3600)")
        failure(job)
        return float((job.end_time - job.start_time).total_seconds())

    one, again, other = seconds(1), seconds(1), seconds(3)
    assert abs(one - again) < abs(one - other), (one, again, other)


def test_a_job_of_another_name_is_not_concerned(faults: Faults, bucket: storage.Bucket) -> None:
    for kind in ("quota", "stockout", "machine-unavailable", "out-of-memory"):
        faults.add(kind, {"job": "somebody-else*"})
    job = custom_job(bucket, "import time; time.sleep(0.3)")
    job.run()
    assert not job.labels
    assert isinstance(job.gca_resource, CustomJob) and "injected" not in os.fspath(job.name)
