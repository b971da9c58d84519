"""The replicas of a job, and the environment variables with which each of them starts.

A replica is one machine of a job on Vertex AI, and one process (group) in local mode. Sources: the
documentation of `CustomJobSpec`, and of distributed training on Vertex AI.
"""

from __future__ import annotations

import json
import os
import re
import socket
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from google.cloud.aiplatform_v1.types import CustomJob, CustomJobSpec, WorkerPoolSpec

from vertex_local.config import (
    HOST,
    PROJECT_NUMBER,
    Root,
    google_clients,
    past_proxies,
    shell_tools,
    without_account,
)
from vertex_local.jobs import images
from vertex_local.storage import mount
from vertex_local.training.names import ResourceName

PROXIES = ("ALL_PROXY", "FTP_PROXY", "HTTP_PROXY", "HTTPS_PROXY")  # the way out of some networks
PASSED_ON = (
    *("HOME", "LANG", "LC_ALL", "LC_CTYPE", "TMPDIR", "TZ", "USER"),
    *PROXIES,
    *map(str.lower, PROXIES),
)
METRIC_FILE = "CLOUD_ML_HP_METRIC_FILE"  # the file to which the package `hypertune` writes metrics
TRIAL_ID = "CLOUD_ML_TRIAL_ID"  # only set in the trials of a search
TF_NAMES = ("chief", "worker", "ps", "evaluator")  # what TF_CONFIG calls the worker pools


@dataclass(frozen=True)
class Replica:
    """One replica.

    Attributes:
        pool: number of its worker pool; the only replica of pool 0 is the primary.
        index: its number in the pool.
        rank: its number among all replicas of the job; 0 is the primary.
        port: a TCP port on which the replicas of this job may find each other.
        spec: the specification of its pool.
    """

    pool: int
    index: int
    rank: int
    port: int
    spec: WorkerPoolSpec

    @property
    def name(self) -> str:
        """Its name in the messages of the service."""
        return f"workerpool{self.pool}-{self.index}"


def replicas_of(spec: CustomJobSpec) -> list[Replica]:
    """Return the replicas of a job, the primary first, each with a port that is free now."""
    positions = [
        (number, index, pool)
        for number, pool in enumerate(spec.worker_pool_specs)
        for index in range(pool.replica_count)
    ]
    ports = _free_ports(len(positions))
    return [
        Replica(number, index, rank, ports[rank], pool)
        for rank, (number, index, pool) in enumerate(positions)
    ]


def _free_ports(count: int) -> list[int]:
    with ExitStack() as listeners:  # all open at once, so that all ports differ
        opened = [listeners.enter_context(socket.create_server((HOST, 0))) for _ in range(count)]
        return [listener.getsockname()[1] for listener in opened]


def environment(
    job: CustomJob,
    replica: Replica,
    replicas: Sequence[Replica],
    root: Root,
    storage_url: str,
    programs: Sequence[Path],
    modules: Sequence[Path],
) -> dict[str, str]:
    """Return the environment variables of a replica's process.

    These are: what Vertex AI sets in a training container, the few variables that a process needs
    to run on this machine, and the address of the emulated Cloud Storage. The job gets nothing else
    from the server's environment.

    Args:
        job: the job.
        replica: the replica that starts.
        replicas: all replicas of the job, the primary first.
        root: local mode's folder.
        storage_url: base URL of Cloud Storage, with this job's secret.
        programs: folders with the job's own programs, `python` and `pip` among them.
        modules: folders in which the job's Python finds modules.
    """
    name = ResourceName.of(job)
    variables = {each: os.environ[each] for each in PASSED_ON if each in os.environ}
    variables |= without_account(root) | past_proxies() | shell_tools(root, storage_url)
    variables |= google_clients(root, storage_url)
    variables |= {
        "PATH": os.environ.get("PATH", os.defpath),
        "PYTHONUNBUFFERED": "1",
        mount.BUCKETS: str(root.buckets),
        "CLOUD_ML_PROJECT_ID": PROJECT_NUMBER,
        "CLOUD_ML_REGION": name.location,
        "CLOUD_ML_JOB_ID": name.id,
        "CLUSTER_SPEC": json.dumps(_cluster_spec(job.job_spec, replica, replicas)),
        METRIC_FILE: str(metric_file(root, job, replica.name)),
        # Per node, as the prebuilt PyTorch images set them.
        "MASTER_ADDR": HOST,
        "MASTER_PORT": str(replicas[0].port),
        "RANK": str(replica.rank),
        "WORLD_SIZE": str(len(replicas)),
    }
    if len(replicas) > 1:
        variables["TF_CONFIG"] = json.dumps(_tf_config(replica, replicas))
    variables |= _output_variables(job.job_spec)
    work = replica.spec.container_spec or replica.spec.python_package_spec
    accelerators = replica.spec.machine_spec.accelerator_count
    if not (accelerators and images.can_use_gpu(images.image_of(replica.spec))):
        variables["CUDA_VISIBLE_DEVICES"] = ""  # a job sees a GPU only if it asked for one
    for item in work.env:
        variables[item.name] = expand(item.value, variables)
    # Added to what the job sets: in an image, Python and the package are found without variables.
    variables["PATH"] = os.pathsep.join([*map(str, programs), variables["PATH"]])
    found = [variables.get("PYTHONPATH", ""), *map(str, modules)]
    variables["PYTHONPATH"] = os.pathsep.join(filter(None, found))
    return variables


def _output_variables(spec: CustomJobSpec) -> dict[str, str]:
    """Return where a job's model, checkpoints and logs belong, if it names a folder for them."""
    variables = {}
    base = str(spec.base_output_directory.output_uri_prefix).rstrip("/")
    if base:
        variables["AIP_MODEL_DIR"] = f"{base}/model/"
        variables["AIP_CHECKPOINT_DIR"] = f"{base}/checkpoints/"
        variables["AIP_TENSORBOARD_LOG_DIR"] = f"{base}/logs/"
    if spec.tensorboard:
        variables["AIP_TENSORBOARD_RESOURCE_NAME"] = str(spec.tensorboard)
    return variables


def expand(value: str, variables: Mapping[str, str]) -> str:
    """Replace `$(NAME)` by that variable's value, as Vertex AI does.

    Unknown names stay, and `$$` stands for a `$` that begins no name: `$$(NAME)` is never
    expanded. Source: the documentation of `EnvVar` in google.cloud.aiplatform_v1.
    """

    def replacement(match: re.Match[str]) -> str:
        return "$" if match[0] == "$$" else variables.get(match[1], match[0])

    return re.sub(r"\$\$|\$\(([^()]*)\)", replacement, value)


def metric_file(root: Root, job: CustomJob, replica: str) -> Path:
    """Return the file into which a replica reports metrics; each replica has its own."""
    return root.jobs / ResourceName.of(job).id / f"{replica}.metrics"


def _addresses(replicas: Sequence[Replica], pool: int) -> list[str]:
    return [f"{HOST}:{replica.port}" for replica in replicas if replica.pool == pool]


def _cluster_spec(
    spec: CustomJobSpec, replica: Replica, replicas: Sequence[Replica]
) -> dict[str, Any]:
    primary = spec.worker_pool_specs[0].python_package_spec
    job = {
        "python_module": primary.python_module,
        "package_uris": list(primary.package_uris),
        "job_args": list(primary.args),
    }
    pools = sorted({each.pool for each in replicas})
    work = replica.spec.container_spec or replica.spec.python_package_spec
    trials = [item.value for item in work.env if item.name == TRIAL_ID]
    return {
        "cluster": {f"workerpool{pool}": _addresses(replicas, pool) for pool in pools},
        "environment": "cloud",
        "task": {"type": f"workerpool{replica.pool}", "index": replica.index}
        | ({"trial": trials[0]} if trials else {}),
        "job": json.dumps(job),
    }


def _tf_config(replica: Replica, replicas: Sequence[Replica]) -> dict[str, Any]:
    pools = sorted({each.pool for each in replicas})
    return {
        "cluster": {TF_NAMES[pool]: _addresses(replicas, pool) for pool in pools},
        "task": {"type": TF_NAMES[replica.pool], "index": replica.index},
        "environment": "cloud",
    }
