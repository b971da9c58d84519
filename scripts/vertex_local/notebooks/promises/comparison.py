"""Compares what a notebook promises to show with what it shows.

- A table is compared cell by cell.
- JSON, and printed lists and dictionaries of Python, are compared by their values.
- Other text is compared line by line; the width of gaps does not count, and an array in brackets
  counts as one line.
- Numbers agree within a tolerance.
- Of a picture, only its presence counts: the text of a Matplotlib figure (`<Figure size …>`)
  promises one.
- What a cell writes to stderr is not compared.
"""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from html.parser import HTMLParser
from itertools import zip_longest
from typing import Any

from vertex_local.notebooks.promises.numerals import Tolerance, words_and_numbers

ADDRESS = re.compile(r"\b0x[0-9a-fA-F]{6,}\b")
FIGURE = "<Figure size "  # Matplotlib's text for a picture
WIDGET = "application/vnd.jupyter.widget-view+json"


@dataclass(frozen=True)
class Shown:
    """One thing that a cell shows.

    Attributes:
        kind: "text", "data", "table", "picture" or "error".
        content: the text; for data, its value; for a table, rows of texts; None for a picture.
        text: for data, the text that was shown.
    """

    kind: str
    content: Any
    text: str = ""


def shown(outputs: list[Any], clean: Callable[[str], str] = str) -> list[Shown]:
    """Return what the outputs of a cell show, without what went to stderr.

    Args:
        outputs: outputs in Jupyter's format.
        clean: is applied to every text first, for example to hide parts that always change.
    """
    printed = "".join(out.text for out in outputs if out.get("name") == "stdout")
    things = [_text(clean(printed))] if printed.strip() else []
    for output in outputs:
        if output.output_type == "error":
            things.append(Shown("error", clean(f"{output.ename}: {output.evalue}")))
        elif output.output_type in ("display_data", "execute_result"):
            if WIDGET not in output.data:
                things.append(_bundle(output.data, clean))
    return things


def differences(promised: list[Shown], got: list[Shown], tolerance: Tolerance) -> list[str]:
    """Return one line for each difference between what is promised and what is shown."""
    return [
        f"{place}: promised {_short(one)}, shown {_short(other)}"
        for place, one, other in _compare_all(promised, got, tolerance)
    ]


LONGER = 10_000  # a text of more than twice the promised length and this is not compared
LONGEST_ARRAY = 1000  # an open bracket joins at most this many lines
Difference = tuple[str, Any, Any]  # where, promised, shown
NOTHING = "nothing"


def advice(lines: list[str]) -> list[str]:
    """Return advice on some differences: one sentence, or none."""
    if any(len(ADDRESS.findall(line)) >= 2 for line in lines):
        return [
            "A memory address differs in each run: hide it with a pattern for "
            "`--nbval-sanitize-with`, or show something else."
        ]
    return []


def _compare_all(
    promised: list[Shown], got: list[Shown], tolerance: Tolerance
) -> Iterator[Difference]:
    for one, other in zip_longest(promised, got):
        kinds = {one.kind, other.kind} if one and other else {NOTHING}
        if one and other and kinds == {"text", "data"}:  # `[0.5]` is data, but `[nan]` is text
            pair = [each.text if each.kind == "data" else each.content for each in (one, other)]
            yield from _compare_texts(pair[0], pair[1], tolerance)
        elif one is None or other is None or one.kind != other.kind:
            names = [f"a {thing.kind}" if thing else NOTHING for thing in (one, other)]
            yield ("output", *names)  # type: ignore[misc]
        elif one.kind == "table":
            yield from _compare_tables(one.content, other.content, tolerance)
        elif one.kind == "data":
            yield from _compare_data("value", one.content, other.content, tolerance)
        elif one.kind != "picture":
            yield from _compare_texts(one.content, other.content, tolerance)


def _compare_texts(promised: str, got: str, tolerance: Tolerance) -> Iterator[Difference]:
    if len(got) > 2 * len(promised) + LONGER:  # comparing would take too long
        yield "length", f"{len(promised)} characters", f"{len(got)} characters"
        return
    for one, other in zip_longest(_lines(promised), _lines(got), fillvalue=(0, None)):
        if one[1] is None or other[1] is None or not _alike(one[1], other[1], tolerance):
            yield f"line {one[0] or other[0]}", one[1], other[1]


def _lines(text: str) -> Iterator[tuple[int, str]]:
    """Yield the lines of a text with their numbers, joined as long as a bracket is open."""
    first, held, depth = 1, list[str](), 0
    lines = text.rstrip().splitlines()
    for number, line in enumerate(lines, start=1):
        held.append(line)
        depth = max(depth + line.count("[") - line.count("]"), 0)
        if not depth or number == len(lines) or len(held) > LONGEST_ARRAY:
            yield first, "\n".join(held)
            first, held, depth = number + 1, [], 0


def _compare_tables(
    promised: list[list[str]], got: list[list[str]], tolerance: Tolerance
) -> Iterator[Difference]:
    head = promised[0] if promised else []
    for y, (one, other) in enumerate(zip_longest(promised, got, fillvalue=None)):
        if one is None or other is None or len(one) != len(other):
            yield f"row {y}", one, other
            continue
        for x, (left, right) in enumerate(zip(one, other, strict=True)):
            if not _alike(left, right, tolerance):
                column = head[x] if x < len(head) and head[x] else str(x)
                yield f"row {one[0] or y!s}, column {column}", left, right


def _compare_data(place: str, one: Any, other: Any, tolerance: Tolerance) -> Iterator[Difference]:
    if isinstance(one, dict) and isinstance(other, dict):
        for key in [*one, *(key for key in other if key not in one)]:
            inside = f"{place}[{key!r}]"
            if key in one and key in other:
                yield from _compare_data(inside, one[key], other[key], tolerance)
            else:
                yield inside, one.get(key, NOTHING), other.get(key, NOTHING)
    elif isinstance(one, (list, tuple)) and isinstance(other, (list, tuple)):
        if len(one) != len(other):
            yield f"{place}, length", len(one), len(other)
        else:
            for index, (left, right) in enumerate(zip(one, other, strict=True)):
                yield from _compare_data(f"{place}[{index}]", left, right, tolerance)
    elif _is_number(one) and _is_number(other):
        if not _alike(repr(one), repr(other), tolerance):
            yield place, one, other
    elif one != other or type(one) is not type(other):
        yield place, one, other


def _alike(one: str, other: str, tolerance: Tolerance) -> bool:
    """Return whether two texts have the same words, and numbers within the tolerance."""
    if one == other:
        return True
    words, numbers = words_and_numbers(one)
    more_words, more_numbers = words_and_numbers(other)
    return words == more_words and all(map(tolerance.admits, numbers, more_numbers))


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float, complex)) and not isinstance(value, bool)


def _short(value: Any) -> str:
    text = repr(value) if not isinstance(value, str) or value != NOTHING else value
    text = NOTHING if value is None else text
    return text if len(text) <= 120 else f"{text[:120]} …"


# --- Outputs as data ----------------------------------------------------------------------------


def _bundle(data: Any, clean: Callable[[str], str]) -> Shown:
    """Return what a display shows, from the most exact of its formats that can be compared."""
    for kind, value in data.items():
        if kind == "application/json":
            return Shown("data", value, json.dumps(value))
    html = data.get("text/html", "")
    if "<table" in html:
        return Shown("table", _rows(clean(html)))
    plain = data.get("text/plain", "")
    if any(kind.startswith("image/") for kind in data) or plain.startswith(FIGURE):
        return Shown("picture", None)
    return _text(clean(plain or data.get("text/markdown") or html))


def _text(text: str) -> Shown:
    """Return text as data if it is JSON or a Python list, dictionary or the like."""
    if text.lstrip()[:1] in set("[{("):
        for parse in (json.loads, ast.literal_eval):
            try:
                return Shown("data", parse(text.strip()), text)
            except (ValueError, SyntaxError, MemoryError, RecursionError):
                continue
    return Shown("text", text)


def _rows(html: str) -> list[list[str]]:
    """Return the cells of the tables in a piece of HTML, row by row."""
    reader = _TableReader()
    reader.feed(html)
    return reader.rows


class _TableReader(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.rows: list[list[str]] = []
        self._inside = False

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        if tag == "tr":
            self.rows.append([])
        elif tag in ("td", "th"):
            self.rows[-1].append("")
            self._inside = True

    def handle_endtag(self, tag: str) -> None:
        if tag in ("td", "th"):
            self._inside = False

    def handle_data(self, data: str) -> None:
        if self._inside:
            self.rows[-1][-1] += data
