"""A copy of the project, and `workshop.py run` in it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

LIMIT_SECONDS = 300


def make_clone(repo: Path, clone: Path) -> Path:
    """Copy the project as it is now: other tests execute the same notebooks at this moment."""
    names = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=repo,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.splitlines()
    for name in names:
        (clone / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(repo / name, clone / name)
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
