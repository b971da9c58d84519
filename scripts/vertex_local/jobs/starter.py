"""Which kernel started a job: below the cells of that notebook, the job's warnings appear.

A kernel asks the training API at addresses that begin with `/kernels/ID`. That is a name and no
proof: who may ask is decided before, as for everybody else.
"""

from __future__ import annotations

import os
import re
import secrets
from contextvars import ContextVar
from pathlib import Path

VARIABLE = "VERTEX_LOCAL_KERNEL"  # what a kernel is to be called
FILE = "kernel"  # in a job's folder; there is none if no kernel started the job
KERNEL = re.compile(r"[0-9a-f]{16}")
PREFIX = re.compile(rf"/kernels/(?P<kernel>{KERNEL.pattern})(?=/)")

# The kernel that asks for what is being done now; "" if it is none.
current: ContextVar[str] = ContextVar("kernel", default="")


def new_kernel() -> str:
    """Return a name for a kernel."""
    return secrets.token_hex(8)


def this_kernel() -> str:
    """Return the name of the kernel that starts in this process."""
    return os.environ.pop(VARIABLE, "") or new_kernel()


def address(api_url: str, kernel: str) -> str:
    """Return the address of the training API for a kernel; the usual one for any other name."""
    return f"{api_url}/kernels/{kernel}" if KERNEL.fullmatch(kernel) else api_url


def note(folder: Path) -> None:
    """Write down in a new job's folder which kernel started it."""
    if kernel := current.get():
        (folder / FILE).write_text(kernel)


def of(folder: Path) -> str:
    """Return the kernel that started the job in `folder`, or ""."""
    try:
        return (folder / FILE).read_text(errors="replace")
    except OSError:
        return ""
