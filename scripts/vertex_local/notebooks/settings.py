"""The settings of a check in the metadata of a cell, such as `{"nbcheck": {"rel": 0.01}}`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from vertex_local.notebooks.promises.numerals import Tolerance

NUMBERS = {"rel", "abs", "timeout"}
KNOWN = (
    "abs, rel, timeout, each with a number that is not negative; raises, with the name of an "
    'exception and, if wanted, a part of its message ("ValueError: too small"); failing_jobs, '
    "with a list of display names"
)


@dataclass(frozen=True)
class Settings:
    """The settings of one cell.

    Attributes:
        tolerance: how far shown numbers may be from the promised ones.
        timeout: how many seconds the cell may take; None for the usual limit.
        raises: the exception that it must raise, "Class" or "Class: part of the message"; "" for
            any exception.
        failing_jobs: display names of jobs of this notebook that are meant to fail; `*` stands for
            any characters.
    """

    tolerance: Tolerance = field(default_factory=Tolerance)
    timeout: float | None = None
    raises: str = ""
    failing_jobs: tuple[str, ...] = ()

    @classmethod
    def of(cls, cell: Any) -> Settings:
        """Return the settings of a cell.

        Raises:
            ValueError: if a setting is unknown or has a wrong value; names the known ones.
        """
        found = cell.metadata.get("nbcheck", {})
        if not _are_settings(found):
            raise ValueError(f"has the nbcheck settings {found!r}; known are {KNOWN}")
        return cls(
            tolerance=Tolerance(rel=found.get("rel", 0.0), abs=found.get("abs", 0.0)),
            timeout=found.get("timeout"),
            raises=found.get("raises", ""),
            failing_jobs=tuple(found.get("failing_jobs", ())),
        )


def _are_settings(found: Any) -> bool:
    return isinstance(found, dict) and all(_is_setting(*pair) for pair in found.items())


def _is_setting(key: str, value: Any) -> bool:
    if key in NUMBERS:
        return type(value) in (int, float) and value >= 0
    if key == "raises":
        return isinstance(value, str) and bool(value.partition(":")[0].strip())
    if key == "failing_jobs":
        return isinstance(value, list) and all(isinstance(each, str) for each in value)
    return False
