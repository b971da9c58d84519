"""How jobs end that do not want to: cancelled while they install, deaf to signals, too many."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path

import pytest
from google.cloud import storage
from google.cloud.aiplatform_v1.types import CustomJob, JobState
from test_jobs import IMAGE, alive, make_job, wait_until

from vertex_local.config import LocalModeError, Root
from vertex_local.jobs import command, process_groups
from vertex_local.jobs.runner import Runner
from vertex_local.training.names import ResourceName
from vertex_local.training.records import Records

DEAF = """
import os, signal
signal.signal(signal.SIGTERM, signal.SIG_IGN)
print(os.getpid(), flush=True)
while True:
    signal.pause()
"""
POLITE = DEAF.replace("signal.SIG_IGN", "lambda *_: exit(0)")


@pytest.fixture
def runner(own_root: Root) -> Iterator[Runner]:
    """A runner in this process, so that a test can shorten its patience."""
    own_root.create()
    records = Records(own_root.database)
    made = Runner(own_root, records, lambda uri: b"", lambda _note: nullcontext(""))
    yield made
    made.stop()
    assert records.jobs(active=True) == []
    records.close()


def start(runner: Runner, text: str) -> tuple[CustomJob, int]:
    """Start a job that runs this Python text and prints its process id; return both."""
    container = {"image_uri": IMAGE, "command": ["python3", "-c", text]}
    pool = {"replica_count": 1, "container_spec": container}
    name = str(ResourceName("us-central1", "customJobs", "1"))
    job = CustomJob(name=name, job_spec={"worker_pool_specs": [pool]})
    runner._records.add(job)
    runner.start(job)
    log = runner.root.jobs / "1" / "job.log"
    wait_until(lambda: log.exists() and log.read_text().strip(), "the script's process id")
    return job, int(log.read_text())


@pytest.mark.parametrize(("text", "grace"), [(DEAF, 0.1), (POLITE, 3600.0)], ids=["deaf", "polite"])
def test_a_cancelled_job_gets_sigterm_and_later_sigkill(
    runner: Runner, monkeypatch: pytest.MonkeyPatch, text: str, grace: float
) -> None:
    monkeypatch.setattr(process_groups, "TERM_GRACE_SECONDS", grace)
    job, pid = start(runner, text)
    runner.cancel(job.name)

    def state() -> JobState:
        found = runner._records.get(job.name)
        assert isinstance(found, CustomJob)
        return found.state

    wait_until(lambda: state() == JobState.JOB_STATE_CANCELLED, "the end of the job")
    assert not alive(pid)


def test_a_cancel_ends_an_installation(bucket: storage.Bucket, root: Root, tmp_path: Path) -> None:
    python, sign = tmp_path / "python", tmp_path / "pid"
    python.write_text(f"#!/bin/sh\necho $$ >{sign}.new; mv {sign}.new {sign}; sleep 3600\n")
    python.chmod(0o755)
    root.images.write_text(json.dumps({"example.org/slow:*": str(python)}))
    try:
        job = make_job(tmp_path / "script.py", bucket, "pass\n", requirements=["some-package"])
        job._container_uri = "example.org/slow:1"
        job.run(machine_type="n1-standard-4", replica_count=1, sync=False)
        wait_until(sign.exists, "the beginning of the installation")
        job.wait_for_resource_creation()
        job.cancel()
        wait_until(lambda: job.state.name == "PIPELINE_STATE_CANCELLED", "the end of the job")
        assert not alive(int(sign.read_text()))
    finally:
        root.images.unlink()


def test_programs_of_a_job_are_found_in_any_folder(tmp_path: Path) -> None:
    folder = tmp_path / """it's a root, 根, mit Räumen, "b" $HOME `c`"""
    folder.mkdir()
    command.write_programs(folder / "bin", sys.executable, folder / "site")
    source = folder / "x"
    source.mkdir()
    (source / "setup.py").write_text("from setuptools import setup\nsetup(py_modules=['one'])\n")
    (source / "one.py").write_text("print('ran')\n")
    pip = [str(folder / "bin" / "pip"), "install", "--user", str(source)]
    subprocess.run(pip, check=True, capture_output=True, timeout=120)
    shown = subprocess.run(
        [str(folder / "bin" / "python"), "-m", "one"],
        env=os.environ | {"PYTHONPATH": str(folder / "site")},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert shown.stdout == "ran\n"


@pytest.mark.parametrize("name", ["a:b", "a\nb"])
def test_a_root_that_separates_lists_is_refused_at_once(tmp_path: Path, name: str) -> None:
    with pytest.raises(LocalModeError, match="Set VERTEX_LOCAL_ROOT"):
        Root(tmp_path / name).create()
    assert not (tmp_path / name).exists()
