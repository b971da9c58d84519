"""Faults of buckets for files below `/gcs`, which a job reads without a server of ours.

Environment variables pass them to the job's Python, in which `gcs/sitecustomize.py` applies them.
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
    descriptions = [{"kind": each.kind, **each.options} for each in active]
    path = [str(FOLDER), environment.get("PYTHONPATH", "")]
    return {
        "PYTHONPATH": os.pathsep.join(filter(None, path)),
        "VERTEX_LOCAL_GCS_FAULTS": json.dumps(descriptions),
    }
