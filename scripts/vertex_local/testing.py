"""A pytest plugin: every test session gets a local mode of its own, for notebooks and tests alike.

It is loaded with `-p vertex_local.testing`. The session's root is a temporary folder, so tests
never touch the buckets that somebody works with; the kernel is offered to Jupyter without being
installed; and whatever server the tests or the notebooks' kernels started is stopped at the end.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

import pytest

from vertex_local import daemon, kernel
from vertex_local.config import find_root

_folder = pytest.StashKey[Path]()


def pytest_configure(config: pytest.Config) -> None:
    """Point this process, and with it every kernel that it starts, at a root of its own."""
    folder = config.stash[_folder] = Path(tempfile.mkdtemp(prefix="vertex-local-tests-"))
    kernel.write_spec(folder / "jupyter" / "kernels" / kernel.NAME)
    elsewhere = os.environ.get("JUPYTER_PATH")
    os.environ["JUPYTER_PATH"] = os.pathsep.join(
        [str(folder / "jupyter"), *([elsewhere] if elsewhere else [])]
    )
    os.environ["VERTEX_LOCAL_ROOT"] = str(folder / "root")


def pytest_unconfigure(config: pytest.Config) -> None:
    """Stop the session's server and delete its root."""
    daemon.stop(find_root())
    shutil.rmtree(config.stash[_folder])
