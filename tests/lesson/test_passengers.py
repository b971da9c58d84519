"""Passengers as numbers: what is fitted, what is refused, and that 06 and 06d do the same."""

from __future__ import annotations

import io
import json
from typing import Any

import numpy as np
import pandas as pd
import pytest
from google.cloud import storage

from lesson import passengers, setup

Passenger = dict[str, Any]


@pytest.fixture(scope="module")
def table() -> pd.DataFrame:
    return passengers.choose_columns(pd.read_csv(setup.PASSENGERS))


@pytest.fixture(scope="module")
def rules(table: pd.DataFrame) -> dict[str, Any]:
    return passengers.fit(table)


@pytest.fixture
def one() -> Passenger:
    values = (3, "male", None, 0, 0, 8.05, "S")
    return dict(zip(passengers.FEATURES, values, strict=True))


def test_the_rules_are_those_of_scikit_learn(table: pd.DataFrame, rules: dict[str, Any]) -> None:
    from sklearn.preprocessing import LabelEncoder, StandardScaler

    plain = table.fillna({"Age": table["Age"].median(), "Embarked": "S"})
    for column in passengers.WORDS:
        plain[column] = LabelEncoder().fit_transform(plain[column])
    expected = StandardScaler().fit_transform(plain[passengers.FEATURES].astype("float64"))
    actual = passengers.transform(table, rules)
    assert np.allclose(actual, expected, atol=1e-6) and actual.dtype == np.float32
    assert rules["codes"] == {"Sex": {"female": 0, "male": 1}, "Embarked": {"C": 0, "Q": 1, "S": 2}}


def test_the_rules_survive_json(one: Passenger, rules: dict[str, Any]) -> None:
    saved = json.loads(json.dumps(rules))
    rows = pd.DataFrame([one])
    assert np.array_equal(passengers.transform(rows, rules), passengers.transform(rows, saved))


def test_a_missing_age_fare_or_port_is_filled(one: Passenger, rules: dict[str, Any]) -> None:
    gaps = {"Age": None, "Fare": float("nan"), "Embarked": None}
    filled = passengers.encode(pd.DataFrame([one | gaps]), rules)[0]
    known = passengers.encode(pd.DataFrame([one | rules["fill"]]), rules)[0]
    assert np.array_equal(filled, known) and np.isfinite(filled).all()


@pytest.mark.parametrize(
    ("fact", "said"),
    [
        ({"Sex": "Female"}, "Sex is 'Female'; the model knows only 'female', 'male'"),
        ({"Sex": "male "}, "Sex is 'male '; the model knows only"),
        ({"Sex": 1}, "Sex is 1; the model knows only"),
        ({"Sex": ["male"]}, "the model knows only"),
        ({"Sex": None}, "Sex is missing"),
        ({"Embarked": "Southampton"}, "Embarked is 'Southampton'; the model knows only 'C', 'Q'"),
        ({"Pclass": None}, "Pclass is missing"),
        ({"Age": "old"}, "Age is 'old'; it must be a number"),
        ({"Fare": float("inf")}, "Fare is inf; it must be a number"),
    ],
)
def test_what_the_model_does_not_know_is_refused_by_name(
    one: Passenger, rules: dict[str, Any], fact: Passenger, said: str
) -> None:
    rows = pd.DataFrame([one, one | fact])
    with pytest.raises(ValueError, match=said):
        passengers.encode(rows, rules)


def test_a_missing_column_is_refused_by_name(one: Passenger, rules: dict[str, Any]) -> None:
    del one["Fare"]
    with pytest.raises(ValueError, match="lacks the columns Fare"):
        passengers.transform(pd.DataFrame([one]), rules)


def test_a_word_that_only_held_out_rows_have_is_refused(table: pd.DataFrame) -> None:
    rules = passengers.fit(table[table["Embarked"] != "Q"])
    with pytest.raises(ValueError, match="Embarked is 'Q'; the model knows only 'C', 'S'"):
        passengers.transform(table, rules)


def test_prepared_data_are_made_once(bucket: storage.Bucket) -> None:
    bucket.blob(setup.PASSENGERS.name).upload_from_filename(setup.PASSENGERS)
    rules = passengers.prepare(bucket)
    before = {blob.name: blob.generation for blob in bucket.list_blobs(prefix="data/")}
    assert list(before) == ["data/preprocessing.json", "data/train_data.npz", "data/val_data.npz"]
    assert passengers.prepare(bucket) == rules
    assert {blob.name: blob.generation for blob in bucket.list_blobs(prefix="data/")} == before
    arrays = np.load(io.BytesIO(bucket.blob("data/val_data.npz").download_as_bytes()))
    assert arrays["X_val"].shape == (143, 7) and arrays["y_val"].dtype == np.float32
    assert list(arrays["feature_names"]) == passengers.FEATURES
