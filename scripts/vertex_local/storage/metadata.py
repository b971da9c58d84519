"""Metadata that a file system cannot hold: content type, generation, checksums, labels. In SQLite.

A record belongs to one exact file: inode, size and time of change are part of its key. So a new
record can be written before its file is renamed into place: only the record of the file that is
there is valid. Records whose file is gone are ignored.
"""

from __future__ import annotations

import json
import os
import sqlite3
import threading
from collections.abc import Iterable
from pathlib import Path
from typing import Any, TypeAlias

Resource: TypeAlias = dict[str, Any]  # the API's JSON, without the fields that follow from the name
FOLDER = "folder"  # the identity of a placeholder: an object "a/b/" is the folder a/b
NAMES_AT_ONCE = 500  # SQLite allows 999 parameters in older versions

SCHEMA = """
CREATE TABLE IF NOT EXISTS buckets (name TEXT PRIMARY KEY, document TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS objects (
    bucket TEXT NOT NULL,
    name TEXT NOT NULL,
    identity TEXT NOT NULL,      -- which file this is about: see `identity`
    document TEXT NOT NULL,      -- JSON
    PRIMARY KEY (bucket, name, identity)
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS folders ON objects (bucket, name) WHERE identity = 'folder';
"""


def identity(stat: os.stat_result) -> str:
    """Return a key for this state of a file: it changes whenever the file does."""
    return f"{stat.st_ino:x}.{stat.st_mtime_ns:x}.{stat.st_size:x}"


class Metadata:
    """All metadata of one root. Safe to use from several threads.

    Raises:
        sqlite3.DatabaseError: if the file is damaged.
    """

    def __init__(self, path: Path) -> None:
        self._lock = threading.Lock()
        self._db = sqlite3.connect(path, check_same_thread=False, isolation_level=None)
        self._db.execute("PRAGMA journal_mode=WAL")
        # If the process is killed, nothing is lost. A power cut may lose the newest records; their
        # files then get new metadata, like files that another program has added.
        self._db.execute("PRAGMA synchronous=NORMAL")
        self._db.executescript(SCHEMA)

    def close(self) -> None:
        """Close the database; call no other method afterwards."""
        with self._lock:
            self._db.close()

    def _run(self, statement: str, *values: str) -> list[tuple[Any, ...]]:
        with self._lock:
            return self._db.execute(statement, values).fetchall()

    def bucket(self, name: str) -> Resource | None:
        """Return the record of a bucket, or None."""
        rows = self._run("SELECT document FROM buckets WHERE name = ?", name)
        return json.loads(rows[0][0]) if rows else None

    def put_bucket(self, name: str, document: Resource) -> None:
        """Save the record of a bucket."""
        self._run("INSERT OR REPLACE INTO buckets VALUES (?, ?)", name, json.dumps(document))

    def drop_bucket(self, name: str) -> None:
        """Delete the records of a bucket and of all its objects."""
        self._run("DELETE FROM objects WHERE bucket = ?", name)
        self._run("DELETE FROM buckets WHERE name = ?", name)

    def of(self, bucket: str, name: str) -> dict[str, Resource]:
        """Return the records of an object, by file identity; usually only that of its file."""
        rows = self._run(
            "SELECT identity, document FROM objects WHERE bucket = ? AND name = ?", bucket, name
        )
        return {key: json.loads(document) for key, document in rows}

    def of_many(self, bucket: str, names: list[str]) -> dict[tuple[str, str], Resource]:
        """Return the records of several objects, by name and file identity."""
        found = {}
        for start in range(0, len(names), NAMES_AT_ONCE):
            some = names[start : start + NAMES_AT_ONCE]
            marks = ",".join("?" * len(some))
            rows = self._run(
                "SELECT name, identity, document FROM objects "  # only question marks
                f"WHERE bucket = ? AND name IN ({marks})",
                bucket,
                *some,
            )
            found.update({(name, key): json.loads(document) for name, key, document in rows})
        return found

    def put(self, bucket: str, name: str, key: str, document: Resource) -> None:
        """Save the record of an object's file."""
        self._run(
            "INSERT OR REPLACE INTO objects VALUES (?, ?, ?, ?)",
            bucket,
            name,
            key,
            json.dumps(document),
        )

    def drop(self, bucket: str, name: str, keys: Iterable[str]) -> None:
        """Delete the records of an object with these file identities."""
        for key in keys:
            self._run(
                "DELETE FROM objects WHERE bucket = ? AND name = ? AND identity = ?",
                bucket,
                name,
                key,
            )

    def folders(self, bucket: str) -> set[str]:
        """Return the names of a bucket's placeholders, each with its slash at the end."""
        rows = self._run(
            "SELECT name FROM objects WHERE bucket = ? AND identity = 'folder'", bucket
        )
        return {str(name) for (name,) in rows}
