"""What a job may ask for: what local mode refuses by name, and what has no effect in it.

Every other field of a job is carried out. The limits are those that Google
documents for the fields (google.cloud.aiplatform_v1.types); the sentences are local mode's own.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Any

from google.cloud.aiplatform_v1.types import (
    CustomJob,
    CustomJobSpec,
    DiskSpec,
    Scheduling,
    TrainingPipeline,
    WorkerPoolSpec,
)

from vertex_local import features
from vertex_local.errors import InvalidArgument, Unimplemented
from vertex_local.jobs import command, machines

REFUSED_IN_PIPELINES = (
    "input_data_config",
    "encryption_spec",
    "model_to_upload.encryption_spec",
)
REFUSED_BESIDE_JOBS = ("encryption_spec",)
REFUSED_IN_JOBS = (
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
)
REFUSED_IN_POOLS = (
    "nfs_mounts",
    "lustre_mounts",
    "machine_spec.gpu_partition_size",
    "machine_spec.tpu_topology",
)
# They choose, pay for or protect a machine of Google's: here there is only this machine.
WITHOUT_EFFECT_IN_JOBS = (
    "service_account",
    "scheduling.strategy",
    "scheduling.max_wait_duration",
    "scheduling.restart_job_on_worker_restart",  # no worker is ever restarted by itself here
)
WITHOUT_EFFECT_IN_POOLS = ("disk_spec", "machine_spec.reservation_affinity")
USUAL = {  # what the SDK sends when nobody asks for it
    "disk_spec": DiskSpec(boot_disk_type="pd-ssd", boot_disk_size_gb=100),
    "scheduling.strategy": Scheduling.Strategy.STANDARD,
}

MAX_POOLS, MAX_REPLICAS = 4, 64  # the second is local mode's own: each replica is a process here
MAX_ENV, MAX_PACKAGES, MAX_ARGS_CHARACTERS = 100, 100, 100_000
DISK_GB = range(100, 64_001)
ENV_NAME = re.compile("[A-Za-z_][A-Za-z0-9_]*")  # a C identifier: see `EnvVar`
MAX_NAME, MAX_LABEL = 128, 64
BUCKET_FOLDER = re.compile(r"gs://[a-z0-9][a-z0-9._-]+(/.*)?", re.DOTALL)


def check(resource: TrainingPipeline | CustomJob, spec: CustomJobSpec) -> None:
    """Check a job as Vertex AI does before anything is spent.

    Args:
        resource: what the client wants to create.
        spec: the specification of the job in it.

    Raises:
        Unimplemented: if it asks for what local mode does not do; names all such fields.
        InvalidArgument: if Vertex AI would refuse it, too.
    """
    beside = REFUSED_IN_PIPELINES if isinstance(resource, TrainingPipeline) else REFUSED_BESIDE_JOBS
    refused = [
        *_asked(resource, beside),
        *_asked(spec, REFUSED_IN_JOBS),
        *_asked_in_pools(spec, REFUSED_IN_POOLS),
        *(f"{field}.{why}" for field, pool in _used_pools(spec) if (why := _obstacle(pool))),
    ]
    if refused:
        raise Unimplemented(*features.of_fields(refused))
    _check_names(resource)
    pools = spec.worker_pool_specs
    if not pools or pools[0].replica_count != 1:
        raise InvalidArgument(
            "job_spec.worker_pool_specs[0] must have exactly one replica, the primary."
        )
    if len(pools) > MAX_POOLS:
        raise InvalidArgument(f"job_spec has {len(pools)} worker_pool_specs, of {MAX_POOLS}.")
    for field, pool in _used_pools(spec):
        _check_pool(pool, field)
    if sum(pool.replica_count for _, pool in _used_pools(spec)) > MAX_REPLICAS:
        raise Unimplemented(f"more than {MAX_REPLICAS} replicas in a job")
    output = spec.base_output_directory.output_uri_prefix
    if output and not BUCKET_FOLDER.fullmatch(output):
        raise InvalidArgument(
            "job_spec.base_output_directory.output_uri_prefix must be a Cloud Storage folder, "
            f"gs://BUCKET/FOLDER, not {output!r}."
        )
    for name in ("timeout", "max_wait_duration"):
        if (duration := getattr(spec.scheduling, name)) and duration.total_seconds() < 0:
            raise InvalidArgument(f"job_spec.scheduling.{name} must not be negative.")


def without_effect(spec: CustomJobSpec) -> list[str]:
    """Return the names of the fields that a job sets and that have no effect in local mode."""
    return [
        *_asked(spec, WITHOUT_EFFECT_IN_JOBS),
        *_asked_in_pools(spec, WITHOUT_EFFECT_IN_POOLS),
    ]


def _used_pools(spec: CustomJobSpec) -> Iterator[tuple[str, WorkerPoolSpec]]:
    """Yield field name and content of each worker pool that has replicas."""
    for number, pool in enumerate(spec.worker_pool_specs):
        if pool.replica_count:
            yield f"job_spec.worker_pool_specs[{number}]", pool


def _obstacle(pool: WorkerPoolSpec) -> str | None:
    return command.obstacle(pool.container_spec) if pool.container_spec else None


def _asked(message: Any, names: Iterable[str]) -> list[str]:
    """Return those of the (dotted) field names that have another value than the usual one."""
    return [name for name in names if (value := _value(message, name)) and value != USUAL.get(name)]


def _asked_in_pools(spec: CustomJobSpec, names: Iterable[str]) -> list[str]:
    found = [name for _, pool in _used_pools(spec) for name in _asked(pool, names)]
    return list(dict.fromkeys(found))


def _value(message: Any, name: str) -> Any:
    for part in name.split("."):
        message = getattr(message, part)
    return message


def _check_names(resource: TrainingPipeline | CustomJob) -> None:
    if not 0 < len(resource.display_name) <= MAX_NAME:
        raise InvalidArgument(f"display_name must have between 1 and {MAX_NAME} characters.")
    for text in (*resource.labels.keys(), *resource.labels.values()):
        allowed = all(char.isalnum() or char in "_-" for char in text) and text == text.lower()
        if not allowed or len(text) > MAX_LABEL:
            raise InvalidArgument(
                f"The label {text!r} is not allowed: keys and values may hold lowercase letters, "
                f"numbers, underscores and dashes, at most {MAX_LABEL}."
            )


def _check_pool(pool: WorkerPoolSpec, field: str) -> None:
    if not pool.container_spec:
        _check_package(pool, f"{field}.python_package_spec")
    work = pool.container_spec or pool.python_package_spec
    if len(work.env) > MAX_ENV:
        raise InvalidArgument(f"{field}: at most {MAX_ENV} environment variables are allowed.")
    for item in work.env:
        if not ENV_NAME.fullmatch(item.name):
            raise InvalidArgument(
                f"{field}: {item.name!r} is not a name for an environment variable: letters, "
                "digits and underscores are allowed, and no digit at the beginning."
            )
    texts = [*work.args, *(item.value for item in work.env)]
    texts += [*pool.container_spec.command, pool.python_package_spec.python_module]
    if any("\0" in text for text in texts):
        raise InvalidArgument(f"{field}: no argument or variable can hold a NUL character.")
    if sum(map(len, work.args)) > MAX_ARGS_CHARACTERS:
        raise InvalidArgument(f"{field}: at most {MAX_ARGS_CHARACTERS} characters of args.")
    machines.check(pool.machine_spec, f"{field}.machine_spec")
    size = pool.disk_spec.boot_disk_size_gb
    if size and size not in DISK_GB:
        raise InvalidArgument(
            f"{field}.disk_spec.boot_disk_size_gb must be between {DISK_GB[0]} and {DISK_GB[-1]}, "
            f"not {size}."
        )


def _check_package(pool: WorkerPoolSpec, field: str) -> None:
    package = pool.python_package_spec
    for name in ("executor_image_uri", "package_uris", "python_module"):
        if not getattr(package, name):
            raise InvalidArgument(f"{field}.{name} must not be empty.")
    if len(package.package_uris) > MAX_PACKAGES:
        raise InvalidArgument(f"{field}: at most {MAX_PACKAGES} package_uris are allowed.")
    for uri in package.package_uris:
        if not BUCKET_FOLDER.fullmatch(uri):
            raise InvalidArgument(
                f"{field}.package_uris must start with gs://BUCKET/, not {uri!r}."
            )
