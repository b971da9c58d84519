"""The kernel's specification: the file by which Jupyter finds the kernel `vertex-local`."""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

from vertex_local.config import LocalModeError

NAME = "vertex-local"
DISPLAY_NAME = "Python 3 (Vertex AI local mode)"


def spec() -> dict[str, Any]:
    """Return the kernel specification for this Python."""
    return {
        "argv": [sys.executable, "-m", "vertex_local.kernel", "-f", "{connection_file}"],
        "display_name": DISPLAY_NAME,
        "language": "python",
        "metadata": {"debugger": True},
    }


def write_spec(folder: Path) -> None:
    """Write `kernel.json` into `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "kernel.json").write_text(json.dumps(spec(), indent=1) + "\n")


def install(prefix: str) -> str:
    """Install the kernel specification below `prefix`; return the folder.

    Raises:
        LocalModeError: if that folder cannot be written.
    """
    from jupyter_client.kernelspec import KernelSpecManager

    with tempfile.TemporaryDirectory() as folder:
        write_spec(Path(folder))
        try:
            path: str = KernelSpecManager().install_kernel_spec(folder, NAME, prefix=prefix)
        except OSError as err:
            raise LocalModeError(
                f"The kernel cannot be installed below {prefix} ({err.strerror}). Use a virtual "
                "environment of your own, or `vertex-local kernel install --prefix FOLDER`."
            ) from err
    return path
