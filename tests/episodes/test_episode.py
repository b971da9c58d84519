"""What the episode does with other data than the lesson's own, and what its text says of it.

That its cells run is tested by nbval, which executes the notebook itself.
"""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import nbformat
import numpy as np
import pandas as pd
import pytest
from google.cloud import storage

from lesson import passengers

NAME = "06-Training-models-in-VertexAI-GPUs.ipynb"
FIRST_DATA_CELL, LAST_DATA_CELL = "csv = bucket.blob", "rules = passengers.fit"


@pytest.fixture(scope="module")
def cells(repo: Path) -> list[nbformat.NotebookNode]:
    notebook = nbformat.read(repo / "notebooks" / NAME, as_version=4)
    nbformat.validate(notebook)
    return list(notebook.cells)


@pytest.fixture(scope="module")
def code(cells: list[nbformat.NotebookNode]) -> list[str]:
    return [cell.source for cell in cells if cell.cell_type == "code"]


def test_the_attendee_edits_two_names_only(code: list[str]) -> None:
    edits = [line for source in code for line in source.splitlines() if "# edit" in line]
    assert [line.split(" = ")[0] for line in edits] == ["BUCKET_NAME", "LAST_NAME"]


def prepare(code: list[str], bucket: storage.Bucket, folder: Path) -> dict[str, Any]:
    """Run the notebook's own cells from reading the CSV to the arrays; return its names."""
    names: dict[str, Any] = {"bucket": bucket, "WORK": folder, "passengers": passengers}
    names |= {"io": io, "json": json, "np": np, "pd": pd}
    first, last = (
        next(i for i, source in enumerate(code) if start in source)
        for start in (FIRST_DATA_CELL, LAST_DATA_CELL)
    )
    for source in code[first : last + 1]:
        exec(compile(source, "<cell>", "exec"), names)
    return names


def upload(bucket: storage.Bucket, table: pd.DataFrame) -> None:
    bucket.blob("titanic_train.csv").upload_from_string(table.to_csv(index=False))


@pytest.fixture
def table(repo: Path) -> pd.DataFrame:
    return pd.read_csv(repo / "data" / "titanic_train.csv")


def test_the_file_with_12_columns_gives_the_same_arrays(
    code: list[str], bucket: storage.Bucket, table: pd.DataFrame, tmp_path: Path
) -> None:
    upload(bucket, table)
    expected = prepare(code, bucket, tmp_path)

    twelve = table.copy()
    twelve.insert(3, "Name", 'Doe, Mr. John "Jack"')
    twelve.insert(8, "Ticket", "A/5 21171")
    twelve.insert(10, "Cabin", None)
    assert twelve.shape[1] == 12
    upload(bucket, twelve)
    actual = prepare(code, bucket, tmp_path)
    for name in ("X_train", "y_train", "X_val", "y_val"):
        assert np.array_equal(expected[name], actual[name])


def test_a_file_without_a_needed_column_is_refused_by_name(
    code: list[str], bucket: storage.Bucket, table: pd.DataFrame, tmp_path: Path
) -> None:
    upload(bucket, table.drop(columns=["Fare", "Sex"]))
    with pytest.raises(ValueError, match="lacks the columns Sex, Fare"):
        prepare(code, bucket, tmp_path)


def test_nothing_is_fitted_on_the_validation_rows(
    code: list[str], bucket: storage.Bucket, table: pd.DataFrame, tmp_path: Path
) -> None:
    upload(bucket, table)
    before = prepare(code, bucket, tmp_path)
    changed = table.copy()
    rows = before["val_rows"].index
    changed.loc[rows, ["Age", "Fare"]] = 1000.0
    upload(bucket, changed)
    after = prepare(code, bucket, tmp_path)
    assert before["rules"] == after["rules"]
    assert np.array_equal(before["X_train"], after["X_train"])
    assert not np.array_equal(before["X_val"], after["X_val"])


def test_the_saved_preprocessing_is_enough_to_make_the_arrays(
    code: list[str], bucket: storage.Bucket, table: pd.DataFrame, tmp_path: Path
) -> None:
    upload(bucket, table)
    names = prepare(code, bucket, tmp_path)
    saved = json.loads((tmp_path / "preprocessing.json").read_text())
    again = passengers.transform(names["val_rows"], saved)
    assert np.array_equal(again, names["X_val"])
    assert names["X_train"].dtype == np.float32
    assert np.allclose(names["X_train"].mean(axis=0), 0, atol=1e-5)


def test_06d_prepares_the_same_data_as_the_episode(
    code: list[str], bucket: storage.Bucket, table: pd.DataFrame, tmp_path: Path
) -> None:
    upload(bucket, table)
    names = prepare(code, bucket, tmp_path)
    assert passengers.prepare(bucket) == json.loads((tmp_path / "preprocessing.json").read_text())
    for part in ("train", "val"):
        content = bucket.blob(f"data/{part}_data.npz").download_as_bytes()
        arrays = np.load(io.BytesIO(content))
        for name in (f"X_{part}", f"y_{part}"):
            assert np.array_equal(arrays[name], names[name])


def test_missing_values_are_filled_from_the_training_rows(
    code: list[str], bucket: storage.Bucket, table: pd.DataFrame, tmp_path: Path
) -> None:
    upload(bucket, table)
    names = prepare(code, bucket, tmp_path)
    assert names["rules"]["fill"]["Age"] == names["train_rows"]["Age"].median()
    assert not np.isnan(names["X_train"]).any() and not np.isnan(names["X_val"]).any()


def test_the_compressed_file_is_as_small_as_the_text_says(
    code: list[str],
    cells: list[nbformat.NotebookNode],
    bucket: storage.Bucket,
    table: pd.DataFrame,
    tmp_path: Path,
) -> None:
    upload(bucket, table)
    names = prepare(code, bucket, tmp_path)
    saving = next(source for source in code if source.startswith("train = {"))
    exec(compile(saving, "<cell>", "exec"), names)
    text, plain, compressed = (
        (tmp_path / name).stat().st_size
        for name in ("as_text.csv", "not_compressed.npz", "train_data.npz")
    )
    prose = "\n".join(cell.source for cell in cells if cell.cell_type == "markdown")
    assert "less than a tenth of the CSV file, and about a quarter of the uncompressed" in prose
    assert compressed < text / 10
    assert 0.2 < compressed / plain < 0.3
