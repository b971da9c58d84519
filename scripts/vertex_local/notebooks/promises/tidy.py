"""Prepares a notebook for a commit: removes what Jupyter saves of a run, except promised outputs.

That is outputs, execution counts, run times, and the name of the kernel: it becomes `python3`.
"""

from __future__ import annotations

import copy
from pathlib import Path

import nbformat

from vertex_local.notebooks import files
from vertex_local.notebooks.promises.refresh import is_promise

KERNELSPEC = {"display_name": "Python 3", "language": "python", "name": "python3"}
LANGUAGE = {"name": "python"}  # without the version of the Python that ran last


def tidied(notebook: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """Return a copy of a notebook as it should be committed."""
    tidy = copy.deepcopy(notebook)
    tidy.metadata.kernelspec = KERNELSPEC
    tidy.metadata.language_info = LANGUAGE
    for cell in tidy.cells:
        cell.metadata.pop("execution", None)  # run times
        if cell.cell_type == "code":
            cell.execution_count = None
            cell.outputs = cell.outputs if is_promise(cell) else []
    return tidy


def tidy(path: Path, write: bool) -> bool:
    """Tidy the notebook at `path` in place.

    Args:
        path: the notebook.
        write: whether to change the file.

    Returns:
        Whether the file is tidy now.

    Raises:
        LocalModeError: if it cannot be read.
    """
    text = files.text_of(tidied(files.read(path)))
    if text == path.read_text():
        return True
    if write:
        files.replace(path, text)
        print(f"{path}: tidied")
    else:
        print(f"{path} is not fit to be committed. Run `vertex-local tidy {path}`.")
    return write
