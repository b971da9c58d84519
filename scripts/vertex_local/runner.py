"""Runs custom jobs: a process group per replica, its output in a log, its end in the store.

Knows processes and files, not HTTP. A job is a record before it is a process, and whatever
happens it ends in SUCCEEDED, FAILED or CANCELLED.
"""

from __future__ import annotations

import logging
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path

from google.cloud.aiplatform_v1.types import CustomJob, CustomJobSpec, WorkerPoolSpec
from google.rpc import code_pb2

from vertex_local import command, images, mount, package, states
from vertex_local.config import LocalModeError, Root
from vertex_local.guard import Guard
from vertex_local.replica import Replica, environment, replicas
from vertex_local.store import Store

logger = logging.getLogger(__name__)

ROOM = max(2, os.cpu_count() or 1)  # how many jobs run at once; more wait in PENDING
ATTEMPTS = 4  # a crash is retried up to three times, as on Vertex AI
CRASHES = frozenset({6, 11, 128 + signal.SIGABRT, 128 + signal.SIGSEGV})  # exit status
TERM_GRACE_SECONDS = 10.0  # between SIGTERM and SIGKILL when a job is cancelled
LOOK_SECONDS = 0.05  # how often to look after several replicas, or a place in the queue
SERVICE_LOG, RUNNING = "service.log", "Job is running."
STAMP = "%Y-%m-%dT%H:%M:%S.%fZ"
WARNING = "warning of local mode:"  # so that nobody takes it for the service's own words
TAIL_LINES = 40  # how much of the log a failed job's message may carry …
TAIL_BYTES = 16_384  # … at most


class JobFailure(Exception):
    """The job cannot be run, or has failed; the message is for its owner."""


@dataclass
class _Active:
    """A job between its start and its end."""

    thread: threading.Thread
    processes: list[subprocess.Popen[bytes]] = field(default_factory=list)
    cancelled: bool = False


class Runner:
    """Starts, watches and cancels jobs.

    Args:
        root: where each job gets its folder.
        store: where the records live.
        fetch: returns the bytes of a `gs://` object; raises FileNotFoundError with a sentence.
        storage_url: where the job's Cloud Storage client finds the buckets.
    """

    def __init__(
        self, root: Root, store: Store, fetch: Callable[[str], bytes], storage_url: str
    ) -> None:
        self.root, self._store, self._fetch, self._storage_url = root, store, fetch, storage_url
        self._active: dict[str, _Active] = {}
        self._lock = threading.Lock()
        self._room = threading.Semaphore(ROOM)
        self._guard = Guard()

    def start(self, job: CustomJob) -> None:
        """Start a job that the store holds as PENDING, at once if there is room for it."""
        room = self._room.acquire(blocking=False)
        if room:
            self._store.move(job.name, states.RUNNING)
        thread = threading.Thread(target=self._watch, args=(job, room), name=f"job-{job_id(job)}")
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
            self._store.move(name, states.CANCELLING)
            _signal_groups(active.processes, signal.SIGTERM)
        timer = threading.Timer(TERM_GRACE_SECONDS, self._kill, (name,))
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
        self._guard.close()

    def _kill(self, name: str) -> None:
        """Send SIGKILL to a job that is still active."""
        with self._lock:  # while it is on the list, its process ids belong to nobody else
            if name in self._active:
                _signal_groups(self._active[name].processes, signal.SIGKILL)

    def _watch(self, job: CustomJob, room: bool) -> None:
        """Bring a job from start to end. The border where any failure becomes a final state."""
        state, error, code = states.FAILED, "", int(code_pb2.INTERNAL)
        try:
            room = room or self._wait_for_room(job)
            if room:
                self._run(job)
                state, code = states.SUCCEEDED, int(code_pb2.OK)
        except (JobFailure, package.BadPackage, LocalModeError) as err:
            error, code = str(err), int(code_pb2.INVALID_ARGUMENT)
        except Exception as err:
            logger.exception("job %s", job.name)
            error = f"Local mode could not run the job: {err!r}"
        finally:
            if room:
                self._room.release()
            with self._lock:
                if self._active.pop(job.name).cancelled:
                    state, code = states.CANCELLED, int(code_pb2.CANCELLED)
                    error = "The job was cancelled."
                self._store.move(job.name, state, error, code)

    def _wait_for_room(self, job: CustomJob) -> bool:
        """Wait in PENDING; return whether the job may run now, or was cancelled meanwhile."""
        while not self._room.acquire(timeout=LOOK_SECONDS):
            if self._active[job.name].cancelled:
                return False
        with self._lock:
            cancelled = self._active[job.name].cancelled
            if not cancelled:
                self._store.move(job.name, states.RUNNING)
        if cancelled:
            self._room.release()
        return not cancelled

    def _run(self, job: CustomJob) -> None:
        """Run a job's replicas until they succeed; raise JobFailure if they do not."""
        folder = self.root.jobs / job_id(job)
        folder.mkdir(parents=True)
        say = ServiceLog(folder / SERVICE_LOG)
        python = images.interpreter(self.root, _image(job))
        if note := images.warning(_image(job), datetime.now(timezone.utc).date()):
            say(f"{WARNING} {note}")
        if obstacle := mount.obstacle(self.root.buckets):
            say(f"There is no {mount.MOUNT} on this machine ({obstacle}). {mount.IN_WORDS}")
        say("Job is preparing.")
        modules = {
            uri: package.unpack(self._fetch_package(uri), folder / "package" / str(index))
            for index, uri in enumerate(_package_uris(job))
        }
        site = folder / "site"
        command.write_programs(folder / "bin", python, site)
        required = [text for path in modules.values() for text in package.requirements(path)]
        if python == sys.executable:
            required = [text for text in required if not package.is_installed(text)]
        if required:
            say(f"Installing {', '.join(required)} for this job.")
            _install(python, required, site, folder / SERVICE_LOG)
        say(RUNNING)
        deadline = time.monotonic() + (_timeout(job.job_spec) or float("inf"))
        for attempt in range(1, ATTEMPTS + 1):
            failed = self._attempt(job, modules, folder, deadline)
            if failed is None:
                say("Job completed successfully.")
                return
            replica, status = failed
            say(f"The replica {replica.name} exited with a non-zero status of {status}.")
            if status not in CRASHES or job.job_spec.scheduling.disable_retries:
                break
            if attempt < ATTEMPTS:
                say(f"The program crashed; attempt {attempt + 1} of {ATTEMPTS}.")
        raise JobFailure(failure_message(replica, status, log_path(folder, replica)))

    def _attempt(
        self, job: CustomJob, modules: dict[str, Path], folder: Path, deadline: float
    ) -> tuple[Replica, int] | None:
        """Start all replicas and wait for the end; return the one that failed and its status."""
        everyone = replicas(job.job_spec)
        with self._processes(job, everyone, modules, folder) as processes:
            while (end := _end(processes)) is None:
                if time.monotonic() > deadline:
                    seconds = _timeout(job.job_spec)
                    raise JobFailure(f"The job ran longer than its timeout of {seconds:g} seconds.")
                _wait(processes, deadline)
            number, status = end
            if number == 0 and len(processes) > 1:
                _stop_workers(processes[1:])
        return None if status == 0 else (everyone[number], status)

    @contextmanager
    def _processes(
        self, job: CustomJob, everyone: Sequence[Replica], modules: dict[str, Path], folder: Path
    ) -> Iterator[list[subprocess.Popen[bytes]]]:
        """Run a process per replica; nothing of them is left at the end of the context."""
        processes: list[subprocess.Popen[bytes]] = []
        with ExitStack() as guarded:
            try:
                for replica in everyone:
                    process = self._launch(job, replica, everyone, modules, folder)
                    processes.append(process)
                    guarded.enter_context(self._guard.watching(process.pid))
                with self._lock:
                    active = self._active[job.name]
                    active.processes = processes
                    if active.cancelled:  # in the moment before there was anything to signal
                        _signal_groups(processes, signal.SIGTERM)
                yield processes
            finally:
                _signal_groups(processes, signal.SIGKILL)  # and whatever the scripts left behind
                for process in processes:
                    process.wait()

    def _launch(
        self,
        job: CustomJob,
        replica: Replica,
        everyone: Sequence[Replica],
        modules: dict[str, Path],
        folder: Path,
    ) -> subprocess.Popen[bytes]:
        work = folder / "work" / replica.name
        work.mkdir(parents=True, exist_ok=True)
        paths = [modules[uri] for uri in replica.spec.python_package_spec.package_uris]
        python = images.interpreter(self.root, _image(job))
        with open(log_path(folder, replica), "ab") as log:
            return subprocess.Popen(
                command.words(replica.spec, python, self.root.buckets),
                cwd=work,
                env=environment(
                    job,
                    replica,
                    everyone,
                    self.root,
                    self._storage_url,
                    folder / "bin",
                    [*paths, folder / "site"],
                ),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def _fetch_package(self, uri: str) -> bytes:
        try:
            return self._fetch(uri)
        except FileNotFoundError as err:
            raise JobFailure(f"The training package {uri} cannot be downloaded: {err}") from err


class ServiceLog:
    """What the service itself says about a job, beside what the script prints."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __call__(self, text: str) -> None:
        with open(self._path, "a") as file:
            file.write(f"{datetime.now(timezone.utc).strftime(STAMP)} {text}\n")


def said(folder: Path) -> list[tuple[datetime, str]]:
    """Return what the service said about the job in `folder`, and when."""
    log = folder / SERVICE_LOG
    lines = [line.partition(" ") for line in log.read_text().splitlines()] if log.is_file() else []
    return [
        (datetime.strptime(stamp, STAMP).replace(tzinfo=timezone.utc), text)
        for stamp, _, text in lines
        if re.fullmatch(r"[\d-]+T[\d:.]+Z", stamp)  # other lines are pip's
    ]


def warnings(root: Root, job: CustomJob) -> list[str]:
    """Return the warnings in a job's service log."""
    return [text for _, text in said(root.jobs / job_id(job)) if text.startswith(WARNING)]


def recover(store: Store) -> None:
    """Give a final state to jobs that were active when an earlier server died.

    Their processes are gone already: the guard ends them together with the server.
    """
    for job in store.jobs(active=True):
        if job.state == states.CANCELLING:
            store.move(job.name, states.CANCELLED, "The job was cancelled.", code_pb2.CANCELLED)
        else:
            message = "Local mode's server was stopped while the job was active. Run it again."
            store.move(job.name, states.FAILED, message, code_pb2.UNAVAILABLE)


def job_id(job: CustomJob) -> str:
    """Return the last part of a job's name."""
    return str(job.name).rpartition("/")[2]


def log_path(folder: Path, replica: Replica) -> Path:
    """Return the file in a job's folder that receives everything a replica prints."""
    return folder / ("job.log" if replica.rank == 0 else f"{replica.name}.log")


def failure_message(replica: Replica, status: int, log: Path) -> str:
    """Return what Vertex AI writes into a failed job's error, with the log's last lines.

    The first sentence and the last are the service's own (seen on real jobs in February 2026);
    where the service links to Cloud Logging, local mode names the log file.
    """
    with open(log, "rb") as file:
        file.seek(max(0, log.stat().st_size - TAIL_BYTES))
        lines = file.read().decode(errors="replace").splitlines()
    starts = [i for i, line in enumerate(lines) if line.startswith("Traceback (most recent call")]
    tail = "\n".join(lines[max([*starts[-1:], len(lines) - TAIL_LINES]) :])
    reason = f" Termination reason: Error. \n{tail}\n\n" if tail else " "
    return (
        f"The replica {replica.name} exited with a non-zero status of {status}.{reason}"
        f"To find out more about why your job exited please check the logs: {log}"
    )


def _install(python: str, required: list[str], site: Path, log: Path) -> None:
    """Install packages for one job; pip's own words go to `log`."""
    pip = [python, "-m", "pip", "install", "--disable-pip-version-check", "--target", str(site)]
    with open(log, "ab") as file:
        status = subprocess.call([*pip, *required], stdout=file, stderr=subprocess.STDOUT)
    if status != 0:
        raise JobFailure(
            f"The packages {', '.join(required)}, which the training package requires, could not "
            f"be installed; what pip says is in {log}"
        )


def _image(job: CustomJob) -> str:
    pool = job.job_spec.worker_pool_specs[0]
    return str(pool.container_spec.image_uri or pool.python_package_spec.executor_image_uri)


def _pools(job: CustomJob) -> list[WorkerPoolSpec]:
    return [pool for pool in job.job_spec.worker_pool_specs if pool.replica_count]


def _package_uris(job: CustomJob) -> list[str]:
    uris = [uri for pool in _pools(job) for uri in pool.python_package_spec.package_uris]
    return list(dict.fromkeys(uris))


def _timeout(spec: CustomJobSpec) -> float | None:
    return float(spec.scheduling.timeout.total_seconds()) or None


def _status(process: subprocess.Popen[bytes]) -> int | None:
    """Return the exit status as a shell would give it, or None while the process runs."""
    code = process.poll()
    return None if code is None else code if code >= 0 else 128 - code


def _end(processes: Sequence[subprocess.Popen[bytes]]) -> tuple[int, int] | None:
    """Return number and status of the replica that decides the job, or None while it runs.

    The primary decides; but a worker that fails earlier ends the job as well.
    """
    for number, status in enumerate(map(_status, processes)):
        if status is not None and (number == 0 or status != 0):
            return number, status
    return None


def _wait(processes: Sequence[subprocess.Popen[bytes]], deadline: float) -> None:
    """Wait for something to happen: for one process exactly, for several by looking often."""
    left = deadline - time.monotonic()
    seconds = LOOK_SECONDS if len(processes) > 1 else None if left == float("inf") else max(0, left)
    with suppress(subprocess.TimeoutExpired):
        processes[0].wait(seconds)


def _stop_workers(processes: Sequence[subprocess.Popen[bytes]]) -> None:
    """Let the workers of a primary that has ended leave by themselves for a moment."""
    _signal_groups(processes, signal.SIGTERM)
    deadline = time.monotonic() + TERM_GRACE_SECONDS
    for process in processes:
        with suppress(subprocess.TimeoutExpired):
            process.wait(max(0, deadline - time.monotonic()))


def _signal_groups(processes: Sequence[subprocess.Popen[bytes]], number: signal.Signals) -> None:
    for process in processes:
        with suppress(ProcessLookupError, PermissionError):  # nobody of the group is left
            os.killpg(process.pid, number)
