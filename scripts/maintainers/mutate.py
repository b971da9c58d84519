"""Checks whether the tests of a notebook notice a broken cell: breaks one cell at a time.

    python scripts/maintainers/mutate.py        the episode, all cells, all ways to break one
    python scripts/maintainers/mutate.py --cells 3-7 --kinds remove
    python scripts/maintainers/mutate.py some/other.ipynb

A cell is broken in up to three ways: it is emptied (`remove`), its first number is changed
(`number`), or its first comparison is negated (`compare`). pytest executes each mutant like the
notebook, and runs the tests that read the notebook. A mutant that passes has survived: either a
test is missing, or `survivors.json` beside this file says why it may pass. Each takes as long as a
run of the notebook up to its first failure. Results are kept in `.vertex-local/mutants.json`, so
that an interrupted run can go on; for a changed notebook, it starts from the beginning.

The exit status is 0 if every survivor has its reason.
"""

from __future__ import annotations

import argparse
import ast
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nbformat
from IPython.core.inputtransformer2 import TransformerManager

REPO = Path(__file__).resolve().parents[2]
EPISODE = REPO / "notebooks" / "06-Training-models-in-VertexAI-GPUs.ipynb"
# Tests that read the notebook, and execute little of it.
READERS = ["tests/notebooks/test_notebooks.py", "tests/episodes/test_episode.py"]
LEARNERS = ["tests/episodes/test_learners.py"]  # executes the exercises with their solutions
REASONS = Path(__file__).with_name("survivors.json")
KINDS = ("remove", "number", "compare")
LIMIT_SECONDS = 900
FAILED = (1, 2)  # pytest's exit statuses for failed tests, and for files that cannot be collected


@dataclass(frozen=True)
class Mutant:
    """A notebook with one broken cell.

    Attributes:
        number: of the cell among those with code, from 0, as pytest counts them.
        kind: how it is broken, one of KINDS.
        title: the first line of the cell as it was.
        source: the cell as it is now.
    """

    number: int
    kind: str
    title: str
    source: str

    def key(self, notebook: bytes) -> str:
        """Return a name for this mutant of this version of the notebook."""
        text = f"{self.number} {self.kind} {self.source}".encode()
        return hashlib.sha256(notebook + text).hexdigest()[:16]


def main(argv: list[str] | None = None) -> int:
    """Break, run, report; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("notebook", nargs="?", type=Path, default=EPISODE)
    parser.add_argument("--cells", type=_numbers, help="which cells, such as 3-7 or 4,9")
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=KINDS)
    parser.add_argument("--reasons", type=Path, default=REASONS)
    parser.add_argument("--results", type=Path, default=REPO / ".vertex-local" / "mutants.json")
    args = parser.parse_args(argv)
    path = args.notebook.resolve()
    content = path.read_bytes()
    results = json.loads(args.results.read_text()) if args.results.is_file() else {}
    survivors = []
    for mutant in mutants(nbformat.reads(content.decode(), as_version=4)):
        if mutant.kind not in args.kinds or (args.cells and mutant.number not in args.cells):
            continue
        key = mutant.key(content)
        if key not in results:
            results[key] = run(path, mutant)
            args.results.parent.mkdir(parents=True, exist_ok=True)
            args.results.write_text(json.dumps(results, indent=1))
        if results[key] == "survived":
            survivors.append(mutant)
        print(
            f"{results[key]:<10} Cell {mutant.number:>2} {mutant.kind:<8} {mutant.title}",
            flush=True,
        )
    return report(survivors, json.loads(args.reasons.read_text()))


def mutants(notebook: nbformat.NotebookNode) -> Iterator[Mutant]:
    """Yield the mutants of a notebook, cell by cell."""
    code = [cell.source for cell in notebook.cells if cell.cell_type == "code"]
    for number, source in enumerate(code):
        if not source.strip():
            continue
        title = source.splitlines()[0][:60]
        yield Mutant(number, "remove", title, "pass")
        plain = TransformerManager().transform_cell(source).rstrip("\n")
        for kind, change in (("number", change_number), ("compare", turn_comparison)):
            if broken := change(plain):
                yield Mutant(number, kind, title, broken)


def change_number(source: str) -> str:
    """Add 1 to the first number, or double it, whichever is more; return "" if there is none."""
    for node in _nodes(source, ast.Constant):
        value = node.value
        text = ast.get_source_segment(source, node)
        # Not inside f-strings: in older Pythons, their parts have the position of the whole.
        if type(value) in (int, float) and text and text[0] in "0123456789.":
            return _replace(source, node, repr(max(value + 1, 2 * value)))
    return ""


def turn_comparison(source: str) -> str:
    """Negate the first comparison; return "" if there is none."""
    for node in _nodes(source, ast.Compare):
        return _replace(source, node, f"not ({ast.get_source_segment(source, node)})")
    return ""


def _nodes(source: str, kind: type[Any]) -> list[Any]:
    """Return the nodes of a kind in the order of the source."""
    found = [node for node in ast.walk(ast.parse(source)) if isinstance(node, kind)]
    return sorted(found, key=lambda node: (node.lineno, node.col_offset))


def _replace(source: str, node: Any, text: str) -> str:
    """Replace a node by a text. The rest keeps its format, so that no test of the format fails."""
    whole = source.encode()
    starts = [0, *(match.end() for match in re.finditer(b"\n", whole))]
    start = starts[node.lineno - 1] + node.col_offset
    end = starts[node.end_lineno - 1] + node.end_col_offset
    return (whole[:start] + text.encode() + whole[end:]).decode()


def run(path: Path, mutant: Mutant) -> str:
    """Run the tests on a mutant; return "killed" or "survived"."""
    with tempfile.TemporaryDirectory(prefix="mutant-") as name:
        folder = Path(name)
        copied, options = prepare(path, folder)
        tests = [*READERS, str(copied), *LEARNERS] if path == EPISODE else [str(copied)]
        notebook = nbformat.read(copied, as_version=4)
        code = [cell for cell in notebook.cells if cell.cell_type == "code"]
        code[mutant.number].source = mutant.source
        nbformat.write(notebook, copied)
        command = [sys.executable, "-m", "pytest", "-n0", "-x", "-q", "--nbcheck-evidence="]
        environment = {k: v for k, v in os.environ.items() if k != "VERTEX_LOCAL_ROOT"}
        finished = subprocess.run(
            [*command, *options, *tests],
            cwd=folder,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=LIMIT_SECONDS,
        )
    if finished.returncode not in (0, *FAILED):
        raise RuntimeError(f"pytest ended with {finished.returncode}:\n{finished.stdout}")
    return "killed" if finished.returncode in FAILED else "survived"


def prepare(path: Path, folder: Path) -> tuple[Path, list[str]]:
    """Copy the notebook, and the clone if it is in it; return the copy and options for pytest."""
    if not path.is_relative_to(REPO):
        options = [
            "-c",
            os.devnull,
            "--rootdir=.",
            "-pvertex_local.notebooks.checks",
            "--nbval-lax",
        ]
        return Path(shutil.copy(path, folder)), [*options, "-pno:cacheprovider"]
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=REPO,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.splitlines()
    for name in listed:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(REPO / name, folder / name)
    return folder / path.relative_to(REPO), []


def report(survivors: list[Mutant], reasons: list[dict[str, str]]) -> int:
    """Print the survivors with their reasons; return 1 if one has none, else 0."""
    known = {(each["cell"], each["kind"]): each["reason"] for each in reasons}
    without = 0
    for mutant in survivors:
        reason = known.get((mutant.title, mutant.kind))
        without += reason is None
        print(f"survivor: Cell {mutant.number} {mutant.kind} ({mutant.title})")
        print(f"    {reason or 'NO REASON: a test is missing'}")
    print(f"{len(survivors)} survived, {without} of them without a reason")
    return 1 if without else 0


def _numbers(text: str) -> set[int]:
    numbers: set[int] = set()
    for part in text.split(","):
        first, _, last = part.partition("-")
        numbers |= set(range(int(first), int(last or first) + 1))
    return numbers


if __name__ == "__main__":
    sys.exit(main())
