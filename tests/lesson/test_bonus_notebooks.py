"""The bonus notebooks as texts: their form. That their cells run is tested by nbval."""

from __future__ import annotations

import ast
import itertools
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import matplotlib
import matplotlib.pyplot as plt
import nbformat
import numpy as np
import pandas as pd
import pytest

from lesson import choosing

NAMES = ["06b-Choosing-CPU-or-GPU.ipynb", "06c-Distributed-training.ipynb"]  # without exercises
LONGEST_CELL = 25


@pytest.fixture(params=NAMES)
def notebook(repo: Path, request: pytest.FixtureRequest) -> nbformat.NotebookNode:
    found = nbformat.read(repo / "notebooks" / request.param, as_version=4)
    nbformat.validate(found)
    return found


def test_it_is_committed_for_the_plain_kernel_without_outputs(
    notebook: nbformat.NotebookNode,
) -> None:
    assert notebook.metadata.kernelspec.name == "python3"
    for cell in notebook.cells:
        assert not cell.get("outputs") and not cell.get("execution_count"), cell.source


def test_prose_stands_before_every_code_cell(notebook: nbformat.NotebookNode) -> None:
    for before, cell in itertools.pairwise(notebook.cells):
        if cell.cell_type == "code":
            assert before.cell_type == "markdown", cell.source


def test_cells_are_short_and_the_same_everywhere(notebook: nbformat.NotebookNode) -> None:
    for source in (cell.source for cell in notebook.cells if cell.cell_type == "code"):
        assert len(source.splitlines()) <= LONGEST_CELL, source
        ast.parse(source)
        assert not re.search(r"local.?mode|vertex.?local|emulator", source, re.IGNORECASE), source


def test_headings_never_skip_a_level_and_differ(notebook: nbformat.NotebookNode) -> None:
    text = "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")
    headings = re.findall(r"^(#+) (.+)$", text, re.MULTILINE)
    levels = [len(marks) for marks, _ in headings]
    assert levels[0] == 1 and levels.count(1) == 1
    assert all(after - before <= 1 for before, after in itertools.pairwise(levels))
    assert len({title for _, title in headings}) == len(headings)


def test_every_picture_is_described_below_it(notebook: nbformat.NotebookNode) -> None:
    drawn = 0
    for cell, after in itertools.pairwise(notebook.cells):
        if "plt.show()" in cell.source:
            drawn += 1
            assert after.source.startswith("**What you see.**"), cell.source
    assert drawn


def test_it_ends_with_key_points(notebook: nbformat.NotebookNode) -> None:
    assert notebook.cells[-1].source.startswith("## Key points")


@pytest.fixture
def pictures(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Any]]:
    """The axes of every picture that is shown, instead of showing it."""
    shown: list[Any] = []
    monkeypatch.setattr(plt, "show", lambda: shown.append(plt.gca()))
    backend = matplotlib.get_backend()
    plt.switch_backend("agg")
    yield shown
    plt.close("all")
    plt.switch_backend(backend)


def run_06b(repo: Path) -> dict[str, Any]:
    """Run its code cells here; return what they defined."""
    notebook = nbformat.read(repo / "notebooks" / NAMES[0], as_version=4)
    names: dict[str, Any] = {}
    for cell in notebook.cells:
        if cell.cell_type == "code":
            exec(compile(cell.source, "<cell>", "exec"), names)
    return names


def markers(axes: Any) -> list[tuple[str, list[float], list[float]]]:
    drawn = [line for line in axes.get_lines() if line.get_marker() not in ("None", None, "")]
    return [(line.get_marker(), list(line.get_xdata()), list(line.get_ydata())) for line in drawn]


def test_every_marker_stands_at_a_measured_size(
    repo: Path, pictures: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(repo / "notebooks")
    curve = run_06b(repo)["cpu_curve"]
    assert len(pictures) == 3 and len(curve) >= 4
    for axes in pictures:
        assert markers(axes)
        for _, x, _ in markers(axes):
            assert x and set(x) <= set(curve["rows"])
    time = choosing.Assumptions().provisioning_minutes + (
        500 * curve["epoch_seconds"] + curve["other_seconds"]
    ).div(60)
    assert np.allclose(markers(pictures[0])[0][2], time)


def test_a_gpu_that_somebody_measured_appears_everywhere(
    repo: Path,
    pictures: list[Any],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(repo / "notebooks")
    table = choosing.read_benchmarks(repo / "data")
    ours = table[(table["processes"] == 1) & (table["width"] == 7) & (table["batch_size"] == 0)]
    gpu = choosing.curve(ours).assign(device="cuda", file="benchmark-cuda-x.csv")
    gpu = gpu.assign(machine_type="n1-standard-8", accelerator_type="NVIDIA_TESLA_T4")
    seconds = ["epoch_seconds", "low_seconds", "high_seconds"]
    gpu = gpu.assign(accelerator_count=1, **{name: gpu[name] / 20 for name in seconds})
    both = pd.concat([table, gpu], ignore_index=True)
    monkeypatch.setattr(choosing, "read_benchmarks", lambda: both)
    run_06b(repo)

    labels = [[line.get_label() for line in axes.get_lines()] for axes in pictures]
    assert "n1-standard-8 + 1 × T4" in labels[0] and "n1-standard-8 + 1 × T4" in labels[1]
    assert "benchmark-cuda-x.csv: measured" in labels[2]
    (stars,) = [y for marker, _, y in markers(pictures[2]) if marker == "*"]
    assert np.allclose(stars, 20)
    said = capsys.readouterr().out
    assert re.search(r"n1-standard-8 \+ 1 × T4\s+measured", said)
    assert re.search(r"- n1-standard-8 \+ 1 × T4: \d+\.\d min, about", said)
