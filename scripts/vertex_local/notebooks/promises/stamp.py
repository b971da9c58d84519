"""The line in which a notebook says when it was last executed, and with which versions."""

from __future__ import annotations

import platform
import re
from datetime import date
from importlib.metadata import version
from pathlib import Path

import nbformat

from vertex_local.config import LocalModeError
from vertex_local.notebooks.files import replace, text_of

PACKAGES = (
    "google-cloud-aiplatform",
    "google-cloud-storage",
    "torch",
    "numpy",
    "pandas",
    "scikit-learn",
)
LINE = re.compile(r"^\*Checked on \d{4}-\d\d-\d\d in local mode, .*\*$", re.MULTILINE)


def line(today: date) -> str:
    """Return the line for a notebook that was executed `today` with the installed versions."""
    versions = [f"{name} {version(name).partition('+')[0]}" for name in PACKAGES]
    return (
        f"*Checked on {today} in local mode, with Python {platform.python_version()}, "
        f"{', '.join(versions)}.*"
    )


def write(path: Path, today: date) -> None:
    """Put the line into the notebook at `path`, at its end or in place of an older one.

    Only the text changes; outputs and metadata stay as they are.

    Raises:
        LocalModeError: if the notebook does not end with a text, or cannot be written.
    """
    notebook = nbformat.read(path, as_version=nbformat.NO_CONVERT)
    last = notebook.cells[-1] if notebook.cells else None
    if last is None or last.cell_type != "markdown":
        raise LocalModeError(
            f"{path} must end with a text cell, for the line that says when it was checked."
        )
    text = LINE.sub("", last.source).rstrip()
    last.source = f"{text}\n\n{line(today)}"
    try:
        replace(path, text_of(notebook))
    except OSError as err:
        raise LocalModeError(f"{path} cannot be written ({err.strerror}).") from err
