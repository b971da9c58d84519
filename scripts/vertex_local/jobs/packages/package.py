"""Training packages: unpacks source distributions, and recognises those that the SDK made.

A package of the SDK needs no installation: its modules are found where they were unpacked. pip
installs every other package, because only its own `setup.py` knows how.
"""

from __future__ import annotations

import gzip
import io
import re
import shutil
import tarfile
import zipfile
import zlib
from importlib import metadata
from pathlib import Path, PurePosixPath

from packaging.requirements import InvalidRequirement, Requirement

MAX_BYTES = 500_000_000  # of all files in a package
MAX_FILES = 20_000  # files and folders; a hundred thousand take a minute
PIECE = 1 << 20  # bytes that are unpacked at once
# The SDK's setup.py; source: `_SETUP_PY_TEMPLATE` in google.cloud.aiplatform.utils.source_utils.
SDK_SETUP = re.compile(
    r"from setuptools import find_packages\nfrom setuptools import setup\n\nsetup\(\n"
    r"    name='aiplatform_custom_trainer_script',\n    version='[\d.]+',\n"
    r"    packages=find_packages\(\),\n    install_requires=\(.*\),\n"
    r"    include_package_data=True,\n    description='My training application.'\n\)\s*"
)


class BadPackage(Exception):
    """The package cannot be used; the message says why, for the job's owner."""


def unpack(data: bytes, folder: Path) -> Path:
    """Unpack a source distribution and return the folder of its project.

    All files are checked first, so that nothing is written of a bad package.

    Args:
        data: the bytes of a `.tar.gz` made by `setup.py sdist`.
        folder: where to unpack; it must not exist. No file is written outside of it.

    Raises:
        BadPackage: if `data` is no such archive, is larger than `MAX_BYTES` when unpacked, holds
            more than `MAX_FILES` files, or links, special files or paths that lead out of `folder`.
    """
    try:
        with _archive(data) as archive:
            for number, member in enumerate(archive, start=1):
                _check(member, number)
        folder.mkdir(parents=True)
        with _archive(data) as archive:
            for member in archive:
                _extract(archive, member, folder)
    except (tarfile.TarError, zlib.error, EOFError, OSError, ValueError) as err:
        raise BadPackage(
            f"The training package is not a readable source distribution (.tar.gz): {err}"
        ) from err
    folders = sorted(path for path in folder.iterdir() if path.is_dir())
    projects = [path for path in (folder, *folders) if _is_project(path)]
    if len(projects) != 1:
        raise BadPackage(
            "The training package is not a source distribution: it must hold one folder, with the "
            "setup.py of the project in it."
        )
    return projects[0]


def _is_project(folder: Path) -> bool:
    return any((folder / name).is_file() for name in ("setup.py", "pyproject.toml"))


class _Limited(io.RawIOBase):
    """Unpacks a gzip file up to a limit: a small file can unpack to any size."""

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


def check_wheel(data: bytes) -> None:
    """Check that a wheel has few enough files for pip to unpack it in reasonable time.

    Raises:
        BadPackage: if it is no zip file, or holds more than `MAX_FILES` files.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as wheel:
            _check_number(len(wheel.infolist()))
    except zipfile.BadZipFile as err:
        raise BadPackage(f"The training package is not a readable wheel (.whl): {err}") from err


def _check_number(number: int) -> None:
    if number > MAX_FILES:
        raise BadPackage(
            f"The training package holds more than {MAX_FILES:,} files and folders. Leave data in "
            "a bucket, and let the script read them there."
        )


def _check(member: tarfile.TarInfo, number: int) -> None:
    _check_number(number)
    if member.size > MAX_BYTES:  # by its header; `_Limited` counts what really follows
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
    assert content is not None  # _check lets only regular files through
    target.parent.mkdir(parents=True, exist_ok=True)
    with open(target, "wb") as file:
        shutil.copyfileobj(content, file)


def is_from_sdk(project: Path) -> bool:
    """Return whether the SDK made this package of a script, and nobody has changed it."""
    setup = project / "setup.py"
    return setup.is_file() and SDK_SETUP.fullmatch(setup.read_text(errors="replace")) is not None


def requirements(project: Path) -> list[str]:
    """Return the requirements of a package that the SDK made, each with its marker.

    Raises:
        BadPackage: if its list cannot be read.
    """
    required = []
    marker = ""
    for file in project.glob("*.egg-info/requires.txt"):
        try:
            text = file.read_text(encoding="utf-8")
        except (UnicodeDecodeError, OSError) as err:
            raise BadPackage(
                f"The training package's list of requirements, {file.relative_to(project)}, cannot "
                f"be read as UTF-8 text ({err})."
            ) from err
        for line in filter(None, map(str.strip, text.splitlines())):
            if line.startswith("["):  # `[:MARKER]`: the SDK's packages have no optional extras
                marker = f"; {line.strip('[]').partition(':')[2]}"
            else:
                required.append(line + marker)
    return required


def is_installed(text: str) -> bool:
    """Return whether this environment fulfils a requirement, including its extras."""
    try:
        requirement = Requirement(text)
        if requirement.marker and not requirement.marker.evaluate():
            return True
        if requirement.url:
            return False
        version = metadata.version(requirement.name)
        return requirement.specifier.contains(version, prereleases=True) and all(
            is_installed(needed)
            for extra in requirement.extras
            for needed in _needed_by_extra(requirement.name, extra)
        )
    except (InvalidRequirement, metadata.PackageNotFoundError):
        return False


def _needed_by_extra(name: str, extra: str) -> list[str]:
    found = [Requirement(text) for text in metadata.requires(name) or []]
    return [
        str(each).partition(";")[0]
        for each in found
        if each.marker and each.marker.evaluate({"extra": extra})
    ]
