"""The filter expressions of list requests, as documented for training pipelines and custom jobs.

    expression = term { ("AND" | "OR") term }      AND binds closer than OR
    term       = ["NOT"] ( "(" expression ")" | field operator value )
    field      = display_name | state | create_time | update_time | start_time | end_time
               | training_task_definition | labels.KEY    (camelCase as well)
    operator   = "=" | "!=" | ":" | "<" | "<=" | ">" | ">="

`:` compares text with wildcards (`*`); `labels.KEY:*` asks whether the label is there.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import datetime
from fnmatch import fnmatchcase
from typing import Any

from vertex_local.errors import InvalidArgument

Test = Callable[[Any], bool]

TOKEN = re.compile(
    r"""\s*(?:(?P<op>!=|<=|>=|[=:<>()])|"(?P<quoted>[^"]*)"|(?P<word>[^\s"()=!<>:]+))"""
)
TEXTS = ("display_name", "training_task_definition")
TIMES = ("create_time", "update_time", "start_time", "end_time")


def compile_filter(text: str) -> Test:
    """Return a function that tells whether a resource matches the expression `text`.

    Raises:
        InvalidArgument: if `text` is no such expression; the message says where.
    """
    parser = _Parser(text)
    try:
        test = parser.either()
    except RecursionError:
        raise InvalidArgument("Invalid filter: it is nested too deeply.") from None
    if parser.tokens:
        raise parser.error()
    return test


class _Parser:
    """Reads an expression from left to right, one token at a time."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.tokens: list[tuple[str, str]] = []  # (kind, content)
        position = 0
        while position < len(text.rstrip()):
            match = TOKEN.match(text, position)
            if match is None:
                raise self.error()
            self.tokens.append((str(match.lastgroup), match[str(match.lastgroup)]))
            position = match.end()

    def error(self) -> InvalidArgument:
        near = f" near {self.tokens[0][1]!r}" if self.tokens else ""
        return InvalidArgument(f"Invalid filter{near}: {self.text}")

    def take(self, *wanted: tuple[str, str]) -> bool:
        """Take the next token if it is one of `wanted`."""
        if self.tokens and self.tokens[0] in wanted:
            self.tokens.pop(0)
            return True
        return False

    def either(self) -> Test:
        tests = [self.both()]
        while self.take(("word", "OR")):
            tests.append(self.both())
        return lambda resource: any(test(resource) for test in tests)

    def both(self) -> Test:
        tests = [self.term()]
        while self.take(("word", "AND")):
            tests.append(self.term())
        return lambda resource: all(test(resource) for test in tests)

    def term(self) -> Test:
        if self.take(("word", "NOT")):
            test = self.term()
            return lambda resource: not test(resource)
        if self.take(("op", "(")):
            test = self.either()
            if not self.take(("op", ")")):
                raise self.error()
            return test
        return self.comparison()

    def comparison(self) -> Test:
        if len(self.tokens) < 3:
            raise self.error()
        (kind, field), (op_kind, operator), (value_kind, value) = self.tokens[:3]
        if kind != "word" or op_kind != "op" or operator in "()" or value_kind == "op":
            raise self.error()
        test = _comparison(re.sub(r"(?<=[a-z])(?=[A-Z])", "_", field).lower(), operator, value)
        if test is None:
            raise self.error()
        del self.tokens[:3]
        return test


def _comparison(field: str, operator: str, value: str) -> Test | None:
    """Return the test of one comparison, or None if the field has no such operator."""
    if field.startswith("labels.") and operator in ("=", "!=", ":"):
        key = field.removeprefix("labels.")
        return lambda resource: _text_test(operator)(resource.labels.get(key), value)
    if field in TEXTS and operator in ("=", "!=", ":"):
        return lambda resource: _text_test(operator)(getattr(resource, field, ""), value)
    if field == "state" and operator in ("=", "!="):
        return lambda resource: (resource.state.name == value) == (operator == "=")
    if field in TIMES and operator != ":":
        return _time_test(field, operator, value)
    return None


def _text_test(operator: str) -> Callable[[str | None, str], bool]:
    return {
        "=": lambda actual, value: actual == value,
        "!=": lambda actual, value: actual != value,
        ":": lambda actual, value: actual is not None and fnmatchcase(actual, value),
    }[operator]


def _time_test(field: str, operator: str, value: str) -> Test | None:
    try:
        moment = datetime.fromisoformat(value.replace("Z", "+00:00")).timestamp()
    except ValueError:
        return None

    def test(resource: Any) -> bool:
        actual = getattr(resource, field)
        if actual is None:
            return False
        difference: float = actual.timestamp() - moment
        return {
            "=": difference == 0,
            "!=": difference != 0,
            "<": difference < 0,
            "<=": difference <= 0,
            ">": difference > 0,
            ">=": difference >= 0,
        }[operator]

    return test
