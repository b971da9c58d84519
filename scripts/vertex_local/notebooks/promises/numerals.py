"""Numbers in printed text, in the forms in which Python, NumPy, PyTorch and pandas print them.

A number stands by itself or has a unit after it. Digits inside a name (`T4`, `run_2`), versions
(`1.2.3`) and dates (`2026-01-02`) are text.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from decimal import Decimal

_DIGITS = r"(?:\d{1,3}(?:,\d{3})+|\d{1,3}(?:_\d{3})+|\d{1,40})"
_REAL = rf"(?:{_DIGITS}(?:\.\d{{0,40}})?|\.\d{{1,40}})(?:[eE][-+]?\d{{1,4}})?"
_WORD = r"(?:inf(?:inity)?|nan)(?![A-Za-z0-9_])"
_ANY = rf"(?:{_REAL}|{_WORD})"
_SIGN = r"(?:(?<![^\s(\[{=:,|])[-+])?"  # a minus after a word or a number is a dash
_TIME = r"\d{1,3}:[0-5]\d(?::[0-5]\d(?:\.\d{1,9})?)?(?![\w:])"

NUMBER = re.compile(
    r"(?<![\w.])(?:"
    rf"(?P<date>\d{{4}}-\d\d-\d\d(?!\d))"
    rf"|(?P<time>{_SIGN}{_TIME})"
    rf"|(?P<complex>{_SIGN}{_ANY}[-+]{_ANY}j(?![A-Za-z0-9_]))"
    rf"|(?P<real>{_SIGN}{_ANY}(?![\d.]{{0,40}}\d))"
    r")",
    re.IGNORECASE,
)
_PARTS = re.compile(rf"(?P<real>[-+]?{_ANY})(?P<imaginary>[-+]{_ANY})j", re.IGNORECASE)


@dataclass(frozen=True)
class Tolerance:
    """How far two numbers may be apart: by `abs`, or by `rel` times the larger of the two.

    Attributes:
        rel: relative tolerance, 0 or more.
        abs: absolute tolerance, 0 or more.
    """

    rel: float = 0.0
    abs: float = 0.0

    def admits(self, promised: Decimal | complex, got: Decimal | complex) -> bool:
        """Return whether two numbers agree; nan agrees with nan, and inf with inf."""
        if isinstance(promised, complex) or isinstance(got, complex):
            return self._admits_complex(complex(promised), complex(got))
        if not (promised.is_finite() and got.is_finite()):
            return promised == got or (promised.is_nan() and got.is_nan())
        size = max(abs(promised), abs(got))
        return abs(promised - got) <= max(Decimal(str(self.abs)), Decimal(str(self.rel)) * size)

    def _admits_complex(self, promised: complex, got: complex) -> bool:
        parts = ((promised.real, got.real), (promised.imag, got.imag))
        if not all(map(math.isfinite, (*parts[0], *parts[1]))):
            return all(self.admits(Decimal(one), Decimal(other)) for one, other in parts)
        size = max(abs(promised), abs(got))
        return abs(promised - got) <= max(self.abs, self.rel * size)

    def __str__(self) -> str:
        parts = [f"{name} {value:g}" for name, value in vars(self).items() if value]
        return " or ".join(parts) or "none"


def words_and_numbers(text: str) -> tuple[list[str], list[Decimal | complex]]:
    """Return the words of a text, with a mark in place of each number, and the numbers.

    The width of gaps does not count, nor does a gap beside a bracket or comma.
    """
    numbers: list[Decimal | complex] = []

    def mark(match: re.Match[str]) -> str:
        if match["date"]:
            return match[0]
        numbers.append(_value(match))
        return "\0"

    marked = NUMBER.sub(mark, text.replace("\N{MINUS SIGN}", "-"))
    return re.sub(r"([\[\](){},|])", r" \1 ", marked).split(), numbers


def _value(match: re.Match[str]) -> Decimal | complex:
    if match["time"]:
        return _seconds(match["time"])
    if match["complex"]:
        parts = _PARTS.fullmatch(match["complex"])
        assert parts is not None  # NUMBER has the same grammar
        return complex(float(_plain(parts["real"])), float(_plain(parts["imaginary"])))
    return Decimal(_plain(match["real"]))


def _plain(text: str) -> str:
    return text.replace(",", "").replace("_", "")


def _seconds(text: str) -> Decimal:
    sign = -1 if text.startswith("-") else 1
    total = Decimal(0)
    for part in text.lstrip("-+").split(":"):
        total = total * 60 + Decimal(part)
    return sign * total
