"""Imports go one way: who may import whom, read from the code.

The same order is drawn in scripts/vertex_local/README.md. A package's `__init__` is
a module like any other: importing `vertex_local.storage` runs it.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from fnmatch import fnmatch
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

Graph = dict[str, set[str]]  # a module and what it imports

# Each row may import from itself and from the rows above it.
ROWS = (
    ("config", "errors", "features", "imports", "costs", "secret", "jobs.packages.pip_settings"),
    ("faults", "faults.kinds", "faults.store", "faults.mounted", "faults.gcs.*"),
    ("storage.[!a]*",),
    ("storage", "storage.api", "storage.api.*"),
    ("training", "training.states", "training.names", "training.wire", "training.records"),
    ("jobs", "jobs.*", "faults.jobs"),
    ("tuning", "tuning.*"),
    ("training.filters", "training.budget", "registry", "registry.*"),
    ("training.log_entries", "training.handlers"),
    ("training.routes", "console", "console.*"),
    ("server", "server.*"),
    ("kernel", "kernel.*", "testing", "testing.*"),
    ("notebooks", "notebooks.*"),
    ("cli", "cli.*", "__main__"),
)
OURS = ("vertex_local", "lesson", "train_nn", "workshop")


def row_of(module: str) -> int:
    """Return the number of a module's row; its full name counts more than a pattern."""
    exact = [number for number, row in enumerate(ROWS) if module in row]
    found = exact or [
        number for number, row in enumerate(ROWS) if any(fnmatch(module, each) for each in row)
    ]
    assert len(found) == 1, f"{module} belongs into one row of ROWS, and into the drawing"
    return found[0]


def imported(source: str, modules: set[str], package: str) -> Iterator[str]:
    """Yield the modules that a file of a package imports, those inside functions included."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level <= 1, "imports from a room above hide which one is meant"
            module = f"{package}.{node.module}" if node.level else str(node.module)
            for alias in node.names:
                inner = f"{module}.{alias.name}"
                yield inner if inner in modules else module


def package(name: str, path: Path) -> str:
    """Return the package that a module is in, or is."""
    return name if path.stem == "__init__" else name.rpartition(".")[0]


@pytest.fixture(scope="module")
def graph(repo: Path) -> Graph:
    """Every module of local mode and of the lesson, with those of them that it imports."""
    scripts = repo / "scripts"
    files = {
        ".".join(path.relative_to(scripts).with_suffix("").parts).removesuffix(".__init__"): path
        for top in OURS
        for path in [*scripts.glob(f"{top}.py"), *scripts.glob(f"{top}/**/*.py")]
    }
    return {
        name: set(imported(path.read_text(), set(files), package(name, path))) & set(files) - {name}
        for name, path in files.items()
    }


def upward(graph: Graph) -> list[str]:
    """Return the imports that lead from a row to one below it."""
    rows = {name: row_of(name.partition(".")[2]) for name in graph if "vertex_local." in name}
    return [
        f"{name} imports {other}"
        for name in rows
        for other in graph[name] & rows.keys()
        if rows[other] > rows[name]
    ]


def test_imports_go_one_way(graph: Graph) -> None:
    assert upward(graph) == []
    wrong = graph | {"vertex_local.storage.objects": {"vertex_local.jobs.runner"}}
    assert upward(wrong) == ["vertex_local.storage.objects imports vertex_local.jobs.runner"]


def test_every_room_is_explained(repo: Path) -> None:
    home = repo / "scripts" / "vertex_local"
    text = (home / "README.md").read_text()
    explained = text[text.index("### Rooms and imports") : text.index("### How to add")]
    rooms = {path.name for path in home.iterdir() if (path / "__init__.py").is_file()}
    for room in rooms:
        docstring = ast.get_docstring(ast.parse((home / room / "__init__.py").read_text()))
        assert docstring and "import" in docstring, f"{room}: say what it may import"
    modules = {path.stem for path in home.glob("[a-z]*.py")}
    assert [name for name in rooms if f"{name}/`]" not in explained] == []
    assert [name for name in modules if f"`{name}`" not in explained] == []


def test_there_is_no_circle(graph: Graph) -> None:
    TopologicalSorter(graph).prepare()
    with pytest.raises(CycleError):
        TopologicalSorter(graph | {"vertex_local.config": {"vertex_local.cli"}}).prepare()


@pytest.mark.parametrize(
    "source",
    [
        "import vertex_local.jobs.runner",
        "from vertex_local.jobs import runner",
        "from vertex_local.jobs.runner import Runner",
        "def later():\n    from vertex_local.jobs import runner",
    ],
)
def test_every_form_of_import_is_seen(source: str) -> None:
    assert list(imported(source, {"vertex_local.jobs.runner"}, "vertex_local")) == [
        "vertex_local.jobs.runner"
    ]
    assert row_of("jobs.runner") > row_of("storage.objects")


def test_the_lesson_uses_of_local_mode_only_what_works_without_it(graph: Graph) -> None:
    others = {
        name: {each for each in names if not each.startswith("lesson")}
        for name, names in graph.items()
        if name.startswith("lesson")
    }
    assert others["lesson"] == {"vertex_local.costs"}
    used = set().union(*others.values())
    assert used == {"vertex_local.costs", "train_nn"}  # the network, which a saved model needs
    assert graph["vertex_local.costs"] | graph["vertex_local"] == set()


def test_nothing_of_local_mode_uses_the_lesson(graph: Graph) -> None:
    for module in ("train_nn", "workshop"):
        assert graph[module] == set()
    for module, names in graph.items():
        if module.startswith("vertex_local"):
            assert all(name.startswith("vertex_local") for name in names), module


def test_the_entry_needs_the_standard_library_only(repo: Path) -> None:
    source = (repo / "scripts" / "workshop.py").read_text()
    packages = {name.partition(".")[0] for name in imported(source, set(), "vertex_local")}
    assert packages <= sys.stdlib_module_names
