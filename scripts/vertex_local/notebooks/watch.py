"""Runs inside a notebook's kernel: notes what went wrong without stopping a cell.

The text of this file is sent to the kernel before the first cell. So it stands alone, works with
any Python kernel, and leaves no name behind among those of the notebook. The notes travel in the
kernel's own reply to each cell, as a payload.

It only notes facts; the cell runs as it does for a learner. What counts as failed, `rules` decides.
A note is a dictionary: `kind` (see `rules.VERDICTS`), `what` (a sentence), `details` (a traceback,
or ""), `seconds` (how long a command took, or 0).
"""

from __future__ import annotations

import ast
import asyncio
import concurrent.futures
import doctest
import functools
import gc
import linecache
import logging
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import traceback
import unittest
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

SOURCE = "vertex_local_watch"  # of the payload, and the name under which this file runs
GRACE_SECONDS = 3.0  # at the end of the notebook, for threads, tasks and background scripts
LONGEST_NOTES = 200  # of one cell
# Commands whose exit status 1 says "no", not "failed".
ANSWERS = re.compile(r"\b([efzp]|rip)?grep\b|\b(rg|diff|cmp|test|expr|which)\b|\[")
# Readers that leave when they have seen enough; then the writer's failure means nothing. (Commands
# of a kernel ignore SIGPIPE, as Python does, so they may end with any status.)
LEAVES = re.compile(r"\|\s*(head|more|less|sed\b.*\bq|grep\b.*\s-\w*[qm])\b")
# The author looks at the exit status, or has taken these matters into his own hands.
LOOKED_AT = re.compile(r"\$\?|PIPESTATUS|\btrap\b|\bset \+e\b")
POSIX = "bash --posix -O xpg_echo"  # bash as a plain sh
SIGPIPE = 141  # exit status of a command whose reader has seen enough, as in `yes | head -1`
# Processes that are there to be left: local mode's server, and pools of idle workers.
KEPT = re.compile(r"vertex_local|resource_tracker|loky|forkserver|multiprocessing")


class Notes:
    """What was noted since the last report."""

    def __init__(self) -> None:
        self._notes: list[dict[str, Any]] = []

    def add(self, kind: str, what: str, details: str = "", seconds: float = 0.0) -> None:
        """Note something, unless the same is noted already."""
        note = {"kind": kind, "what": what, "details": details, "seconds": seconds}
        if len(self._notes) < LONGEST_NOTES and (seconds or note not in self._notes):
            self._notes.append(note)

    def error(self, kind: str, what: str, error: BaseException) -> None:
        """Note an exception with its traceback."""
        self.add(kind, f"{what}: {type(error).__name__}: {error}", traceback_of(error))

    def take(self) -> list[dict[str, Any]]:
        """Return the notes and begin anew."""
        taken, self._notes = self._notes, []
        return taken


notes = Notes()
hooks: list[tuple[str, Any, str, Any]] = []  # what is in place: kind, owner, attribute, value


def hook(owner: Any, name: str, value: Any, kind: str = "replaced") -> None:
    """Put a function of this file in the place of another.

    Args:
        owner: the module or class that has it.
        name: its name there.
        value: the function that takes its place.
        kind: of the note, if a cell puts something else there.
    """
    setattr(owner, name, value)
    hooks.append((kind, owner, name, value))


def watch(shell: Any) -> None:
    """Note what happens in `shell`, IPython's interactive shell, from now on."""
    watch_commands()
    watch_scripts(shell)
    watch_processes(shell)
    watch_exceptions(shell)
    watch_futures(shell)
    watch_messages()
    watch_tests()
    watch_figures()
    manager, read = shell.payload_manager, shell.payload_manager.read_payload

    def read_with_report() -> list[Any]:  # once for each request, however cells are nested
        for each in hooks[:]:
            kind, owner, name, value = each
            if getattr(owner, name, None) is not value:
                hooks.remove(each)
                notes.add(kind, f"a cell replaced `{name}`, by which failures are noticed")
        note_background(end=False)
        report: dict[str, Any] = {"source": SOURCE, "notes": notes.take(), "bases": bases()}
        report["exits"] = bool(getattr(shell, "exit_now", False))
        return [*read(), report]

    manager.read_payload = read_with_report


def bases() -> list[str]:
    """Return the names of the last shown exception's class and of its base classes."""
    shown = getattr(sys, "last_type", None)
    return [each.__name__ for each in shown.__mro__] if isinstance(shown, type) else []


def traceback_of(error: BaseException) -> str:
    """Return the last lines of an exception's traceback."""
    lines = traceback.format_exception(type(error), error, error.__traceback__)
    return "".join(lines)[-4000:]


# --- Shell lines --------------------------------------------------------------------------------


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
    """Note how a shell line ended, or what failed inside it although it ended well."""
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
        letter, _, rest = line.partition(" ")
        if letter == "E":
            status, _, failed = rest.partition(" ")
            answer = status == "1" and ANSWERS.search(failed)
            kind = "answer" if answer else "inside"
            words = explain(int(status))
            notes.add(kind, f"`{failed}` failed inside a script that went on: {words}")
        else:
            statuses = [int(each) for each in rest.split()]
            bad = [each for each in statuses[:-1] if each not in (0, SIGPIPE)]
            if bad:
                answer = set(bad) == {1} and ANSWERS.search(command)
                answer = answer or LEAVES.search(command)
                ended = ", ".join(map(str, statuses))
                words = f"in `{shortened(command)}`, the commands of a pipe ended with {ended}"
                notes.add("answer" if answer else "pipe", words)


@contextmanager
def traced(command: str) -> Iterator[tuple[str, list[str]]]:
    """Give a shell line with traps before it, and a list of what the traps say at the end.

    A shell forgets the status of every command but the last. Bash's traps see each: ERR those that
    nothing guards, such as `|| true`, and DEBUG and EXIT those of the pipe before. The flow of the
    script stays as it is. Without bash, the line stays as it is.
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
    """Return the beginning of a bash script that writes to `path` what fails in it."""
    statuses = "${PIPESTATUS[*]}"
    pipe = f'case " {statuses}" in *[1-9]*" "*) echo "P {statuses}" >>{path};; esac'
    command = "${BASH_COMMAND//[[:cntrl:]]/ }"  # no pipe here: it would change `$?` of the script
    error = f'echo "E $? {command}" >>{path}'
    return f"trap '{error}' ERR; trap '{pipe}' DEBUG EXIT; "


def explain(status: int) -> str:
    """Return in words what is wrong with the exit status of a command; "" if nothing is."""
    if status == 127:
        return "the command was not found (exit status 127)"
    if status < 0:
        return f"it was ended by signal {-status}"
    return f"exit status {status}" if status else ""


def shortened(text: str) -> str:
    """Return the first line of a text, at most 80 characters of it."""
    line = next(iter(text.strip().splitlines()), "")
    return line if len(line) <= 80 else f"{line[:80]} …"


# --- Scripts: %%bash and its like ---------------------------------------------------------------

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


# --- Commands that Python starts ----------------------------------------------------------------

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


# --- Exceptions that stop nothing ---------------------------------------------------------------


def watch_exceptions(shell: Any) -> None:
    """Note exceptions in threads, in callbacks of event loops, and where Python ignores them."""
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
        # (`isinstance` would ask objects for their class, and some of torch's warn of that.)
        if not issubclass(type(task), asyncio.Task) or not task.done() or task.cancelled():
            continue
        if getattr(task, "_log_traceback", False):  # asyncio's own mark: nobody has seen it yet
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


# --- Messages: warnings, logged errors ----------------------------------------------------------


def watch_messages() -> None:
    """Note Python's warnings and what is logged as an error."""
    show, handle = warnings.showwarning, logging.Logger.handle

    def showwarning(message: Any, category: Any, filename: str, *others: Any, **more: Any) -> None:
        text = f"{category.__name__}: {shortened(str(message))}"
        never = "was never awaited" in str(message)
        notes.add("coroutine" if never else "warning", text)
        show(message, category, filename, *others, **more)

    def watched_handle(self: logging.Logger, record: logging.LogRecord) -> None:
        if record.levelno >= logging.ERROR and record.name != "asyncio":
            text = shortened(record.getMessage())
            notes.add("logged", f"{record.levelname} logged by {record.name}: {text}")
        handle(self, record)

    warnings.showwarning = showwarning  # not a hook: libraries replace it for good reasons
    hook(logging.Logger, "handle", watched_handle)


# --- Tests and figures --------------------------------------------------------------------------


def watch_tests() -> None:
    """Note tests inside the notebook that failed, where their runner only prints it."""
    run, summarize = unittest.TextTestRunner.run, doctest.DocTestRunner.summarize

    def watched_run(self: Any, test: Any) -> Any:
        result = run(self, test)
        if not result.wasSuccessful():
            count = len(result.failures) + len(result.errors)
            notes.add("tests", f"unittest: {count} of {result.testsRun} tests failed")
        return result

    def watched_summarize(self: Any, *args: Any, **options: Any) -> Any:
        result = summarize(self, *args, **options)
        if result.failed:
            notes.add("tests", f"doctest: {result.failed} of {result.attempted} examples failed")
        return result

    hook(unittest.TextTestRunner, "run", watched_run)
    hook(doctest.DocTestRunner, "summarize", watched_summarize)


def watch_figures() -> None:
    """Note figures of Matplotlib that are shown and have nothing in them."""
    from IPython.core import pylabtools

    draw: Callable[..., Any] = pylabtools.print_figure

    def print_figure(figure: Any, *args: Any, **options: Any) -> Any:
        axes = figure.axes
        others = [*figure.texts, *figure.images, *figure.lines, *figure.patches]
        if not others and not any(is_drawn(each) for each in axes):
            notes.add("figure", "a figure without anything in it")
        return draw(figure, *args, **options)

    pylabtools.print_figure = print_figure


def is_drawn(axes: Any) -> bool:
    """Return whether there is anything in a plot's axes."""
    return bool(axes.has_data() or axes.texts or axes.images or axes.tables or axes.artists)


# --- The end of the notebook --------------------------------------------------------------------


async def finish(shell: Any) -> None:
    """Give what runs in the background a moment to end, and note what failed or is left."""
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
    """Return whether the end of a thread is worth waiting for: a worker of the notebook's own."""
    idle = "ThreadPoolExecutor" in thread.name or "asyncio" in thread.name
    return not thread.daemon and thread not in started_before and not idle


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


if __name__ == SOURCE:  # see vertex_local.notebooks.execution, which sends this file
    watch(get_ipython())  # type: ignore[name-defined]  # noqa: F821
