"""The faults of one root: a small JSON file that the command and the server both read and write."""

from __future__ import annotations

import fcntl
import json
import os
import shlex
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from vertex_local.config import LocalModeError, Root
from vertex_local.faults import kinds


@dataclass(frozen=True)
class Fault:
    """A fault that somebody asked for.

    Attributes:
        number: its number for `list` and `clear`, from 1.
        kind: one of `kinds.KINDS`.
        options: all its options but `times` and `seconds`.
        left: how often it will still happen; None: without limit.
        happened: how often it has happened. Slow requests are not counted.
        until: when it ends by itself, in seconds of Unix time; None: never.
    """

    number: int
    kind: str
    options: Mapping[str, Any] = field(default_factory=dict)
    left: int | None = None
    happened: int = 0
    until: float | None = None

    @property
    def is_active(self) -> bool:
        """Whether it may still happen."""
        return self.left != 0 and (self.until is None or time.time() < self.until)

    def __str__(self) -> str:
        defaults = {each.name: each.default for each in kinds.kind(self.kind).options}
        given = {name: value for name, value in self.options.items() if value != defaults[name]}
        flags = [f"--{name}={shlex.quote(str(value))}" for name, value in given.items()]
        return " ".join([self.kind, *flags])


class Faults:
    """The faults of one root. Safe to use from several threads and processes."""

    def __init__(self, root: Root) -> None:
        self._path = root.faults
        self._lock = root.faults.with_name(f"{root.faults.name}.lock")
        self._cache: tuple[object, list[Fault]] = (None, [])  # version of the file, its faults

    def add(self, kind: str, given: Mapping[str, str]) -> Fault:
        """Add a fault and return it.

        Args:
            kind: what kind of fault.
            given: its options as text, by name; the others have their defaults.

        Raises:
            LocalModeError: if there is no such kind or option, or a value is not allowed.
        """
        options = kinds.read_options(kind, given)
        times, seconds = options.pop("times", None), options.pop("seconds", None)
        left = int(times) if times is not None and seconds is None else None
        until = time.time() + float(seconds) if seconds is not None else None
        with self._changing() as faults:
            number = max((each.number for each in faults), default=0) + 1
            fault = Fault(number, kind, options, left, until=until)
            faults.append(fault)
        return fault

    def all(self) -> list[Fault]:
        """Return every fault, also those that are over. Usually costs one `stat`."""
        try:
            status = os.stat(self._path)
        except FileNotFoundError:
            return []
        version = (status.st_ino, status.st_mtime_ns, status.st_size)
        if self._cache[0] != version:
            self._cache = (version, self._read())
        return self._cache[1]

    def active(self, *kind: str) -> list[Fault]:
        """Return the faults of these kinds that may still happen, oldest first."""
        return [each for each in self.all() if each.kind in kind and each.is_active]

    def take(self, wanted: Callable[[Fault], bool]) -> Fault | None:
        """Count one use of the oldest active fault for which `wanted` returns true.

        All processes share the count: a fault with one use left happens once.

        Returns:
            The fault as it was before this use; None if there is none.
        """
        if not any(each.is_active and wanted(each) for each in self.all()):
            return None
        with self._changing() as faults:
            for index, fault in enumerate(faults):
                if fault.is_active and wanted(fault):
                    left = None if fault.left is None else fault.left - 1
                    faults[index] = replace(fault, left=left, happened=fault.happened + 1)
                    return fault
        return None

    def clear(self, number: int | None = None) -> int:
        """Remove one fault, or all; return how many were removed."""
        with self._changing() as faults:
            kept = [each for each in faults if number not in (None, each.number)]
            removed = len(faults) - len(kept)
            faults[:] = kept
        return removed

    @contextmanager
    def _changing(self) -> Iterator[list[Fault]]:
        """Yield the list of faults, locked; afterwards replace the file by its new content."""
        self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with open(self._lock, "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            faults = self._read()
            yield faults
            partial = self._path.with_name(f"{self._path.name}.partial")
            partial.write_text(json.dumps([asdict(each) for each in faults], indent=1))
            os.replace(partial, self._path)

    def _read(self) -> list[Fault]:
        try:
            found = [Fault(**each) for each in json.loads(self._path.read_text())]
            for each in found:
                str(each)  # raises if there is no such kind or option
            return found
        except (OSError, ValueError, TypeError, KeyError, LocalModeError):
            return []  # no file, or one of another version of local mode
