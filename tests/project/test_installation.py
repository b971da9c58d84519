"""What an installation gives to other people's code: local mode, and no name besides.

A learner's own `train_nn` or `costs` must be found where ours would shadow it. Tried with the
editable installation of this environment, and with a wheel in a bare one.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from configparser import ConfigParser
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

from vertex_local.config import ServerRecord
from vertex_local.kernel import spec

OFFERED = "vertex_local"


@pytest.fixture(scope="module")
def names(repo: Path) -> list[str]:
    """Every name that scripts/ and tests/ could give away: files and folders, at any depth."""
    found = {path.stem for top in ("scripts", "tests") for path in (repo / top).rglob("*.py")}
    found |= {path.name for path in (repo / "scripts").iterdir() if path.is_dir()}
    inside = {path.stem for path in (repo / "scripts" / OFFERED).rglob("*.py")}
    others = sorted(found - inside - {OFFERED, "__pycache__"} - sys.stdlib_module_names)
    assert {"train_nn", "workshop", "lesson", "choosing", "benchmark", "exercises"} <= set(others)
    return [*others, "costs"]


def importable(names: list[str]) -> str:
    """Return code that prints which of the names an import would find."""
    return (
        "import importlib.util\n"
        f"print([name for name in {names} if importlib.util.find_spec(name) is not None])"
    )


def run_python(python: str | Path, code: str, folder: Path) -> str:
    """Run code as a program that knows nothing of the clone; return what it prints."""
    clean = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    finished = subprocess.run(
        [python, "-c", code], cwd=folder, env=clean, capture_output=True, text=True, timeout=120
    )
    assert finished.returncode == 0, finished.stderr
    return finished.stdout.strip()


@pytest.fixture(scope="module")
def wheel(repo: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel, built from a copy of the clone: building leaves files in its folder."""
    folder = tmp_path_factory.mktemp("wheel")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(repo / name, folder)
    for name in ("data", "scripts"):
        ignored = shutil.ignore_patterns("__pycache__", "*.egg-info")
        shutil.copytree(repo / name, folder / name, symlinks=True, ignore=ignored)
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "wheel", "--no-index"]
    finished = subprocess.run(
        [*pip, "--no-deps", "--no-build-isolation", "--wheel-dir", str(folder), str(folder)],
        capture_output=True,
        text=True,
    )
    assert finished.returncode == 0, finished.stderr
    return next(folder.glob("*.whl"))


@pytest.fixture(scope="module")
def bare(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Python of an environment that has the wheel and nothing else."""
    folder = tmp_path_factory.mktemp("bare")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
    python = folder / "bin" / "python"
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--python", str(python)]
    subprocess.run([*pip, "install", "--quiet", "--no-deps", "--no-index", str(wheel)], check=True)
    return python


def test_a_wheel_has_local_mode_and_nothing_else_at_its_top(wheel: Path, repo: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        files = archive.namelist()
        tops = {name.split("/")[0] for name in files}
        [info] = [top for top in tops if top.endswith(".dist-info")]
        assert tops == {OFFERED, info}
        prices = archive.read(f"{OFFERED}/prices.csv")
        entries = ConfigParser()
        entries.read_string(archive.read(f"{info}/entry_points.txt").decode())
    assert prices == (repo / "data" / "prices.csv").read_bytes()
    assert dict(entries["console_scripts"]) == {"vertex-local": "vertex_local.cli:main"}
    source = repo / "scripts" / OFFERED
    written = {path for path in source.rglob("*") if path.is_file() and path.suffix != ".pyc"}
    needed = {
        path.relative_to(source.parent).as_posix() for path in written - {*source.rglob("*.md")}
    }
    assert set(files) - needed == {name for name in files if name.startswith(info)}
    assert needed <= set(files)


def test_the_wheel_works_without_the_clone(bare: Path, tmp_path: Path, names: list[str]) -> None:
    assert run_python(bare, importable([*names, OFFERED]), tmp_path) == f"['{OFFERED}']"
    found = "from vertex_local import costs; print(costs.PRICES.parent.name, len(costs.prices()))"
    folder, count = run_python(bare, found, tmp_path).split()
    assert folder == OFFERED and int(count) > 10
    command = [str(bare.with_name("vertex-local")), "--help"]
    finished = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert finished.returncode == 0, finished.stderr
    plugin = "import importlib.util as u; print(u.find_spec('vertex_local.notebooks.checks').name)"
    assert run_python(bare, plugin, tmp_path) == "vertex_local.notebooks.checks"


def test_this_environment_offers_local_mode_only(names: list[str], tmp_path: Path) -> None:
    shown = run_python(sys.executable, importable([*names, OFFERED]), tmp_path)
    assert shown == f"['{OFFERED}']"


def test_a_fresh_kernel_finds_a_learners_own_module(
    server: ServerRecord, names: list[str], tmp_path: Path
) -> None:
    own = tmp_path / "scripts" / "train_nn.py"
    own.parent.mkdir()
    own.write_text("class TitanicNet:\n    pass\n")
    append = "import sys\nsys.path.append('scripts')\nimport train_nn\nprint(train_nn.__file__)"
    cells = [nbformat.v4.new_code_cell(code) for code in (importable(names), append)]
    notebook = nbformat.v4.new_notebook(cells=cells)
    where = {"metadata": {"path": str(tmp_path)}}
    NotebookClient(notebook, kernel_name=spec.NAME, resources=where, timeout=60).execute()
    shown = [cell.outputs[0].text.strip() for cell in notebook.cells]
    assert shown[0] == "[]"
    assert (tmp_path / shown[1]).samefile(own)
