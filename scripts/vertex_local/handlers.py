"""What each operation of the training API does; knows neither URLs nor processes."""

from __future__ import annotations

import math
import re
import secrets
import time
from dataclasses import dataclass, field
from typing import cast

from google.cloud.aiplatform_v1.types import CustomJob, CustomJobSpec, TrainingPipeline

from vertex_local import config, states, wire
from vertex_local.errors import InvalidArgument, NotFound, PermissionDenied, Unimplemented
from vertex_local.runner import Runner
from vertex_local.store import Resource, Store

NOT_IN_PIPELINES = ("input_data_config", "model_to_upload", "encryption_spec", "parent_model")
NOT_IN_JOBS = (
    "enable_dashboard_access",
    "enable_web_access",
    "experiment",
    "experiment_run",
    "models",
    "network",
    "persistent_resource_id",
    "protected_artifact_location_id",
    "psc_interface_config",
    "reserved_ip_ranges",
    "tensorboard",
)


@dataclass(frozen=True)
class Service:
    """What the handlers work on."""

    store: Store
    runner: Runner
    answered: dict[str, float] = field(default_factory=dict)  # when each was last asked for


def create_training_pipeline(service: Service, parent: str, body: bytes) -> TrainingPipeline:
    """Keep a training pipeline and its backing custom job, and start it."""
    location = _location(parent)
    pipeline = wire.parse(TrainingPipeline, body)
    if pipeline.training_task_definition != wire.TASK_DEFINITION:
        raise Unimplemented(f"training_task_definition {pipeline.training_task_definition!r}")
    _refuse_fields(pipeline, NOT_IN_PIPELINES)
    job = CustomJob(
        name=f"{location}/customJobs/{_new_id()}",
        display_name=f"{pipeline.display_name}-custom-job",
        job_spec=_checked(wire.job_spec(pipeline)),
        labels=pipeline.labels,
    )
    pipeline.name = f"{location}/trainingPipelines/{_new_id()}"
    service.store.add(job, pipeline)
    service.runner.start(job)
    return pipeline


def create_custom_job(service: Service, parent: str, body: bytes) -> CustomJob:
    """Keep a custom job and start it."""
    location = _location(parent)
    job = wire.parse(CustomJob, body)
    _refuse_fields(job, ("encryption_spec",))
    _checked(job.job_spec)
    job.name = f"{location}/customJobs/{_new_id()}"
    service.store.add(job)
    service.runner.start(job)
    return job


def get(service: Service, name: str) -> Resource:
    """Return a resource; for an active one, mostly wait a little for its next change of state."""
    name = _canonical(name)
    since = time.monotonic() - service.answered.get(name, -math.inf)
    at_once = since < config.GET_ANSWERS_AT_ONCE_WITHIN_SECONDS
    resource = service.store.get_after_change(name, 0 if at_once else config.GET_WAITS_SECONDS)
    if resource is None:
        raise _not_found(name)
    service.answered[name] = time.monotonic()
    return resource


def list_resources(service: Service, parent: str) -> list[Resource]:
    """Return the resources of one kind in one region, newest first."""
    return service.store.children(_canonical(parent))


def cancel(service: Service, name: str) -> None:
    """Ask a job to stop. Has no effect on one that has ended."""
    resource = service.store.get(_canonical(name))
    if resource is None:
        raise _not_found(name)
    if isinstance(resource, TrainingPipeline):
        resource = cast(CustomJob, service.store.get(wire.backing_job(resource)))
    if not states.is_final(resource.state):
        service.runner.cancel(resource.name)


def _new_id() -> str:
    return str(secrets.randbelow(9 * 10**18) + 10**18)  # 19 digits, as the service's ids have


def _not_found(name: str) -> NotFound:
    return NotFound(f"The resource {name} does not exist.")


def _canonical(name: str) -> str:
    """Return a resource name with the project's number, as stored, whichever the caller used."""
    match = re.match(r"projects/([^/]+)/locations/([^/]+)/", name)
    assert match  # the routes let nothing else through
    project, location = match.groups()
    if project not in (config.PROJECT, config.PROJECT_NUMBER):
        raise PermissionDenied(
            f"Local mode has one project, {config.PROJECT!r}; there is no access to {project!r}."
        )
    if not re.fullmatch(r"[a-z]+-[a-z]+\d+", location):  # the SDK knows the list of regions
        raise InvalidArgument(f"{location!r} is not the name of a region, such as us-central1.")
    return f"projects/{config.PROJECT_NUMBER}/locations/{location}/{name[match.end() :]}"


def _location(parent: str) -> str:
    return _canonical(f"{parent}/").rstrip("/")


def _refuse_fields(message: Resource | CustomJobSpec, fields: tuple[str, ...]) -> None:
    for name in fields:
        if getattr(message, name):
            raise Unimplemented(name)


def _checked(spec: CustomJobSpec) -> CustomJobSpec:
    """Return `spec` if local mode can run it as it would run on Vertex AI."""
    _refuse_fields(spec, NOT_IN_JOBS)
    pools = spec.worker_pool_specs
    if not pools:
        raise InvalidArgument("job_spec.worker_pool_specs must not be empty.")
    if len(pools) > 1 or pools[0].replica_count > 1:
        raise Unimplemented("several replicas")
    if pools[0].container_spec:
        raise Unimplemented("container_spec: local mode runs Python packages")
    package = pools[0].python_package_spec
    for name in ("executor_image_uri", "package_uris", "python_module"):
        if not getattr(package, name):
            raise InvalidArgument(
                f"job_spec.worker_pool_specs[0].python_package_spec.{name} must not be empty."
            )
    if not pools[0].machine_spec.machine_type:
        raise InvalidArgument(
            "job_spec.worker_pool_specs[0].machine_spec.machine_type must not be empty."
        )
    output = spec.base_output_directory.output_uri_prefix
    if output and not output.startswith("gs://"):
        raise InvalidArgument(
            "job_spec.base_output_directory.output_uri_prefix must be a Cloud Storage folder, "
            f"gs://BUCKET/FOLDER, not {output!r}."
        )
    return spec
