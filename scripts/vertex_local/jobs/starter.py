"""Which kernel started a job, so that its notebook can show the job's warnings.

A kernel uses URLs of the training API that begin with `/kernels/NAME`. The name proves nothing:
access is checked before, as for every request.
"""

from __future__ import annotations

import os
import re
import secrets
from contextvars import ContextVar
from pathlib import Path

VARIABLE = "VERTEX_LOCAL_KERNEL"  # gives a kernel its name
FILE = "kernel"  # in a job's folder; there is none if no kernel started the job
KERNEL = re.compile(r"[0-9a-f]{16}")
PREFIX = re.compile(rf"/kernels/(?P<kernel>{KERNEL.pattern})(?=/)")

# The kernel that sent the request that is handled now; "" for none.
current: ContextVar[str] = ContextVar("kernel", default="")


def new_kernel() -> str:
    """Return a new name for a kernel."""
    return secrets.token_hex(8)


def this_kernel() -> str:
    """Return the name of the kernel that starts in this process."""
    return os.environ.pop(VARIABLE, "") or new_kernel()


def address(api_url: str, kernel: str) -> str:
    """Return the URL of the training API for a kernel; for any other name, `api_url` itself."""
    return f"{api_url}/kernels/{kernel}" if KERNEL.fullmatch(kernel) else api_url


def note(folder: Path) -> None:
    """Note in a new job's folder which kernel started it."""
    if kernel := current.get():
        (folder / FILE).write_text(kernel)


def of(folder: Path) -> str:
    """Return the kernel that started the job in `folder`, or ""."""
    try:
        return (folder / FILE).read_text(errors="replace")
    except OSError:
        return ""
