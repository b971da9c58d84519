"""The loss curve of a run as SVG points, computed from its `eval_history.csv`."""

from __future__ import annotations

import csv
import io
import math
from contextlib import suppress
from dataclasses import dataclass

# In pixels: the size of the drawing, and its margins.
WIDTH, HEIGHT = 600, 220
LEFT, TOP, RIGHT, BOTTOM = 60, 10, 10, 30
MAX_POINTS = 400
SERIES = ("train_loss", "val_loss")


@dataclass(frozen=True)
class Curve:
    """A drawing of `WIDTH` times `HEIGHT` pixels.

    Attributes:
        lines: for each series its name, and its points in the format of an SVG polyline.
        low, high: the smallest and the largest loss.
        first, last: the first and the last epoch.
        best: the epoch with the lowest validation loss, and that loss.
    """

    lines: list[tuple[str, str]]
    low: float
    high: float
    first: int
    last: int
    best: tuple[int, float]


def draw(text: str) -> Curve | None:
    """Return the curve of a CSV text; None if it has fewer than two complete rows of numbers."""
    rows = list(_rows(text))
    if len(rows) < 2:
        return None
    thinned = rows[:: max(1, len(rows) // MAX_POINTS)]
    if thinned[-1] != rows[-1]:
        thinned.append(rows[-1])
    values = [value for _, *losses in rows for value in losses]
    low, high = min(values), max(values)
    first, last = rows[0][0], rows[-1][0]

    def point(epoch: float, value: float) -> str:
        x = LEFT + (epoch - first) / max(1, last - first) * (WIDTH - LEFT - RIGHT)
        y = HEIGHT - BOTTOM - (value - low) / ((high - low) or 1) * (HEIGHT - TOP - BOTTOM)
        return f"{x:.1f},{y:.1f}"

    lines = [
        (name, " ".join(point(row[0], row[number]) for row in thinned))
        for number, name in enumerate(SERIES, start=1)
    ]
    best = min(rows, key=lambda row: row[2])
    return Curve(lines, low, high, int(first), int(last), (int(best[0]), best[2]))


def _rows(text: str) -> list[tuple[float, float, float]]:
    """Return epoch, train_loss and val_loss of each complete row; the script may be writing."""
    rows: list[tuple[float, float, float]] = []
    with suppress(csv.Error):  # the rest is not CSV
        for row in csv.DictReader(io.StringIO(text, newline=None)):
            try:
                values = tuple(float(row[name]) for name in ("epoch", *SERIES))
            except (KeyError, TypeError, ValueError):
                continue
            if all(map(math.isfinite, values)):
                rows.append((values[0], values[1], values[2]))
    return rows
