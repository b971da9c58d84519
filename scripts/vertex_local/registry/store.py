"""Models and TensorBoard instances: the SDK's own messages, kept in SQLite beside the jobs."""

from __future__ import annotations

import sqlite3
import threading
from collections import OrderedDict
from pathlib import Path
from typing import Any, TypeAlias

from google.cloud.aiplatform_v1.types import Model, Tensorboard

from vertex_local.training.names import ResourceName

Entry: TypeAlias = "Model | Tensorboard"
KINDS: dict[str, type[Entry]] = {"models": Model, "tensorboards": Tensorboard}
KEPT_OPERATIONS = 1000  # finished operations that clients may still ask for

SCHEMA = """
CREATE TABLE IF NOT EXISTS registered (
    number INTEGER PRIMARY KEY,      -- order of creation
    name TEXT NOT NULL,              -- projects/N/locations/L/KIND/ID
    parent TEXT NOT NULL,            -- projects/N/locations/L/KIND
    version INTEGER NOT NULL,        -- of a model, from 1 on; 1 for anything else
    message BLOB NOT NULL,           -- the resource, serialised
    UNIQUE (name, version)
)
"""


class Registry:
    """All entries of one root. Safe to use from several threads.

    Attributes:
        lock: hold it from reading an entry until its changes are saved.
        operations: finished operations with their results, by name.
    """

    def __init__(self, path: Path) -> None:
        self.lock = threading.RLock()
        self.operations: OrderedDict[str, dict[str, Any]] = OrderedDict()
        self._db = sqlite3.connect(path, check_same_thread=False, isolation_level=None)
        self._db.execute("PRAGMA journal_mode=WAL")
        self._db.execute(SCHEMA)

    def close(self) -> None:
        """Close the database; call no other method afterwards."""
        with self.lock:
            self._db.close()

    def save(self, entry: Entry, version: int = 1) -> None:
        """Store a new entry, or replace the stored one."""
        name = ResourceName.of(entry)
        values = (str(name), str(name.parent), version, type(entry).serialize(entry))
        with self.lock:
            self._db.execute(
                "INSERT INTO registered (name, parent, version, message) VALUES (?, ?, ?, ?) "
                "ON CONFLICT (name, version) DO UPDATE SET message = excluded.message",
                values,
            )

    def versions(self, name: ResourceName) -> list[Entry]:
        """Return all versions of an entry, oldest first; none if there is no such entry."""
        return self._entries("name = ? ORDER BY version", str(name))

    def children(self, parent: ResourceName) -> list[Entry]:
        """Return every version of everything below `parent`, newest first."""
        return self._entries("parent = ? ORDER BY number DESC", str(parent))

    def delete(self, name: ResourceName, version: int | None = None) -> None:
        """Delete all versions of an entry, or one of them."""
        with self.lock:
            self._db.execute(
                "DELETE FROM registered WHERE name = ? AND version = ifnull(?, version)",
                (str(name), version),
            )

    def finished(self, operation: dict[str, Any]) -> dict[str, Any]:
        """Keep a finished operation for clients that ask for it later, and return it."""
        with self.lock:
            self.operations[operation["name"]] = operation
            while len(self.operations) > KEPT_OPERATIONS:
                self.operations.popitem(last=False)
        return operation

    def _entries(self, condition: str, value: str) -> list[Entry]:
        with self.lock:
            rows = self._db.execute(
                f"SELECT name, message FROM registered WHERE {condition}", (value,)
            ).fetchall()
        return [KINDS[name.split("/")[-2]].deserialize(message) for name, message in rows]
