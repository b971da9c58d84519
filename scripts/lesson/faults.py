"""Makes jobs and buckets fail on purpose, in local mode; and shortens the error of a failed job.

For the notebook 06f. On Google Cloud nothing can be made to fail: there, `add` raises SetupError,
before the notebook launches anything that costs money.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable
from typing import Any

from lesson.setup import SetupError

# For each job of the exercise: its fault, and the arguments in which it differs.
BROKEN: dict[int, tuple[list[str], list[str]]] = {
    1: (["stockout"], []),
    2: ([], ["--learning_rate=0"]),
    3: (["bucket-denied", "--access=read"], []),
    4: (["out-of-memory"], []),
}


def add(kind: str, **options: Any) -> None:
    """Add a fault; `vertex-local fault add --help` lists the kinds, and its options.

    Args:
        kind: such as `preemption`.
        options: such as `times=2`.

    Raises:
        SetupError: outside local mode.
    """
    given = [f"{name}={value}" for name, value in options.items()]
    _fault("add", kind, *(f"--{each}" for each in given))
    print("From now on:", " ".join([kind, *given]))


def clear() -> None:
    """Remove all faults."""
    _fault("clear")


def _fault(*arguments: str) -> None:
    """Run `vertex-local fault` with these arguments; raise SetupError if it fails."""
    if "VERTEX_LOCAL_BUCKETS" not in os.environ:
        raise SetupError(
            "this cell needs local mode, because on Google Cloud nothing can be made to fail. "
            "Read on: the text says what you would see. Or choose the kernel Python 3 (Vertex AI "
            "local mode) in the menu Kernel → Change Kernel."
        )
    command = [sys.executable, "-m", "vertex_local", "fault", *arguments]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise SetupError(done.stderr.strip().splitlines()[-1])


def last_words(error: Exception) -> str:
    """Return the code of a failed job's error, and the first and the last two lines of its text."""
    text = str(error)
    code = re.search(r"code: (\d+)", text)
    message = re.search(r'message: "(.*)"', text, re.DOTALL)
    written = message[1] if message else text
    lines = written.replace("\\n", "\n").replace("\\'", "'").split("\n")
    own = [line for each in lines if (line := each.partition("To find out more")[0].strip())]
    kept = own if len(own) <= 3 else [own[0], *own[-2:]]
    return "\n".join([f"code {code[1]}" if code else "no code", *(line[:300] for line in kept)])


def broken_job(number: int, launch: Callable[..., Any]) -> str:
    """Run one of the four jobs of the exercise; return the end of its error.

    Args:
        number: 1 to 4.
        launch: runs a job, given its name and further arguments of the script.
    """
    fault, arguments = BROKEN[number]
    clear()
    if fault:
        _fault("add", *fault)
    try:
        launch(f"broken_{number}", *arguments)
    except RuntimeError as error:
        return last_words(error)
    finally:
        clear()
    return "This job did not fail."
