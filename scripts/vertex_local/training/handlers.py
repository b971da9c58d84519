"""What each operation of the training API does; knows neither URLs nor processes."""

from __future__ import annotations

import itertools
import math
import re
import threading
import time
from dataclasses import dataclass, field
from typing import Any, cast

from google.cloud.aiplatform_v1.types import (
    CustomJob,
    HyperparameterTuningJob,
    TrainingPipeline,
)

from vertex_local import config
from vertex_local.config import PROJECT, PROJECT_NUMBER
from vertex_local.errors import (
    ApiError,
    FailedPrecondition,
    InvalidArgument,
    NotFound,
    Unimplemented,
)
from vertex_local.faults import jobs as job_faults
from vertex_local.jobs import options
from vertex_local.jobs.runner import Runner
from vertex_local.jobs.workspace import JobFailure
from vertex_local.registry import handlers as models
from vertex_local.registry.store import Registry
from vertex_local.training import budget, log_entries, states, wire
from vertex_local.training.filters import compile_filter
from vertex_local.training.names import ResourceName, check_project
from vertex_local.training.records import Records, Resource
from vertex_local.tuning import options as tuning_options
from vertex_local.tuning.tuner import Tuner

DEFAULT_PAGE_SIZE, MAX_PAGE_SIZE = 100, 1000


@dataclass(frozen=True)
class Service:
    """What the handlers need.

    Attributes:
        records: the stored jobs.
        runner: runs custom jobs.
        tuner: runs hyperparameter tuning jobs.
        registry: models and TensorBoard instances.
        creating: hold it from the check of the budget until the job is stored.
        answered: when each resource was last asked for, in seconds of `time.monotonic`.
    """

    records: Records
    runner: Runner
    tuner: Tuner
    registry: Registry
    creating: threading.Lock = field(default_factory=threading.Lock)
    answered: dict[str, float] = field(default_factory=dict)


def create_training_pipeline(service: Service, parent: str, body: bytes) -> TrainingPipeline:
    """Store a training pipeline and its backing custom job, and start the job."""
    location = ResourceName.parse(parent)
    pipeline = wire.parse(TrainingPipeline, body)
    if pipeline.training_task_definition != wire.TASK_DEFINITION:
        kind = pipeline.training_task_definition.rpartition("/")[2] or "an empty definition"
        raise Unimplemented(
            f"AutoML and other training than of your own code (training_task_definition {kind})",
            "Train with a script: CustomTrainingJob",
        )
    spec = wire.job_spec(pipeline)
    options.check(pipeline, spec)
    TrainingPipeline.pb(pipeline).training_task_inputs.CopyFrom(wire.task_inputs(spec))
    job = CustomJob(
        name=str(location.new("customJobs")),
        display_name=f"{pipeline.display_name}-custom-job",
        job_spec=spec,
        labels=pipeline.labels,
    )
    pipeline.name = str(location.new("trainingPipelines"))
    job_faults.refuse(service.runner.faults, job, in_pipeline=True)
    _store(service, job, pipeline)
    service.runner.start(job)
    return pipeline


def create_custom_job(service: Service, parent: str, body: bytes) -> CustomJob:
    """Store a custom job and start it."""
    location = ResourceName.parse(parent)
    job = wire.parse(CustomJob, body)
    options.check(job, job.job_spec)
    job.name = str(location.new("customJobs"))
    job_faults.refuse(service.runner.faults, job, in_pipeline=False)
    _store(service, job)
    service.runner.start(job)
    return job


def create_hyperparameter_tuning_job(
    service: Service, parent: str, body: bytes
) -> HyperparameterTuningJob:
    """Store a hyperparameter tuning job and start it."""
    location = ResourceName.parse(parent)
    search = wire.parse(HyperparameterTuningJob, body)
    search.trials = []  # output only
    tuning_options.check(search)
    search.name = str(location.new("hyperparameterTuningJobs"))
    first = CustomJob(name=search.name, job_spec=search.trial_job_spec)
    with service.creating:
        if limit := budget.Budget.read(service.runner.root):
            limit.check(first, service.records.jobs(), times=search.max_trial_count)
        service.records.add(search)
    created = HyperparameterTuningJob(search)  # the tuner changes `search`
    service.tuner.start(search)
    return created


def _store(service: Service, job: CustomJob, pipeline: TrainingPipeline | None = None) -> None:
    """Store a new job; raise FailedPrecondition if the root has a budget that is too small."""
    with service.creating:  # two jobs at the same time must not both spend what is left
        if limit := budget.Budget.read(service.runner.root):
            limit.check(job, service.records.jobs())
        service.records.add(job, pipeline)


def get(service: Service, name: str) -> Resource:
    """Return a resource; if it is active, first wait some seconds for its next change of state."""
    name = str(ResourceName.parse(name))
    since = time.monotonic() - service.answered.get(name, -math.inf)
    at_once = since < config.GET_ANSWERS_AT_ONCE_WITHIN_SECONDS
    resource = service.records.get_after_change(name, 0 if at_once else config.GET_WAITS_SECONDS)
    if resource is None:
        raise _not_found(name)
    service.answered[name] = time.monotonic()
    return resource


def list_resources(
    service: Service, parent: str, expression: str, page_size: int, page_token: str
) -> tuple[list[Resource], str]:
    """Return one page of the matching resources, newest first, and the token of the next page.

    A token is the name of the last resource of a page, so jobs that start in between do not shift
    the next page.

    Raises:
        InvalidArgument: if the page size, the token or the filter is not valid.
    """
    if not 0 <= page_size <= MAX_PAGE_SIZE:
        raise InvalidArgument(f"page_size must be between 0 and {MAX_PAGE_SIZE}, not {page_size}.")
    matches = compile_filter(expression) if expression else lambda _resource: True
    found = (each for each in service.records.children(ResourceName.parse(parent)) if matches(each))
    if page_token and not any(each.name == page_token for each in found):  # skips all up to it
        raise InvalidArgument(f"Invalid page token: {page_token}")
    page = list(itertools.islice(found, page_size or DEFAULT_PAGE_SIZE))
    for each in page:
        if isinstance(each, HyperparameterTuningJob):
            each.trials = []  # as on Vertex AI: only `get` returns them
    return page, page[-1].name if next(found, None) is not None else ""


def delete(service: Service, name: str) -> dict[str, Any]:
    """Delete a resource that has ended; return the finished operation.

    As on Vertex AI, a training pipeline and its custom job are two resources, and are deleted one
    by one.
    """
    parsed = ResourceName.parse(name)
    resource = service.records.get(str(parsed))
    if resource is None:
        raise _not_found(str(parsed))
    if not states.is_final(resource.state):
        raise FailedPrecondition(
            f"The resource {parsed} is still {resource.state.name}; cancel it."
        )
    if isinstance(resource, CustomJob):
        budget.keep_cost(service.runner.root, resource)
    service.records.delete(str(parsed))
    return wire.finished_operation(str(parsed.new("operations")))


def get_operation(service: Service, name: str) -> dict[str, Any]:
    """Return an operation; all operations of local mode are finished from the start."""
    name = str(ResourceName.parse(name))
    return service.registry.operations.get(name) or wire.finished_operation(name)


def register_model(service: Service, job: CustomJob) -> None:
    """Store the model of a training pipeline whose job has succeeded, if it asked for one.

    Raises:
        JobFailure: if the job left no artifacts (in the service's words), or the model is refused.
    """
    pipeline = service.records.get(service.records.pipeline_of(job.name))
    if not isinstance(pipeline, TrainingPipeline) or not pipeline.model_to_upload:
        return
    model = pipeline.model_to_upload
    base = str(job.job_spec.base_output_directory.output_uri_prefix).rstrip("/")
    model.artifact_uri = model.artifact_uri or f"{base}/model"
    folder = service.runner.root.buckets / model.artifact_uri.removeprefix("gs://")
    if not any(folder.rglob("*")):
        raise JobFailure(f'There are no files under "{model.artifact_uri}" to copy.')
    model.training_pipeline = pipeline.name
    location = ResourceName(ResourceName.of(pipeline).location)
    try:
        pipeline.model_to_upload = models.add_model(
            service.registry, location, model, pipeline.parent_model, pipeline.model_id
        )
    except ApiError as err:
        raise JobFailure(f"The model cannot be uploaded: {err}") from err
    service.records.replace(pipeline)


def cancel(service: Service, name: str) -> None:
    """Ask a job to stop. Has no effect on one that has ended."""
    name = str(ResourceName.parse(name))
    resource = service.records.get(name)
    if resource is None:
        raise _not_found(name)
    if isinstance(resource, TrainingPipeline):
        resource = cast(CustomJob, service.records.get(wire.backing_job(resource)))
    if states.is_final(resource.state):
        return
    if isinstance(resource, HyperparameterTuningJob):
        service.tuner.cancel(resource.name)
    else:
        service.runner.cancel(resource.name)


def get_project(project: str) -> dict[str, str]:
    """Return local mode's project, in the form of version 1 of the Resource Manager API.

    Args:
        project: its id or its number.
    """
    check_project(project)
    return {
        "projectId": PROJECT,
        "projectNumber": PROJECT_NUMBER,
        "name": PROJECT,
        "lifecycleState": "ACTIVE",
    }


def access_token(body: bytes) -> dict[str, Any]:
    """Answer a client that signs in with local mode's own account.

    A client that asks for the scopes of Cloud Storage or `cloud-platform` gets a token that is
    valid nowhere: it sends its requests to local mode. A client of another service would send them
    to Google, and gets an error that says so. Format of both: RFC 6749, sections 5.1 and 5.2.
    """
    scopes = wire.scopes(body)
    others = {
        scope for scope in scopes if not re.search(r"/(cloud-platform|devstorage\.\w+)", scope)
    }
    if others:
        what = ", ".join(sorted(scope.rpartition("/")[2] for scope in others))
        return {
            "error": "access_denied",
            "error_description": "Local mode of Vertex AI has no account, and does not emulate "
            f"this service ({what}). It works on Google Cloud, with another kernel or shell.",
        }
    return {"access_token": "local-mode-has-no-account", "expires_in": 3600, "token_type": "Bearer"}


def list_log_entries(service: Service, body: bytes) -> list[dict[str, Any]]:
    """Return the log entries of the job that a filter names; [] if there is no such job."""
    expression = wire.log_filter(body)
    number = log_entries.job_of(expression)
    for job in (*service.records.jobs(), *service.records.searches()):
        if ResourceName.of(job).id == number:
            return log_entries.entries(service.runner.root, job, expression)
    return []


def _not_found(name: str) -> NotFound:
    return NotFound(f"The resource {name} does not exist.")
