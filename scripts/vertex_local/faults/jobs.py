"""Faults of training jobs: before a job is stored, before it has machines, and while it runs."""

from __future__ import annotations

import os
import random
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import BinaryIO

from google.cloud.aiplatform_v1.types import AcceleratorType, CustomJob, Scheduling

from vertex_local.errors import ApiError, InvalidArgument, ResourceExhausted
from vertex_local.faults.store import Fault, Faults
from vertex_local.training.names import ResourceName

NOTE = "fault injected in local mode:"  # Vertex AI has no such words
LABEL = "injected-{kind}"  # on the job's record; its value says how often
LOOK_SECONDS = 0.05  # between two checks whether a fault of a running job is due
WHILE_RUNNING = ("preemption", "replica-dies", "out-of-memory")
MEMORY_STATUS = 137  # 128 + SIGKILL: Linux kills a process that needs too much memory


def is_spot(job: CustomJob) -> bool:
    """Return whether a job asked for Spot machines."""
    return bool(job.job_spec.scheduling.strategy == Scheduling.Strategy.SPOT)


def concerns(fault: Fault, job: CustomJob) -> bool:
    """Return whether a job matches a fault's options: name or id, region, and machine."""
    resource = ResourceName.of(job)
    # The custom job that backs a training pipeline has this suffix.
    name = str(job.display_name).removesuffix("-custom-job")
    wanted, region, machine = (fault.options.get(each) for each in ("job", "region", "machine"))
    return (
        (wanted in (None, resource.id) or fnmatchcase(name, str(wanted)))
        and region in (None, resource.location)
        and machine in (None, *_machines(job))
    )


def _machines(job: CustomJob) -> list[str]:
    specs = [pool.machine_spec for pool in job.job_spec.worker_pool_specs if pool.replica_count]
    accelerators = [AcceleratorType(spec.accelerator_type).name for spec in specs]
    return [*(str(spec.machine_type) for spec in specs), *accelerators]


# ---------------------------------------------------------------------------- before it is stored


def refuse(faults: Faults, job: CustomJob, in_pipeline: bool) -> None:
    """Refuse a job that is about to be created, if a fault says so.

    Args:
        faults: those of the root.
        job: the custom job, with its name.
        in_pipeline: whether it backs a training pipeline. A pipeline without quota is created,
            and fails later.

    Raises:
        ApiError: as on Vertex AI, with a detail that says that local mode injected it.
    """
    account = job.job_spec.service_account
    refusals: list[tuple[str, ApiError]] = [
        (
            "machine-unavailable",
            InvalidArgument(f"Machine type {_machines(job)[0]} is not supported."),
        ),
        (
            "service-account-denied",
            InvalidArgument(
                f"You do not have permission to act as service_account: {account}. "
                "(or it may not exist)."
            ),
        ),
        ("quota", ResourceExhausted(quota_message(job))),
    ]
    for kind, error in refusals:
        applies = (kind != "quota" or not in_pipeline) and (
            kind != "service-account-denied" or account
        )
        if applies and (fault := take(faults, kind, job)):
            error.detail = f"{NOTE} {fault}"
            raise error


def quota_message(job: CustomJob) -> str:
    """Return the sentence with which Vertex AI names the quotas that are too small for a job.

    These are the quotas of its accelerators, or that of CPUs if it has none. Spot machines have
    quotas of their own (`custom_model_training_preemptible_…`).
    """
    spot = "preemptible_" if is_spot(job) else ""
    kinds = [
        AcceleratorType(pool.machine_spec.accelerator_type).name
        for pool in job.job_spec.worker_pool_specs
        if pool.replica_count and pool.machine_spec.accelerator_count
    ]
    short = [kind.lower().replace("nvidia_tesla_", "nvidia_") + "_gpus" for kind in kinds]
    metrics = [
        f"aiplatform.googleapis.com/custom_model_training_{spot}{each}"
        for each in short or ["cpus"]
    ]
    listed = ",".join(dict.fromkeys(metrics))
    return f"The following quota metrics exceed quota limits: {listed}"


def take(faults: Faults, kind: str, job: CustomJob) -> Fault | None:
    """Count one use of a fault of this kind that concerns a job; return it, or None."""
    return faults.take(lambda each: each.kind == kind and concerns(each, job))


# ------------------------------------------------------------------------------ before it runs


def wait_before_start(faults: Faults, job: CustomJob) -> bool:
    """Return whether a fault delays a job's machines, so that it waits for them in PENDING."""
    kinds = ("quota", "stockout", "slow-start")
    return any(concerns(fault, job) for fault in faults.active(*kinds))


def stockout_message(job: CustomJob) -> str:
    """Return the sentence with which Vertex AI says that a region has no machines left."""
    region = ResourceName.of(job).location
    advice = "Try a different region or use a different accelerator."
    return f"Resources are insufficient in region: {region}. {advice}"


def provisioning_seconds(fault: Fault) -> float:
    """Return how many seconds a slow start takes in local mode."""
    return float(fault.options["minutes"]) * 60 / float(fault.options["factor"])


# ------------------------------------------------------------------------------ while it runs


@dataclass(frozen=True)
class Strike:
    """The fault that has ended the replicas of a running job.

    Attributes:
        fault: the fault as it was before this use was counted.
        rank: the index of the replica that fails; all the others end with it.
        status: the exit status of that replica.
    """

    fault: Fault
    rank: int
    status: int


class Watch:
    """Applies faults to a running job, from a thread of its own; a context manager.

    Args:
        faults: those of the root.
        job: the job.
        replicas: the names of its replicas, the primary first.
        log: the open log of the primary; what it holds already, of earlier attempts, is ignored.
        kill: ends all processes of the job at once.
    """

    def __init__(
        self,
        faults: Faults,
        job: CustomJob,
        replicas: Sequence[str],
        log: BinaryIO,
        kill: Callable[[], None],
    ) -> None:
        self.strike: Strike | None = None
        self._faults = faults
        self._job = job
        self._replicas = replicas
        self._kill = kill
        self._log = log
        self._log_begin = os.fstat(log.fileno()).st_size
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look, name=f"faults-{job.name}")

    def __enter__(self) -> Watch:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _look(self) -> None:
        seconds = 0.0
        while not self._over.wait(LOOK_SECONDS):
            seconds += LOOK_SECONDS
            for fault in self._faults.active(*WHILE_RUNNING):
                if self._is_due(fault, seconds) and self._hit(fault):
                    return

    def _is_due(self, fault: Fault, seconds: float) -> bool:
        options = fault.options
        if not concerns(fault, self._job) or (
            fault.kind == "preemption" and not is_spot(self._job)
        ):
            return False
        after = options["after"]
        if options["random"] is not None:
            generator = random.Random(f"{options['seed']}/{fault.happened}")
            after = generator.uniform(0, options["random"])
        return seconds >= after and (options["log"] is None or self._has_printed(options["log"]))

    def _has_printed(self, text: str) -> bool:
        size = os.fstat(self._log.fileno()).st_size
        return text.encode() in os.pread(self._log.fileno(), size, self._log_begin)

    def _hit(self, fault: Fault) -> bool:
        """Apply the fault, unless another job has used it up meanwhile; return whether it was."""
        name = fault.options.get("replica", self._replicas[0])
        if name not in self._replicas:
            return False
        taken = self._faults.take(lambda each: each.number == fault.number)
        if taken is None:
            return False
        status = int(fault.options.get("status", MEMORY_STATUS))
        self.strike = Strike(taken, self._replicas.index(name), status)
        self._kill()
        return True


def memory_message(replica: str) -> str:
    """Return the sentence with which Vertex AI says that a replica needed too much memory."""
    return f"The replica {replica} ran out of memory and exited with a non-zero status of 137."
