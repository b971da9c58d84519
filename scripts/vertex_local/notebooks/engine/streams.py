"""What a cell printed, as a terminal shows it: joined, and without overwritten text.

nbclient can do that too, but its time grows with the square of a line's length.
"""

from __future__ import annotations

from typing import Any


def joined(outputs: list[Any]) -> list[Any]:
    """Return outputs with a single entry for each stream.

    It stands where the first text of that stream stood. If stderr is directly before stdout, they
    change places, because Jupyter leaves their order to chance.

    Args:
        outputs: in Jupyter's format; entries of streams are changed.
    """
    texts: dict[str, list[str]] = {}
    kept = []
    for output in outputs:
        if output.output_type != "stream":
            kept.append(output)
            continue
        if output.name not in texts:
            texts[output.name] = []
            kept.append(output)
        texts[output.name].append(output.text)
    for output in kept:
        if output.output_type == "stream":
            output.text = overwritten("".join(texts[output.name]))
    for index in range(len(kept) - 1):
        if [each.get("name") for each in kept[index : index + 2]] == ["stderr", "stdout"]:
            kept[index : index + 2] = reversed(kept[index : index + 2])
    return kept


def overwritten(text: str) -> str:
    """Return a text without the parts that carriage returns and backspaces overwrite."""
    if "\r" not in text and "\b" not in text:
        return text
    return "\n".join(map(_line, text.split("\n")))


def _line(line: str) -> str:
    body = line.rstrip("\r")
    ending = line[len(body) :]
    body = body.rpartition("\r")[2]
    if "\b" not in body:
        return body + ending
    left: list[str] = []
    for letter in body:
        if letter != "\b":
            left.append(letter)
        elif left:
            left.pop()
    return "".join(left) + ending
