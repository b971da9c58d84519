"""Refreshes the promised outputs of a notebook: executes it, shows and stores what differs."""

from __future__ import annotations

import copy
import difflib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nbformat

from vertex_local.config import LocalModeError
from vertex_local.notebooks import checking, files
from vertex_local.notebooks.promises.comparison import differences, shown
from vertex_local.notebooks.settings import Settings
from vertex_local.testing.sandbox import sandbox

TAG, COMMENT = "nbval-check-output", "NBVAL_CHECK_OUTPUT"  # either marks a cell, as for nbval
LONGEST = 40  # lines of a promise, so that a reader can compare them


def refresh(path: Path, write: bool) -> bool:
    """Execute a notebook in a local mode of its own; compare its outputs with the promised ones.

    Outputs that agree within the cell's tolerance stay as they are stored.

    Args:
        path: the notebook.
        write: whether to store the outputs that differ.

    Returns:
        Whether the notebook now promises what it shows.

    Raises:
        LocalModeError: if a cell fails, nothing is promised, or an output cannot be promised.
    """
    stored = files.read(path)
    if not any(map(is_promise, stored.cells)):
        raise LocalModeError(f"{path} promises nothing. Tag a code cell with {TAG!r}.")
    executed = copy.deepcopy(stored)
    with sandbox():
        checking.run(executed, path)
    return settle(path, stored, executed, write)


def settle(path: Path, stored: Any, executed: Any, write: bool) -> bool:
    """Compare a notebook with its executed copy; print what differs.

    Args:
        path: the notebook's file.
        stored: the notebook in the file; its outputs are changed.
        executed: the same cells with their new outputs.
        write: whether to store the outputs that differ.

    Returns:
        Whether the file now promises what the cells show.

    Raises:
        LocalModeError: if an output cannot be promised; the file is not changed.
    """
    pairs = [pair for pair in zip(stored.cells, executed.cells, strict=True) if is_promise(pair[0])]
    changed = [(old, new) for old, new in pairs if _differs(old, new)]
    for old, new in changed:
        outputs = _fit(path, new)
        print(f"\n{path.name}: {files.title(old)}")
        print("\n".join(_diff(old.outputs, outputs)))
        old.outputs = outputs
    if changed and not write:
        print(f"\n{len(changed)} of {len(pairs)} promises differ. Store them with --yes.")
        return False
    if not changed:
        print(f"{path.name} shows what it promises, in {len(pairs)} cells.")
    if write:
        files.replace(path, files.text_of(stored))
    return True


def is_promise(cell: Any) -> bool:
    """Return whether the output of a cell is to be checked."""
    if cell.cell_type != "code":
        return False
    comments = [line.strip().lstrip("# ") for line in cell.source.splitlines() if "#" in line]
    return TAG in cell.metadata.get("tags", []) or COMMENT in comments


def _differs(old: Any, new: Any) -> bool:
    tolerance = Settings.of(old).tolerance
    return not old.outputs or bool(differences(shown(old.outputs), shown(new.outputs), tolerance))


def _fit(path: Path, cell: Any) -> list[Any]:
    """Return the outputs of a cell as they are stored.

    Raises:
        LocalModeError: if there are none, they are too long, or cannot be stored as text.
    """
    where = f"{path}, the cell {files.title(cell)!r},"
    things = shown(cell.outputs)
    if not things:
        raise LocalModeError(f"{where} shows nothing. Let it print its result, or remove the tag.")
    outputs = [out for out in cell.outputs if out.get("name") != "stderr"]
    for output in outputs:
        if "execution_count" in output:
            output.execution_count = None
        if "data" in output:  # store only the text of a picture
            output.data = {kind: v for kind, v in output.data.items() if kind.startswith("text/")}
    if [thing.kind for thing in shown(outputs)] != [thing.kind for thing in things]:
        raise LocalModeError(
            f"{where} shows something that cannot be stored as text. Promise a text instead."
        )
    if len(list(_lines(outputs))) > LONGEST:
        raise LocalModeError(
            f"{where} shows more than {LONGEST} lines. Let it show the part that matters."
        )
    return outputs


def _diff(old: list[Any], new: list[Any]) -> Iterator[str]:
    return difflib.unified_diff(
        list(_lines(old)), list(_lines(new)), "stored", "shown now", lineterm=""
    )


def _lines(outputs: list[nbformat.NotebookNode]) -> Iterator[str]:
    """Yield outputs as lines of text."""
    for output in outputs:
        if output.output_type == "error":
            yield f"{output.ename}: {output.evalue}"
        else:
            data = output.get("data", {})
            yield from str(output.get("text") or data.get("text/plain", "")).splitlines()
