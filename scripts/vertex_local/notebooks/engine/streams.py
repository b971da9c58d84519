"""What a cell printed, as a person sees it: joined, and with its lines overwritten by later ones.

nbclient can do that too, but takes time that grows with the square of a line's length.
"""

from __future__ import annotations

from typing import Any


def joined(outputs: list[Any]) -> list[Any]:
    """Return outputs with one entry for all that was printed to each stream.

    The entries of stdout and stderr stand where the first text of each stood, stdout first where
    they follow each other: their order is left to chance by Jupyter.

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
    for place in range(len(kept) - 1):
        if [each.get("name") for each in kept[place : place + 2]] == ["stderr", "stdout"]:
            kept[place : place + 2] = reversed(kept[place : place + 2])
    return kept


def overwritten(text: str) -> str:
    """Return a text without what carriage returns and backspaces overwrite."""
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
