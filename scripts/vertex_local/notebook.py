"""Executes a notebook with the local-mode kernel, one line per cell, and keeps what it shows."""

from __future__ import annotations

import re
import subprocess
import time
from pathlib import Path
from typing import Any

import nbformat
from jupyter_client.kernelspec import NoSuchKernel
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError
from nbconvert.exporters import HTMLExporter

from vertex_local import kernel
from vertex_local.config import LocalModeError

CELL_SECONDS = 600
SHOWN_LINES = 12  # of the failing cell's source, and of its traceback


class NotebookFailed(LocalModeError):
    """A cell of the notebook failed; the message is a readable account of it."""


def read(path: Path) -> nbformat.NotebookNode:
    """Return the notebook in the file `path`.

    Raises:
        LocalModeError: if the file cannot be read or is not a notebook.
    """
    try:
        return nbformat.read(path, as_version=4)
    except OSError as err:
        raise LocalModeError(f"The notebook {path} cannot be read ({err.strerror}).") from err
    except (nbformat.reader.NotJSONError, nbformat.ValidationError, AttributeError) as err:
        raise LocalModeError(f"{path} is not a notebook that Jupyter can open.") from err


def execute(notebook: nbformat.NotebookNode, path: Path, output: Path) -> Path:
    """Execute all cells of a notebook, printing a line for each.

    Args:
        notebook: the notebook; its outputs are filled in.
        path: the file that it came from, which is not changed; cells run in its folder.
        output: folder for the executed copy and its HTML version; created if it is missing.

    Returns:
        The path of the executed copy.

    Raises:
        NotebookFailed: at the first cell that fails; the copies are written all the same.
        LocalModeError: if the kernel is not installed.
    """
    client = _Client(notebook, path)
    try:
        client.execute(stderr=subprocess.DEVNULL)  # the kernel's own remarks, not the cells'
    except NoSuchKernel as err:
        raise LocalModeError(
            f"The Jupyter kernel {kernel.NAME!r} is not installed in this environment. Install it "
            "with `vertex-local kernel install`."
        ) from err
    except CellExecutionError as err:
        raise NotebookFailed(client.account(f"{err.ename}: {err.evalue}", err.traceback)) from err
    except CellTimeoutError as err:
        raise NotebookFailed(client.account(f"no end after {CELL_SECONDS} s", "")) from err
    except DeadKernelError as err:
        raise NotebookFailed(client.account("the kernel died", "")) from err
    finally:
        executed = save(notebook, output / path.name)
    return executed


def save(notebook: nbformat.NotebookNode, path: Path) -> Path:
    """Write a notebook to `path` and an HTML version beside it; return `path`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(notebook, path)
    html, _ = HTMLExporter(mathjax_url="", require_js_url="").from_notebook_node(notebook)
    path.with_suffix(".html").write_text(html)
    return path


class _Client(NotebookClient):  # type: ignore[misc]  # nbclient is configured through traits
    """Runs the cells and prints how far it is."""

    def __init__(self, notebook: nbformat.NotebookNode, path: Path) -> None:
        super().__init__(
            notebook,
            kernel_name=kernel.NAME,
            timeout=CELL_SECONDS,
            resources={"metadata": {"path": str(path.parent)}},
        )
        self._path = path
        self._code = [i for i, cell in enumerate(notebook.cells) if _is_code(cell)]
        self._started, self._index = 0.0, 0
        self.on_cell_execute = self._begin
        self.on_cell_executed = self._end

    def _begin(self, cell: Any, cell_index: int) -> None:
        self._started, self._index = time.monotonic(), cell_index

    def _end(self, cell: Any, cell_index: int, execute_reply: Any) -> None:
        seconds = time.monotonic() - self._started
        number = self._code.index(cell_index) + 1
        width = len(str(len(self._code)))
        mark = "ok" if execute_reply["content"]["status"] == "ok" else "FAILED"
        print(
            f"[{number:>{width}}/{len(self._code)}] {mark:<6} {seconds:>6.1f} s  {_title(cell)}",
            flush=True,
        )

    def account(self, what: str, traceback: str) -> str:
        """Return a readable account of the cell that was running: where, what, its source."""
        cell = self.nb.cells[self._index]
        number = self._code.index(self._index) + 1
        lines = [f"{self._path.name}: code cell {number} of {len(self._code)} failed: {what}"]
        lines += ["", "The cell:", *_shortened(cell.source)]
        printed = "".join(
            out.text for out in cell.get("outputs", []) if out.output_type == "stream"
        )
        if printed:
            lines += ["", "It printed, last:", *_last(printed)]
        if traceback:
            lines += ["", "The end of the traceback:", *_last(_plain(traceback))]
        return "\n".join(lines)


def _is_code(cell: Any) -> bool:
    return bool(cell.cell_type == "code" and cell.source.strip())


def _title(cell: Any) -> str:
    first = next((line for line in cell.source.splitlines() if line.strip()), "")
    return str(first[:70])


def _shortened(text: str) -> list[str]:
    lines = text.splitlines()
    if len(lines) > SHOWN_LINES:
        half = SHOWN_LINES // 2
        lines = [*lines[:half], f"… {len(lines) - SHOWN_LINES} lines …", *lines[-half:]]
    return [f"    {line}" for line in lines]


def _last(text: str) -> list[str]:
    return [f"    {line}" for line in text.splitlines()[-SHOWN_LINES:]]


def _plain(text: str) -> str:
    """Return `text` without terminal colours."""
    return re.sub(r"\x1b\[[0-9;]*m", "", text)
