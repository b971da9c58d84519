"""A pytest plugin on top of nbval, with which a notebook passes only if nothing in it failed.

Load it with `-p vertex_local.notebooks.checks`. nbval collects the notebooks, and its options and
tags work; `checking` executes each cell, and `rules` judges it. README.md in the folder above says
how to use the plugin, and what counts as failed.

Settings in pytest's ini file:
    nbcheck_kernelspec: the kernel that the files must name (default: python3).
    nbcheck_tags: tags of cells that the project uses, besides those of nbval.
    nbcheck_budgets: lines `SECONDS PATTERN`; a notebook that takes longer gets a warning.
    nbcheck_strict: patterns of warnings that fail the cell, such as `ConvergenceWarning*`.
    nbcheck_output_limit: how many megabytes a cell may show.
"""

from __future__ import annotations

import vertex_local.notebooks  # noqa: F401  # before nbval, which imports nbformat

# isort: split
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest
from nbval.plugin import IPyNbFile

from vertex_local.config import find_root
from vertex_local.notebooks.checks import order
from vertex_local.notebooks.checks.items import NotebookFile
from vertex_local.notebooks.checks.summary import Summary
from vertex_local.notebooks.checks.timing import Timings
from vertex_local.notebooks.engine.session import OUTPUT_LIMIT

EVIDENCE = find_root().path / "evidence"  # before `vertex_local.testing` gives the session a root


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the options and the settings of the ini file."""
    group = parser.getgroup("nbcheck", "notebooks that keep their promises")
    group.addoption(
        "--nbcheck-evidence",
        metavar="FOLDER",
        default=str(EVIDENCE),
        help="where executed notebooks are kept, also as HTML (default: %(default)s); "
        "write it with an equals sign",
    )
    group.addoption(
        "--nbcheck-slowest",
        metavar="N",
        type=int,
        default=5,
        help="how many cells of each notebook are listed with their times; 0 lists all",
    )
    parser.addini("nbcheck_kernelspec", "the kernel that notebooks must name", default="python3")
    parser.addini("nbcheck_tags", "tags of cells that the project uses", "linelist", [])
    parser.addini("nbcheck_budgets", "lines `SECONDS PATTERN`", "linelist", [])
    parser.addini("nbcheck_strict", "patterns of warnings that fail a cell", "linelist", [])
    megabytes = str(OUTPUT_LIMIT // 1_000_000)
    parser.addini("nbcheck_output_limit", "megabytes that a cell may show", default=megabytes)


def pytest_configure(config: pytest.Config) -> None:
    """Collect the reports in the process where they arrive: no worker of pytest-xdist."""
    limit = config.getini("nbcheck_output_limit")
    try:
        if float(limit) <= 0:
            raise ValueError
    except ValueError:
        raise pytest.UsageError(
            f"nbcheck_output_limit: {limit!r} is not a number of megabytes above 0"
        ) from None
    if hasattr(config, "workerinput"):
        return
    try:
        timings = Timings(config.getini("nbcheck_budgets"), config.getoption("nbcheck_slowest"))
    except ValueError as err:
        raise pytest.UsageError(f"nbcheck_budgets: {err}") from err
    config.pluginmanager.register(timings, "nbcheck-timings")
    config.pluginmanager.register(Summary(config), "nbcheck-summary")


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    """Tell a worker of pytest-xdist the folder: its own default is inside the session's root."""
    node.workerinput["nbcheck_evidence"] = node.config.getoption("nbcheck_evidence")


@pytest.hookimpl(wrapper=True)
def pytest_collect_file(file_path: Path, parent: Any) -> Generator[None, list[Any], list[Any]]:
    """Put this plugin's collector in the place of nbval's."""
    collectors = yield
    return [
        NotebookFile.from_parent(parent, path=file_path) if type(each) is IPyNbFile else each
        for each in collectors
    ]


@pytest.hookimpl(tryfirst=True)
def pytest_collection_finish(session: pytest.Session) -> None:
    """Put the cells of each notebook together and in order, after any plugin that shuffled them."""
    session.items[:] = order.by_notebook(session.items)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Keep the cells of a notebook in one worker where xdist would spread them."""
    if config.getvalue("dist") not in ("load", "worksteal"):
        return None
    return order.scheduler(config, log)
