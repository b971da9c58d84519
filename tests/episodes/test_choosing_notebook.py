"""What notebook 06b draws and says, for the tables that there are and for one of a GPU.

That its cells run is tested by nbval, the form of every notebook in test_notebooks.py.
"""

from __future__ import annotations

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

NAME = "06b-Choosing-CPU-or-GPU.ipynb"


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
    notebook = nbformat.read(repo / "notebooks" / NAME, as_version=4)
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
