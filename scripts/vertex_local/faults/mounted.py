"""Faults of buckets as a job's Python meets them below `/gcs`, where there is no server between.

A Python program that starts with these variables is slowed, or refused, at each file that it opens
there: see `gcs/sitecustomize.py`.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path

from vertex_local.faults.store import Faults

FOLDER = Path(__file__).with_name("gcs")


def variables(faults: Faults, environment: Mapping[str, str]) -> dict[str, str]:
    """Return the variables to add to a job's environment; none if no such fault is active."""
    active = faults.active("storage-slow", "bucket-denied")
    if not active:
        return {}
    told = [{"kind": each.kind, **each.options} for each in active]
    path = [str(FOLDER), environment.get("PYTHONPATH", "")]
    return {
        "PYTHONPATH": os.pathsep.join(filter(None, path)),
        "VERTEX_LOCAL_GCS_FAULTS": json.dumps(told),
    }
