"""Finding, paging and deleting jobs, through the SDK and as plain expressions."""

from __future__ import annotations

from datetime import datetime, timezone
from types import SimpleNamespace

import pytest
from google.api_core import exceptions
from google.cloud import aiplatform, storage
from google.cloud.aiplatform_v1.types import JobState
from test_containers import container_job
from test_jobs import submit, wait_until

from vertex_local.errors import InvalidArgument
from vertex_local.training.filters import compile_filter

JOB = SimpleNamespace(
    display_name="doe_pytorch_nn",
    state=JobState.JOB_STATE_RUNNING,
    labels={"owner": "doe"},
    create_time=datetime(2026, 11, 23, 12, tzinfo=timezone.utc),
    end_time=None,
)


@pytest.mark.parametrize(
    "expression",
    [
        'display_name="doe_pytorch_nn"',
        'displayName = "doe_pytorch_nn"',
        'display_name:"doe_*"',
        'display_name!="other"',
        'state="JOB_STATE_RUNNING"',
        "state=JOB_STATE_RUNNING",
        'NOT state="JOB_STATE_FAILED"',
        "labels.owner=doe",
        "labels.owner:*",
        "NOT labels.team:*",
        'create_time>"2026-11-23T11:59:59Z"',
        'create_time<="2026-11-23T13:00:00+01:00"',
        'state="JOB_STATE_FAILED" OR labels.owner=doe AND display_name:"*nn"',
        '(state="JOB_STATE_FAILED" OR labels.owner=doe) AND display_name:"*nn"',
    ],
)
def test_the_job_matches(expression: str) -> None:
    assert compile_filter(expression)(JOB)
    assert not compile_filter(f"NOT ({expression})")(JOB)


@pytest.mark.parametrize(
    "expression",
    [
        "display_name",
        'display_name="x" AND',
        'display_name="x" state="y"',
        '(display_name="x"',
        'colour="blue"',
        'state:"JOB*"',
        'create_time>"yesterday"',
        'display_name="x',
        "AND",
        '="x"',
    ],
)
def test_what_is_no_filter_is_refused(expression: str) -> None:
    with pytest.raises(InvalidArgument, match="Invalid filter"):
        compile_filter(expression)


def test_a_missing_time_matches_nothing() -> None:
    assert not compile_filter('end_time>"2000-01-01T00:00:00Z"')(JOB)


def test_jobs_are_found_paged_and_deleted(bucket: storage.Bucket) -> None:
    jobs = []
    for _ in range(3):
        job = container_job(bucket, "sh", "-c", "true", labels={"test": bucket.name})
        job.submit(machine_type="n1-standard-4")
        jobs.append(job)
    wait_until(lambda: all(job.done() for job in jobs), "the end of the jobs")
    expression = f"labels.test={bucket.name}"
    newest_first = [job.resource_name for job in reversed(jobs)]

    listed = aiplatform.CustomContainerTrainingJob.list(filter=expression)
    assert [job.resource_name for job in listed] == newest_first
    assert (
        aiplatform.CustomContainerTrainingJob.list(filter=f"NOT {expression} AND {expression}")
        == []
    )

    # The SDK's own way to page, two resources at a time.
    client = jobs[0].api_client
    parent = newest_first[0].rpartition("/trainingPipelines/")[0]
    request = {"parent": parent, "filter": expression, "page_size": 2}
    pages = list(client.list_training_pipelines(request=request).pages)
    assert [[each.name for each in page.training_pipelines] for page in pages] == [
        newest_first[:2],
        newest_first[2:],
    ]
    with pytest.raises(exceptions.BadRequest, match="Invalid page token"):
        client.list_training_pipelines(request={"parent": parent, "page_token": "nonsense"})
    with pytest.raises(exceptions.BadRequest, match="Invalid filter"):
        aiplatform.CustomContainerTrainingJob.list(filter="nonsense")

    jobs[0].delete()
    with pytest.raises(exceptions.NotFound):
        aiplatform.CustomContainerTrainingJob.get(newest_first[-1])
    assert len(aiplatform.CustomContainerTrainingJob.list(filter=expression)) == 2


def test_a_job_that_has_not_ended_cannot_be_deleted(bucket: storage.Bucket) -> None:
    job = submit(bucket, "import signal\nsignal.pause()\n")
    try:
        with pytest.raises(exceptions.BadRequest, match="is still JOB_STATE_"):
            job.delete()
    finally:
        job.cancel()
