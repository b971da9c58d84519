"""A temporary local mode: its root and its kernel's specification lie in a temporary folder."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from vertex_local.config import Root, find_root
from vertex_local.kernel import spec
from vertex_local.server import daemon

CHANGED = ("JUPYTER_PATH", "VERTEX_LOCAL_ROOT", "VERTEX_LOCAL_SEED")


@contextmanager
def sandbox() -> Iterator[Root]:
    """Give this process, and every kernel that it starts, a root of its own.

    At the end its server is stopped, if one was started, and the root is deleted.
    """
    with tempfile.TemporaryDirectory(prefix="vertex-local-") as name:
        folder = Path(name)
        spec.write_spec(folder / "jupyter" / "kernels" / spec.NAME)
        before = {key: os.environ.get(key) for key in CHANGED}
        paths = [str(folder / "jupyter"), before["JUPYTER_PATH"]]
        os.environ["JUPYTER_PATH"] = os.pathsep.join(path for path in paths if path)
        os.environ["VERTEX_LOCAL_ROOT"] = str(folder / "root")
        os.environ.setdefault("VERTEX_LOCAL_SEED", "1")  # the same search tries the same parameters
        try:
            yield find_root()
        finally:
            daemon.stop(find_root())
            for key, value in before.items():
                os.environ.pop(key)
                if value is not None:
                    os.environ[key] = value
