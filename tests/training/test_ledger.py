"""The ledger of what local mode knows of Google's services: where from, and held by which test.

`ledger.csv` has it; the reference, scripts/vertex_local/README.md, shows it. After a change, write
it anew with

    REFRESH_README=1 .venv/bin/pytest -n0 tests/training/test_ledger.py
"""

from __future__ import annotations

import csv
import inspect
import os
import re
from collections import Counter
from pathlib import Path
from typing import Any, cast

import pytest
from google.cloud import aiplatform
from starlette.routing import Route

from vertex_local.storage.api import routes as storage
from vertex_local.training import routes as training

BEGIN, END = "<!-- made by tests/training/test_ledger.py -->", "<!-- end of the ledger -->"
ASSUMPTION = "assumption"
SOURCE = re.compile(
    rf"SDK source|recorded request|documentation \d{{4}}-\d\d-\d\d|public log|{ASSUMPTION}"
)
OPTIONS_TEST = (
    "tests/training/test_sdk_table.py::test_every_option_does_something_or_says_that_it_does_not"
)
JOBS = (
    aiplatform.CustomTrainingJob,
    aiplatform.CustomPythonPackageTrainingJob,
    aiplatform.CustomContainerTrainingJob,
    aiplatform.CustomJob,
    aiplatform.HyperparameterTuningJob,
)
Row = dict[str, str]


def ledger() -> list[Row]:
    """Return the lines of the ledger."""
    with Path(__file__).with_name("ledger.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def names(row: Row) -> list[str]:
    """Return the operations, options or behaviour that a line is about."""
    separator = " " if row["kind"] == "option" else "; "
    return row["names"].split(separator)


def operations() -> set[str]:
    """Return the method and path of every route, as the ledger writes them."""
    service = cast(Any, None)  # the routes only hold it
    found = set()
    for route in (*training.application(service).routes, *storage._routes()):
        assert isinstance(route, Route)
        methods = (route.methods or set()) - {"HEAD"}
        path = route.path.replace(training.PLACE, "/…").removeprefix("/v1/…/")
        path = path.removeprefix("/storage/v1/").replace("/storage/v1/b/", "/b/")
        found |= {f"{'ANY' if len(methods) > 1 else min(methods)} {path}"}
    return found


def options() -> set[str]:
    """Return every option of the SDK's training jobs."""
    starts = [
        getattr(job, name)
        for job in JOBS
        for name in ("run", "submit", "from_local_script")
        if hasattr(job, name)
    ]
    calls = [*JOBS, *starts, aiplatform.init]
    return {name for call in calls for name in inspect.signature(call).parameters} - {"self"}


@pytest.mark.parametrize(("kind", "all_of"), [("operation", operations), ("option", options)])
def test_every_operation_and_option_has_one_line(kind: str, all_of: Any) -> None:
    written = [name for row in ledger() if row["kind"] == kind for name in names(row)]
    assert Counter(written) == Counter(all_of())


def test_every_line_has_a_source_and_a_test_that_exists(repo: Path) -> None:
    for row in ledger():
        assert SOURCE.fullmatch(row["known_from"]), row
        file, _, function = (row["test"] or OPTIONS_TEST).partition("::")
        assert f"\ndef {function}(" in (repo / file).read_text(), row
        assert row["test"] or row["kind"] == "option", row


def test_the_readme_shows_the_ledger(repo: Path) -> None:
    readme = repo / "scripts" / "vertex_local" / "README.md"
    before, rest = readme.read_text().split(BEGIN)
    shown, after = rest.split(END)
    table = f"\n\n{render(ledger())}\n\n"
    if os.environ.get("REFRESH_README"):
        readme.write_text(before + BEGIN + table + END + after)
    else:
        assert shown == table, "see the docstring of this file"


def render(rows: list[Row]) -> str:
    """Return the table, with what rests on an assumption first."""
    lines = ["| What | Known from | In detail | Held by |", "|---|---|---|---|"]
    for row in sorted(rows, key=lambda each: each["known_from"] != ASSUMPTION):
        what = ", ".join(name if row["kind"] == "behaviour" else f"`{name}`" for name in names(row))
        source = row["known_from"]
        source = f"**{source}**" if source == ASSUMPTION else source
        file, _, function = (row["test"] or OPTIONS_TEST).partition("::")
        test = f"[`{function}`](../../{file})"
        lines.append(f"| {what} | {source} | {row['detail']} | {test} |")
    return "\n".join(lines)
