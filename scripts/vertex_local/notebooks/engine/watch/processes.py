"""Commands that a cell starts with `subprocess` or `os.system`."""

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

# Processes that may still run at the end: local mode's server, and pools of idle workers.
KEPT = re.compile(r"vertex_local|resource_tracker|loky|forkserver|multiprocessing")

started: list[tuple[str, Any]] = []  # by a cell itself, with Popen: command, process


def command_text(command: Any) -> str:
    """Return a command as text."""
    return command if isinstance(command, str) else " ".join(map(str, command))


def watch_processes(shell: Any) -> None:
    """Note failed commands that a cell itself started without looking at their status."""
    run, call, system = subprocess.run, subprocess.call, os.system
    start = subprocess.Popen.__init__

    def look(caller: FrameType, command: Any, status: int) -> None:
        if status == 0 or caller.f_globals is not shell.user_ns:
            return
        text = f"`{shortened(command_text(command))}`: {explain(status)}"
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
            started.append((command_text(self.args), self))

    hook(subprocess.Popen, "__init__", watched_start)
    hook(subprocess, "run", watched_run)
    hook(subprocess, "call", watched_call)
    hook(os, "system", watched_system)


def is_statement(frame: FrameType) -> bool:
    """Return whether the call of a command is a whole statement, so that its result is lost.

    Args:
        frame: the frame of the cell, at the call.
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
    """Note failed commands that a cell started with `Popen`."""
    for command, process in started[:]:
        status = process.poll()
        if status is not None:
            started.remove((command, process))
        if status:
            text = f"`{shortened(command)}`: {explain(status)}"
            notes.add("unread", f"{text}; nothing says whether the notebook looks at it")


def note_processes() -> None:
    """Note processes that the notebook started and that still run."""
    try:
        import psutil
    except ImportError:
        return
    for child in psutil.Process().children(recursive=True):
        try:
            command = shlex.join(child.cmdline())
            ended = child.status() == psutil.STATUS_ZOMBIE
        except psutil.Error:
            continue
        if command and not ended and not KEPT.search(command):
            notes.add("left", f"the process `{shortened(command)}` still runs")
