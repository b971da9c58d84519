"""All searches of one server: starts, resumes and cancels them."""

from __future__ import annotations

import threading
from contextlib import suppress
from contextvars import copy_context

from google.cloud.aiplatform_v1.types import HyperparameterTuningJob

from vertex_local import config
from vertex_local.jobs.runner import Runner
from vertex_local.training import states
from vertex_local.training.names import ResourceName
from vertex_local.training.records import Records
from vertex_local.tuning.search import Search


class Tuner:
    """Runs searches, each in a thread of its own.

    Args:
        records: store the searches.
        runner: runs their trials.

    Raises:
        LocalModeError: if an environment variable for searches has a wrong value.
    """

    def __init__(self, records: Records, runner: Runner) -> None:
        self._records = records
        self._runner = runner
        self._seed = config.seed()
        config.discrete_as_int()  # report a wrong value now, not at the first trial
        self._lock = threading.Lock()
        self._running: dict[str, tuple[Search, threading.Thread]] = {}

    def start(self, job: HyperparameterTuningJob) -> None:
        """Start or resume a search that is in the records."""
        if job.state == states.PENDING:
            self._records.move(job.name, states.RUNNING)
            job.state = states.RUNNING
        search = Search(job, self._records, self._runner, self._seed)
        number = ResourceName.of(job).id
        thread = threading.Thread(
            target=copy_context().run, args=(self._run, search), name=f"search-{number}"
        )
        with self._lock:
            self._running[search.name] = (search, thread)
        thread.start()

    def resume(self) -> None:
        """Resume all searches that were active when an earlier server ended."""
        for job in self._records.searches(active=True):
            self.start(job)

    def cancel(self, name: str) -> None:
        """Ask a search to stop, with all its trials. Has no effect on one that has ended."""
        with self._lock:
            running = self._running.get(name)
        if running:
            with suppress(ValueError):  # it is being cancelled already, or has just ended
                self._records.move(name, states.CANCELLING)
            running[0].look()

    def stop(self) -> None:
        """Stop working on all searches because the server stops; the next one resumes them."""
        with self._lock:
            running = list(self._running.values())
        for search, _thread in running:
            search.leave()
        for _search, thread in running:
            thread.join()

    def _run(self, search: Search) -> None:
        try:
            search.run()
        finally:
            with self._lock:
                self._running.pop(search.name)
