"""Notebooks as files: reading them, and writing a file in one step."""

from __future__ import annotations

import os
import warnings
from pathlib import Path
from typing import Any

import nbformat

from vertex_local.config import LocalModeError


def read(path: Path) -> nbformat.NotebookNode:
    """Return the notebook in the file `path`.

    Raises:
        LocalModeError: if the file cannot be read or is not a notebook in format 4.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", nbformat.warnings.MissingIDFieldWarning)
            notebook = nbformat.read(path, as_version=nbformat.NO_CONVERT)
    except OSError as err:
        raise LocalModeError(f"The notebook {path} cannot be read ({err.strerror}).") from err
    except nbformat.warnings.MissingIDFieldWarning as err:
        raise LocalModeError(
            f"{path} has the format 4.5 or newer, but its cells have no ids. Open it in Jupyter "
            "and save it."
        ) from err
    except (nbformat.reader.NotJSONError, nbformat.ValidationError, AttributeError) as err:
        raise LocalModeError(f"{path} is not a notebook that Jupyter can open.") from err
    if "nbformat" not in notebook:
        raise LocalModeError(f"{path} is not a notebook that Jupyter can open.")
    if notebook.nbformat != 4:
        raise LocalModeError(
            f"{path} is in notebook format {notebook.nbformat}, and format 4 is needed. Convert it "
            f"with `jupyter nbconvert --to notebook --inplace {path}`."
        )
    return notebook


def text_of(notebook: nbformat.NotebookNode) -> str:
    """Return the text of a notebook's file, formatted as Jupyter does."""
    return str(nbformat.writes(notebook)) + "\n"


def replace(path: Path, text: str) -> None:
    """Write `text` to `path` in one step; raise OSError and keep the old file if that fails."""
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        partial.write_text(text)
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def code_cells(notebook: nbformat.NotebookNode) -> list[int]:
    """Return the indices of the cells with code that is not empty."""
    return [
        index
        for index, cell in enumerate(notebook.cells)
        if cell.cell_type == "code" and cell.source.strip()
    ]


def title(cell: Any) -> str:
    """Return the first line of a cell, at most 70 characters of it."""
    first = next((line for line in cell.source.splitlines() if line.strip()), "")
    return str(first[:70])
