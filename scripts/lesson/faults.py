"""Let jobs and buckets fail on purpose, in local mode; and what a failed job says last.

For the notebook 06f. On Google Cloud nothing can be made to fail: there, `add` says so and stops,
before anything is launched that costs money.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable
from typing import Any

from lesson.setup import SetupError

# Job of the exercise -> the fault that it meets, and the arguments in which it differs.
BROKEN: dict[int, tuple[list[str], list[str]]] = {
    1: (["stockout"], []),
    2: ([], ["--learning_rate=0"]),
    3: (["bucket-denied", "--access=read"], []),
    4: (["out-of-memory"], []),
}


def add(kind: str, **options: Any) -> None:
    """Let something go wrong from now on; `vertex-local fault add --help` lists what.

    Args:
        kind: such as `preemption`.
        options: such as `times=2`.

    Raises:
        SetupError: outside local mode.
    """
    told = [f"{name}={value}" for name, value in options.items()]
    _fault("add", kind, *(f"--{each}" for each in told))
    print("From now on:", " ".join([kind, *told]))


def clear() -> None:
    """Let nothing go wrong on purpose any more."""
    _fault("clear")


def _fault(*words: str) -> None:
    """Run `vertex-local fault` with these words."""
    if "VERTEX_LOCAL_BUCKETS" not in os.environ:
        raise SetupError(
            "this cell needs local mode, because on Google Cloud nothing can be made to fail. "
            "Read on: the text says what you would see. Or choose the kernel Python 3 (Vertex AI "
            "local mode) in the menu Kernel → Change Kernel."
        )
    command = [sys.executable, "-m", "vertex_local", "fault", *words]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise SetupError(done.stderr.strip().splitlines()[-1])


def last_words(error: Exception) -> str:
    """Return what a failed job's error says: its code, and the end of its message."""
    text = str(error)
    code = re.search(r"code: (\d+)", text)
    message = re.search(r'message: "(.*)"', text, re.DOTALL)
    written = message[1] if message else text
    lines = written.replace("\\n", "\n").replace("\\'", "'").split("\n")
    said = [line for each in lines if (line := each.partition("To find out more")[0].strip())]
    kept = said if len(said) <= 3 else [said[0], *said[-2:]]
    return "\n".join([f"code {code[1]}" if code else "no code", *(line[:300] for line in kept)])


def broken_job(number: int, launch: Callable[..., Any]) -> str:
    """Run one of the four jobs of the exercise; return the end of its error.

    Args:
        number: 1 to 4.
        launch: runs a job with a name and more arguments, as the notebook's function does.
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
