"""Training packages: unpacks the source distributions into which the SDK packs a script."""

from __future__ import annotations

import io
import tarfile
from importlib import metadata
from pathlib import Path, PurePosixPath

from packaging.requirements import InvalidRequirement, Requirement


class BadPackage(Exception):
    """The package cannot be used; the message says why, for the job's owner."""


def unpack(data: bytes, folder: Path) -> Path:
    """Unpack a source distribution and return the folder to put on the job's module path.

    Args:
        data: the bytes of a `.tar.gz` made by `setup.py sdist`.
        folder: where to unpack; created if it is missing, and never left by any file.

    Raises:
        BadPackage: if `data` is no such archive, or holds links, special files or paths that lead
            out of `folder`.
    """
    try:
        with tarfile.open(fileobj=io.BytesIO(data), mode="r:gz") as archive:
            members = archive.getmembers()
            for member in members:
                _check(member)
            folder.mkdir(parents=True)
            for member in members:
                _extract(archive, member, folder)
    except (tarfile.TarError, EOFError, OSError) as err:
        raise BadPackage(f"The training package is not a readable .tar.gz archive: {err}") from err
    projects = sorted(path.parent for path in folder.glob("*/setup.py"))
    if len(projects) != 1:
        raise BadPackage("The training package is not a source distribution: no setup.py in it.")
    return projects[0]


def _check(member: tarfile.TarInfo) -> None:
    path = PurePosixPath(member.name)
    if path.is_absolute() or ".." in path.parts or not (member.isfile() or member.isdir()):
        raise BadPackage(
            f"The training package holds {member.name!r}, which is a link, a special file or a "
            "path outside of the package. Local mode unpacks plain files only."
        )


def _extract(archive: tarfile.TarFile, member: tarfile.TarInfo, folder: Path) -> None:
    target = folder / member.name
    if member.isdir():
        target.mkdir(parents=True, exist_ok=True)
        return
    content = archive.extractfile(member)
    assert content is not None  # _check let regular files through only
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(content.read())


def requirements(project: Path) -> list[str]:
    """Return what an unpacked package requires, as pip writes it; optional extras left out."""
    required = []
    for file in project.glob("*.egg-info/requires.txt"):
        for line in file.read_text().splitlines():
            if line.startswith("["):  # an optional extra begins
                break
            if line.strip():
                required.append(line.strip())
    return required


def is_installed(text: str) -> bool:
    """Return whether this environment fulfils a requirement."""
    try:
        requirement = Requirement(text)
        if requirement.marker and not requirement.marker.evaluate():
            return True
        if requirement.url:
            return False
        return requirement.specifier.contains(metadata.version(requirement.name), prereleases=True)
    except (InvalidRequirement, metadata.PackageNotFoundError):
        return False
