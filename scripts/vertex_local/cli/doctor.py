"""Checks this machine, one `[OK]` or `[FAIL]` line each: the first thing in every bug report."""

from __future__ import annotations

import os
import platform
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import closing
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement

from vertex_local.config import LocalModeError, Root, ServerRecord
from vertex_local.kernel import spec
from vertex_local.secret import Key
from vertex_local.server import daemon, ports
from vertex_local.storage import mount, names
from vertex_local.storage.objects import open_records
from vertex_local.training.records import Records

DISTRIBUTION = "vertex-ai-workshop"
TESTED_VERSIONS = Path(__file__).resolve().parents[2] / "tested-versions.txt"
FREE_GB = 1.0  # more than many runs of the lesson need

# A check yields what it found; it raises LocalModeError with the remedy if something is wrong.
Check = Callable[[Root], Iterator[str]]


def report(root: Root) -> int:
    """Print one line per finding; return 0 if nothing is wrong, else 1."""
    failures = 0
    for check in (
        *(python, packages, packaging_tool, free_ports, disk, own_files, buckets, kernel_spec),
        *(emulator, gcs),
    ):
        try:
            for finding in check(root):
                print(f"[OK]   {finding}", flush=True)
        except LocalModeError as err:
            failures += 1
            print(f"[FAIL] {err}", flush=True)
    return 1 if failures else 0


def python(_root: Root) -> Iterator[str]:
    """Name the interpreter; one older than 3.10 cannot even import this module."""
    yield f"Python {platform.python_version()} at {sys.executable}"


def packages(_root: Root) -> Iterator[str]:
    """Check that every direct dependency of the lesson is installed in a supported version."""
    tested = _tested_versions()
    for text in metadata.requires(DISTRIBUTION) or []:
        requirement = Requirement(text)
        if requirement.marker and not requirement.marker.evaluate({"extra": ""}):
            continue
        try:
            version = metadata.version(requirement.name)
        except metadata.PackageNotFoundError:
            raise LocalModeError(
                f"{requirement.name} is not installed. Run `python3 scripts/workshop.py run`."
            ) from None
        if not requirement.specifier.contains(version, prereleases=True):
            raise LocalModeError(
                f"{requirement.name} {version} is installed; the lesson needs "
                f"{requirement.specifier}. Run `python3 scripts/workshop.py run`."
            )
        expected = tested.get(requirement.name, version)
        note = "" if version.split("+")[0] == expected else f" (tested with {expected})"
        yield f"{requirement.name} {version}{note}"


def packaging_tool(_root: Root) -> Iterator[str]:
    """Check that the SDK can pack a training script: it runs `setup.py sdist`."""
    try:
        import setuptools
    except ImportError:
        raise LocalModeError(
            "setuptools is missing; the SDK needs it to pack the training script. Run "
            "`pip install setuptools`."
        ) from None
    yield f"setuptools {setuptools.__version__} can pack training scripts"


def free_ports(_root: Root) -> Iterator[str]:
    """Check that this user's programs may listen on the loopback interface."""
    with ports.listen(0) as one, ports.listen(0) as other:
        numbers = [listener.getsockname()[1] for listener in (one, other)]
    yield f"free ports on 127.0.0.1, for example {numbers[0]} and {numbers[1]}"


def disk(root: Root) -> Iterator[str]:
    """Check that the root can be written, and that its disk has room."""
    existing = next(path for path in (root.path, *root.path.parents) if path.exists())
    free = shutil.disk_usage(existing).free / 1e9
    if free < FREE_GB:
        raise LocalModeError(
            f"Only {free:.1f} GB are free at {existing}; local mode needs {FREE_GB:g} GB. Delete "
            "something, or set VERTEX_LOCAL_ROOT to a folder on another disk."
        )
    try:
        with tempfile.TemporaryFile(dir=existing):
            pass
    except OSError as err:
        raise LocalModeError(
            f"{existing} cannot be written ({err.strerror}). Give yourself write permission "
            "there, or set VERTEX_LOCAL_ROOT to another folder."
        ) from err
    yield f"{free:.0f} GB free at {existing}"


def own_files(root: Root) -> Iterator[str]:
    """Check that only the owner may write to the root, and that its files can be read."""
    if not root.path.is_dir():  # nothing yet, or another line says why
        return
    root.check_owner()
    yield f"only you may write to {root.path}"
    if os.path.lexists(root.record) and ServerRecord.read(root.record) is None:
        raise LocalModeError(
            f"{root.record} is damaged. It only says where the server listens. Run `vertex-local "
            "down`, delete it, and run `vertex-local up`."
        )
    if os.path.lexists(root.key) and Key.read(root) is None:
        raise LocalModeError(
            f"{root.key} is damaged. It only protects the server. Run `vertex-local down`, delete "
            "it, and restart the kernels of open notebooks."
        )
    if os.path.lexists(root.metadata):
        open_records(root.metadata).close()
    if os.path.lexists(root.database):
        with closing(Records(root.database)) as records:
            yield f"{records.check()} records of jobs and pipelines can be read"


def buckets(root: Root) -> Iterator[str]:
    """Check that the folder of the buckets holds only buckets: clients see nothing else there."""
    entries = sorted(root.buckets.iterdir()) if root.buckets.is_dir() else []
    shown = [entry for entry in entries if not entry.name.startswith(".")]  # not .DS_Store
    for entry in shown:
        problem = names.bucket_name_problem(entry.name)
        if entry.is_symlink() or not entry.is_dir():
            problem = "a bucket is a folder"
        if problem:
            raise LocalModeError(
                f"{entry} is no bucket, so no client sees it: {problem}. Move it into a bucket's "
                "folder, rename it, or delete it."
            )
    yield f"buckets in {root.buckets}: {len(shown)}"


def kernel_spec(_root: Root) -> Iterator[str]:
    """Check that Jupyter knows the kernel, and that the kernel starts this Python."""
    from jupyter_client.kernelspec import KernelSpecManager, NoSuchKernel

    try:
        argv = KernelSpecManager().get_kernel_spec(spec.NAME).argv
    except NoSuchKernel:
        raise LocalModeError(
            f"The Jupyter kernel {spec.NAME!r} is not installed. Run `vertex-local kernel install`."
        ) from None
    if argv[0] != sys.executable:
        raise LocalModeError(
            f"The Jupyter kernel {spec.NAME!r} starts {argv[0]}, not this environment's Python. "
            "Run `vertex-local kernel install`."
        )
    yield f"Jupyter kernel {spec.NAME!r} starts this Python"


def emulator(root: Root) -> Iterator[str]:
    """Check that the server answers; start one for the check if none is running."""
    with daemon.running(root) as record:
        for name, url in (
            ("training API", record.api_url),
            ("Cloud Storage", record.storage_address),
        ):
            if not daemon.proves_itself(url, Key.of(root)):
                raise LocalModeError(
                    f"Local mode's {name} does not answer at {url}, or another program does. Run "
                    f"`vertex-local down`, then try again; {root.log} may say why."
                )
            yield f"local mode's {name} answers at {url.split('/', 3)[2]}"


def gcs(root: Root) -> Iterator[str]:
    """Tell whether jobs and cells have `/gcs`, and if not, how to get it. Never fails."""
    if not root.buckets.is_dir():  # an earlier line says why
        return
    if obstacle := mount.obstacle(root.buckets):
        yield (
            f"no {mount.MOUNT} in cells and jobs ({obstacle}). {mount.FALLBACK} "
            f"To have one for every program: {mount.advice(root.buckets)}."
        )
    else:
        yield f"cells and jobs find the buckets at {mount.MOUNT}"


def _tested_versions() -> dict[str, str]:
    """Return the version of each package that the lesson was tested with, on this Python."""
    versions = {}
    for line in TESTED_VERSIONS.read_text().splitlines() if TESTED_VERSIONS.is_file() else []:
        if line.strip() and not line.startswith("#"):
            pinned = Requirement(line)
            if pinned.marker is None or pinned.marker.evaluate():
                versions[pinned.name] = str(pinned.specifier).removeprefix("==")
    return versions
