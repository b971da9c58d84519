"""A verdict for each notebook on one line: at the end of pytest's output, and as a page."""

from __future__ import annotations

import html
import os
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from vertex_local.config import LocalModeError
from vertex_local.notebooks import files
from vertex_local.notebooks.checks.items import TITLE, WARNING

INDEX = "index.html"
WHOLE = "the whole notebook"  # in place of a cell's title
PAGE = """<!DOCTYPE html>
<html lang="en"><meta charset="utf-8"><title>Executed notebooks</title>
<style>body {{font: 16px sans-serif; margin: 2em auto; max-width: 60em}}
td {{vertical-align: top; padding: .4em .8em; border-top: 1px solid #ccc}}
.failed {{color: #b00020; font-weight: bold}} .passed {{color: #006400; font-weight: bold}}
p {{margin: .2em 0}} .warning {{color: #7a4f00}}</style>
<h1>Executed notebooks</h1><p class="{kind}">{headline}</p><table>{rows}</table></html>
"""


@dataclass
class Notebook:
    """The results of one notebook.

    Attributes:
        ran: how many cells passed.
        skipped: how many cells did not run.
        failures: for each cell that failed its title, the first line of the report on it, and its
            position in the notebook.
        warnings: the title of a cell, and the warning.
    """

    ran: int = 0
    skipped: int = 0
    failures: list[tuple[str, str, int]] = field(default_factory=list)
    warnings: list[tuple[str, str]] = field(default_factory=list)

    def verdict(self) -> str:
        """Return the results as one line."""
        counts = f"{self.ran} passed" + (f", {self.skipped} skipped" if self.skipped else "")
        many = "s" if len(self.warnings) > 1 else ""
        warned = f", {len(self.warnings)} warning{many}" if self.warnings else ""
        return f"{'FAILED' if self.failures else 'passed'} ({counts}{warned})"


class Summary:
    """Collects the reports of a session's cells."""

    def __init__(self, config: pytest.Config) -> None:
        self._config = config
        self._notebooks: dict[str, Notebook] = {}

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Note the outcome of a cell, and give it its title in the JUnit file."""
        path, _, name = report.nodeid.partition("::")
        final = report.outcome in ("passed", "failed", "skipped")  # not "rerun"
        if not path.endswith(".ipynb") or not final:
            return
        properties: list[tuple[str, Any]] = []
        if report.when == "call":
            properties += report.user_properties
        title, index = next((value for key, value in properties if key == TITLE), (name, 0))
        notebook = self._notebooks.setdefault(path, Notebook())
        if report.outcome == "failed":
            lines = str(report.longrepr).strip().splitlines() or [""]
            notebook.failures.append((title, lines[0], index))
        elif report.outcome == "skipped":
            notebook.skipped += 1
        elif report.when == "call" and report.outcome == "passed":
            notebook.ran += 1
        notebook.warnings += [(title, value) for key, value in properties if key == WARNING]
        if title != name:
            self._name_in_junit(report, title)

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        """Note a notebook that cannot be collected; every worker of xdist reports it."""
        path = report.nodeid
        if path.endswith(".ipynb") and report.outcome == "failed":
            what = (str(report.longrepr).strip().splitlines() or [""])[0]
            self._notebooks[path] = Notebook(failures=[(WHOLE, what, 0)])

    def _name_in_junit(self, report: pytest.TestReport, title: str) -> None:
        from _pytest.junitxml import xml_key  # as pytest's own fixtures do

        xml = self._config.stash.get(xml_key, None)
        if xml is not None:
            xml.node_reporter(report).add_attribute("name", title)

    def pytest_terminal_summary(self, terminalreporter: Any) -> None:
        """Print a verdict for each notebook, and annotations where GitHub reads them."""
        if not self._notebooks:
            return
        terminalreporter.section("notebooks")
        for path, notebook in self._notebooks.items():
            terminalreporter.write_line(f"{path}: {notebook.verdict()}")
            for title, what, _index in notebook.failures:
                if title != WHOLE:  # pytest shows that by itself
                    terminalreporter.write_line(f"    FAILED {title}: {what}")
            for title, what in notebook.warnings:
                terminalreporter.write_line(f"    warning, {title}: {what}")
        folder = self._config.getoption("nbcheck_evidence")
        if folder and self._write_page(Path(folder), terminalreporter):
            terminalreporter.write_line(f"Executed copies: {Path(folder) / INDEX}")
        if os.environ.get("GITHUB_ACTIONS") == "true":
            for line in self._annotations():
                terminalreporter.write_line(line)

    def _write_page(self, folder: Path, terminalreporter: Any) -> bool:
        worst_first = sorted(self._notebooks.items(), key=lambda item: not item[1].failures)
        rows = [_row(folder, path, notebook) for path, notebook in worst_first]
        failed = sum(bool(notebook.failures) for notebook in self._notebooks.values())
        count = f"{failed} of {len(rows)} failed" if failed else f"All {len(rows)} passed"
        headline = f"{count}, {datetime.now().astimezone():%Y-%m-%d %H:%M %Z}."
        kind = "failed" if failed else "passed"
        page = PAGE.format(headline=headline, kind=kind, rows="".join(rows))
        try:
            folder.mkdir(parents=True, exist_ok=True)
            files.replace(folder / INDEX, page)
        except OSError as err:
            terminalreporter.write_line(f"{folder / INDEX} cannot be written ({err.strerror}).")
            return False
        return True

    def _annotations(self) -> list[str]:
        """Return GitHub's workflow commands: an error for each failure, a warning for each warning.

        Source: "Workflow commands for GitHub Actions" in GitHub's documentation.
        """
        lines = []
        for path, notebook in self._notebooks.items():
            for title, what, index in notebook.failures:
                line = line_of(self._config.rootpath / path, index)
                lines.append(_command("error", path, line, title, what))
            for title, what in notebook.warnings:
                lines.append(_command("warning", path, 1, title, what))
        return lines


def line_of(path: Path, index: int) -> int:
    """Return the line of a notebook's file on which a cell begins; 1 if that is not known."""
    try:
        cell = files.read(path).cells[index]
        lines = path.read_text().splitlines()
    except (LocalModeError, OSError, IndexError):
        return 1
    wanted = f'"id": "{cell.get("id")}"'
    return next((number for number, line in enumerate(lines, 1) if wanted in line), 1)


def _command(kind: str, path: str, line: int, title: str, message: str) -> str:
    names = {"file": path, "line": str(line), "title": title}
    properties = ",".join(f"{key}={_escaped(value, ':,')}" for key, value in names.items())
    return f"::{kind} {properties}::{_escaped(message)}"


def _escaped(text: str, more: str = "") -> str:
    for letter in "%\r\n" + more:
        text = text.replace(letter, f"%{ord(letter):02X}")
    return text


def _row(folder: Path, path: str, notebook: Notebook) -> str:
    page = Path(path).with_suffix(".html")
    name = html.escape(path)
    link = f'<a href="{html.escape(str(page))}">{name}</a>' if (folder / page).exists() else name
    lines = [f"<p>{html.escape(f'{title}: {what}')}</p>" for title, what, _ in notebook.failures]
    lines += [
        f'<p class="warning">{html.escape(f"warning, {title}: {what}")}</p>'
        for title, what in notebook.warnings
    ]
    kind = "failed" if notebook.failures else "passed"
    return (
        f'<tr><td>{link}</td><td class="{kind}">{html.escape(notebook.verdict())}</td>'
        f"<td>{''.join(lines)}</td></tr>"
    )
