"""What a replica's process runs: a Python module, or a container's command without its container.

Local mode has no containers. A container's command can be run all the same if it starts Python or
a shell, as the SDK's own commands do: `python`, `python3`, `pip` and `pip3` are then small
programs in the job's folder, which use the Python that stands for the image.
"""

from __future__ import annotations

import re
import shlex
from pathlib import Path

from google.cloud.aiplatform_v1.types import ContainerSpec, WorkerPoolSpec

from vertex_local.storage import mount

PYTHONS = re.compile(r"(/usr(/local)?/bin/)?python(3(\.\d+)?)?")
SHELLS = re.compile(r"(/(usr/)?bin/)?(ba)?sh")
# `/gcs` as a path of its own, not as a part of another one such as gs://bucket/gcs/file.
MOUNT = re.compile(r"(?<![\w./-])/gcs(?![\w.-])")

PIP_PROGRAM = Path(__file__).parent / "packages" / "pip.py"
PIP = '#!/bin/sh\nexec {python} {pip} {site} "$@"\n'
PYTHON = '#!/bin/sh\nexec {python} "$@"\n'


def obstacle(spec: ContainerSpec) -> str | None:
    """Return why a container's command cannot run without its container, or None if it can."""
    if not spec.command:
        return "container_spec without a command: the program in the image cannot run here"
    if not (PYTHONS.fullmatch(spec.command[0]) or SHELLS.fullmatch(spec.command[0])):
        return f"container_spec.command {spec.command[0]!r}: only Python and sh can run here"
    return None


def argv_of(spec: WorkerPoolSpec, python: str, buckets: Path) -> list[str]:
    """Return the command line of a replica.

    Args:
        spec: the replica's worker pool.
        python: the interpreter that stands for the image.
        buckets: the folder that the replica finds at `/gcs`. If this machine allows no `/gcs`, it
            replaces `/gcs` in the arguments.
    """
    if spec.container_spec:
        line = [*spec.container_spec.command, *spec.container_spec.args]
        if PYTHONS.fullmatch(line[0]):
            line[0] = python
    else:
        package = spec.python_package_spec
        line = [python, "-m", package.python_module, *package.args]
    prefix = mount.prefix(buckets)
    if prefix is None:
        return [MOUNT.sub(lambda _: str(buckets), argument) for argument in line]
    return [*prefix, *line]


def write_programs(folder: Path, python: str, site: Path) -> None:
    """Write `python`, `python3`, `pip` and `pip3` of one job into `folder`.

    Args:
        folder: goes to the front of the job's PATH; created if it is missing.
        python: the interpreter that stands for the image.
        site: where `pip install` puts packages.
    """
    folder.mkdir(exist_ok=True)
    paths = {"python": python, "pip": str(PIP_PROGRAM), "site": str(site)}
    quoted = {name: shlex.quote(path) for name, path in paths.items()}
    for name, text in (("python", PYTHON), ("pip", PIP)):
        for program in (folder / name, folder / f"{name}3"):
            program.write_text(text.format(**quoted))
            program.chmod(0o755)
