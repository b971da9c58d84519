"""Runs custom jobs: one process group per job, its output in a log, its end in the store.

Knows processes and files, not HTTP. A job is a record before it is a process, and whatever
happens it ends in SUCCEEDED, FAILED or CANCELLED.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from google.cloud.aiplatform_v1.types import CustomJob, CustomJobSpec
from google.rpc import code_pb2

from vertex_local import package, states
from vertex_local.config import HOST, PROJECT_NUMBER, Root, shell_tools, without_account
from vertex_local.guard import Guard
from vertex_local.store import Store

logger = logging.getLogger(__name__)

TERM_GRACE_SECONDS = 10.0  # between SIGTERM and SIGKILL when a job is cancelled
TAIL_LINES = 40  # how much of the log a failed job's message may carry …
TAIL_BYTES = 16_384  # … at most
PASSED_ON = ("HOME", "LANG", "LC_ALL", "LC_CTYPE", "TMPDIR", "TZ", "USER")


class JobFailure(Exception):
    """The job cannot be run, or has failed; the message is for its owner."""


@dataclass
class _Running:
    """A job between its start and its end."""

    thread: threading.Thread
    process: subprocess.Popen[bytes] | None = None
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
        self._root, self._store, self._fetch, self._storage_url = root, store, fetch, storage_url
        self._running: dict[str, _Running] = {}
        self._lock = threading.Lock()
        self._guard = Guard()

    def start(self, job: CustomJob) -> None:
        """Start a job that the store holds as PENDING; returns once it is RUNNING."""
        self._store.move(job.name, states.RUNNING)
        thread = threading.Thread(target=self._watch, args=(job,), name=f"job-{job_id(job)}")
        with self._lock:
            self._running[job.name] = _Running(thread)
        thread.start()

    def cancel(self, name: str) -> None:
        """Ask a job to stop: SIGTERM for its group now, SIGKILL when its time is up."""
        with self._lock:
            running = self._running.get(name)
            if running is None or running.cancelled:
                return
            running.cancelled = True
            self._store.move(name, states.CANCELLING)
            process = running.process
        if process is not None:
            _signal_group(process, signal.SIGTERM)
            timer = threading.Timer(TERM_GRACE_SECONDS, self._kill, (name,))
            timer.daemon = True
            timer.start()

    def _kill(self, name: str) -> None:
        """Send SIGKILL to a job that still runs."""
        with self._lock:  # while it is on the list, its process id belongs to nobody else
            running = self._running.get(name)
            if running is not None and running.process is not None:
                _signal_group(running.process, signal.SIGKILL)

    def stop(self) -> None:
        """End all jobs because the server stops, and wait until they have ended."""
        with self._lock:
            running = dict(self._running)
        for name in running:
            self.cancel(name)
        for job in running.values():
            job.thread.join()
        self._guard.close()

    def log_path(self, job: CustomJob) -> Path:
        """Return the file that receives everything the job prints."""
        return self._root.jobs / job_id(job) / "job.log"

    def _watch(self, job: CustomJob) -> None:
        """Run a job from start to end. The border where any failure becomes a final state."""
        state, error, code = states.FAILED, "", int(code_pb2.INTERNAL)
        try:
            self._run(job)
            state, code = states.SUCCEEDED, int(code_pb2.OK)
        except (JobFailure, package.BadPackage) as err:
            error, code = str(err), int(code_pb2.INVALID_ARGUMENT)
        except Exception as err:
            logger.exception("job %s", job.name)
            error = f"Local mode could not run the job: {err!r}"
        finally:
            with self._lock:
                running = self._running.pop(job.name)
                if running.cancelled:
                    state, code = states.CANCELLED, int(code_pb2.CANCELLED)
                    error = "The job was cancelled."
                self._store.move(job.name, state, error, code)

    def _run(self, job: CustomJob) -> None:
        """Unpack the job's packages, run its module, raise JobFailure unless it exits with 0."""
        folder = self._root.jobs / job_id(job)
        work = folder / "work"
        work.mkdir(parents=True)
        spec = job.job_spec.worker_pool_specs[0].python_package_spec
        paths = [
            package.unpack(self._fetch_package(uri), folder / "package" / str(index))
            for index, uri in enumerate(spec.package_uris)
        ]
        with open(self.log_path(job), "wb") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", spec.python_module, *spec.args],
                cwd=work,
                env=environment(job, self._root, self._storage_url, paths),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
            with self._guard.watching(process.pid):
                status = self._wait(job, process)
        if status is None:
            raise JobFailure(
                f"The job ran longer than its timeout of {_timeout(job.job_spec):g} seconds."
            )
        if status != 0:
            raise JobFailure(failure_message(status, self.log_path(job)))

    def _wait(self, job: CustomJob, process: subprocess.Popen[bytes]) -> int | None:
        """Return the exit status as a shell would give it, or None if the time ran out."""
        with self._lock:
            self._running[job.name].process = process
            cancelled_early = self._running[job.name].cancelled
        if cancelled_early:
            _signal_group(process, signal.SIGKILL)
        try:
            status = process.wait(_timeout(job.job_spec))
        except subprocess.TimeoutExpired:
            return None
        finally:
            _signal_group(process, signal.SIGKILL)  # whatever the script left behind
            process.wait()
        return status if status >= 0 else 128 - status

    def _fetch_package(self, uri: str) -> bytes:
        try:
            return self._fetch(uri)
        except FileNotFoundError as err:
            raise JobFailure(f"The training package {uri} cannot be downloaded: {err}") from err


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


def environment(job: CustomJob, root: Root, storage_url: str, paths: list[Path]) -> dict[str, str]:
    """Return the environment variables of a job's process.

    What Vertex AI sets in a training container, the few variables that a process needs to run on
    this machine at all, and the address of the emulated Cloud Storage. Nothing else of the
    server's own environment reaches the job.
    """
    spec = job.job_spec
    pool = spec.worker_pool_specs[0]
    region = str(job.name).split("/")[3]
    variables = {name: os.environ[name] for name in PASSED_ON if name in os.environ}
    variables |= without_account(root) | shell_tools(root, storage_url)
    variables |= {
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")]),
        "PYTHONPATH": os.pathsep.join(map(str, paths)),
        "PYTHONUNBUFFERED": "1",
        "STORAGE_EMULATOR_HOST": storage_url,
        "CLOUD_ML_PROJECT_ID": PROJECT_NUMBER,
        "CLOUD_ML_REGION": region,
        "CLOUD_ML_JOB_ID": job_id(job),
        "CLUSTER_SPEC": _cluster_spec(spec),
        # Per node, as the prebuilt PyTorch images set them.
        "MASTER_ADDR": HOST,
        "MASTER_PORT": "2222",
        "RANK": "0",
        "WORLD_SIZE": "1",
    }
    base = str(spec.base_output_directory.output_uri_prefix).rstrip("/")
    if base:
        variables |= {
            "AIP_MODEL_DIR": f"{base}/model/",
            "AIP_CHECKPOINT_DIR": f"{base}/checkpoints/",
            "AIP_TENSORBOARD_LOG_DIR": f"{base}/logs/",
        }
    if not pool.machine_spec.accelerator_count:
        variables["CUDA_VISIBLE_DEVICES"] = ""  # a job sees a GPU only if it asked for one
    for item in pool.python_package_spec.env:
        variables[item.name] = expand(item.value, variables)
    return variables


def expand(value: str, variables: Mapping[str, str]) -> str:
    """Replace `$(NAME)` by that variable's value, as Vertex AI does; unknown names stay."""
    for name, known in variables.items():
        value = value.replace(f"$({name})", known)
    return value


def failure_message(status: int, log: Path) -> str:
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
        f"The replica workerpool0-0 exited with a non-zero status of {status}.{reason}"
        f"To find out more about why your job exited please check the logs: {log}"
    )


def _cluster_spec(spec: CustomJobSpec) -> str:
    package_spec = spec.worker_pool_specs[0].python_package_spec
    job = {
        "python_module": package_spec.python_module,
        "package_uris": list(package_spec.package_uris),
        "job_args": list(package_spec.args),
    }
    return json.dumps(
        {
            "cluster": {"workerpool0": [f"{HOST}:2222"]},
            "environment": "cloud",
            "task": {"type": "workerpool0", "index": 0},
            "job": json.dumps(job),
        }
    )


def _timeout(spec: CustomJobSpec) -> float | None:
    seconds = spec.scheduling.timeout.total_seconds()
    return float(seconds) or None


def _signal_group(process: subprocess.Popen[bytes], number: signal.Signals) -> None:
    with suppress(ProcessLookupError, PermissionError):  # nobody of the group is left
        os.killpg(process.pid, number)
