"""Computes how long the episode takes from its text; notebooks/README.md explains the formula.

    python scripts/maintainers/lesson_minutes.py                 the episode, by section
    python scripts/maintainers/lesson_minutes.py some/other.ipynb

minutes = words / 230 + code lines * 3 s + code cells * 5 s. Only words that a learner reads count:
not folded text, the targets of links, or the glossary and what follows it. Exercises are counted
separately, from their heading to the next heading of something else.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nbformat

EPISODE = Path(__file__).resolve().parents[2] / "notebooks"
EPISODE /= "06-Training-models-in-VertexAI-GPUs.ipynb"
WORDS_A_MINUTE, SECONDS_A_LINE, SECONDS_A_CELL = 230, 3, 5
REFERENCE = ("Glossary", "Further reading")  # sections that nobody reads through
NOT_READ = re.compile(r"<details>.*?</details>|<[^>]*>|(?<=\])\([^)]*\)", re.DOTALL)


@dataclass
class Section:
    """What a learner reads under one heading of the second level, or in its exercises."""

    title: str
    exercise: bool = False
    words: int = 0
    lines: int = 0
    cells: int = 0

    @property
    def minutes(self) -> float:
        """The minutes by the formula."""
        seconds = self.lines * SECONDS_A_LINE + self.cells * SECONDS_A_CELL
        return self.words / WORDS_A_MINUTE + seconds / 60


def sections(cells: Iterable[Any]) -> list[Section]:
    """Return the sections of a notebook in order, each followed by its exercises."""
    found: list[Section] = []
    for title, exercise, kind, line in _lines(cells):
        if title in REFERENCE:
            continue
        here = [s for s in found if (s.title, s.exercise) == (title, exercise)]
        section = here[0] if here else Section(title, exercise)
        if not here:
            found.append(section)
        if kind == "text":
            section.words += sum(bool(re.search(r"\w", word)) for word in line.split())
        else:
            section.lines += kind == "line" and bool(line.strip())
            section.cells += kind == "cell"
    return found


def _lines(cells: Iterable[Any]) -> Iterator[tuple[str, bool, str, str]]:
    """Yield each line with its section's title, whether it is an exercise's, and its kind."""
    title, exercise = "Begin", False
    for cell in cells:
        if cell.cell_type == "code":
            yield title, exercise, "cell", ""
            yield from ((title, exercise, "line", line) for line in cell.source.splitlines())
            continue
        for line in NOT_READ.sub("", cell.source).splitlines():
            if heading := re.match(r"(#+) (.+)", line):
                title = heading[2] if len(heading[1]) == 2 else title
                exercise = "xercise" in heading[2]
            yield title, exercise, "text", line


def total(found: Iterable[Section], exercise: bool) -> float:
    """Return the minutes of all exercises, or of everything else."""
    return sum(section.minutes for section in found if section.exercise == exercise)


def main(path: Path) -> None:
    """Print a line for each section, and the totals."""
    found = sections(nbformat.read(path, as_version=4).cells)
    for each in found:
        name = f"  exercises of {each.title}" if each.exercise else each.title
        counts = f"{each.words:>5} words {each.lines:>4} lines {each.cells:>3} cells"
        print(f"{name:<56} {counts} {each.minutes:>6.1f} min")
    print(f"Teaching: {total(found, False):.1f} min. Exercises: {total(found, True):.1f} min.")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else EPISODE)
