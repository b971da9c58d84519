"""Reads, executes and saves notebooks: one kernel for each, one cell after the other."""

from __future__ import annotations

import asyncio
import functools
import logging
import mimetypes
import os
import re
import subprocess
import time
import warnings
from base64 import b64encode
from contextlib import ExitStack
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import nbformat
from jupyter_client.kernelspec import KernelSpecManager, NoSuchKernel
from jupyter_client.manager import AsyncKernelManager
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError
from nbclient.util import run_sync

from vertex_local.config import LocalModeError, find_root
from vertex_local.kernel import spec
from vertex_local.notebooks import account, watch
from vertex_local.notebooks.account import CellFailed

CELL_SECONDS = 600
START_SECONDS = 90
INTERRUPT_SECONDS = 5.0
POLL_SECONDS = 0.05

_quiet = logging.getLogger(__name__)  # what nbclient logs, the account says better
_quiet.setLevel(logging.CRITICAL + 1)


class NotebookFailed(LocalModeError):
    """A cell of the notebook failed; the message is a readable account of it."""


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
            f"{path} says that it is in format 4.5, but its cells have no ids. Open it in Jupyter "
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


def execute(notebook: nbformat.NotebookNode, path: Path, output: Path) -> Path:
    """Execute all cells of a notebook in local mode, printing a line for each.

    Args:
        notebook: the notebook; its outputs are filled in.
        path: the file that it came from, which is not changed; cells run in its folder.
        output: folder for the executed copy and its HTML version; created if it is missing.

    Returns:
        The path of the executed copy.

    Raises:
        NotebookFailed: at the first cell that fails; the copies are written all the same.
        LocalModeError: if the kernel is not installed, or the copies cannot be written.
    """
    try:
        run(notebook, path)
    finally:
        executed = save(notebook, output / path.name, path.parent)
    return executed


def run(notebook: nbformat.NotebookNode, path: Path, kernel_name: str = spec.NAME) -> None:
    """Execute all cells of a notebook, printing a line for each.

    Args:
        notebook: the notebook; its outputs are filled in.
        path: the file that it came from; cells run in its folder.
        kernel_name: the Jupyter kernel, by default that of local mode.

    Raises:
        NotebookFailed: at the first cell that fails.
        LocalModeError: if the kernel is not installed.
    """
    indices = code_cells(notebook)
    session = Session(notebook, path.parent, kernel_name)
    session.start()
    try:
        for number, index in enumerate(indices, start=1):
            cell, started = notebook.cells[index], datetime.now(timezone.utc)
            progress = f"[{number:>{len(str(len(indices)))}}/{len(indices)}]"
            try:
                session.run(index)
            except CellFailed as err:
                print(f"{progress} FAILED {session.seconds:>6.1f} s  {title(cell)}", flush=True)
                place = f"{path.name}: code cell {number} of {len(indices)}"
                logs = account.failed_job_logs(find_root(), started)
                raise NotebookFailed(account.account(place, cell, err, logs)) from err
            print(f"{progress} ok     {session.seconds:>6.1f} s  {title(cell)}", flush=True)
    finally:
        session.stop()


def save(notebook: nbformat.NotebookNode, path: Path, origin: Path) -> Path:
    """Write a notebook to `path` and an HTML version beside it; return `path`.

    Each file appears whole or not at all. The HTML version holds the pictures that the text shows
    from files; `origin` is the folder where the text looks for them.

    Raises:
        LocalModeError: if one cannot be written, for example because the disk is full.
    """
    html = with_pictures(_exporter().from_notebook_node(notebook)[0], origin)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        for target, text in ((path, text_of(notebook)), (path.with_suffix(".html"), html)):
            replace(target, text)
    except OSError as err:
        raise LocalModeError(
            f"The executed copy cannot be kept as {path} ({err.strerror}). Make room there, or "
            "choose another folder."
        ) from err
    return path


@functools.cache
def _exporter() -> Any:
    """Return the converter to HTML; it keeps its templates, so the second page takes no time."""
    from nbconvert.exporters import HTMLExporter

    return HTMLExporter(mathjax_url="", require_js_url="")


def with_pictures(html: str, origin: Path) -> str:
    """Return a page that holds the pictures to which its `<img>` elements refer by relative path.

    (nbconvert could do that, but then it closes the folded answers of exercises too early.)
    """

    def held(match: re.Match[str]) -> str:
        file = origin / match["path"]
        if not file.is_file():
            return match[0]
        kind = mimetypes.guess_type(file.name)[0]
        return f'{match["before"]}data:{kind};base64,{b64encode(file.read_bytes()).decode()}"'

    return re.sub(r'(?P<before><img [^>]*?src=")(?P<path>[^":]+)"', held, html)


def text_of(notebook: nbformat.NotebookNode) -> str:
    """Return a notebook as the text of its file, in the form in which Jupyter writes it."""
    return str(nbformat.writes(notebook)) + "\n"


def replace(path: Path, text: str) -> None:
    """Write `text` to `path` in one step; raises OSError and leaves what was there."""
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        partial.write_text(text)
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def code_cells(notebook: nbformat.NotebookNode) -> list[int]:
    """Return the indices of the cells that have something to execute."""
    return [
        index
        for index, cell in enumerate(notebook.cells)
        if cell.cell_type == "code" and cell.source.strip()
    ]


def title(cell: Any) -> str:
    """Return the first line of a cell, shortened, for lists."""
    first = next((line for line in cell.source.splitlines() if line.strip()), "")
    return str(first[:70])


class Session:
    """A kernel that executes the cells of one notebook.

    A cell fails if it raises, if a shell line or a magic of it fails, if it does not end in time,
    or if the kernel dies.

    Attributes:
        seconds: how long the last cell took.
        commands: one dictionary for each shell line of the last cell, as `watch` notes it.
    """

    def __init__(
        self,
        notebook: nbformat.NotebookNode,
        folder: Path,
        kernel_name: str = spec.NAME,
        specs: KernelSpecManager | None = None,
    ) -> None:
        """Prepare the session; nothing is started yet.

        Args:
            notebook: the notebook; its outputs are filled in.
            folder: where the cells run.
            kernel_name: the kernel, whatever the notebook's own metadata say.
            specs: where kernels are looked up, if not in Jupyter's usual places.
        """
        self._name, self._limit, self._stack = kernel_name, float(CELL_SECONDS), ExitStack()
        self._reply: dict[str, Any] = {}
        self.seconds, self.commands = 0.0, list[dict[str, Any]]()
        manager = AsyncKernelManager(
            kernel_name=kernel_name, kernel_spec_manager=specs or KernelSpecManager(), log=_quiet
        )
        self._client = NotebookClient(
            notebook,
            km=manager,
            timeout_func=lambda _cell: self._limit,
            startup_timeout=START_SECONDS,
            iopub_timeout=START_SECONDS,
            raise_on_iopub_timeout=True,
            coalesce_streams=True,
            shutdown_kernel="immediate",
            resources={"metadata": {"path": str(folder)}},
            on_cell_executed=self._keep_reply,
            log=_quiet,
        )

    def start(self) -> None:
        """Start the kernel.

        Raises:
            LocalModeError: if there is no such kernel, or it does not start.
        """
        silent = self._client.setup_kernel(cleanup_kc=True, stderr=subprocess.DEVNULL)
        try:
            self._stack.enter_context(silent)
            if self._client.km.kernel_spec.language == "python":
                self._hidden(_WATCH)
        except NoSuchKernel as err:
            raise LocalModeError(
                f"The Jupyter kernel {self._name!r} is not installed in this environment. "
                + _how_to_install(self._name)
            ) from err
        except (OSError, RuntimeError) as err:
            reason = err.strerror if isinstance(err, OSError) else err
            raise LocalModeError(
                f"The Jupyter kernel {self._name!r} does not start ({reason}). Try it with "
                f"`jupyter console --kernel {self._name}`."
            ) from err

    def run(self, index: int, limit: float = CELL_SECONDS, raises: bool = False) -> None:
        """Execute one cell.

        Args:
            index: the cell's position in the notebook.
            limit: how long it may take, in seconds.
            raises: the cell is there to show a failure, and must fail.

        Raises:
            CellFailed: if it fails, or was to fail and does not.
        """
        cell, started = self._client.nb.cells[index], time.monotonic()
        self._limit, self._reply, self._client.allow_errors = limit, {}, raises
        try:
            self._client.execute_cell(cell, index)
        except CellExecutionError as err:
            traceback = "\n".join(self._reply.get("traceback") or [])
            raise CellFailed(f"{err.ename}: {err.evalue}", traceback) from err
        except CellTimeoutError as err:
            raise CellFailed(f"no end after {limit:g} s", self._interrupt(cell)) from err
        except DeadKernelError as err:
            raise CellFailed(f"the kernel died{self._cause()}") from err
        finally:
            self.seconds, self.commands = time.monotonic() - started, self._noted()
        failed = [
            f"`{each['command']}`: {each['problem']}" for each in self.commands if each["problem"]
        ]
        cell.outputs += [
            nbformat.v4.new_output("error", ename="CommandFailed", evalue=text, traceback=[text])
            for text in failed
        ]
        if failed and not raises:
            raise CellFailed("\n".join(failed))
        if raises and not failed and self._reply.get("status") == "ok":
            raise CellFailed("it is tagged as raising an exception, and raises none")

    def stop(self) -> None:
        """Stop the kernel, if it was started and still runs."""
        self._stack.close()

    def _keep_reply(self, cell: Any, cell_index: int, execute_reply: Any) -> None:
        self._reply = execute_reply["content"]

    def _noted(self) -> list[dict[str, Any]]:
        payloads = self._reply.get("payload") or []
        found = [each["commands"] for each in payloads if each.get("source") == watch.SOURCE]
        return found[-1] if found else []

    def _hidden(self, code: str) -> None:
        """Let the kernel execute something that the notebook does not contain."""
        reply = run_sync(self._client.kc.execute_interactive)(
            code, silent=True, store_history=False, timeout=START_SECONDS, output_hook=_ignore
        )["content"]
        if reply["status"] != "ok":
            raise RuntimeError(f"{reply.get('ename')}: {reply.get('evalue')}")

    def _interrupt(self, cell: Any) -> str:
        """Interrupt the running cell; return the traceback that says where it was, or ""."""
        run_sync(self._client.km.interrupt_kernel)()
        deadline = time.monotonic() + INTERRUPT_SECONDS
        while time.monotonic() < deadline:
            run_sync(asyncio.sleep)(POLL_SECONDS)  # meanwhile nbclient goes on taking outputs
            for output in cell.outputs:
                if output.output_type == "error":
                    return "\n".join(output.traceback)
        return ""

    def _cause(self) -> str:
        """Return what the operating system knows about the kernel's end."""
        process = getattr(self._client.km.provisioner, "process", None)
        status = process.poll() if process else None
        if status is None:
            return ""
        if status < 0:
            return f": it was ended by signal {-status} (9 may mean that memory ran out)"
        return f": it ended itself, with exit status {status}"


_WATCH = (
    f"exec(compile({Path(watch.__file__).read_text()!r}, '<watch>', 'exec'), "
    "{'__name__': 'kernel', 'get_ipython': get_ipython})"
)


def _how_to_install(name: str) -> str:
    if name == spec.NAME:
        return "Install it with `vertex-local kernel install`."
    return "`jupyter kernelspec list` shows those that are."


def _ignore(_message: Any) -> None:
    """Take a message of the kernel and do nothing."""
