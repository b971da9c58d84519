"""Runs custom jobs: each replica is a process group with a log file; the records hold the states.

Knows processes and files, not HTTP. A job is a record before it is a process, and it always ends in
SUCCEEDED, FAILED or CANCELLED.
"""

from __future__ import annotations

import logging
import os
import shlex
import shutil
import signal
import sqlite3
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, closing, contextmanager, suppress
from contextvars import copy_context
from dataclasses import dataclass, field
from datetime import datetime, timezone
from functools import partial
from typing import BinaryIO

from google.cloud.aiplatform_v1.types import CustomJob, CustomJobSpec
from google.rpc import code_pb2

from vertex_local.config import LocalModeError, Root
from vertex_local.faults import jobs as job_faults
from vertex_local.faults import mounted
from vertex_local.faults.store import Fault, Faults
from vertex_local.jobs import (
    command,
    images,
    log,
    options,
    process_groups,
    reaper,
    retries,
    starter,
)
from vertex_local.jobs.log import ReplicaLogs, ServiceLog
from vertex_local.jobs.packages.package import BadPackage
from vertex_local.jobs.process_groups import Process
from vertex_local.jobs.reaper import Reaper
from vertex_local.jobs.replica import Replica, environment, replicas_of
from vertex_local.jobs.retries import Retries
from vertex_local.jobs.workspace import JobFailure, Workspace, image_of, prepare
from vertex_local.storage import mount
from vertex_local.training import states
from vertex_local.training.names import ResourceName
from vertex_local.training.records import Records

logger = logging.getLogger(__name__)

SLOTS = max(2, os.cpu_count() or 1)  # how many jobs run at once; more wait in PENDING


@dataclass
class _Active:
    """A job between its start and its end."""

    thread: threading.Thread
    processes: list[Process] = field(default_factory=list)
    cancelled: bool = False
    storage_url: str = ""


@dataclass(frozen=True)
class _End:
    """How an attempt failed: the replica, its status and log, and the injected fault, if any."""

    replica: Replica
    status: int
    output: BinaryIO
    fault: Fault | None = None


class Runner:
    """Starts, watches and cancels jobs.

    Args:
        root: where each job gets its folder.
        records: the stored jobs.
        fetch: returns the bytes of a `gs://` object; raises FileNotFoundError with a sentence.
        lend: yields a URL of Cloud Storage that is valid as long as a job runs. It calls its
            argument when a fault hits a request there.
    """

    def __init__(
        self,
        root: Root,
        records: Records,
        fetch: Callable[[str], bytes],
        lend: Callable[[Callable[[Fault], None]], AbstractContextManager[str]],
    ) -> None:
        self.root = root
        self.faults = Faults(root)
        self._records = records
        self.fetch = fetch
        self._lend = lend
        self.on_success: Callable[[CustomJob], None] = lambda _job: None  # may raise JobFailure
        self._active: dict[str, _Active] = {}
        self._lock = threading.Lock()
        self._slots = threading.Semaphore(SLOTS)
        self._reaper = Reaper()

    def start(self, job: CustomJob) -> None:
        """Start a job that the records hold as PENDING, at once if a slot is free."""
        waits = job_faults.wait_before_start(self.faults, job)
        slot = not waits and self._slots.acquire(blocking=False)
        if slot:
            with suppress(sqlite3.OperationalError):  # a full disk: `_watch` tries again, or fails
                self._records.move(job.name, states.RUNNING)
        thread = threading.Thread(
            target=copy_context().run,
            args=(self._watch, job, slot),
            name=f"job-{ResourceName.of(job).id}",
        )
        with self._lock:
            self._active[job.name] = _Active(thread)
        thread.start()

    def cancel(self, name: str) -> None:
        """Ask a job to stop: SIGTERM for its groups now, SIGKILL when its time is up."""
        with self._lock:
            active = self._active.get(name)
            if active is None or active.cancelled:
                return
            active.cancelled = True
            self._records.move(name, states.CANCELLING)
            process_groups.signal_all(active.processes, signal.SIGTERM)
        timer = threading.Timer(process_groups.TERM_GRACE_SECONDS, self._kill, (name,))
        timer.daemon = True
        timer.start()

    def stop(self) -> None:
        """End all jobs because the server stops, and wait until they have ended."""
        with self._lock:
            active = dict(self._active)
        for name in active:
            self.cancel(name)
        for job in active.values():
            job.thread.join()
        self._reaper.close()

    def _kill(self, name: str) -> None:
        """Send SIGKILL to a job that is still active."""
        with self._lock:  # not reaped yet, so its pids cannot have been reused
            if name in self._active:
                process_groups.signal_all(self._active[name].processes, signal.SIGKILL)

    def _watch(self, job: CustomJob, slot: bool) -> None:
        """Bring a job from its start to a final state, whatever fails on the way."""
        state, error, code = states.FAILED, "", int(code_pb2.INTERNAL)
        try:
            folder = self.root.jobs / ResourceName.of(job).id
            folder.mkdir(parents=True)
            starter.note(folder)
            with closing(ServiceLog(folder)) as service_log:
                service_log(log.WAITING)
                tries = Retries(job)
                if slot:
                    self._enter_running(job)
                else:
                    slot = self._may_start(job, tries, service_log)
                if slot:
                    with saying_why(service_log), self._lend(self._noting(job, service_log)) as url:
                        self._active[job.name].storage_url = url
                        self._run(job, tries, service_log)
                        self.on_success(job)
                    state, code = states.SUCCEEDED, int(code_pb2.OK)
        except (JobFailure, BadPackage, LocalModeError) as err:
            error, code = str(err), int(getattr(err, "code", code_pb2.INVALID_ARGUMENT))
        except Exception as err:
            logger.exception("job %s", job.name)
            error = f"Local mode could not run the job: {err!r}"
        finally:
            if slot:
                self._slots.release()
            with self._lock:
                cancelled = self._active.pop(job.name).cancelled
            if cancelled:
                state, code = states.CANCELLED, int(code_pb2.CANCELLED)
                error = "The job was cancelled."
            self._records.move(job.name, state, error, code)

    def _enter_running(self, job: CustomJob) -> None:
        """Move a job that has a slot to RUNNING, if that was not possible before."""
        stored = self._records.get(job.name)
        if stored is not None and stored.state == states.PENDING:
            self._records.move(job.name, states.RUNNING)

    def _wait_for_slot(self, job: CustomJob) -> bool:
        """Wait in PENDING; return whether the job may run now, or was cancelled meanwhile."""
        while not self._slots.acquire(timeout=process_groups.LOOK_SECONDS):
            if self._active[job.name].cancelled:
                return False
        with self._lock:
            cancelled = self._active[job.name].cancelled
        if cancelled:
            self._slots.release()
            return False
        try:
            self._enter_running(job)
        except sqlite3.Error:
            self._slots.release()
            raise
        return True

    def _may_start(self, job: CustomJob, tries: Retries, service_log: ServiceLog) -> bool:
        """Wait for machines and a slot; return whether the job was not cancelled meanwhile."""
        with saying_why(service_log):
            return self._provision(job, tries, service_log) and self._wait_for_slot(job)

    def _provision(self, job: CustomJob, tries: Retries, service_log: ServiceLog) -> bool:
        """Let faults delay or refuse a job's machines; return whether it was not cancelled."""
        if self._inject("quota", job, service_log):
            raise JobFailure(job_faults.quota_message(job), code_pb2.RESOURCE_EXHAUSTED)
        while self._inject("stockout", job, service_log):
            reason = job_faults.stockout_message(job)
            service_log(reason)
            if not tries.again(retries.STOCKOUT):
                raise JobFailure(reason, code_pb2.RESOURCE_EXHAUSTED)
        if slow := self._inject("slow-start", job, service_log):
            end = time.monotonic() + job_faults.provisioning_seconds(slow)
            while time.monotonic() < end and not self._active[job.name].cancelled:
                time.sleep(min(process_groups.LOOK_SECONDS, max(0, end - time.monotonic())))
        return not self._active[job.name].cancelled

    def _inject(self, kind: str, job: CustomJob, service_log: ServiceLog) -> Fault | None:
        """Let a fault happen to a job, if there is one, and note it in log and record."""
        fault = job_faults.take(self.faults, kind, job)
        if fault is not None:
            self._note(fault, job, service_log)
        return fault

    def _noting(self, job: CustomJob, service_log: ServiceLog) -> Callable[[Fault], None]:
        """Return a function that notes each fault of Cloud Storage that hits a job, once."""
        seen: set[int] = set()

        def note(fault: Fault) -> None:
            if fault.number not in seen:
                seen.add(fault.number)
                self._note(fault, job, service_log)

        return note

    def _note(self, fault: Fault, job: CustomJob, service_log: ServiceLog) -> None:
        service_log(f"{job_faults.NOTE} {fault}")
        self._records.count(job.name, job_faults.LABEL.format(kind=fault.kind))

    def _run(self, job: CustomJob, tries: Retries, service_log: ServiceLog) -> None:
        """Run a job's replicas until they succeed; raise JobFailure if they do not."""
        if note := images.warning(image_of(job), datetime.now(timezone.utc).date()):
            service_log(f"{log.WARNING} {note}")
        if names := options.without_effect(job.job_spec):
            service_log(f"{log.NOTE} no effect here: {', '.join(names)}")
        if job.job_spec.tensorboard:
            shown_by = log.tensorboard_command(self.root, job)
            service_log(f"{log.NOTE} to see its curves, run `{shown_by}`")
        if obstacle := mount.obstacle(self.root.buckets):
            reason = f"there is no {mount.MOUNT} on this machine ({obstacle})"
            service_log(f"{log.NOTE} {reason}. {mount.FALLBACK}")
        service_log(*log.SETTING_UP)
        workspace = prepare(
            self.root,
            job,
            self.fetch,
            service_log,
            lambda argv, output: self._call(job, argv, output),
        )
        service_log(log.RUNNING)
        replicas = replicas_of(job.job_spec)
        for replica in replicas:
            service_log(*_launch_lines(replica), task=replica.name)
        with closing(ReplicaLogs(workspace.folder, replicas)) as logs:
            self._run_replicas(job, workspace, tries, service_log, logs)

    def _run_replicas(
        self,
        job: CustomJob,
        workspace: Workspace,
        tries: Retries,
        service_log: ServiceLog,
        logs: ReplicaLogs,
    ) -> None:
        """Run the replicas, again as often as Vertex AI would; raise JobFailure if they fail."""
        deadline = time.monotonic() + (_timeout(job.job_spec) or float("inf"))
        while end := self._attempt(job, workspace, logs, deadline):
            self._start_again(job, end, workspace, tries, service_log)
        service_log(*log.COMPLETED)

    def _start_again(
        self,
        job: CustomJob,
        end: _End,
        workspace: Workspace,
        tries: Retries,
        service_log: ServiceLog,
    ) -> None:
        """Prepare another attempt of a job; raise JobFailure if Vertex AI would make none."""
        run_log, kind = log.log_path(workspace.folder, end.replica), ""
        if end.fault is not None:
            kind = end.fault.kind
            self._note(end.fault, job, service_log)
        if kind == "preemption":
            reason = job_faults.stockout_message(job)
            service_log(reason)
            if not tries.again(retries.STOCKOUT):
                raise JobFailure(reason, code_pb2.RESOURCE_EXHAUSTED)
            # The machine is gone, with its disk.
            shutil.rmtree(workspace.folder / "work", ignore_errors=True)
            if not self._provision(job, tries, service_log):
                raise JobFailure("The job was cancelled.")
            service_log(f"The job starts again from its beginning: attempt {tries.attempt}.")
            return
        if kind == "out-of-memory":
            reason = job_faults.memory_message(end.replica.name)
            raise JobFailure(f"{reason} {log.where(run_log)}")
        if end.status not in retries.CRASHES or not tries.again(retries.CRASH):
            raise JobFailure(log.failure_message(end.replica, end.status, run_log, end.output))
        service_log(
            f"The replica {end.replica.name} exited with a non-zero status of {end.status}.",
            f"The program crashed; attempt {tries.attempt}.",
        )

    def _attempt(
        self, job: CustomJob, workspace: Workspace, logs: ReplicaLogs, deadline: float
    ) -> _End | None:
        """Start all replicas and wait for the end; return how they failed, or None."""
        replicas = replicas_of(job.job_spec)
        launches = [
            partial(self._launch, job, replica, replicas, workspace, logs.of(replica))
            for replica in replicas
        ]
        watch = job_faults.Watch(
            self.faults,
            job,
            [replica.name for replica in replicas],
            logs.of(replicas[0]),
            partial(self._kill, job.name),
        )
        with self._processes(job, launches) as processes, watch:
            while (end := process_groups.end(processes)) is None:
                if time.monotonic() > deadline:
                    seconds = _timeout(job.job_spec)
                    raise JobFailure(f"The job ran longer than its timeout of {seconds:g} seconds.")
                process_groups.wait(processes, deadline)
            number, status = end
            if number == 0 and len(processes) > 1:
                process_groups.stop_workers(processes[1:])
        if status and (strike := watch.strike):
            ended = replicas[strike.rank]
            return _End(ended, strike.status, logs.of(ended), strike.fault)
        return _End(replicas[number], status, logs.of(replicas[number])) if status else None

    def _call(self, job: CustomJob, argv: Sequence[str], output: BinaryIO) -> int:
        """Run a program for a job, such as pip, and return its exit status."""

        def launch() -> Process:
            return subprocess.Popen(
                argv,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

        with self._processes(job, [launch]) as (process,):
            return process.wait()

    @contextmanager
    def _processes(
        self, job: CustomJob, launches: Sequence[Callable[[], Process]]
    ) -> Iterator[list[Process]]:
        """Start processes for a job; after the context, they and what they started are gone."""
        active, id_ = self._active[job.name], ResourceName.of(job).id
        processes = active.processes
        with ExitStack() as watched:
            try:
                for launch in launches:
                    with self._lock:
                        processes.append(launch())
                    watched.enter_context(self._reaper.watching(processes[-1].pid, id_))
                with self._lock:
                    if active.cancelled:  # before there was a process to signal
                        process_groups.signal_all(processes, signal.SIGTERM)
                yield processes
            finally:
                # The whole groups: also what the scripts left behind.
                process_groups.signal_all(processes, signal.SIGKILL)
                with self._lock:  # forget them before they are reaped: pids are reused
                    active.processes = []
                    for process in processes:
                        process.wait()
                    alone = not any(each.processes for each in self._active.values())
                    reaper.end_strays(id_, {self._reaper.pid} if alone else None)

    def _launch(
        self,
        job: CustomJob,
        replica: Replica,
        replicas: Sequence[Replica],
        workspace: Workspace,
        run_log: BinaryIO,
    ) -> Process:
        work = workspace.folder / "work" / replica.name
        variables = environment(
            job,
            replica,
            replicas,
            self.root,
            self._active[job.name].storage_url,
            workspace.path,
            workspace.module_path(replica.spec),
        )
        variables |= mounted.variables(self.faults, variables)
        try:
            work.mkdir(parents=True, exist_ok=True)
            return subprocess.Popen(
                command.argv_of(replica.spec, workspace.python, self.root.buckets),
                cwd=work,
                env=variables,
                stdin=subprocess.DEVNULL,
                stdout=run_log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        except OSError as err:
            raise JobFailure(
                f"The replica {replica.name} cannot be started ({err.strerror}: {err.filename}). "
                "If it was started before, its script has changed the folder of its own job."
            ) from err


@contextmanager
def saying_why(service_log: ServiceLog) -> Iterator[None]:
    """Write the reason of a failure to the service log, without its lines of a replica's log."""
    try:
        yield
    except (JobFailure, BadPackage, LocalModeError) as err:
        service_log(str(err).partition(" Termination reason:")[0])
        raise


def recover(records: Records) -> None:
    """Give a final state to jobs that were active when an earlier server died.

    Their processes are gone: the reaper killed them when that server ended.
    """
    for job in records.jobs(active=True):
        if job.state == states.CANCELLING:
            records.move(job.name, states.CANCELLED, "The job was cancelled.", code_pb2.CANCELLED)
        else:
            message = "Local mode's server was stopped while the job was active. Run it again."
            records.move(job.name, states.FAILED, message, code_pb2.UNAVAILABLE)


def _launch_lines(replica: Replica) -> list[str]:
    """Return the lines about a replica's start: those of Vertex AI that are true here, too."""
    if container := replica.spec.container_spec:
        return [f"Running command: {shlex.join([*container.command, *container.args])}"]
    package = replica.spec.python_package_spec
    return [
        f"Running module {package.python_module}.",
        *(f"Downloading the package: {uri}" for uri in package.package_uris),
        f"Running command: {shlex.join(['python3', '-m', package.python_module, *package.args])}",
    ]


def _timeout(spec: CustomJobSpec) -> float | None:
    return float(spec.scheduling.timeout.total_seconds()) or None
