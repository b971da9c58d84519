"""The logs of a job: the service's own lines, what the replicas print, and why the job failed.

`service.log` in the job's folder holds the service's lines, with the time and the part of the job
that says them; `job.log` holds what the primary replica prints, `workerpoolN-M.log` what another
one prints.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import TYPE_CHECKING

from vertex_local.config import Root
from vertex_local.secret import hide

if TYPE_CHECKING:  # it imports the SDK's types, and the kernel must not wait for those
    from vertex_local.jobs.replica import Replica

SERVICE_LOG = "service.log"
SERVICE, PRIMARY = "service", "workerpool0-0"
STAMP = "%Y-%m-%dT%H:%M:%S.%fZ"
LINE = re.compile(r"(?P<stamp>[\d-]+T[\d:.]+Z) (\[(?P<task>[\w-]+)\] )?(?P<text>.*)")
WARNING = "warning of local mode:"  # marks it as local mode's: Vertex AI says nothing like it
NOTE = "note of local mode:"
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
        moment: when it was said.
        task: who said it: `service`, or the name of a replica.
        text: what was said.
    """

    moment: datetime
    task: str
    text: str


class ServiceLog:
    """What the service itself says about a job, beside what the script prints."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / SERVICE_LOG

    def __call__(self, *texts: str, task: str = SERVICE) -> None:
        """Write each of `texts` as a line, said by `task` now."""
        now = datetime.now(timezone.utc)
        with open(self.path, "a") as file:
            for number, text in enumerate(texts):  # different times keep them in order
                stamp = (now + timedelta(microseconds=number)).strftime(STAMP)
                file.write(f"{stamp} [{task}] {' '.join(text.splitlines())}\n")


def said(folder: Path) -> list[Line]:
    """Return what the service said about the job in `folder`."""
    log = folder / SERVICE_LOG
    text = log.read_text(errors="replace") if log.is_file() else ""
    return [
        Line(
            datetime.strptime(match["stamp"], STAMP).replace(tzinfo=timezone.utc),
            match["task"] or SERVICE,
            match["text"],
        )
        for match in map(LINE.fullmatch, text.splitlines())
        if match  # other lines are pip's
    ]


def warnings(root: Root, job_id: str) -> list[str]:
    """Return the warnings in a job's service log."""
    return [line.text for line in said(root.jobs / job_id) if line.text.startswith(WARNING)]


def log_path(folder: Path, replica: Replica) -> Path:
    """Return the file in a job's folder that receives everything a replica prints."""
    return folder / ("job.log" if replica.rank == 0 else f"{replica.name}.log")


def failure_message(replica: Replica, status: int, log: Path) -> str:
    """Return what Vertex AI writes into a failed job's error, with the log's last lines.

    The first sentence and the last are the service's own (seen on real jobs in February 2026);
    where the service links to Cloud Logging, local mode names the log file.

    Args:
        replica: the one that failed.
        status: its exit status, as a shell would give it.
        log: what it printed.
    """
    with open(log, "rb") as file:
        file.seek(max(0, log.stat().st_size - TAIL_BYTES))
        lines = hide(file.read().decode(errors="replace")).splitlines()
    starts = [i for i, line in enumerate(lines) if line.startswith("Traceback (most recent call")]
    tail = "\n".join(lines[max([*starts[-1:], len(lines) - TAIL_LINES]) :])
    reason = f" Termination reason: Error. \n{tail}\n\n" if tail else " "
    return (
        f"The replica {replica.name} exited with a non-zero status of {status}.{reason}{where(log)}"
    )


def where(log: Path) -> str:
    """Return the sentence that ends a failed job's message."""
    return f"To find out more about why your job exited please check the logs: {log}"
