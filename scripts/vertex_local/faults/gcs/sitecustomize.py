"""Makes files below /gcs slow or forbidden for a job's Python, as the active faults ask.

Python imports this module at its start when its folder is on PYTHONPATH, which is so only in jobs
that start while such a fault is active. Each of EVENTS counts as one request. Programs in other
languages are not affected.
"""

import errno
import json
import os
import sys
import time
from fnmatch import fnmatchcase

FAULTS = json.loads(os.environ.get("VERTEX_LOCAL_GCS_FAULTS", "[]"))
FOLDERS = ("/gcs/", os.path.join(os.environ.get("VERTEX_LOCAL_BUCKETS", "/gcs"), ""))
EVENTS = {"open", "os.listdir", "os.scandir", "os.remove", "os.rename", "os.mkdir", "os.rmdir"}
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC


def _bucket(path: object) -> str:
    """Return the bucket that a path is in; "" if it is in none."""
    if not isinstance(path, (str, bytes)):
        return ""
    text = os.path.abspath(os.fsdecode(path))
    for folder in FOLDERS:
        if text.startswith(folder):
            return text[len(folder) :].partition("/")[0]
    return ""


def _hook(event: str, arguments: tuple) -> None:  # type: ignore[type-arg]
    if event not in EVENTS or not arguments:
        return
    bucket = _bucket(arguments[0])
    if not bucket:
        return
    if event == "open":
        access = "write" if int(arguments[2] or 0) & WRITING else "read"
    else:
        access = "read" if event in ("os.listdir", "os.scandir") else "write"
    for fault in FAULTS:
        if fnmatchcase(bucket, fault["bucket"]) and fault.get("access", access) in ("any", access):
            _apply(fault, os.fsdecode(arguments[0]), event)


def _apply(fault: dict, path: str, event: str) -> None:  # type: ignore[type-arg]
    if fault["kind"] == "bucket-denied":
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), path)
    seconds = fault["request"]
    if fault["rate"] and event == "open":
        try:
            seconds += os.stat(path).st_size / (fault["rate"] * 1e6)
        except OSError:
            pass
    time.sleep(seconds)


if FAULTS:
    sys.addaudithook(_hook)
