"""The states of a job and the moves between them.

Source: the documentation of `JobState` and `PipelineState` in google.cloud.aiplatform_v1. Both
enums have the same numbers for the states named here, so a training pipeline can take the state
of its custom job.
"""

from google.cloud.aiplatform_v1.types import JobState

PENDING = JobState.JOB_STATE_PENDING
RUNNING = JobState.JOB_STATE_RUNNING
SUCCEEDED = JobState.JOB_STATE_SUCCEEDED
FAILED = JobState.JOB_STATE_FAILED
CANCELLING = JobState.JOB_STATE_CANCELLING
CANCELLED = JobState.JOB_STATE_CANCELLED

MOVES: dict[JobState, frozenset[JobState]] = {
    PENDING: frozenset({RUNNING, CANCELLING, FAILED}),
    RUNNING: frozenset({SUCCEEDED, FAILED, CANCELLING}),
    CANCELLING: frozenset({SUCCEEDED, FAILED, CANCELLED}),
    SUCCEEDED: frozenset(),
    FAILED: frozenset(),
    CANCELLED: frozenset(),
}


def is_final(state: int) -> bool:
    """Return whether no state follows `state`, a JobState or a PipelineState.

    Numbers are compared, because members of the two enums are never equal.
    """
    return MOVES.get(JobState(int(state))) == frozenset()


def check_move(old: JobState, new: JobState) -> None:
    """Raise ValueError unless a job in state `old` may move to state `new`."""
    if new not in MOVES[old]:
        raise ValueError(f"a job cannot move from {old.name} to {new.name}")
