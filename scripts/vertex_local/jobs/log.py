"""The logs of a job: the service's own lines, what the replicas print, and why the job failed.

`service.log` in the job's folder holds the lines of the service, each with its time and the part
of the job that it comes from. `job.log` holds what the primary replica prints, `workerpoolN-M.log`
what another replica prints; a file `….times` beside each records how long it was at which time.
"""

from __future__ import annotations

import os
import re
import shlex
import stat
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from vertex_local.config import Root, open_private
from vertex_local.secret import hide

if TYPE_CHECKING:  # it imports the SDK's types, and the kernel must not wait for those
    from google.cloud.aiplatform_v1.types import CustomJob

    from vertex_local.jobs.replica import Replica

SERVICE_LOG = "service.log"
SERVICE, PRIMARY = "service", "workerpool0-0"
STAMP = "%Y-%m-%dT%H:%M:%S.%fZ"
LINE = re.compile(r"(?P<stamp>[\d-]+T[\d:.]+Z) (\[(?P<task>[\w-]+)\] )?(?P<text>.*)")
WARNING = "warning of local mode:"  # marks it as local mode's: Vertex AI says nothing like it
NOTE = "note of local mode:"
EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)
GROWN = re.compile(r"(?P<size>\d{1,19}) (?P<nanoseconds>\d{1,19})")
LOOK_SECONDS = 0.1  # between two looks at how long a log is
TAIL_LINES = 40  # how much of the log a failed job's message may carry …
TAIL_BYTES = 16_384  # … at most

# What Vertex AI says around a job, in this order (seen in logs of real jobs, February 2026).
WAITING = "Waiting for job to be provisioned."
SETTING_UP = (
    "Vertex AI is provisioning job running framework. First time usage might take couple of "
    "minutes, and subsequent runs can be much faster.",
    "Vertex AI is setting up this job.",
    "Waiting for training program to start.",
    "Job is preparing.",
)
RUNNING = "Job is running."
COMPLETED = (
    "Task completed. Exit code (0). Exit reason (SUCCEEDED)",
    "Tearing down training program.",
    "Finished tearing down training program.",
    "Job completed successfully.",
)


@dataclass(frozen=True)
class Line:
    """One line of the service's log.

    Attributes:
        moment: when it was written.
        task: where it comes from: `service`, or the name of a replica.
        text: the line itself.
    """

    moment: datetime
    task: str
    text: str


class ServiceLog:
    """The log of what the service itself says about a job.

    The file stays open, because a script may replace it or delete its folder.

    Attributes:
        path: the file's name.
        file: the open file, for the output of programs that the service runs.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / SERVICE_LOG
        self.file = _open(self.path)

    def __call__(self, *texts: str, task: str = SERVICE) -> None:
        """Write each of `texts` as a line of `task`, with the present time."""
        now = datetime.now(timezone.utc)
        for number, text in enumerate(texts):  # no two with the same time, to keep their order
            stamp = (now + timedelta(microseconds=number)).strftime(STAMP)
            self.file.write(f"{stamp} [{task}] {' '.join(text.splitlines())}\n".encode())

    def close(self) -> None:
        """Close the file; nothing can be written afterwards."""
        self.file.close()


class ReplicaLogs:
    """The files that receive what the replicas of a job print, open as long as the job runs.

    Replicas write into them directly, so a thread watches how they grow.
    """

    def __init__(self, folder: Path, replicas: Sequence[Replica]) -> None:
        paths = {each.name: log_path(folder, each) for each in replicas}
        self._files = {name: _open(path) for name, path in paths.items()}
        self._times = {name: _open(path.with_suffix(".times")) for name, path in paths.items()}
        self._closed = threading.Event()
        self._watcher = threading.Thread(target=self._watch, daemon=True)
        self._watcher.start()

    def of(self, replica: Replica) -> BinaryIO:
        """Return the file of a replica."""
        return self._files[replica.name]

    def close(self) -> None:
        """Close all files."""
        self._closed.set()
        self._watcher.join()
        for file in (*self._files.values(), *self._times.values()):
            file.close()

    def _watch(self) -> None:
        sizes = dict.fromkeys(self._files, 0)
        while not self._closed.wait(LOOK_SECONDS):
            for name, file in self._files.items():
                now = os.fstat(file.fileno())
                if now.st_size != sizes[name]:
                    sizes[name] = now.st_size
                    with suppress(OSError):  # a full disk must not end the watch
                        self._times[name].write(b"%d %d\n" % (now.st_size, now.st_mtime_ns))


def _open(path: Path) -> BinaryIO:
    return os.fdopen(open_private(path, os.O_RDWR | os.O_APPEND), "ab", buffering=0)


def text_of(path: Path) -> str:
    """Return the text of a log without secrets; "" if it is no regular file."""
    text = _read(path)[0].decode(errors="replace")
    return hide(text.replace("\r\n", "\n").replace("\r", "\n"))


def printed_lines(path: Path) -> list[tuple[datetime, str]]:
    """Return the lines of a replica's log, each with the time at which it was written.

    The time is the one of the log's last change when the line was first seen: exact for a script
    that prints now and then, and at most `LOOK_SECONDS` late for one that prints all the time. No
    two lines have the same time, which keeps their order.
    """
    content, changed = _read(path)
    grown = map(GROWN.fullmatch, text_of(path.with_suffix(".times")).splitlines())
    looks = [(int(each["size"]), int(each["nanoseconds"])) for each in grown if each]
    looks.append((len(content), changed))
    found: list[tuple[datetime, str]] = []
    size = look = 0
    moment = EPOCH
    for line in content.splitlines(keepends=True):
        size += len(line)
        while looks[look][0] < size and look + 1 < len(looks):
            look += 1
        seen = EPOCH + timedelta(microseconds=looks[look][1] // 1000)
        moment = max(moment + timedelta(microseconds=1), seen)
        found.append((moment, hide(line.decode(errors="replace").rstrip("\r\n"))))
    return found


def _read(path: Path) -> tuple[bytes, int]:
    """Return a log's content and the time of its last change, in nanoseconds since 1970."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return b"", 0
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode):  # such as a FIFO, in which one can wait
        os.close(descriptor)
        return b"", 0
    with os.fdopen(descriptor, "rb") as file:
        changed = min(max(0, status.st_mtime_ns), time.time_ns())  # a script can set any time
        return file.read(), changed


def service_lines(folder: Path) -> list[Line]:
    """Return what the service said about the job in `folder`."""
    return [
        Line(
            datetime.strptime(match["stamp"], STAMP).replace(tzinfo=timezone.utc),
            match["task"] or SERVICE,
            match["text"],
        )
        for match in map(LINE.fullmatch, text_of(folder / SERVICE_LOG).splitlines())
        if match  # other lines are pip's
    ]


def tensorboard_command(root: Root, job: CustomJob) -> str:
    """Return the command that shows what a job writes into its AIP_TENSORBOARD_LOG_DIR."""
    base = str(job.job_spec.base_output_directory.output_uri_prefix).rstrip("/")
    folder = root.buckets / f"{base}/logs".removeprefix("gs://")
    return f"tensorboard --logdir {shlex.quote(str(folder))}"


def warnings(root: Root, job_id: str) -> list[str]:
    """Return the warnings in a job's service log."""
    return [
        line.text for line in service_lines(root.jobs / job_id) if line.text.startswith(WARNING)
    ]


def log_path(folder: Path, replica: Replica) -> Path:
    """Return the file in a job's folder that receives everything a replica prints."""
    return folder / ("job.log" if replica.rank == 0 else f"{replica.name}.log")


def failure_message(replica: Replica, status: int, log: Path, file: BinaryIO) -> str:
    """Return what Vertex AI writes into a failed job's error, with the log's last lines.

    The first sentence and the last are the service's own (seen on real jobs in February 2026);
    where the service links to Cloud Logging, local mode names the log file.

    Args:
        replica: the one that failed.
        status: its exit status, as a shell would give it.
        log: the name of the file with what it printed.
        file: the same file, open.
    """
    size = os.fstat(file.fileno()).st_size
    tail_bytes = os.pread(file.fileno(), TAIL_BYTES, max(0, size - TAIL_BYTES))
    lines = hide(tail_bytes.decode(errors="replace")).splitlines()
    starts = [i for i, line in enumerate(lines) if line.startswith("Traceback (most recent call")]
    tail = "\n".join(lines[max([*starts[-1:], len(lines) - TAIL_LINES]) :])
    reason = f" Termination reason: Error. \n{tail}\n\n" if tail else " "
    return (
        f"The replica {replica.name} exited with a non-zero status of {status}.{reason}{where(log)}"
    )


def where(log: Path) -> str:
    """Return the sentence that ends a failed job's message."""
    return f"To find out more about why your job exited please check the logs: {log}"
