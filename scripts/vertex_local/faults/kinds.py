"""The kinds of faults: what happens, the options of each, and the source of its words.

The command line, the form on the page and the checks are all made from this table.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeAlias

from vertex_local.config import LocalModeError

Value: TypeAlias = "str | int | float | None"

READ, WRITE, ANY_ACCESS = ACCESSES = ("read", "write", "any")


@dataclass(frozen=True)
class Option:
    """One option of a kind of fault.

    Attributes:
        name: as in `--name` and in the stored fault.
        kind: the type of its value.
        default: its value if it is not given; None: no effect then.
        help: one sentence.
        low: the smallest number allowed.
        choices: the allowed texts; () for any.
    """

    name: str
    kind: type[str] | type[int] | type[float]
    default: Value
    help: str
    low: float = 0
    choices: tuple[str, ...] = ()

    def read(self, text: str) -> Value:
        """Return the value that a text stands for; raise LocalModeError if it is not allowed."""
        try:
            value = self.kind(text)
        except ValueError:
            expected = "a whole number" if self.kind is int else "a number"
            raise LocalModeError(f"--{self.name} must be {expected}, not {text!r}.") from None
        if isinstance(value, str):
            if self.choices and value not in self.choices:
                wanted = ", ".join(self.choices)
                raise LocalModeError(f"--{self.name} must be one of {wanted}, not {text!r}.")
        elif not self.low <= value < float("inf"):
            raise LocalModeError(f"--{self.name} must be {self.low:g} or more, not {text}.")
        return value


@dataclass(frozen=True)
class Kind:
    """One kind of fault.

    Attributes:
        name: what the command calls it.
        summary: what happens, in one sentence.
        source: of its words and its moment, and what is assumed.
        options: those that it takes.
    """

    name: str
    summary: str
    source: str
    options: tuple[Option, ...]

    def option(self, name: str) -> Option:
        """Return one option; raise LocalModeError if this kind has none of that name."""
        for option in self.options:
            if option.name == name:
                return option
        known = ", ".join(option.name for option in self.options)
        raise LocalModeError(f"A fault {self.name} has no option {name!r}; it has {known}.")


JOB = Option("job", str, "*", "only jobs with this display name (may hold *), or with this id")
REGION = Option("region", str, None, "only jobs in this region, such as us-central1")
MACHINE = Option("machine", str, None, "only jobs with this machine type or accelerator type")
WHICH_JOBS = (JOB, REGION, MACHINE)
BUCKET = Option("bucket", str, "*", "only this bucket (may hold *)")
ACCESS = Option(
    "access",
    str,
    ANY_ACCESS,
    "which requests: read, write or any",
    choices=(READ, WRITE, ANY_ACCESS),
)

JOBS, ALL = WHOSE = ("jobs", "all")
WHO = Option(
    "who",
    str,
    JOBS,
    "whose requests: those of jobs, as if their service account lacked the permission, or all",
    choices=WHOSE,
)


def _times(default: int | None, what: str) -> Option:
    return Option("times", int, default, f"{what} (default: {default or 'until it is cleared'})", 1)


WHEN = (
    Option("after", float, 0.0, "seconds after the start, or restart, of the job's program"),
    Option("random", float, None, "instead: at a random moment within this many seconds"),
    Option("seed", int, 0, "seed of the random moments"),
    Option("log", str, None, "only after the primary has printed this text in this attempt"),
)
REPLICA = Option("replica", str, "workerpool0-0", "which replica")
UNDERSTANDING = "Google's page on understanding the training service"

KINDS: Mapping[str, Kind] = {
    kind.name: kind
    for kind in (
        Kind(
            "quota",
            "The project's quota does not allow the job's machines: a custom job is refused, a "
            "training pipeline fails after it was created.",
            "words seen in 2023 and in Google's documentation; which metrics: assumed",
            (*WHICH_JOBS, _times(None, "how many jobs")),
        ),
        Kind(
            "stockout",
            "The region has no such machine free now; the service tries again 3 times, for a Spot "
            "job 6 times, then the job fails.",
            f"{UNDERSTANDING}; the error code 8 and the moment are assumed",
            (*WHICH_JOBS, _times(None, "how many attempts find no machine")),
        ),
        Kind(
            "machine-unavailable",
            "The region does not have the job's machine type: the job is refused.",
            "Google's page on troubleshooting",
            (*WHICH_JOBS, _times(None, "how many jobs")),
        ),
        Kind(
            "service-account-denied",
            "A job names a service account that its user may not act as: the job is refused. Jobs "
            "that name none are not affected.",
            "words and status seen in public reports of 2022 to 2024",
            (*WHICH_JOBS, _times(None, "how many jobs")),
        ),
        Kind(
            "slow-start",
            "The job waits for its machines in PENDING, as on Vertex AI, shortened by a factor.",
            "3 to 4 minutes in the log of a real job, February 2026",
            (
                *WHICH_JOBS,
                Option("minutes", float, 4.0, "how long Vertex AI would take (default: 4)"),
                Option("factor", float, 60.0, "shortened by this factor (default: 60)", 1),
                _times(None, "how many jobs"),
            ),
        ),
        Kind(
            "preemption",
            "A Spot machine is taken away, with all that is on its disk; the service starts the "
            "whole script again, up to 6 times. No signal comes before. Only Spot jobs are "
            "affected.",
            "Google's page on Spot VMs; that the state stays RUNNING is assumed",
            (*WHICH_JOBS, *WHEN, _times(1, "how often")),
        ),
        Kind(
            "replica-dies",
            "A replica ends with this exit status. After 134 and 139 (a crash) the service starts "
            "the job again, up to 3 times; any other status ends the job.",
            UNDERSTANDING,
            (
                *WHICH_JOBS,
                *WHEN,
                REPLICA,
                Option("status", int, 139, "the exit status (default: 139)", 1),
                _times(1, "how often"),
            ),
        ),
        Kind(
            "out-of-memory",
            "A replica needs more memory than its machine has, and is ended.",
            "Google's page on troubleshooting; exit status 137 and error code 3 are assumed",
            (*WHICH_JOBS, *WHEN, REPLICA, _times(1, "how often")),
        ),
        Kind(
            "bucket-denied",
            "A job's requests for objects of a bucket are answered with 403; in its Python, files "
            "below /gcs/BUCKET cannot be opened. A notebook's requests are not affected.",
            "words seen in many public reports; the behaviour of /gcs is assumed",
            (BUCKET, ACCESS, WHO, _times(None, "how many requests")),
        ),
        Kind(
            "storage-429",
            "Cloud Storage answers that there are too many requests; clients wait and try again.",
            "words for writes seen in public reports; for reads: local mode's own",
            (
                BUCKET,
                ACCESS,
                _times(2, "how many requests"),
                Option("seconds", float, None, "instead: all requests for this many seconds"),
            ),
        ),
        Kind(
            "storage-503",
            "Cloud Storage cannot answer now; clients wait and try again.",
            "status and reason: Google's JSON API reference",
            (
                BUCKET,
                ACCESS,
                _times(2, "how many requests"),
                Option("seconds", float, None, "instead: all requests for this many seconds"),
            ),
        ),
        Kind(
            "storage-slow",
            "Every request to Cloud Storage takes longer, and every byte; so does opening a file "
            "below /gcs in a job's Python.",
            "you choose the numbers",
            (
                BUCKET,
                Option("request", float, 0.05, "seconds for each request (default: 0.05)"),
                Option("rate", float, None, "megabytes per second, for each request", 0.001),
            ),
        ),
        Kind(
            "storage-cut",
            "The connection ends in the middle of a download; clients ask for the rest.",
            "what any network can do",
            (BUCKET, _times(1, "how many downloads")),
        ),
    )
}


def kind(name: str) -> Kind:
    """Return the kind of this name; raise LocalModeError if there is none."""
    if name not in KINDS:
        raise LocalModeError(f"There is no fault {name!r}. There are: {', '.join(KINDS)}.")
    return KINDS[name]


def read_options(name: str, given: Mapping[str, str]) -> dict[str, Value]:
    """Return all options of a fault, those not given with their defaults.

    Args:
        name: the kind of fault.
        given: options as text, by name.

    Raises:
        LocalModeError: if there is no such kind or option, or a value is not allowed.
    """
    wanted = kind(name)
    values = {option.name: option.default for option in wanted.options}
    for key, text in given.items():
        values[key] = wanted.option(key).read(text)
    return values
