"""Job records: the SDK's own messages, kept in SQLite so that they survive a restart."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeAlias

from google.cloud.aiplatform_v1.types import (
    CustomJob,
    HyperparameterTuningJob,
    JobState,
    PipelineState,
    TrainingPipeline,
    Trial,
)
from google.protobuf.message import DecodeError
from google.protobuf.timestamp_pb2 import Timestamp
from google.rpc import code_pb2
from google.rpc.status_pb2 import Status

from vertex_local.config import LocalModeError, no_room, unusable
from vertex_local.errors import InvalidArgument
from vertex_local.training import states, wire
from vertex_local.training.names import ResourceName

Job: TypeAlias = "CustomJob | HyperparameterTuningJob"  # has states of its own; a pipeline has not
Resource: TypeAlias = "Job | TrainingPipeline"
KINDS: dict[str, type[Resource]] = {
    "customJobs": CustomJob,
    "hyperparameterTuningJobs": HyperparameterTuningJob,
    "trainingPipelines": TrainingPipeline,
}

ROOM_SECONDS = 0.5  # between two attempts to store a job's end on a full disk
LOSS = (
    "It holds the records of all jobs. Move it away: local mode then starts without jobs. Their "
    "folders, and all buckets, stay as they are."
)
SCHEMA = """
CREATE TABLE IF NOT EXISTS resources (
    number INTEGER PRIMARY KEY,      -- order of creation
    name TEXT NOT NULL UNIQUE,       -- projects/N/locations/L/KIND/ID
    parent TEXT NOT NULL,            -- projects/N/locations/L/KIND
    active INTEGER NOT NULL,         -- 0 once the state is final
    pipeline TEXT,                   -- of a custom job: the training pipeline that it backs
    message BLOB NOT NULL            -- the resource, serialised
)
"""


class Records:
    """All job records of one root. Safe to use from several threads.

    Raises:
        LocalModeError: here or in any method, if the records cannot be read.
    """

    def __init__(self, path: Path) -> None:
        self._changed = threading.Condition()
        self._released = False
        try:
            self._db = _open(path)
        except sqlite3.DatabaseError as err:
            raise unusable(path, err, LOSS) from err

    def release_waiting(self) -> None:
        """Make `get_after_change` answer at once from now on, because the server stops."""
        with self._changed:
            self._released = True
            self._changed.notify_all()

    def close(self) -> None:
        """Close the database; call no other method afterwards."""
        with self._changed:
            self._db.close()

    def add(self, job: Job, pipeline: TrainingPipeline | None = None) -> None:
        """Store a new job, and the training pipeline that it backs, if there is one."""
        now = _now()
        job.state, job.create_time, job.update_time = states.PENDING, now, now
        if pipeline is not None:
            _mirror(job, pipeline)
        with self._changed, self._transaction():
            for resource in (pipeline, job) if pipeline is not None else (job,):
                self._db.execute(
                    "INSERT INTO resources (name, parent, active, pipeline, message) "
                    "VALUES (?, ?, 1, ?, ?)",
                    (
                        resource.name,
                        str(ResourceName.of(resource).parent),
                        pipeline.name if pipeline is not None and resource is job else None,
                        type(resource).serialize(resource),
                    ),
                )

    def delete(self, name: str) -> None:
        """Delete one resource."""
        with self._changed:
            self._db.execute("DELETE FROM resources WHERE name = ?", (name,))
            self._changed.notify_all()

    def get(self, name: str) -> Resource | None:
        """Return the resource called `name`, or None."""
        with self._changed:
            row = self._row("SELECT name, message FROM resources WHERE name = ?", name)
        return _load(*row) if row else None

    def children(self, parent: ResourceName) -> Iterator[Resource]:
        """Yield the resources of one kind in one location, newest first."""
        with self._changed:
            rows = self._db.execute(
                "SELECT name, message FROM resources WHERE parent = ? ORDER BY number DESC",
                (str(parent),),
            ).fetchall()
        return (_load(*row) for row in rows)  # lazily: a page needs few of them

    def jobs(self, *, active: bool | None = None) -> list[CustomJob]:
        """Return the custom jobs of every region, oldest first.

        Args:
            active: True for active jobs only, False for those that have ended, None for all.
        """
        found = self._of_kind("customJobs", active)
        return [job for job in found if isinstance(job, CustomJob)]

    def searches(self, *, active: bool | None = None) -> list[HyperparameterTuningJob]:
        """Return the hyperparameter tuning jobs of every region, as `jobs` does."""
        found = self._of_kind("hyperparameterTuningJobs", active)
        return [job for job in found if isinstance(job, HyperparameterTuningJob)]

    def save_trials(self, name: str, trials: Sequence[Trial]) -> None:
        """Replace the stored trials of a hyperparameter tuning job."""
        with self._changed:
            search, _ = self._job_and_pipeline(name)
            search.trials = trials
            search.update_time = _now()
            self._store(search)

    def job_messages(self) -> list[bytes]:
        """Return the serialised custom jobs of every region, newest first."""
        with self._changed:
            rows = self._db.execute(
                "SELECT message FROM resources WHERE parent LIKE '%/customJobs' "
                "ORDER BY number DESC"
            ).fetchall()
        return [row[0] for row in rows]

    def job_with_id(self, number: str) -> CustomJob | None:
        """Return the custom job with this id, or that of the training pipeline with this id."""
        if not number.isdigit():
            return None
        query = "SELECT message FROM resources WHERE name LIKE ? OR pipeline LIKE ?"
        with self._changed:
            row = self._row(query, f"%/customJobs/{number}", f"%/trainingPipelines/{number}")
        return CustomJob.deserialize(row[0]) if row else None

    def pipeline_of(self, job_name: str) -> str:
        """Return the name of the training pipeline that a custom job backs; "" if none."""
        with self._changed:
            row = self._row("SELECT pipeline FROM resources WHERE name = ?", job_name)
        return str(row[0] or "") if row else ""

    def check(self) -> int:
        """Read every record; return how many there are."""
        with self._changed:
            rows = self._db.execute("SELECT name, message FROM resources").fetchall()
        return len([_load(*row) for row in rows])

    def move(self, job_name: str, state: JobState, error: str = "", code: int = 0) -> None:
        """Move a job, and the pipeline that it backs, to another state.

        A job must end: a move to a final state waits while the disk is full.

        Args:
            job_name: full name of the custom job or hyperparameter tuning job.
            state: the new state; the move must be allowed (see `states.MOVES`).
            error: for a job that ends badly, the message that its owner reads.
            code: for a job that ends badly, the google.rpc code.

        Raises:
            ValueError: if the job cannot move to that state.
        """
        with self._changed:
            job, pipeline = self._job_and_pipeline(job_name)
            states.check_move(job.state, state)
            _enter(job, state, error, code)
            if pipeline is not None:
                _mirror(job, pipeline)
            while not self._stored(job, pipeline):
                self._changed.wait(ROOM_SECONDS)
            self._changed.notify_all()

    def replace(self, resource: Resource) -> None:
        """Replace the stored content of a resource."""
        with self._changed:
            self._store(resource)

    def count(self, job_name: str, label: str) -> None:
        """Add one to a label of a custom job, and of the pipeline that it backs."""
        with self._changed:
            job, pipeline = self._job_and_pipeline(job_name)
            for resource in (job, pipeline):
                if resource is not None:
                    resource.labels[label] = str(int(resource.labels.get(label, "0")) + 1)
            self._store(job, pipeline)

    def _job_and_pipeline(self, job_name: str) -> tuple[Job, TrainingPipeline | None]:
        query = "SELECT message, pipeline FROM resources WHERE name = ?"
        message, pipeline_name = self._row(query, job_name)
        row = self._row("SELECT message FROM resources WHERE name = ?", pipeline_name or "")
        job = _load(job_name, message)
        assert not isinstance(job, TrainingPipeline)
        return job, TrainingPipeline.deserialize(row[0]) if row else None

    def _store(self, *resources: Resource | None) -> None:
        """Replace the stored content of some resources, in one transaction."""
        with self._transaction():
            for resource in filter(None, resources):
                self._db.execute(
                    "UPDATE resources SET message = ?, active = ? WHERE name = ?",
                    (
                        type(resource).serialize(resource),
                        not states.is_final(resource.state),
                        resource.name,
                    ),
                )

    def _stored(self, job: Job, pipeline: TrainingPipeline | None) -> bool:
        """Store a job and its pipeline; return False if the job has ended and the disk is full."""
        try:
            self._store(job, pipeline)
        except sqlite3.OperationalError as err:
            if self._released or not (no_room(err) and states.is_final(job.state)):
                raise
            return False
        return True

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        """Make all changes in this context, or none if one fails, such as on a full disk."""
        self._db.execute("BEGIN")
        try:
            yield
            self._db.execute("COMMIT")
        finally:
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")

    def get_after_change(self, name: str, seconds: float) -> Resource | None:
        """Return the resource called `name` after its next change of state, or None.

        Returns at once if its state is final, and after `seconds` at the latest.
        """
        with self._changed:
            first = self.get(name)
            if first is None or states.is_final(first.state):
                return first

            def answer() -> bool:
                latest = self.get(name)
                return self._released or latest is None or latest.state != first.state

            self._changed.wait_for(answer, timeout=seconds)
            return self.get(name)

    def _of_kind(self, kind: str, active: bool | None) -> list[Resource]:
        with self._changed:
            rows = self._db.execute(
                "SELECT name, message FROM resources WHERE parent LIKE ? AND active IN (?, ?) "
                "ORDER BY number",
                (f"%/{kind}", active is True, active is not False),
            ).fetchall()
        return [_load(*row) for row in rows]

    def _row(self, query: str, *values: str) -> tuple[Any, ...]:
        row: tuple[Any, ...] | None = self._db.execute(query, values).fetchone()
        return row or ()


def _open(path: Path) -> sqlite3.Connection:
    database = sqlite3.connect(path, check_same_thread=False, isolation_level=None)
    try:
        database.execute("PRAGMA journal_mode=WAL")
        database.execute(SCHEMA)
        found = database.execute("PRAGMA quick_check(1)").fetchone()[0]
        if found != "ok":
            raise sqlite3.DatabaseError(" ".join(found.split()))
    except sqlite3.Error:
        database.close()
        raise
    return database


def _load(name: str, message: bytes) -> Resource:
    try:
        resource: Resource = KINDS[ResourceName.parse(name).kind].deserialize(message)
    except (DecodeError, InvalidArgument, KeyError, TypeError) as err:
        raise LocalModeError(f"The record of {name} in jobs.sqlite3 is damaged. {LOSS}") from err
    return resource


def _now() -> Timestamp:
    now = Timestamp()
    now.GetCurrentTime()
    return now


def _enter(job: Job, state: JobState, error: str, code: int) -> None:
    job.state, job.update_time = state, _now()
    if state == states.RUNNING:
        job.start_time = job.update_time
    if states.is_final(state):
        job.end_time = job.update_time
    if code != code_pb2.OK:
        job.error = Status(code=code, message=error)


def _mirror(job: Job, pipeline: TrainingPipeline) -> None:
    """Give the pipeline the state, times and error of the custom job that runs it."""
    pipeline.training_task_metadata = wire.pipeline_metadata(job.name)
    pipeline.state = PipelineState(job.state.value)
    for field in ("create_time", "start_time", "end_time", "update_time", "error"):
        if field in job:
            setattr(pipeline, field, getattr(job, field))
