"""The logs of a job as Cloud Logging entries, for `gcloud ai custom-jobs stream-logs`.

Lines of the service have a time in the log. A line that a script printed gets the time at which
it was written, as `jobs/log.py` records it while the log grows.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import datetime
from typing import Any

from google.cloud.aiplatform_v1.types import CustomJob, HyperparameterTuningJob

from vertex_local.config import PROJECT, Root
from vertex_local.errors import Unimplemented
from vertex_local.jobs import log
from vertex_local.training.names import ResourceName
from vertex_local.training.records import Job

# The only filter that is supported: the one that the gcloud command sends.
FILTER = re.compile(
    r'resource\.type="ml_job" AND resource\.labels\.job_id="(?P<job>\d+)"'
    r'( AND resource\.labels\.task_name="(?P<task>[^"]+)")?'
    r'( AND timestamp>=?"(?P<since>[^"]+)")?( AND timestamp<"(?P<before>[^"]+)")?'
)


def job_of(expression: str) -> str:
    """Return the id of the job that a filter names.

    Raises:
        Unimplemented: if the filter is not about the log of one job.
    """
    match = FILTER.fullmatch(expression.strip())
    if match is None:
        raise Unimplemented(f"log entries with the filter {expression}")
    return match["job"]


def entries(root: Root, job: Job, expression: str) -> list[dict[str, Any]]:
    """Return a job's log entries that match the filter, oldest first.

    Those of a search include the entries of its trials.
    """
    match = FILTER.fullmatch(expression.strip())
    assert match  # job_of has checked it
    since, before = match["since"] or "", match["before"] or "9999"
    found = [
        each
        for each in (*_all(root, job), *_of_trials(root, job))
        if since <= each["timestamp"] < before
        and match["task"] in (None, each["resource"]["labels"]["task_name"])
    ]
    return sorted(found, key=lambda each: str(each["timestamp"]))


def _of_trials(root: Root, job: Job) -> Iterator[dict[str, Any]]:
    for trial in job.trials if isinstance(job, HyperparameterTuningJob) else ():
        for entry in _all(root, CustomJob(name=trial.custom_job)):
            entry["resource"]["labels"]["job_id"] = ResourceName.of(job).id
            yield entry | {"labels": {"ml.googleapis.com/trial_id": trial.id}}


def _all(root: Root, job: Job) -> Iterator[dict[str, Any]]:
    folder = root.jobs / ResourceName.of(job).id
    for line in log.service_lines(folder):
        yield _entry(job, line.task, line.moment, line.text)
    for file in sorted(folder.glob("*.log")):
        if file.name != log.SERVICE_LOG:
            task = log.PRIMARY if file.stem == "job" else file.stem
            for moment, text in log.printed_lines(file):
                yield _entry(job, task, moment, text)


def _entry(job: Job, task: str, moment: datetime, text: str) -> dict[str, Any]:
    stamp = _stamp(moment)
    return {
        "insertId": f"{task}-{stamp}",
        "logName": f"projects/{PROJECT}/logs/{task}",
        "timestamp": stamp,
        "severity": "INFO",
        "textPayload": text,
        "resource": {
            "type": "ml_job",
            "labels": {"job_id": ResourceName.of(job).id, "project_id": PROJECT, "task_name": task},
        },
    }


def _stamp(moment: datetime) -> str:
    """Return a time of fixed length in UTC, so that texts compare like times."""
    return f"{moment:%Y-%m-%dT%H:%M:%S.%f}000Z"
