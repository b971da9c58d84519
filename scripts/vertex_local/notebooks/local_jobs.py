"""The jobs of local mode that a notebook starts: whether each ended well, and how long it took."""

from __future__ import annotations

import fnmatch
import time
from datetime import datetime
from pathlib import Path
from typing import Any

from vertex_local.config import Root
from vertex_local.jobs import starter

POLL_SECONDS = 0.2


class LocalJobs:
    """The jobs that a kernel has started since this object was made.

    Jobs that no kernel started count as well: a cell may have started them indirectly.
    """

    def __init__(self, root: Root, kernel: str) -> None:
        """Remember which jobs there are already.

        Args:
            root: local mode's root, which need not exist yet.
            kernel: the name of the kernel, see `jobs.starter`.
        """
        self._root = root
        self._kernel = kernel
        self._known = {job.name for job in jobs(root)}
        self._settled: set[str] = set()

    def settle(self) -> None:
        """Consider all jobs that have failed so far as reported: a cell failed because of them."""
        self._settled |= {job.name for job in self.failed()}

    def failed(self) -> list[Any]:
        """Return all jobs that failed."""
        return [job for job in self._new() if job.state.name == "JOB_STATE_FAILED"]

    def unaccounted(self) -> list[Any]:
        """Return the failed jobs that did not make a cell fail."""
        return [job for job in self.failed() if job.name not in self._settled]

    def wait(self, seconds: float) -> list[Any]:
        """Wait until no job is active, at most `seconds`; return those that still are."""
        deadline = time.monotonic() + seconds
        while (active := self._active()) and time.monotonic() < deadline:
            time.sleep(POLL_SECONDS)
        return active

    def failed_logs(self, since: datetime) -> list[str]:
        """Return the logs of the jobs that failed since a time: a line with the path, then text.

        Args:
            since: a time with a time zone.
        """
        failed = [job for job in self.failed() if job.end_time >= since]
        return [log for job in failed if (log := log_of(self._root, job))]

    def seconds(self, since: datetime) -> float:
        """Return how many seconds the jobs ran that started since a time.

        Args:
            since: a time with a time zone.
        """
        ran = [job for job in self._new() if job.start_time and job.end_time]
        times = [job.end_time - job.start_time for job in ran if job.start_time >= since]
        return float(sum(each.total_seconds() for each in times))

    def _active(self) -> list[Any]:
        from vertex_local.training.states import is_final

        return [job for job in self._new() if not is_final(job.state)]

    def _new(self) -> list[Any]:
        new = [job for job in jobs(self._root) if job.name not in self._known]
        own = ("", self._kernel)
        return [job for job in new if starter.of(folder_of(self._root, job)) in own]


def is_meant_to_fail(job: Any, patterns: list[str]) -> bool:
    """Return whether a job's display name matches one of the patterns."""
    return any(fnmatch.fnmatchcase(job.display_name, pattern) for pattern in patterns)


def folder_of(root: Root, job: Any) -> Path:
    """Return the folder of a job in its root."""
    from vertex_local.training.names import ResourceName  # imports the SDK, which takes seconds

    return root.jobs / ResourceName.of(job).id


def log_of(root: Root, job: Any) -> str:
    """Return a job's log: a line with its path, then its text; "" if it has none."""
    path = folder_of(root, job) / "job.log"
    return f"{path}\n{path.read_text(errors='replace')}" if path.is_file() else ""


def jobs(root: Root) -> list[Any]:
    """Return all custom jobs of a root; [] if it has never had a server."""
    if not root.database.is_file():
        return []
    from vertex_local.training.records import Records  # imports the SDK, which takes seconds

    records = Records(root.database)
    try:
        return list(records.jobs())
    finally:
        records.close()
