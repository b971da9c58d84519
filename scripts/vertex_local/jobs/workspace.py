"""The folder in which a job runs: its packages, what they require, and small programs for it."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from google.cloud.aiplatform_v1.types import CustomJob, WorkerPoolSpec

from vertex_local.config import Root
from vertex_local.jobs import command, images, package
from vertex_local.jobs.log import ServiceLog
from vertex_local.training.names import ResourceName

Call: TypeAlias = "Callable[[Sequence[str], Path], int]"


class JobFailure(Exception):
    """The job cannot be run, or has failed; the message is for its owner."""


@dataclass(frozen=True)
class Workspace:
    """A job's folder, ready to run in.

    Attributes:
        folder: holds everything below; only this job uses it.
        python: the interpreter that stands for the job's image.
        modules: where each of the job's packages was unpacked, by its `gs://` name.
    """

    folder: Path
    python: str
    modules: dict[str, Path]

    @property
    def site(self) -> Path:
        """What was installed for this job alone."""
        return self.folder / "site"

    @property
    def programs(self) -> Path:
        """Small programs such as `python` and `pip`, for the front of the job's PATH."""
        return self.folder / "bin"

    def module_path(self, pool: WorkerPoolSpec) -> list[Path]:
        """Return the folders in which the replicas of a worker pool look for modules."""
        projects = [self.modules[uri] for uri in pool.python_package_spec.package_uris]
        return [*(root for each in projects for root in package.roots(each)), self.site]


def image_of(job: CustomJob) -> str:
    """Return the image of a job's primary replica."""
    return images.image_of(job.job_spec.worker_pool_specs[0])


def prepare(
    root: Root, job: CustomJob, fetch: Callable[[str], bytes], service_log: ServiceLog, call: Call
) -> Workspace:
    """Fill a job's folder: fetch and unpack its packages, install what they require.

    Args:
        root: the folder of the job is in it, and exists already.
        job: the job.
        fetch: returns the bytes of a `gs://` object; raises FileNotFoundError with a sentence.
        service_log: where the service tells what it does.
        call: runs a command whose output goes to a file; returns its exit status.

    Raises:
        JobFailure: if a package is not there, or a requirement cannot be installed.
        BadPackage: if a package cannot be used.
        LocalModeError: if the map of images cannot be used.
    """
    folder = root.jobs / ResourceName.of(job).id
    modules = {}
    for number, uri in enumerate(_package_uris(job)):
        modules[uri] = package.unpack(_fetched(uri, fetch), folder / "package" / str(number))
    workspace = Workspace(folder, images.interpreter(root, image_of(job)), modules)
    command.write_programs(workspace.programs, workspace.python, workspace.site)
    required = [text for path in modules.values() for text in package.requirements(path)]
    if workspace.python == sys.executable:
        required = [text for text in required if not package.is_installed(text)]
    if required:
        service_log(f"Installing {', '.join(required)} for this job.")
        _install(workspace, required, service_log.path, call)
    return workspace


def _package_uris(job: CustomJob) -> list[str]:
    pools = [pool for pool in job.job_spec.worker_pool_specs if pool.replica_count]
    uris = [uri for pool in pools for uri in pool.python_package_spec.package_uris]
    return list(dict.fromkeys(uris))


def _fetched(uri: str, fetch: Callable[[str], bytes]) -> bytes:
    try:
        return fetch(uri)
    except FileNotFoundError as err:
        raise JobFailure(f"The training package {uri} cannot be downloaded: {err}") from err


def _install(workspace: Workspace, required: list[str], log: Path, call: Call) -> None:
    """Install packages for one job; pip's own words go to `log`."""
    pip = [workspace.python, "-m", "pip", "install", "--disable-pip-version-check"]
    if call([*pip, "--target", str(workspace.site), *required], log) != 0:
        raise JobFailure(
            f"The packages {', '.join(required)}, which the training package requires, could not "
            f"be installed; what pip says is in {log}"
        )
