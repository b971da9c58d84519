"""Makes a notebook fit to be committed: no outputs but promised ones, and the plain kernel's name.

Jupyter saves outputs, execution counts, and the name of the kernel that happens to run.
"""

from __future__ import annotations

import copy
from pathlib import Path

import nbformat

from vertex_local.notebooks import files
from vertex_local.notebooks.promises.refresh import is_promise

KERNELSPEC = {"display_name": "Python 3", "language": "python", "name": "python3"}
LANGUAGE = {"name": "python"}  # without the version of the Python that ran last


def tidied(found: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """Return a copy of a notebook as it should be committed."""
    tidy = copy.deepcopy(found)
    tidy.metadata.kernelspec, tidy.metadata.language_info = KERNELSPEC, LANGUAGE
    for cell in tidy.cells:
        cell.metadata.pop("execution", None)  # times
        if cell.cell_type == "code":
            cell.execution_count = None
            cell.outputs = cell.outputs if is_promise(cell) else []
    return tidy


def tidy(path: Path, write: bool) -> bool:
    """Tidy the notebook at `path` in place.

    Args:
        path: the notebook.
        write: whether to change the file; if not, only look.

    Returns:
        Whether the file is tidy now.

    Raises:
        LocalModeError: if it cannot be read.
    """
    found = files.read(path)
    text = files.text_of(tidied(found))
    if text == path.read_text():
        return True
    if write:
        files.replace(path, text)
        print(f"{path}: tidied")
    else:
        print(f"{path} is not fit to be committed. Run `vertex-local tidy {path}`.")
    return write
