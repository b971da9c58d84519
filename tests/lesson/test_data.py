"""The passenger files are what data/README.md says, and can be made again from its recipe."""

from __future__ import annotations

import hashlib
import json
import re
import runpy
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

FILES = ("titanic_train.csv", "titanic_test.csv")


@pytest.fixture(scope="module")
def data(repo: Path) -> Path:
    return repo / "data"


@pytest.fixture(scope="module")
def readme(data: Path) -> str:
    return (data / "README.md").read_text()


@pytest.fixture(scope="module")
def tables(data: Path) -> dict[str, pd.DataFrame]:
    return {name: pd.read_csv(data / name) for name in FILES}


def test_the_two_files_are_891_different_passengers(tables: dict[str, pd.DataFrame]) -> None:
    train, test = (tables[name] for name in FILES)
    assert (len(train), len(test)) == (712, 179)
    assert sorted([*train["PassengerId"], *test["PassengerId"]]) == list(range(1, 892))


def test_both_files_have_the_same_share_of_survivors(tables: dict[str, pd.DataFrame]) -> None:
    shares = [tables[name]["Survived"].mean() for name in FILES]
    assert abs(shares[0] - shares[1]) < 1 / 179  # one passenger of the smaller file


def test_the_recipe_in_the_readme_makes_the_files_again(
    data: Path, readme: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in FILES:
        shutil.copy(data / name, tmp_path)
    recipe = re.search(r"```python\n(.*?)```", readme, re.DOTALL)
    assert recipe is not None
    script = tmp_path / "recipe.py"
    script.write_text(recipe[1].replace('to_csv("', 'to_csv("again-'))
    monkeypatch.chdir(tmp_path)
    runpy.run_path(str(script))
    for name in FILES:
        assert (tmp_path / f"again-{name}").read_bytes() == (data / name).read_bytes()


def test_the_checksums_in_the_readme_are_right(data: Path, readme: str) -> None:
    written = dict(re.findall(r"^([0-9a-f]{64})  (\S+)$", readme, re.MULTILINE))
    assert set(written.values()) == set(FILES)
    for digest, name in written.items():
        assert hashlib.sha256((data / name).read_bytes()).hexdigest() == digest


def test_the_readme_describes_every_column(tables: dict[str, pd.DataFrame], readme: str) -> None:
    rows = re.findall(r"^\| `(\w+)` \| .* \| (.*) \| (\d+) \| (\d+) \|$", readme, re.MULTILINE)
    assert [row[0] for row in rows] == list(tables[FILES[0]].columns)
    for name, values, *missing in rows:
        columns = [tables[file][name] for file in FILES]
        assert [int(count) for count in missing] == [int(c.isna().sum()) for c in columns]
        both = pd.concat(columns)
        if bounds := re.fullmatch(r"([\d.]+) to ([\d.]+)", values):
            assert (both.min(), both.max()) == (float(bounds[1]), float(bounds[2]))
        else:
            assert all(str(value) in values for value in both.dropna().unique())


def test_the_readme_documents_every_field_of_metrics_json(
    repo: Path, readme: str, tmp_path: Path
) -> None:
    rng = np.random.default_rng(0)
    for part, rows in (("train", 20), ("val", 10)):
        arrays = {f"X_{part}": rng.random((rows, 3)), f"y_{part}": np.arange(rows) % 2}
        np.savez_compressed(tmp_path / f"{part}.npz", **arrays)
    data = [f"--train={tmp_path}/train.npz", f"--val={tmp_path}/val.npz"]
    command = [sys.executable, str(repo / "scripts" / "train_nn.py"), *data]
    subprocess.run([*command, f"--model_out={tmp_path}", "--epochs=2", "--quiet"], check=True)
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    documented = readme.partition("| Field of `metrics.json` |")[2]
    fields = {
        name
        for line in documented.splitlines()
        for name in re.findall(r"`(\w+)`", line.partition("|")[2].partition("|")[0])
    }
    assert set(metrics) == fields
    history = (tmp_path / "eval_history.csv").read_text().splitlines()[0].split(",")
    assert all(f"`{column}`" in readme for column in history)


def test_the_readme_counts_the_survivors(tables: dict[str, pd.DataFrame], readme: str) -> None:
    train, test = (tables[name]["Survived"].sum() for name in FILES)
    assert f"{train} of 712 passengers survived" in readme
    assert f"{test} of 179 in the test file" in readme
