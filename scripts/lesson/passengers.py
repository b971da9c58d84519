"""The passengers of the Titanic as numbers: fits the rules, and applies them.

    rules = passengers.fit(train_rows)  # medians, codes, means: of the training rows only
    X = passengers.transform(any_rows, rules)

The rules are plain data. Saved as JSON beside the arrays, they prepare a new passenger later in
the same way.
"""

from __future__ import annotations

import io
import json
from typing import Any

import numpy as np
import pandas as pd

FEATURES = ["Pclass", "Sex", "Age", "SibSp", "Parch", "Fare", "Embarked"]
TARGET = "Survived"
WORDS = ["Sex", "Embarked"]  # features that are text


def choose_columns(table: pd.DataFrame) -> pd.DataFrame:
    """Return the features and the target of a table of passengers, which may have more columns.

    Raises:
        ValueError: names the columns that are missing.
    """
    _require(table, [*FEATURES, TARGET])
    return table[[*FEATURES, TARGET]]


def fit(train_rows: pd.DataFrame) -> dict[str, Any]:
    """Return the rules that turn passengers into numbers, computed from the training rows.

    Returns:
        `features` (their names, in order), `fill` (what replaces a missing value), `codes` (the
        number of each word), `mean` and `scale` (of each feature).
    """
    _require(train_rows, FEATURES)
    medians = {name: float(train_rows[name].median()) for name in ("Age", "Fare")}
    fill = medians | {"Embarked": "S"}
    codes = {}
    for column in WORDS:
        words = sorted(train_rows[column].fillna(fill.get(column)).dropna().unique())
        codes[column] = {word: number for number, word in enumerate(words)}
    rules: dict[str, Any] = {"features": FEATURES, "fill": fill, "codes": codes}
    numbers = encode(train_rows, rules)
    scale = numbers.std(axis=0)
    scale[scale == 0] = 1.0  # a column with one value only
    return rules | {"mean": numbers.mean(axis=0).tolist(), "scale": scale.tolist()}


def encode(table: pd.DataFrame, rules: dict[str, Any]) -> np.ndarray[Any, Any]:
    """Return the features as numbers, with missing values filled: float64, [rows, features].

    Raises:
        ValueError: if a word is not in the training rows, a value is not a number, or no rule
            fills a missing value; names the column and the value.
    """
    features = rules["features"]
    _require(table, features)
    columns = []
    for name in features:
        # Fill missing values first: pandas would keep None in a column of mixed types.
        column = table[name].astype(object).where(table[name].notna(), rules["fill"].get(name))
        if column.isna().any():
            raise ValueError(f"{name} is missing for a passenger, and there is no rule to fill it.")
        columns.append(_numbers(name, column, rules["codes"].get(name)))
    return np.asarray(np.column_stack(columns))


def _numbers(name: str, column: pd.Series, codes: dict[str, int] | None) -> np.ndarray[Any, Any]:
    """Return a column without missing values as numbers."""
    if codes is not None:
        unknown = sorted({repr(v) for v in column if not (isinstance(v, str) and v in codes)})
        if unknown:
            words = ", ".join(map(repr, codes))
            raise ValueError(f"{name} is {', '.join(unknown)}; the model knows only {words}.")
        return np.array([codes[value] for value in column], dtype="float64")
    numbers = np.asarray(pd.to_numeric(column, errors="coerce"), dtype="float64")
    if not np.isfinite(numbers).all():
        wrong = column[~np.isfinite(numbers)].iloc[0]
        raise ValueError(f"{name} is {wrong!r}; it must be a number.")
    return numbers


def transform(table: pd.DataFrame, rules: dict[str, Any]) -> np.ndarray[Any, Any]:
    """Return the features as the network needs them: scaled, float32, [rows, features]."""
    scaled = (encode(table, rules) - np.array(rules["mean"])) / np.array(rules["scale"])
    return np.asarray(scaled, dtype="float32")


def _require(table: pd.DataFrame, columns: list[str]) -> None:
    if absent := [name for name in columns if name not in table]:
        raise ValueError(f"The table of passengers lacks the columns {', '.join(absent)}.")


def prepare(bucket: Any) -> dict[str, Any]:
    """Return the rules in the folder data/ of a bucket; make rules and data if there are none.

    They are made as notebook 06 does.

    Args:
        bucket: a bucket of Cloud Storage that contains titanic_train.csv.
    """
    saved = bucket.blob("data/preprocessing.json")
    if saved.exists():
        return dict(json.loads(saved.download_as_bytes()))
    from sklearn.model_selection import train_test_split  # type: ignore[import-untyped]

    csv = bucket.blob("titanic_train.csv").download_as_bytes()
    table = choose_columns(pd.read_csv(io.BytesIO(csv)))
    train_rows, val_rows = train_test_split(table, test_size=0.2, random_state=42)
    rules = fit(train_rows)
    for part, rows in {"train": train_rows, "val": val_rows}.items():
        arrays = {
            f"X_{part}": transform(rows, rules),
            f"y_{part}": rows[TARGET].to_numpy("float32"),
        }
        content = io.BytesIO()
        np.savez_compressed(content, **arrays, feature_names=rules["features"])
        bucket.blob(f"data/{part}_data.npz").upload_from_string(content.getvalue())
    saved.upload_from_string(json.dumps(rules, indent=2))
    return rules
