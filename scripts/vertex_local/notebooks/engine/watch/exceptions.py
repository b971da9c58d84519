"""Exceptions that do not stop a cell: in threads, tasks, callbacks and futures."""

from __future__ import annotations

import asyncio
import concurrent.futures
import gc
import sys
import threading
import traceback
from typing import Any

from .noting import hook, notes


def watch_exceptions(shell: Any) -> None:
    """Note exceptions in threads and callbacks of event loops, and those that Python ignores."""
    in_thread, ignored = threading.excepthook, sys.unraisablehook
    handle = asyncio.BaseEventLoop.call_exception_handler

    def thread_hook(args: Any) -> None:
        if args.exc_type is not SystemExit and args.exc_value is not None:
            name = args.thread.name if args.thread else "?"
            notes.error("thread", f"an exception in the thread {name!r}", args.exc_value)
        in_thread(args)

    def unraisable_hook(args: Any) -> None:
        if args.exc_value is not None:
            notes.error("ignored", "an exception that Python ignores", args.exc_value)
        ignored(args)

    def call_exception_handler(loop: Any, context: dict[str, Any]) -> None:
        error = context.get("exception")
        if error is not None and not is_from_kernel(error):
            kind = "task" if "task" in context or "future" in context else "callback"
            notes.error(kind, str(context.get("message", "an exception in an event loop")), error)
        handle(loop, context)

    hook(threading, "excepthook", thread_hook)
    hook(sys, "unraisablehook", unraisable_hook)
    hook(asyncio.BaseEventLoop, "call_exception_handler", call_exception_handler)


def is_from_kernel(error: BaseException) -> bool:
    """Return whether an exception comes from the kernel's own machinery, not from the notebook."""
    modules = [
        frame.f_globals.get("__name__", "") for frame, _ in traceback.walk_tb(error.__traceback__)
    ]
    return bool(modules) and modules[-1].partition(".")[0] in ("ipykernel", "tornado", "zmq")


def note_tasks() -> None:
    """Note asyncio tasks that failed and that nobody awaits."""
    for task in gc.get_objects():
        # Not `isinstance`: it reads `__class__`, for which some objects of torch warn.
        if not issubclass(type(task), asyncio.Task) or not task.done() or task.cancelled():
            continue
        # asyncio's own mark of a task whose exception nobody has asked for.
        if getattr(task, "_log_traceback", False):
            error = task.exception()
            if error is not None and not is_from_kernel(error):
                name = task.get_coro().__qualname__
                notes.error(
                    "task", f"an exception in the task {name!r}, which nobody awaits", error
                )


failed_futures: dict[int, tuple[Any, BaseException]] = {}


def watch_futures(shell: Any) -> None:
    """Keep the futures of executors that failed, until somebody asks for their result."""
    future = concurrent.futures.Future
    fail, result, exception = future.set_exception, future.result, future.exception

    def set_exception(self: Any, error: BaseException | None) -> None:
        if error is not None:
            frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
            if any(frame.f_globals is shell.user_ns for frame in frames):
                failed_futures[id(self)] = (self, error)
        fail(self, error)

    def watched_result(self: Any, timeout: float | None = None) -> Any:
        failed_futures.pop(id(self), None)
        try:
            return result(self, timeout)
        finally:
            failed_futures.pop(id(self), None)

    def watched_exception(self: Any, timeout: float | None = None) -> Any:
        try:
            return exception(self, timeout)
        finally:
            failed_futures.pop(id(self), None)

    hook(future, "set_exception", set_exception)
    hook(future, "result", watched_result)
    hook(future, "exception", watched_exception)
