"""A kernel that executes the cells of one notebook, and returns what happened in each.

`rules` decides what of it counts as a failure.
"""

from __future__ import annotations

import asyncio
import logging
import os
import subprocess
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import nbformat
from jupyter_client.kernelspec import KernelSpecManager, NoSuchKernel
from jupyter_client.manager import AsyncKernelManager
from nbclient import NotebookClient
from nbclient.exceptions import CellTimeoutError, DeadKernelError
from nbclient.util import run_sync

from vertex_local.config import LocalModeError
from vertex_local.jobs import starter
from vertex_local.kernel import spec
from vertex_local.notebooks.engine import streams, watch
from vertex_local.notebooks.rules import Raised, Seen

CELL_SECONDS = 600
START_SECONDS = 90
INTERRUPT_SECONDS = 5.0
END_SECONDS = 30.0  # limit for `watch.finish`, which waits for what runs in the background
POLL_SECONDS = 0.05
OUTPUT_LIMIT = 10_000_000  # characters that a cell may show; browsers fail at about this size
SHOWING = {"stream", "display_data", "execute_result", "update_display_data", "error"}

_quiet = logging.getLogger(__name__)  # for nbclient's messages: the report says more
_quiet.setLevel(logging.CRITICAL + 1)


class Session:
    """A kernel that executes the cells of one notebook.

    Attributes:
        kernel: the kernel's name in local mode, see `jobs.starter`.
        seconds: how long the last cell took.
        command_seconds: how long all shell lines of the last cell took together.
    """

    def __init__(
        self,
        notebook: nbformat.NotebookNode,
        folder: Path,
        kernel_name: str = spec.NAME,
        specs: KernelSpecManager | None = None,
        output_limit: int = OUTPUT_LIMIT,
    ) -> None:
        """Prepare the session; nothing is started yet.

        Args:
            notebook: the notebook; its outputs are filled in.
            folder: the working folder of the cells.
            kernel_name: the Jupyter kernel; the one in the notebook's metadata does not count.
            specs: where kernels are looked up; None for Jupyter's usual places.
            output_limit: how many characters a cell may show.
        """
        self._name = kernel_name
        self._limit = float(CELL_SECONDS)
        self._stack = ExitStack()
        self._reply: dict[str, Any] = {}
        self._watched = False
        self.kernel = starter.new_kernel()
        self.seconds = 0.0
        self.command_seconds = 0.0
        self._specs = specs or KernelSpecManager()
        self._client = _Client(
            notebook,
            timeout_func=lambda _cell: self._limit,
            startup_timeout=START_SECONDS,
            raise_on_iopub_timeout=True,
            allow_errors=True,  # the reply says more than nbclient's exception
            shutdown_kernel="immediate",
            resources={"metadata": {"path": str(folder)}},
            on_cell_executed=self._keep_reply,
            log=_quiet,
        )
        self._client.output_limit = output_limit

    def start(self) -> None:
        """Start the kernel.

        Raises:
            LocalModeError: if there is no such kernel, or it does not start.
        """
        try:
            self._start_kernel()
            if self._client.km.kernel_spec.language == "python":
                self._hidden(_WATCH, START_SECONDS)
                self._watched = True
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

    def _start_kernel(self) -> None:
        """Start the kernel; once more if another process has taken one of its ports meanwhile."""
        env = {**os.environ, starter.VARIABLE: self.kernel}
        for tries_left in (1, 0):
            self._client.km = AsyncKernelManager(
                kernel_name=self._name, kernel_spec_manager=self._specs, log=_quiet
            )
            running = self._client.setup_kernel(cleanup_kc=True, stderr=subprocess.DEVNULL, env=env)
            try:
                self._stack.enter_context(running)
                return
            except RuntimeError:
                if not tries_left:
                    raise

    def run(self, index: int, limit: float = CELL_SECONDS) -> Seen:
        """Execute one cell and return what happened; its outputs are then in the notebook.

        Args:
            index: the cell's position in the notebook.
            limit: how long it may take, in seconds.
        """
        cell = self._client.nb.cells[index]
        started = time.monotonic()
        self._limit = limit
        self._reply = {}
        self._client.begin(limit)
        seen = Seen()
        try:
            self._client.execute_cell(cell, index)
        except CellTimeoutError:
            seen.stopped = f"no end after {limit:g} s"
            seen.details = self._interrupt(cell)
        except DeadKernelError:
            seen.stopped = f"the kernel died{self._cause()}"
        if self._client.size > self._client.output_limit:
            seen.stopped = self._too_much()
        self.seconds = time.monotonic() - started
        cell.outputs = streams.joined(cell.outputs)
        self._complete(seen)
        seen.outputs = cell.outputs
        return seen

    def finish(self) -> Seen:
        """Wait a moment for what runs in the background; return what failed or still runs."""
        seen = Seen(notes=[])
        try:
            if self._watched:
                code = f"await __import__('sys').modules[{watch.SOURCE!r}].finish(get_ipython())"
                self._reply = self._hidden(code, END_SECONDS)
                seen.notes = self._noted().get("notes")
            elif not run_sync(self._client.km.is_alive)():
                raise RuntimeError("the kernel is gone")
        except (RuntimeError, OSError, TimeoutError):
            seen.stopped = f"the kernel does not answer any more{self._cause()}"
        return seen

    def stop(self) -> None:
        """Stop the kernel, if it was started and still runs."""
        self._stack.close()

    def _complete(self, seen: Seen) -> None:
        """Add to `seen` what the kernel's reply reports."""
        payloads = self._reply.get("payload") or []
        report = self._noted()
        exits = any(each.get("source") == "ask_exit" for each in payloads)
        seen.exits = exits or bool(report.get("exits"))
        seen.notes = report.get("notes") if self._watched and self._reply else []
        bases = tuple(report.get("bases", ()))
        seen.shown = self._client.shown
        if self._reply.get("status", "ok") != "ok":
            seen.raised = _raised(self._reply, bases)
        self.command_seconds = sum(each["seconds"] for each in seen.notes or [])

    def _keep_reply(self, cell: Any, cell_index: int, execute_reply: Any) -> None:
        self._reply = execute_reply["content"]

    def _noted(self) -> dict[str, Any]:
        payloads = self._reply.get("payload") or []
        found = [each for each in payloads if each.get("source") == watch.SOURCE]
        return found[-1] if found else {}

    def _hidden(self, code: str, limit: float) -> dict[str, Any]:
        """Execute code in the kernel that is not part of the notebook; return the reply."""
        message = run_sync(self._client.kc.execute_interactive)(
            code, silent=True, store_history=False, timeout=limit, output_hook=_ignore
        )
        reply: dict[str, Any] = message["content"]
        if reply["status"] != "ok":
            raise RuntimeError(f"{reply.get('ename')}: {reply.get('evalue')}")
        return reply

    def _interrupt(self, cell: Any) -> str:
        """Interrupt the running cell; return the traceback of where it was, or ""."""
        run_sync(self._client.km.interrupt_kernel)()
        deadline = time.monotonic() + INTERRUPT_SECONDS
        while time.monotonic() < deadline:
            run_sync(asyncio.sleep)(POLL_SECONDS)  # nbclient receives outputs meanwhile
            for output in cell.outputs:
                if output.output_type == "error":
                    return "\n".join(output.traceback)
        return ""

    def _too_much(self) -> str:
        shown = self._client.size / 1e6
        limit = self._client.output_limit / 1e6
        return (
            f"it shows {shown:.1f} MB or more, and a reader's browser should get no more than "
            f"{limit:g} MB. Show the part that matters, or write the rest to a file"
        )

    def _cause(self) -> str:
        """Return how the kernel's process ended, as the end of a sentence; "" if it runs."""
        process = getattr(self._client.km.provisioner, "process", None)
        status = process.poll() if process else None
        if status is None:
            return ""
        if status < 0:
            return f": it was ended by signal {-status} (9 may mean that memory ran out)"
        return f": it ended itself, with exit status {status}"


class _Client(NotebookClient):  # type: ignore[misc]
    """nbclient that also records the errors that a cell shows, and limits the size of outputs."""

    output_limit = OUTPUT_LIMIT
    size = 0
    ending: asyncio.Future[None] | None = None

    def begin(self, limit: float) -> None:
        """Reset the records for the next cell, which may take `limit` seconds."""
        if self.ending:
            self.ending.cancel()
        self.iopub_timeout = limit
        self.size = 0
        self.shown: list[Raised] = []

    def process_message(self, msg: Any, cell: Any, cell_index: int) -> Any:
        """Record errors and sizes; beyond the limit, drop outputs and interrupt the cell."""
        kind = msg["msg_type"]
        content = msg["content"]
        if kind == "error":
            self.shown.append(_raised(content, ()))
        if kind in SHOWING:
            left = self.output_limit - self.size
            self.size += _size(content)
            if self.size > self.output_limit:
                if left >= 0:
                    self.ending = asyncio.ensure_future(self._end())
                if kind != "stream" or left <= 0:
                    return None
                content["text"] = content["text"][: min(left, 10_000)] + "\n… and more"
        return super().process_message(msg, cell, cell_index)

    async def _end(self) -> None:
        """Interrupt the cell, and stop waiting for a reply that may never come."""
        await self.km.interrupt_kernel()
        await asyncio.sleep(INTERRUPT_SECONDS)
        self.task_poll_for_reply.cancel()


def _size(content: dict[str, Any]) -> int:
    """Return how many characters a message shows."""
    values = [content.get("text", ""), *content.get("data", {}).values()]
    values += content.get("traceback") or []
    return sum(len(each if isinstance(each, str) else repr(each)) for each in values)


def _raised(content: dict[str, Any], bases: tuple[str, ...]) -> Raised:
    """Return the exception in a reply or an output.

    `bases` are the classes of the last exception shown, see `watch.bases`; they count if this is
    that one.
    """
    name = str(content.get("ename", "Error"))
    return Raised(
        name=name,
        message=str(content.get("evalue", "")),
        traceback="\n".join(content.get("traceback") or []),
        bases=bases if bases[:1] == (name,) else (),
    )


def _watch_texts() -> dict[str, str]:
    """Return the source of each module of `watch`, by the name that it has in the kernel."""
    folder = Path(watch.__file__).parent
    texts = {
        f"{watch.SOURCE}.{name}": (folder / f"{name}.py").read_text() for name in watch.MODULES
    }
    return texts | {watch.SOURCE: Path(watch.__file__).read_text()}


# Makes modules of the sources in the kernel, so that no name is added to those of the notebook.
_WATCH = f"""
def install():
    import sys, types
    texts = {_watch_texts()!r}
    modules = {{name: types.ModuleType(name) for name in texts}}
    sys.modules.update(modules)
    modules[{watch.SOURCE!r}].get_ipython = get_ipython
    for name, module in modules.items():
        module.__package__ = {watch.SOURCE!r}
        exec(compile(texts[name], "<watch>", "exec"), module.__dict__)

install()
del install
"""


def _how_to_install(name: str) -> str:
    if name == spec.NAME:
        return "Install it with `vertex-local kernel install`."
    return "`jupyter kernelspec list` shows those that are."


def _ignore(_message: Any) -> None:
    """Take a message of the kernel and do nothing."""
