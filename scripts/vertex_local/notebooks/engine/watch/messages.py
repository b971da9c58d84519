"""Failures that are only printed or drawn: warnings, logged errors, failed tests, empty figures."""

from __future__ import annotations

import doctest
import logging
import unittest
import warnings
from collections.abc import Callable
from typing import Any

from .noting import hook, notes, shortened


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

    warnings.showwarning = showwarning  # not by `hook`: libraries may replace it
    hook(logging.Logger, "handle", watched_handle)


# --- Tests and figures --------------------------------------------------------------------------


def watch_tests() -> None:
    """Note failed tests inside the notebook, which their runner only prints."""
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
    """Note empty figures of Matplotlib that are shown."""
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
    """Return whether a plot's axes contain anything."""
    return bool(axes.has_data() or axes.texts or axes.images or axes.tables or axes.artists)
