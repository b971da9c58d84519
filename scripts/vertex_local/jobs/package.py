"""Training packages: unpacks the source distributions into which the SDK packs a script."""

from __future__ import annotations

import gzip
import io
import shutil
import tarfile
import zlib
from email import message_from_bytes
from importlib import metadata
from pathlib import Path, PurePosixPath

from packaging.requirements import InvalidRequirement, Requirement

MAX_BYTES = 500_000_000  # of everything in a package
PIECE = 1 << 20  # how much is unpacked at once


class BadPackage(Exception):
    """The package cannot be used; the message says why, for the job's owner."""


def unpack(data: bytes, folder: Path) -> Path:
    """Unpack a source distribution and return the folder of its project.

    Nothing is written unless everything in it can be.

    Args:
        data: the bytes of a `.tar.gz` made by `setup.py sdist`.
        folder: where to unpack; created, and never left by any file.

    Raises:
        BadPackage: if `data` is no such archive, is larger than `MAX_BYTES` when unpacked, or holds
            links, special files or paths that lead out of `folder`.
    """
    try:
        with _archive(data) as archive:
            for member in archive:
                _check(member)
        folder.mkdir(parents=True)
        with _archive(data) as archive:
            for member in archive:
                _extract(archive, member, folder)
    except (tarfile.TarError, zlib.error, EOFError, OSError, ValueError) as err:
        raise BadPackage(
            f"The training package is not a readable source distribution (.tar.gz): {err}"
        ) from err
    projects = [path for path in folder.iterdir() if (path / "PKG-INFO").is_file()]
    projects = projects or sorted(path.parent for path in folder.glob("*/setup.py"))
    if len(projects) != 1:
        raise BadPackage(
            "The training package is not a source distribution: it must hold one folder, with the "
            "setup.py of the project in it."
        )
    return projects[0]


class _Limited(io.RawIOBase):
    """The bytes of a gzip file, up to a limit: a few bytes can stand for any number of them."""

    def __init__(self, data: bytes) -> None:
        self._file = gzip.GzipFile(fileobj=io.BytesIO(data))
        self._left = MAX_BYTES

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        content = self._file.read(min(size, PIECE) if size >= 0 else PIECE)
        self._left -= len(content)
        if self._left < 0:
            raise _too_large()
        return content


def _archive(data: bytes) -> tarfile.TarFile:
    return tarfile.open(fileobj=_Limited(data), mode="r|")


def _too_large() -> BadPackage:
    return BadPackage(
        f"The training package is larger than {MAX_BYTES / 1e6:g} MB when it is unpacked. Leave "
        "data in a bucket, and let the script read them there."
    )


def _check(member: tarfile.TarInfo) -> None:
    if member.size > MAX_BYTES:  # says so, but need not hold so much
        raise _too_large()
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
    with open(target, "wb") as file:
        shutil.copyfileobj(content, file)


def requirements(project: Path) -> list[str]:
    """Return what an unpacked package requires, as pip writes it; optional extras left out."""
    lists = sorted(project.rglob("*.egg-info/requires.txt"))
    required = []
    for file in lists:
        for line in file.read_text().splitlines():
            if line.startswith("["):  # an optional extra begins
                break
            if line.strip():
                required.append(line.strip())
    description = project / "PKG-INFO"
    if not lists and description.is_file():  # made by another tool than setuptools
        found = message_from_bytes(description.read_bytes()).get_all("Requires-Dist", [])
        required = [text for text in found if "extra ==" not in text]
    return required


def roots(project: Path) -> list[Path]:
    """Return the folders of an unpacked package in which its modules lie."""
    return [folder for folder in (project, project / "src") if folder.is_dir()]


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
