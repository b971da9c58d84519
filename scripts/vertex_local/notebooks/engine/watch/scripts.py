"""Script magics, such as `%%bash`."""

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

background: list[tuple[str, Any]] = []  # scripts in the background: title, process


def watch_scripts(shell: Any) -> None:
    """Note failures in script magics: in the middle, in the background, or allowed ones."""
    from IPython.core.magics.script import ScriptMagics

    run = ScriptMagics.shebang

    @functools.wraps(run)  # IPython keeps the magic's arguments as an attribute of the function
    def shebang(self: Any, line: str, cell: str) -> Any:
        options, argv = run.parser.parse_known_args(shlex.split(line))
        program = Path(argv[0]).name if argv else ""
        title = f"`%%{program}`, `{shortened(cell)}`"
        if argv and not shutil.which(argv[0]):
            notes.add("command", f"`%%{program}`: there is no such program")
        with recorded_processes() as processes:
            if program in ("bash", "sh") and not options.bg and shutil.which("bash"):
                if program == "sh":
                    line = line.replace(argv[0], POSIX, 1)
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
    magics = shell.magics_manager.registry.get("ScriptMagics")
    if magics is not None:  # newer versions of IPython make it at its first use
        shell.magics_manager.magics["cell"]["script"] = magics.shebang


@contextmanager
def recorded_processes() -> Iterator[list[Any]]:
    """Yield a list to which every process is added that asyncio starts in this context."""
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
    """Yield a bash script with traps before it, and a list that the traps fill at the end."""
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
