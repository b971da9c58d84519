"""One search: starts trials, reads what they report, and brings the tuning job to its end.

All state of a search is in its record, so the search goes on after a restart of the server. Trials
that were interrupted run again, with the same parameters and folder: a script with checkpoints
resumes.
"""

from __future__ import annotations

import logging
import threading
import zlib
from dataclasses import dataclass
from pathlib import Path

from google.cloud.aiplatform_v1.types import CustomJob, HyperparameterTuningJob, JobState, Trial
from google.protobuf.timestamp_pb2 import Timestamp
from google.rpc import code_pb2

from vertex_local.jobs import log, starter
from vertex_local.jobs.log import ServiceLog
from vertex_local.jobs.packages import package
from vertex_local.jobs.packages.package import BadPackage
from vertex_local.jobs.replica import metric_file
from vertex_local.jobs.runner import SLOTS, Runner
from vertex_local.training import states
from vertex_local.training.names import ResourceName
from vertex_local.training.records import Records
from vertex_local.tuning import measurements, study, trials
from vertex_local.tuning.measurements import MetricFile

logger = logging.getLogger(__name__)

SUCCEEDED, INFEASIBLE = Trial.State.SUCCEEDED, Trial.State.INFEASIBLE
LOOK_SECONDS = 0.05  # between two looks at the trials: hypertune keeps only the last 100 reports
FIRST_FAILURES = 3  # without max_failed_trial_count, this many failed first trials end a search
EQUAL_TRIALS = 3  # this many equal results suggest that the script does not read its flags
MEDIAN_NEEDS = 3  # completed trials before the median rule stops others
OPTIMISER = (
    "Vertex AI uses another optimiser, so there the trials will differ; here the parameters come "
    "from "
)


@dataclass(frozen=True)
class Ending:
    """How a search ends: its final state, and an error text and `google.rpc.Code` for it."""

    state: JobState
    error: str
    code: int


CANCELLED = Ending(states.CANCELLED, "The job was cancelled.", code_pb2.CANCELLED)


class Search:
    """One hyperparameter tuning job from its start to its end; `run` needs a thread of its own.

    Args:
        job: the tuning job as the records hold it, new or from before a restart of the server.
        records: store it and its trials' jobs.
        runner: runs the trials.
        seed: of the search's random numbers; None derives one from the search's name.
    """

    def __init__(
        self, job: HyperparameterTuningJob, records: Records, runner: Runner, seed: int | None
    ) -> None:
        self.name = str(job.name)
        self.job = job
        self._records = records
        self._runner = runner
        self._folder = runner.root.jobs / ResourceName.of(job).id
        self._folder.mkdir(exist_ok=True)
        starter.note(self._folder)
        self._log = ServiceLog(self._folder)
        self._files: dict[str, MetricFile] = {}  # by the name of the custom job
        self._wake = threading.Event()
        self._leaving = False
        self._ending: Ending | None = None
        self._parallel = min(job.parallel_trial_count, job.max_trial_count, SLOTS)
        self._seed = zlib.crc32(self.name.encode()) if seed is None else seed

    def look(self) -> None:
        """Look at the trials now: another thread has changed the job's state."""
        self._wake.set()

    def leave(self) -> None:
        """Return from `run` without ending the search: the next server resumes it."""
        self._leaving = True
        self._wake.set()

    def run(self) -> None:
        """Run the search to its end. An exception here makes the tuning job FAILED."""
        try:
            self._begin()
            while not self._leaving and not self._is_over():
                self._wake.wait(LOOK_SECONDS)
                self._wake.clear()
                self._look_after_trials()
            if not self._leaving:
                self._end(self._ending or self._verdict())
        except Exception as err:
            logger.exception("search %s", self.name)
            self._stop_trials()
            error = f"Local mode could not run the search: {err!r}"
            self._end(Ending(states.FAILED, error, code_pb2.INTERNAL))

    # -------------------------------------------------------------------- from start to end

    def _begin(self) -> None:
        if not self.job.trials:
            self._log_notes()
        for trial in self._active():
            self._resume(trial)

    def _log_notes(self) -> None:
        spec = self.job.study_spec
        grid = spec.algorithm == study.GRID
        source = "the grid, point by point." if grid else f"Optuna (seed {self._seed})."
        self._log(f"{log.NOTE} {OPTIMISER}{source}")
        wanted = min(self.job.parallel_trial_count, self.job.max_trial_count)
        if self._parallel < wanted:
            self._log(
                f"{log.NOTE} {self._parallel} trials run at once on this machine, not {wanted}."
            )
        sources = self._sources()
        if sources and (names := trials.unread(spec, sources)):
            self._log(
                f"{log.WARNING} the training script never mentions {', '.join(names)}: it cannot "
                "read what the search varies, unless it accepts flags of any name."
            )

    def _sources(self) -> str:
        """Return the Python source of the trials' script, or "" if it cannot be found."""
        pool = self.job.trial_job_spec.worker_pool_specs[0]
        if pool.container_spec:
            line = [*pool.container_spec.command, *pool.container_spec.args]
            return line[line.index("-c") + 1] if "-c" in line[:-1] else ""
        found = ""
        for number, uri in enumerate(pool.python_package_spec.package_uris):
            try:
                folder = self._folder / "package" / str(number)
                project = package.unpack(self._runner.fetch(uri), folder)
            except (FileNotFoundError, BadPackage):  # the trials will fail for the same reason
                return ""
            found += "".join(_text(file) for file in sorted(project.rglob("*.py")))
        return found

    def _is_over(self) -> bool:
        """Start trials up to the allowed number; return whether none is running any more."""
        job = self._records.get(self.name)
        if self._ending is None and (job is None or job.state == states.CANCELLING):
            self._end_early(CANCELLED)
        while self._ending is None and len(self._active()) < self._parallel:
            if not self._start_next():
                break
        return not self._active()

    def _end_early(self, ending: Ending) -> None:
        self._ending = ending
        self._stop_trials()

    def _stop_trials(self) -> None:
        for trial in self._active():
            self._runner.cancel(trial.custom_job)

    def _verdict(self) -> Ending:
        """Return the end of a search whose trials have all ended."""
        if self._with_state(SUCCEEDED):
            return Ending(states.SUCCEEDED, "", code_pb2.OK)
        return self._failure(f"None of the {len(self.job.trials)} trials succeeded.")

    def _failure(self, sentence: str) -> Ending:
        last = self._with_state(INFEASIBLE)[-1]
        text = f"{sentence} Trial {last.id}: {last.infeasible_reason}"
        return Ending(states.FAILED, text, code_pb2.INVALID_ARGUMENT)

    def _end(self, ending: Ending) -> None:
        self._log(ending.error or f"The search has ended after {len(self.job.trials)} trials.")
        self._records.move(self.name, ending.state, ending.error, ending.code)

    # -------------------------------------------------------------------- trials

    def _active(self) -> list[Trial]:
        return [trial for trial in self.job.trials if trial.state not in (SUCCEEDED, INFEASIBLE)]

    def _with_state(self, state: Trial.State) -> list[Trial]:
        return [trial for trial in self.job.trials if trial.state == state]

    def _start_next(self) -> bool:
        """Start the next trial; return whether there was one."""
        if len(self.job.trials) >= self.job.max_trial_count:
            return False
        parameters = study.propose(self.job.study_spec, self.job.trials, self._seed)
        if parameters is None:
            return False
        trial = Trial(
            id=str(len(self.job.trials) + 1),
            state=Trial.State.ACTIVE,
            parameters=[{"parameter_id": name, "value": each} for name, each in parameters.items()],
        )
        self.job.trials.append(trial)
        self._log(f"Trial {trial.id}: {trials.shown(parameters)}")
        self._start(self.job.trials[-1])
        return True

    def _start(self, trial: Trial) -> None:
        trial.custom_job = str(ResourceName.of(self.job).new("customJobs"))
        trial.start_time = _now()
        self._save()  # before its job: after a crash, nobody would know to which trial it belongs
        job = trials.job_of(self.job, trial)
        self._records.add(job)
        self._runner.start(job)

    def _resume(self, trial: Trial) -> None:
        """Run a trial again if its job ended only because an earlier server ended."""
        job = self._job_of(trial)
        interrupted = job is None or (
            job.state in (states.FAILED, states.CANCELLED)
            and job.error.code in (code_pb2.UNAVAILABLE, code_pb2.CANCELLED)
        )
        if interrupted and trial.state == Trial.State.ACTIVE and self.job.state == states.RUNNING:
            self._log(f"{log.NOTE} the server was restarted; trial {trial.id} runs again.")
            self._start(trial)

    def _look_after_trials(self) -> None:
        for trial in self._active():
            self._file_of(trial).read()
            job = self._job_of(trial)
            if job is None or states.is_final(job.state):
                self._finish(trial, job)
                self._judge()
            elif trial.state == Trial.State.ACTIVE and self._falls_behind(trial):
                self._log(f"Trial {trial.id} is stopped early: worse than the median so far.")
                trial.state = Trial.State.STOPPING
                self._save()
                self._runner.cancel(trial.custom_job)

    def _finish(self, trial: Trial, job: CustomJob | None) -> None:
        """Record the final measurement of a trial whose job has ended, or why there is none."""
        file = self._file_of(trial)
        file.read()  # for reports since the last look
        measured = measurements.final_measurement(file.steps, self.job.study_spec)
        stopped_early = trial.state == Trial.State.STOPPING
        trial.state = INFEASIBLE
        if job is None:
            trial.infeasible_reason = "The custom job of the trial was deleted."
        elif job.state != states.SUCCEEDED and not stopped_early:
            trial.infeasible_reason = _summary(job.error.message)
        elif measured is None:
            trial.infeasible_reason = measurements.why_none(file, self.job.study_spec)
        else:
            trial.state = SUCCEEDED
            trial.final_measurement = measured
        if job is not None and job.start_time:
            trial.start_time = job.start_time
        trial.end_time = job.end_time if job is not None else _now()
        self._save()
        self._log(f"Trial {trial.id} {_outcome(trial)}")

    def _judge(self) -> None:
        """After a trial's end: warn if all results are equal; end the search if too many failed."""
        done, failed = self._with_state(SUCCEEDED), self._with_state(INFEASIBLE)
        if len(done) == EQUAL_TRIALS and _all_alike(done):
            self._log(
                f"{log.WARNING} {EQUAL_TRIALS} trials with different parameters have exactly the "
                "same result: does the script read its flags?"
            )
        if self._ending or not failed:
            return
        limit = self.job.max_failed_trial_count
        first = min(max(FIRST_FAILURES, self._parallel), self.job.max_trial_count)
        if 0 < limit <= len(failed):
            sentence = f"{len(failed)} trials failed, and max_failed_trial_count is {limit}."
            self._end_early(self._failure(sentence))
        elif not limit and not done and len(failed) >= first:
            self._end_early(self._failure(f"All of the first {len(failed)} trials failed."))

    def _falls_behind(self, trial: Trial) -> bool:
        spec = self.job.study_spec
        done = self._with_state(SUCCEEDED)
        if "median_automated_stopping_spec" not in spec or len(done) < MEDIAN_NEEDS:
            return False
        completed = [self._file_of(each).steps for each in done]
        return measurements.falls_behind(self._file_of(trial).steps, completed, spec)

    # -------------------------------------------------------------------- the record

    def _save(self) -> None:
        self._records.save_trials(self.name, self.job.trials)

    def _job_of(self, trial: Trial) -> CustomJob | None:
        job = self._records.get(trial.custom_job)
        return job if isinstance(job, CustomJob) else None

    def _file_of(self, trial: Trial) -> MetricFile:
        """Return a trial's metric file. After a restart, it holds the last 100 reports only."""
        if trial.custom_job not in self._files:
            job = CustomJob(name=trial.custom_job)
            path = metric_file(self._runner.root, job, log.PRIMARY)
            self._files[trial.custom_job] = MetricFile(path)
            self._files[trial.custom_job].read()
        return self._files[trial.custom_job]


def _text(file: Path) -> str:
    return file.read_text(errors="replace")


def _now() -> Timestamp:
    now = Timestamp()
    now.GetCurrentTime()
    return now


def _summary(message: str) -> str:
    """Return the first sentence of a failed job's message, and the last line of its script."""
    first, _, rest = message.partition(" Termination reason: Error. ")
    lines = [line.strip() for line in rest.splitlines() if line.strip()]
    return f"{first} {lines[-2]}" if len(lines) > 1 else first


def _outcome(trial: Trial) -> str:
    if trial.state == INFEASIBLE:
        return f"is infeasible: {trial.infeasible_reason}"
    measured = trial.final_measurement
    values = ", ".join(f"{each.metric_id}={each.value:g}" for each in measured.metrics)
    return f"succeeded: {values} at step {measured.step_count}"


def _all_alike(done: list[Trial]) -> bool:
    """Return whether trials with different parameters have the same results, to the last digit."""
    parameters = {str(trial.parameters) for trial in done}
    results = {str(trial.final_measurement.metrics) for trial in done}
    return len(parameters) > 1 and len(results) == 1
