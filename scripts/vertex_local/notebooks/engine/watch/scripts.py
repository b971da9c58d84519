"""Script magics: `%%bash` and its like."""

from __future__ import annotations

import asyncio
import functools
import os
import shlex
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from .commands import POSIX, note_inside, traps
from .noting import LONGEST_NOTES, explain, hook, notes, shortened

background: list[tuple[str, Any]] = []  # scripts in the background: first line, process


def watch_scripts(shell: Any) -> None:
    """Note what fails in the script magics: in the middle, in the background, or allowed to."""
    from IPython.core.magics.script import ScriptMagics

    run = ScriptMagics.shebang

    @functools.wraps(run)  # IPython keeps the magic's arguments as an attribute of the function
    def shebang(self: Any, line: str, cell: str) -> Any:
        options, words = run.parser.parse_known_args(shlex.split(line))
        program = Path(words[0]).name if words else ""
        title = f"`%%{program}`, `{shortened(cell)}`"
        if words and not shutil.which(words[0]):
            notes.add("command", f"`%%{program}`: there is no such program")
        with recorded_processes() as processes:
            if program in ("bash", "sh") and not options.bg and shutil.which("bash"):
                if program == "sh":
                    line = line.replace(words[0], POSIX, 1)
                with traced_script(cell) as (traceable, inside):
                    result = run(self, line, traceable)
                note_inside(cell, inside)
            else:
                result = run(self, line, cell)
        if options.bg:
            background.extend((title, each) for each in processes)
        elif any(each.returncode for each in processes):  # else there would be an exception
            status = explain(processes[0].returncode)
            notes.add("allowed", f"{title}: {status}, which `--no-raise-error` allows")
        return result

    hook(ScriptMagics, "shebang", shebang)
    made = shell.magics_manager.registry.get("ScriptMagics")
    if made is not None:  # later versions of IPython make it when it is first used
        shell.magics_manager.magics["cell"]["script"] = made.shebang


@contextmanager
def recorded_processes() -> Iterator[list[Any]]:
    """Give a list of the processes that asyncio starts meanwhile."""
    processes: list[Any] = []
    start = asyncio.create_subprocess_exec

    async def recorded(*args: Any, **options: Any) -> Any:
        process = await start(*args, **options)
        processes.append(process)
        return process

    asyncio.create_subprocess_exec = recorded
    try:
        yield processes
    finally:
        asyncio.create_subprocess_exec = start


@contextmanager
def traced_script(cell: str) -> Iterator[tuple[str, list[str]]]:
    """Give a bash script with traps before it, and a list of what they say at the end."""
    inside: list[str] = []
    descriptor, path = tempfile.mkstemp(prefix="watch-")
    os.close(descriptor)
    try:
        yield traps(path) + cell, inside
        inside += Path(path).read_text(errors="replace").splitlines()[:LONGEST_NOTES]
    finally:
        Path(path).unlink(missing_ok=True)


def note_background(*, end: bool) -> None:
    """Note the background scripts that failed, and at the end those that still run."""
    for entry in background[:]:
        title, process = entry
        if process.returncode is None:
            if end:
                notes.add("left", f"{title} still runs in the background")
            continue
        background.remove(entry)
        if process.returncode:
            notes.add(
                "background", f"{title} ended in the background: {explain(process.returncode)}"
            )
