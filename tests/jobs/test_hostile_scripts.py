"""Scripts that leave their process group, or take away what the service uses of their job."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import pytest
from google.cloud import storage
from google.cloud.aiplatform_v1.types import JobState
from test_jobs import alive, submit, wait_until

from vertex_local.config import Root, ServerRecord
from vertex_local.jobs import log
from vertex_local.server import daemon

NEEDS_LINUX = pytest.mark.skipif(
    not sys.platform.startswith("linux"), reason="only Linux tells which job a process is from"
)
# Ends at once, and leaves a process that has another group, session and parent. It is a sleep with
# the environment ENV, whose number is in the file PID.
DAEMON = """
import os, time
if not os.fork():
    os.setsid()
    if os.fork():
        os._exit(0)
    with open(PID + ".new", "w") as file:
        file.write(str(os.getpid()))
    os.rename(PID + ".new", PID)
    os.execvpe("sleep", ["sleep", "600"], ENV)
while not os.path.exists(PID):
    time.sleep(0.01)
"""


def daemonize(pid: Path, environment: str) -> str:
    return f"PID = {str(pid)!r}\nENV = {environment}\n{DAEMON}"


@NEEDS_LINUX
@pytest.mark.parametrize("environment", ["dict(__import__('os').environ)", "{}"])
def test_nothing_of_a_job_outlives_it(
    bucket: storage.Bucket, tmp_path: Path, environment: str
) -> None:
    pid = tmp_path / "pid"
    job = submit(bucket, daemonize(pid, environment))
    job.wait_for_completion()
    assert job.state == JobState.JOB_STATE_SUCCEEDED
    assert not alive(int(pid.read_text()))


@NEEDS_LINUX
def test_another_job_is_left_alone(bucket: storage.Bucket, tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    wait = "\nimport signal; signal.pause()"
    other = submit(bucket, daemonize(second, "dict(__import__('os').environ)") + wait)
    wait_until(second.exists, "the other job")
    submit(bucket, daemonize(first, "dict(__import__('os').environ)")).wait_for_completion()
    wait_until(lambda: not alive(int(first.read_text())), "the end of what the job left")
    assert alive(int(second.read_text()))
    other.cancel()
    wait_until(lambda: not alive(int(second.read_text())), "the end of the cancelled job")


@NEEDS_LINUX
def test_nor_does_it_outlive_a_killed_server(own_server: ServerRecord, tmp_path: Path) -> None:
    pid = tmp_path / "pid"
    bucket = storage.Client().create_bucket("killed-server")
    submit(bucket, daemonize(pid, "dict(__import__('os').environ)") + "\ntime.sleep(600)")
    wait_until(pid.exists, "the process")
    os.kill(own_server.pid, signal.SIGKILL)
    daemon._started[-1].wait()
    wait_until(lambda: not alive(int(pid.read_text())), "the end of what the job started")


FOLDER = "import os, pathlib, shutil\nfolder = pathlib.Path.cwd().parents[1]\n"
LOGS = ("job.log", "service.log")
FIFO = "(folder / name).unlink(); os.mkfifo(folder / name)"
AS_FOLDER = "(folder / name).unlink(); (folder / name).mkdir()"
AS_LINK = "(folder / name).unlink(); (folder / name).symlink_to('/etc/passwd')"
GONE = "shutil.rmtree(folder)"


@pytest.mark.parametrize(
    "attack", [FIFO, AS_FOLDER, AS_LINK, GONE], ids="fifo dir link gone".split()
)
@pytest.mark.parametrize("ending", ["", "raise SystemExit('the last words')"], ids=["good", "bad"])
def test_a_script_may_do_with_its_folder_what_it_likes(
    bucket: storage.Bucket, root: Root, attack: str, ending: str
) -> None:
    repeat = f"for name in {LOGS}:\n    " if attack != GONE else ""
    job = submit(bucket, f"{FOLDER}{repeat}{attack}\n{ending}\n")
    if ending:
        with pytest.raises(RuntimeError):
            job.wait_for_completion()
        assert "exited with a non-zero status of 1" in job.error.message
        assert "the last words" in job.error.message
        assert "root:" not in job.error.message
    else:
        job.wait_for_completion()
    folder = root.jobs / job.name
    assert log.service_lines(folder) == [] and log.text_of(folder / "job.log") == ""
    submit(bucket, "print('the next one')\n").wait_for_completion()  # nothing is blocked


def test_a_crash_in_a_folder_that_is_gone_has_a_reason(bucket: storage.Bucket) -> None:
    crash = f"{FOLDER}shutil.rmtree(folder / 'work')\n(folder / 'work').touch()\nos.abort()\n"
    job = submit(bucket, crash)
    with pytest.raises(RuntimeError):
        job.wait_for_completion()
    assert "has changed the folder of its own job" in job.error.message
