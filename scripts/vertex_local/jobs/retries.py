"""How often the service starts a job again by itself, and after what.

Sources: Google's pages on understanding the training service and on Spot VMs.
"""

from __future__ import annotations

import signal

from google.cloud.aiplatform_v1.types import CustomJob

from vertex_local.faults.jobs import is_spot

CRASHES = frozenset({6, 11, 128 + signal.SIGABRT, 128 + signal.SIGSEGV})  # exit status
CRASH, STOCKOUT = "crash", "stockout"
CRASH_RETRIES = 3
STOCKOUT_RETRIES = 3
SPOT_RETRIES = 6  # a preempted machine counts as a stockout


class Retries:
    """Counts the attempts of one job."""

    def __init__(self, job: CustomJob) -> None:
        self.attempt = 1
        stockouts = SPOT_RETRIES if is_spot(job) else STOCKOUT_RETRIES
        self._left = {CRASH: CRASH_RETRIES, STOCKOUT: stockouts}
        if job.job_spec.scheduling.disable_retries:
            self._left = dict.fromkeys(self._left, 0)

    def again(self, reason: str) -> bool:
        """Return whether the job is started once more, and count it."""
        if not self._left[reason]:
            return False
        self._left[reason] -= 1
        self.attempt += 1
        return True
