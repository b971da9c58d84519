"""Shell lines: `!command`, `x = !command`, `%pip …`, `%sx …`, aliases, `%cd`."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from .noting import LONGEST_NOTES, explain, hook, notes, shortened

# Commands whose exit status 1 means "no", not "failed".
ANSWERS = re.compile(r"\b([efzp]|rip)?grep\b|\b(rg|diff|cmp|test|expr|which)\b|\[")
# Readers that may stop reading early; then a failure of the writer means nothing. (Commands of a
# kernel ignore SIGPIPE, as Python does, so the writer may end with any status.)
LEAVES = re.compile(r"\|\s*(head|more|less|sed\b.*\bq|grep\b.*\s-\w*[qm])\b")
# The script handles exit statuses itself.
LOOKED_AT = re.compile(r"\$\?|PIPESTATUS|\btrap\b|\bset \+e\b")
POSIX = "bash --posix -O xpg_echo"  # bash as a plain sh
SIGPIPE = 141  # exit status of a command whose reader stopped reading, as in `yes | head -1`


def watch_commands() -> None:
    """Note each shell line: `!command`, `x = !command`, `%pip …`, `%sx …`, aliases, `%cd`."""
    from ipykernel import zmqshell
    from IPython.core import interactiveshell
    from IPython.utils import process
    from IPython.utils._process_common import process_handler

    def system(command: str) -> Any:
        started = time.monotonic()
        with traced(command) as (traceable, inside):
            status = process.system(traceable)
        note_command(command, status, inside, started)
        return status

    def getoutput(command: str) -> str:
        started = time.monotonic()
        with traced(command) as (traceable, inside):
            ended = process_handler(
                traceable,
                lambda child: (child.communicate()[0], child.returncode),
                subprocess.STDOUT,
            )
        text, status = ended or (b"", -signal.SIGINT)
        note_command(command, status, inside, started)
        return str(text.decode(errors="replace"))

    def chdir(path: Any) -> None:  # `%cd` prints its failure and goes on
        try:
            change_folder(path)
        except OSError as err:
            if sys._getframe(1).f_globals["__name__"] == "IPython.core.magics.osm":
                notes.add("command", f"`%cd {path}`: {err.strerror or err}")
            raise

    change_folder = os.chdir
    os.chdir = chdir
    hook(zmqshell, "system", system, "hook")
    hook(interactiveshell, "system", system, "hook")
    hook(interactiveshell, "getoutput", getoutput, "hook")


def note_command(command: str, status: int, inside: list[str], started: float) -> None:
    """Note a shell line that failed, or commands that failed inside one that did not."""
    seconds = max(time.monotonic() - started, 1e-9)
    notes.add("ran", f"`{command}`", seconds=seconds)
    if status:
        notes.add("command", f"`{command}`: {explain(status)}")
    else:
        note_inside(command, inside)


def note_inside(command: str, inside: list[str]) -> None:
    """Note the commands that failed inside a script although the script went on."""
    if LOOKED_AT.search(command):
        return
    for line in inside:
        kind_of_line, _, rest = line.partition(" ")
        if kind_of_line == "E":  # see `traps`
            status, _, failed = rest.partition(" ")
            answer = status == "1" and ANSWERS.search(failed)
            kind = "answer" if answer else "inside"
            reason = explain(int(status))
            notes.add(kind, f"`{failed}` failed inside a script that went on: {reason}")
        else:
            statuses = [int(each) for each in rest.split()]
            bad = [each for each in statuses[:-1] if each not in (0, SIGPIPE)]
            if bad:
                answer = set(bad) == {1} and ANSWERS.search(command)
                answer = answer or LEAVES.search(command)
                ended = ", ".join(map(str, statuses))
                what = f"in `{shortened(command)}`, the commands of a pipe ended with {ended}"
                notes.add("answer" if answer else "pipe", what)


@contextmanager
def traced(command: str) -> Iterator[tuple[str, list[str]]]:
    """Yield a shell line with traps before it, and a list that the traps fill at the end.

    A shell returns only the status of its last command. Bash's traps see all: ERR each command that
    fails without a guard such as `|| true`, DEBUG and EXIT each status of the pipe before. They do
    not change what the script does. Without bash, the line is not changed.
    """
    shell = Path(os.environ.get("SHELL", "sh")).name
    inside: list[str] = []
    if shell not in ("bash", "sh", "dash") or not shutil.which("bash"):
        yield command, inside
        return
    descriptor, path = tempfile.mkstemp(prefix="watch-")
    os.close(descriptor)
    line = traps(path) + command
    if shell != "bash":
        line = f"exec {POSIX} -c {shlex.quote(line)}"
    try:
        yield line, inside
        inside += Path(path).read_text(errors="replace").splitlines()[:LONGEST_NOTES]
    finally:
        Path(path).unlink(missing_ok=True)


def traps(path: str) -> str:
    """Return bash code to put before a script, which writes to `path` what fails in it.

    A line "E STATUS COMMAND" is a command that failed, "P STATUS STATUS …" a pipe in which one did.
    """
    statuses = "${PIPESTATUS[*]}"
    pipe = f'case " {statuses}" in *[1-9]*" "*) echo "P {statuses}" >>{path};; esac'
    command = "${BASH_COMMAND//[[:cntrl:]]/ }"  # no pipe here: it would change `$?` of the script
    error = f'echo "E $? {command}" >>{path}'
    return f"trap '{error}' ERR; trap '{pipe}' DEBUG EXIT; "
