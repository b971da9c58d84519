"""What still runs after the last cell of the notebook."""

from __future__ import annotations

import asyncio
import gc
import threading
import time
from typing import Any

from .exceptions import failed_futures, note_tasks
from .noting import notes
from .processes import note_processes, note_started
from .scripts import background, note_background

GRACE_SECONDS = 3.0  # at the end of the notebook, for threads, tasks and background scripts


async def finish(shell: Any) -> None:
    """Wait a moment for what runs in the background; note what failed and what still runs."""
    tasks = [each for each in asyncio.all_tasks() if is_of_notebook(each, shell)]
    if tasks:
        await asyncio.wait(tasks, timeout=GRACE_SECONDS)
    deadline = time.monotonic() + GRACE_SECONDS
    threads = [each for each in threading.enumerate() if is_waited_for(each)]
    for thread in threads:
        thread.join(max(deadline - time.monotonic(), 0))
    while any(process.returncode is None for _, process in background):
        if time.monotonic() > deadline:
            break
        time.sleep(0.05)
    gc.collect()
    note_tasks()
    for _, error in failed_futures.values():
        notes.error("future", "an exception in a future, whose result nobody asks for", error)
    note_background(end=True)
    note_started()
    for task in tasks:
        if not task.done():
            notes.add("left", f"the task {task.get_coro().__qualname__!r} still runs")  # type: ignore[union-attr]
    for thread in threads:
        if thread.is_alive():
            notes.add("left", f"the thread {thread.name!r} still runs")
    note_processes()


def is_of_notebook(task: Any, shell: Any) -> bool:
    """Return whether a task runs a coroutine of the notebook."""
    frame = getattr(task.get_coro(), "cr_frame", None)
    mine = task is asyncio.current_task()
    return frame is not None and frame.f_globals is shell.user_ns and not mine


started_before = set(threading.enumerate())


def is_waited_for(thread: threading.Thread) -> bool:
    """Return whether a thread is one of the notebook's own that should end by itself."""
    idle = "ThreadPoolExecutor" in thread.name or "asyncio" in thread.name
    return not thread.daemon and thread not in started_before and not idle
