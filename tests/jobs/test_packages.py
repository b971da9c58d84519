"""Training packages as they come: good ones of several kinds, broken ones, and attacks."""

from __future__ import annotations

import gzip
import io
import itertools
import os
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest
from google.cloud import aiplatform, storage
from google.cloud.aiplatform.utils.source_utils import _TrainingScriptPythonPackager
from google.cloud.aiplatform_v1.types import JobState
from test_jobs import IMAGE, wait_until

from vertex_local.config import Root
from vertex_local.jobs import command
from vertex_local.jobs.packages import package, pip_settings
from vertex_local.jobs.packages.package import BadPackage

SETUP = "from setuptools import setup\nsetup(name='x', version='1', {})\n"
_numbers = itertools.count()
INFO = "Metadata-Version: 2.1\nName: x\nVersion: 1\n"


def archive(files: dict[str, str], *odd: tarfile.TarInfo) -> bytes:
    """Return a `.tar.gz` with these files, and then the odd members."""
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w:gz") as made:
        for name, text in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(text)
            made.addfile(member, io.BytesIO(text.encode()))
        for member in odd:
            made.addfile(member)
    return content.getvalue()


def odd(name: str, kind: bytes, target: str = "") -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.type, member.linkname = kind, target
    return member


def claims_too_much() -> bytes:
    member = tarfile.TarInfo("x-1/data")
    member.size = 1 << 40
    return gzip.compress(member.tobuf(tarfile.GNU_FORMAT))


def wheel() -> bytes:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as made:
        made.writestr("trainer/task.py", "pass")
    return content.getvalue()


def submit(bucket: storage.Bucket, data: bytes) -> aiplatform.CustomJob:
    """Start a job whose package is `data`; do not wait for it."""
    blob = bucket.blob(f"{next(_numbers)}/package.tar.gz")
    blob.upload_from_string(data)
    pool = {
        "machine_spec": {"machine_type": "n1-standard-4"},
        "replica_count": 1,
        "python_package_spec": {
            "executor_image_uri": IMAGE,
            "package_uris": [f"gs://{bucket.name}/{blob.name}"],
            "python_module": "trainer.task",
        },
    }
    job = aiplatform.CustomJob("a package", [pool], staging_bucket=f"gs://{bucket.name}")
    job.submit()
    return job


def archive_of_sdk(script: str) -> bytes:
    """Return a package as the SDK packs it, with `trainer.task`: pip need not install it."""
    settings = {"name": "aiplatform_custom_trainer_script", "version": "0.1", "requirements": ""}
    setup = _TrainingScriptPythonPackager._SETUP_PY_TEMPLATE.format(**settings)
    return archive({"x-1/setup.py": setup, "x-1/trainer/task.py": script})


GOOD = {"x-1/setup.py": SETUP.format("packages=['trainer']"), "x-1/trainer/task.py": "print('ran')"}
ESCAPED = "escaped-from-its-package"


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (archive(GOOD, odd("x-1/link", tarfile.SYMTYPE, "/etc")), "holds 'x-1/link'"),
        (archive(GOOD, odd("x-1/hard", tarfile.LNKTYPE, "x-1/setup.py")), "holds 'x-1/hard'"),
        (archive(GOOD, odd("x-1/device", tarfile.CHRTYPE)), "holds 'x-1/device'"),
        (archive(GOOD, odd("x-1/pipe", tarfile.FIFOTYPE)), "holds 'x-1/pipe'"),
        (archive({**GOOD, f"../{ESCAPED}": "x"}), f"holds '../{ESCAPED}'"),
        (archive({**GOOD, f"x-1/../../../../{ESCAPED}": "x"}), "path outside of the package"),
        (archive({**GOOD, f"/tmp/{ESCAPED}": "x"}), f"holds '/tmp/{ESCAPED}'"),
        (claims_too_much(), "larger than 500 MB"),
        (archive(GOOD)[:-30], "not a readable source distribution"),
        (gzip.compress(b"no archive"), "not a readable source distribution"),
        (wheel(), "not a readable source distribution"),
        (b"", "not a readable source distribution"),
        (archive({"trainer/task.py": "pass"}), "must hold one folder, with the setup.py"),
        (archive({**GOOD, "y-1/setup.py": ""}), "must hold one folder"),
        (archive({**GOOD, "x-1/setup.py/x": ""}), "not a readable source distribution"),
    ],
    ids=range(15),
)
def test_a_package_that_cannot_be_used_fails_its_job_in_a_sentence(
    bucket: storage.Bucket, root: Root, data: bytes, words: str
) -> None:
    job = submit(bucket, data)
    wait_until(lambda: job.state == JobState.JOB_STATE_FAILED, "the end of the job")
    assert words in job.error.message and job.error.code == 3
    assert "Traceback" not in job.error.message
    folder = root.jobs / job.name.rpartition("/")[2]
    assert not list(folder.rglob("job.log"))  # nothing ran
    for place in (Path("/tmp"), root.path, *folder.parents):
        assert not (place / ESCAPED).exists()
    assert words in (folder / "service.log").read_text()  # so that `stream-logs` shows it


def test_an_attack_writes_nothing_at_all(tmp_path: Path) -> None:
    data = archive(GOOD, odd("x-1/link", tarfile.SYMTYPE, "/etc"))
    with pytest.raises(BadPackage):
        package.unpack(data, tmp_path / "package")
    assert list(tmp_path.iterdir()) == []


def test_a_few_bytes_that_stand_for_many_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    zeros = archive({"x-1/setup.py": "", "x-1/zeros": "\0" * 3_000_000})
    assert len(zeros) < 10_000
    package.unpack(zeros, tmp_path / "unpacked")
    monkeypatch.setattr(package, "MAX_BYTES", 2_900_000)
    with pytest.raises(BadPackage, match=r"larger than 2\.9 MB"):
        package.unpack(zeros, tmp_path / "refused")
    many = archive({f"x-1/{number}": "\0" * 100_000 for number in range(30)})
    with pytest.raises(BadPackage, match=r"larger than 2\.9 MB"):
        package.unpack(many, tmp_path / "refused")


def test_packages_of_several_layouts_run(bucket: storage.Bucket, root: Root) -> None:
    source = {
        "x-1/setup.py": SETUP.format("packages=['trainer'], package_dir={'': 'src'}"),
        "x-1/src/trainer/__init__.py": "",
        "x-1/src/trainer/task.py": "print('ran')",
    }
    described = {"x-1/PKG-INFO": INFO + "Requires-Dist: numpy\nRequires-Dist: no; extra == 'a'\n"}
    assert outputs(bucket, root, source, described | GOOD) == ["ran\n"] * 2


def outputs(bucket: storage.Bucket, root: Root, *packages: dict[str, str]) -> list[str]:
    """Run packages side by side; return what the module of each printed."""
    jobs = [submit(bucket, archive(files)) for files in packages]
    for job in jobs:
        job.wait_for_completion()
    return [(root.jobs / job.name.rpartition("/")[2] / "job.log").read_text() for job in jobs]


FLAT = {
    "setup.py": SETUP.format(
        "packages=['trainer'], package_dir={'trainer': 'code/here'}, "
        "entry_points={'console_scripts': ['say-hello=trainer.task:hello']}, "
        "install_requires=['requests', \"absent-package; python_version < '3'\"]"
    ),
    "code/here/__init__.py": "",
    "code/here/task.py": (
        "import subprocess, sys\nfrom importlib.metadata import version\n"
        "def hello(): print('hello')\n"
        "if __name__ == '__main__':\n"
        "    print(version('x'), flush=True)\n    subprocess.run(['say-hello'], check=True)\n"
    ),
}


def test_packages_that_somebody_packed_are_installed_as_pip_does(
    bucket: storage.Bucket, root: Root
) -> None:
    described = '[project]\nname = "x"\nversion = "2"\n[build-system]\nrequires = ["setuptools"]\n'
    described += 'build-backend = "setuptools.build_meta"\n'
    modern = {"x/pyproject.toml": described, "x/trainer/task.py": "print('ran')"}
    assert outputs(bucket, root, FLAT, modern) == ["1\nhello\n", "ran\n"]


def test_what_a_package_requires_is_installed_or_the_job_fails(bucket: storage.Bucket) -> None:
    setup = SETUP.format("packages=['trainer'], install_requires=['requests>=1000']")
    with pytest.raises(RuntimeError, match=r"package\.tar\.gz.*could not be installed"):
        submit(bucket, archive({**GOOD, "x-1/setup.py": setup})).wait_for_completion()


def test_markers_and_extras_of_requirements_count(tmp_path: Path) -> None:
    listed = tmp_path / "x.egg-info" / "requires.txt"
    listed.parent.mkdir()
    listed.write_text('numpy\n\n[:python_version < "3"]\nold\n\n[:python_version >= "3"]\nnew\n')
    required = package.requirements(tmp_path)
    assert required == ["numpy", 'old; python_version < "3"', 'new; python_version >= "3"']
    assert [package.is_installed(text) for text in required] == [True, True, False]
    assert package.is_installed("fsspec") and package.is_installed("jsonschema[format-nongpl]")
    assert not package.is_installed("fsspec[ssh]")  # paramiko is not here


def test_no_setting_of_pip_reaches_an_installation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    elsewhere = str(tmp_path / "elsewhere")
    wrong = {"user": "true", "target": elsewhere, "require-virtualenv": "true"}
    wrong["only-binary"] = ":all:"
    lines = "".join(f"{name} = {value}\n" for name, value in wrong.items())
    settings = tmp_path / "pip.conf"
    settings.write_text(f"[install]\n{lines}[global]\ntimeout = 7\n")
    monkeypatch.setenv("PIP_CONFIG_FILE", str(settings))
    for name, value in wrong.items():
        monkeypatch.setenv(f"PIP_{name.upper().replace('-', '_')}", value)
    kept = pip_settings.environment(sys.executable, os.environ)
    assert kept["PIP_CONFIG_FILE"] == os.devnull and kept["PIP_TIMEOUT"] == "7"
    assert not kept.keys() & {"PIP_USER", "PIP_TARGET", "PIP_REQUIRE_VIRTUALENV", "PIP_ONLY_BINARY"}
    source = tmp_path / "x"
    source.mkdir()
    (source / "setup.py").write_text(SETUP.format("py_modules=['one']"))
    (source / "one.py").write_text("")
    pip = [sys.executable, str(command.PIP_PROGRAM), str(tmp_path / "site")]
    subprocess.run([*pip, "install", "--user", str(source)], check=True, timeout=120)
    assert (tmp_path / "site" / "one.py").is_file()
    assert not Path(elsewhere).exists()


def test_a_package_of_very_many_files_is_refused_before_it_is_unpacked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(package, "MAX_FILES", 3)
    files = {f"x-1/{number}": "" for number in range(3)}
    with pytest.raises(BadPackage, match="more than 3 files and folders"):
        package.unpack(archive({"x-1/setup.py": SETUP, **files}), tmp_path / "new")
    assert not (tmp_path / "new").exists()
    package.unpack(archive({"x-1/setup.py": SETUP, "x-1/1": ""}), tmp_path / "few")
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as made:
        for name in files:
            made.writestr(name, "")
    package.check_wheel(content.getvalue())
    monkeypatch.setattr(package, "MAX_FILES", 2)
    with pytest.raises(BadPackage, match="more than 2 files and folders"):
        package.check_wheel(content.getvalue())


def test_requirements_that_are_no_text_have_a_sentence(tmp_path: Path) -> None:
    listed = tmp_path / "x.egg-info" / "requires.txt"
    listed.parent.mkdir()
    listed.write_bytes(b"numpy\n\xff\xfe\n")
    with pytest.raises(BadPackage, match="cannot be read as UTF-8 text"):
        package.requirements(tmp_path)
    listed.write_bytes("numpy\n# ä\n".encode())
    assert package.requirements(tmp_path)[0] == "numpy"
