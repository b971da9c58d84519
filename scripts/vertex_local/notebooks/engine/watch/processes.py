"""Commands that Python starts."""

from __future__ import annotations

import ast
import linecache
import os
import re
import shlex
import subprocess
import sys
from types import FrameType
from typing import Any

from .noting import explain, hook, notes, shortened

# Processes that are there to be left: local mode's server, and pools of idle workers.
KEPT = re.compile(r"vertex_local|resource_tracker|loky|forkserver|multiprocessing")

started: list[tuple[str, Any]] = []  # by a cell itself, with Popen


def words_of(command: Any) -> str:
    """Return a command as text."""
    return command if isinstance(command, str) else " ".join(map(str, command))


def watch_processes(shell: Any) -> None:
    """Note commands started by a cell itself whose failure the cell does not look at."""
    run, call, system = subprocess.run, subprocess.call, os.system
    start = subprocess.Popen.__init__

    def look(caller: FrameType, command: Any, status: int) -> None:
        if status == 0 or caller.f_globals is not shell.user_ns:
            return
        text = f"`{shortened(words_of(command))}`: {explain(status)}"
        if is_statement(caller):
            notes.add("discarded", f"{text}, and the cell does not look at it")
        else:
            notes.add("unread", f"{text}; nothing says whether the notebook looks at it")

    def watched_run(*args: Any, **options: Any) -> Any:
        result = run(*args, **options)
        if "check" not in options:  # `check=False` says that the failure is meant
            look(sys._getframe(1), result.args, result.returncode)
        return result

    def watched_call(*args: Any, **options: Any) -> int:
        status = call(*args, **options)
        look(sys._getframe(1), args[0] if args else options.get("args", ""), status)
        return status

    def watched_system(command: Any) -> int:
        status = system(command)
        look(sys._getframe(1), command, os.waitstatus_to_exitcode(status))
        return status

    def watched_start(self: Any, *args: Any, **options: Any) -> None:
        start(self, *args, **options)
        if sys._getframe(1).f_globals is shell.user_ns:
            started.append((words_of(self.args), self))

    hook(subprocess.Popen, "__init__", watched_start)
    hook(subprocess, "run", watched_run)
    hook(subprocess, "call", watched_call)
    hook(os, "system", watched_system)


def is_statement(frame: FrameType) -> bool:
    """Return whether the call of a command in a cell is a whole statement: nobody sees its result.

    Args:
        frame: that of the cell, at the call.
    """
    try:
        tree = ast.parse("".join(linecache.getlines(frame.f_code.co_filename)))
    except SyntaxError:
        return False
    return any(
        isinstance(node, ast.Expr)
        and isinstance(node.value, ast.Call)
        and node.lineno <= frame.f_lineno <= (node.end_lineno or node.lineno)
        and ast.unparse(node.value.func).rpartition(".")[2] in ("run", "call", "system")
        for node in ast.walk(tree)
    )


def note_started() -> None:
    """Note how the commands ended that a cell started with `Popen`."""
    for command, process in started[:]:
        status = process.poll()
        if status is not None:
            started.remove((command, process))
        if status:
            text = f"`{shortened(command)}`: {explain(status)}"
            notes.add("unread", f"{text}; nothing says whether the notebook looks at it")


def note_processes() -> None:
    """Note processes that the notebook started and left."""
    try:
        import psutil
    except ImportError:
        return
    for child in psutil.Process().children(recursive=True):
        try:
            words = shlex.join(child.cmdline())
            ended = child.status() == psutil.STATUS_ZOMBIE
        except psutil.Error:
            continue
        if words and not ended and not KEPT.search(words):
            notes.add("left", f"the process `{shortened(words)}` still runs")
