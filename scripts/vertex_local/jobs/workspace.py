"""The folder in which a job runs: its packages, their requirements, and its `python` and `pip`."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, TypeAlias

from google.cloud.aiplatform_v1.types import CustomJob, WorkerPoolSpec
from google.rpc import code_pb2

from vertex_local.config import Root
from vertex_local.jobs import command, images
from vertex_local.jobs.log import ServiceLog
from vertex_local.jobs.packages import package
from vertex_local.training.names import ResourceName

Call: TypeAlias = "Callable[[Sequence[str], BinaryIO], int]"


class JobFailure(Exception):
    """The job cannot be run, or has failed; the message is for its owner.

    Attributes:
        code: the google.rpc code of the job's error.
    """

    def __init__(self, message: str, code: int = code_pb2.INVALID_ARGUMENT) -> None:
        super().__init__(message)
        self.code = code


@dataclass(frozen=True)
class Workspace:
    """A job's folder, ready to run in.

    Attributes:
        folder: holds everything below; only this job uses it.
        python: the interpreter that stands for the job's image.
        modules: the folder with the modules of each package, by the package's `gs://` URI; for an
            installed package it is `site`.
    """

    folder: Path
    python: str
    modules: dict[str, Path]

    @property
    def site(self) -> Path:
        """The folder of packages that were installed for this job alone."""
        return self.folder / "site"

    @property
    def programs(self) -> Path:
        """The folder of small programs, such as `python` and `pip`."""
        return self.folder / "bin"

    def module_path(self, pool: WorkerPoolSpec) -> list[Path]:
        """Return the folders in which the replicas of a worker pool look for modules."""
        modules = [self.modules[uri] for uri in pool.python_package_spec.package_uris]
        return list(dict.fromkeys([*modules, self.site]))

    @property
    def path(self) -> list[Path]:
        """The folders of the job's own programs, for the front of its PATH."""
        return [self.programs, self.site / "bin"]


def image_of(job: CustomJob) -> str:
    """Return the image of a job's primary replica."""
    return images.image_of(job.job_spec.worker_pool_specs[0])


def prepare(
    root: Root, job: CustomJob, fetch: Callable[[str], bytes], service_log: ServiceLog, call: Call
) -> Workspace:
    """Fill a job's folder: fetch and unpack its packages, install what they require.

    Args:
        root: contains the folder of the job, which must exist.
        job: the job.
        fetch: returns the bytes of a `gs://` object; raises FileNotFoundError with a sentence.
        service_log: gets a line on what is installed, and pip's output.
        call: runs a command with its output into a file; returns the exit status.

    Raises:
        JobFailure: if a package is not there, or a requirement cannot be installed.
        BadPackage: if a package cannot be used.
        LocalModeError: if the map of images cannot be used.
    """
    folder = root.jobs / ResourceName.of(job).id
    workspace = Workspace(folder, images.interpreter(root, image_of(job)), {})
    command.write_programs(workspace.programs, workspace.python, workspace.site)
    wanted = []
    for number, uri in enumerate(_package_uris(job)):
        project = _project(uri, _fetched(uri, fetch), folder / "package" / str(number))
        if package.is_from_sdk(project):
            workspace.modules[uri] = project
            required = package.requirements(project)
            if workspace.python == sys.executable:
                required = [text for text in required if not package.is_installed(text)]
            wanted += required
        else:
            workspace.modules[uri] = workspace.site
            wanted.append(str(project))
    if wanted:
        names = [uri for uri in workspace.modules if workspace.modules[uri] == workspace.site]
        names += [text for text in wanted if not Path(text).is_absolute()]
        _install(workspace, wanted, ", ".join(names), service_log, call)
    return workspace


def _project(uri: str, data: bytes, folder: Path) -> Path:
    """Write a package to `folder`; return what pip can install: a project folder, or a wheel."""
    if not uri.endswith(".whl"):
        return package.unpack(data, folder)
    package.check_wheel(data)
    folder.mkdir(parents=True)
    wheel = folder / uri.rpartition("/")[2]
    wheel.write_bytes(data)
    return wheel


def _package_uris(job: CustomJob) -> list[str]:
    pools = [pool for pool in job.job_spec.worker_pool_specs if pool.replica_count]
    uris = [uri for pool in pools for uri in pool.python_package_spec.package_uris]
    return list(dict.fromkeys(uris))


def _fetched(uri: str, fetch: Callable[[str], bytes]) -> bytes:
    try:
        return fetch(uri)
    except FileNotFoundError as err:
        raise JobFailure(f"The training package {uri} cannot be downloaded: {err}") from err


def _install(
    workspace: Workspace, wanted: list[str], names: str, service_log: ServiceLog, call: Call
) -> None:
    """Install packages for one job; pip's output goes to the service log."""
    service_log(f"Installing {names} for this job.")
    pip = workspace.programs / "pip"
    if call([str(pip), "install", *wanted], service_log.file) != 0:
        raise JobFailure(
            f"The packages {names}, which the job requires, could not be installed; what pip says "
            f"is in {service_log.path}"
        )
