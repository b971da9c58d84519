"""The table of prices is well formed, and no price is written anywhere else."""

from __future__ import annotations

import csv
import re
import subprocess
from pathlib import Path

import pytest

from vertex_local import costs

COLUMNS = [*costs.Price.__dataclass_fields__]
MANAGEMENT_FEE = 1.15  # of training over Compute Engine, by which some prices are derived
AMOUNT = re.compile(r"(?:\$|USD|US\$)\s?\d+(?:[.,]\d+)?|\d+(?:[.,]\d+)?\s?(?:\$|USD|dollars?\b)")
SHELL_ARGUMENT = re.compile(r'"\$\d"|\$\d\b(?![.,]\d)')


@pytest.fixture(scope="module")
def rows(repo: Path) -> list[dict[str, str]]:
    with (repo / "data" / "prices.csv").open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def texts(repo: Path) -> dict[str, str]:
    """Every text under version control, but for tables, and for tests, which invent prices."""
    listed = subprocess.run(["git", "ls-files"], cwd=repo, capture_output=True, text=True)
    names = [name for name in listed.stdout.splitlines() if not name.endswith((".csv", ".png"))]
    names = [name for name in names if not name.startswith("tests/")]
    return {name: (repo / name).read_text() for name in names if (repo / name).is_file()}


def test_every_line_has_every_column_and_says_where_it_is_from(rows: list[dict[str, str]]) -> None:
    for row in rows:
        assert list(row) == COLUMNS and None not in row.values(), row
        for column in COLUMNS:
            may_be_empty = column in ("includes", "compute_engine_usd", "date", "note")
            assert row[column] or may_be_empty, (row["item"], column)
        assert row["kind"] in ("machine", "accelerator", "disk", "storage", "network")
        assert row["terms"] in ("on-demand", "spot", "flex-start")
        assert row["confidence"] in costs.CONFIDENCES
        assert re.fullmatch(r"(\d{4}(-\d\d){0,2})?", row["date"])
        assert re.fullmatch(r"\d{4}-\d\d-\d\d", row["noted"])


def test_no_item_has_two_prices(rows: list[dict[str, str]]) -> None:
    keys = [(row["item"], row["terms"], row["region"]) for row in rows]
    assert len(keys) == len(set(keys))


def test_derived_prices_are_the_base_price_and_the_management_fee(
    rows: list[dict[str, str]],
) -> None:
    derived = [row for row in rows if row["compute_engine_usd"]]
    assert derived
    for row in derived:
        expected = MANAGEMENT_FEE * float(row["compute_engine_usd"])
        assert float(row["usd"]) == pytest.approx(expected, rel=1e-4), row["item"]


def stray_amounts(text: str) -> list[str]:
    found = [match[0] for match in AMOUNT.finditer(text)]
    return [amount for amount in found if not SHELL_ARGUMENT.fullmatch(amount)]


def test_no_amount_of_money_stands_outside_the_table(texts: dict[str, str]) -> None:
    assert "README.md" in texts
    for name, text in texts.items():
        assert stray_amounts(text) == [], name


def test_no_price_of_the_table_is_copied_into_another_file(
    rows: list[dict[str, str]], texts: dict[str, str]
) -> None:
    figures = {row[c] for row in rows for c in ("usd", "compute_engine_usd")}
    telling = [figure for figure in figures if len(figure.replace(".", "").lstrip("0")) >= 4]
    assert len(telling) > 10
    for name, text in texts.items():
        for figure in telling:
            assert not re.search(rf"(?<![\d.]){re.escape(figure)}(?!\d)", text), (name, figure)


@pytest.mark.parametrize(
    "text", ["costs $0.89 an hour", "US$ 3", "USD 12", "0.89 USD", "5 dollars"]
)
def test_an_amount_is_found(text: str) -> None:
    assert stray_amounts(text)


@pytest.mark.parametrize("text", ['[ "$1" = install ]', "f'${usd:.2f}'", "$HOME", "19 minutes"])
def test_what_only_looks_like_an_amount_is_not(text: str) -> None:
    assert not stray_amounts(text)
