"""A copy of the lesson, and `workshop.py run` in it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

LIMIT_SECONDS = 900  # a slow machine, and a busy one


def make_clone(repo: Path, clone: Path) -> Path:
    """Copy the lesson as it is now: other tests execute the same notebooks at this moment."""
    unwanted = shutil.ignore_patterns("work", "__pycache__", "*.egg-info")
    for folder in ("data", "notebooks", "scripts"):
        shutil.copytree(repo / folder, clone / folder, ignore=unwanted)
    (clone / ".venv").symlink_to(sys.prefix)
    return clone


def run_lesson(clone: Path, root: Path) -> subprocess.CompletedProcess[str]:
    """`workshop.py run` in a clone, with the environment of this process: making one is slow."""
    code = (
        f"import sys; sys.path.insert(0, {str(clone / 'scripts')!r}); import workshop; "
        "workshop.is_installed = lambda: True; sys.exit(workshop.main(['run']))"
    )
    return subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "VERTEX_LOCAL_ROOT": str(root)},
        capture_output=True,
        text=True,
        timeout=LIMIT_SECONDS,
    )
