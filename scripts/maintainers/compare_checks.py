"""Compares the verdicts of nbval, nbmake, pytest-notebook and this project's checks.

    python scripts/maintainers/compare_checks.py            print the table
    python scripts/maintainers/compare_checks.py --write    put it into the README of the checks

The notebooks are those of `tests/broken` and `tests/harmless`; the first sentence of each describes
it. Needs the optional packages: `pip install '.[test,compare]'`.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ET
from importlib.metadata import version
from pathlib import Path

REPO = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(REPO / "scripts"))

from vertex_local.config import LocalModeError  # noqa: E402
from vertex_local.notebooks import files  # noqa: E402
from vertex_local.notebooks.promises.refresh import is_promise  # noqa: E402
from vertex_local.testing.sandbox import sandbox  # noqa: E402

README = REPO / "scripts" / "vertex_local" / "notebooks" / "README.md"
BEGIN, END = "<!-- table: begin -->", "<!-- table: end -->"
SECONDS = 20  # for a cell
LIMIT = 60  # seconds for a notebook, where a tool may never end
OUTPUTS = "/cells/*/outputs"
IGNORED = ["/metadata", "/cells/*/execution_count", "/cells/*/metadata"]
TOOLS = {
    "nbval": ["--nbval-lax", f"--nbval-cell-timeout={SECONDS}"],
    "nbmake": ["--nbmake", f"--nbmake-timeout={SECONDS}"],
    # Its own limit does not end the comparison of long outputs.
    "pytest-notebook": ["--nb-test-files", f"--nb-exec-timeout={SECONDS}", f"--timeout={LIMIT}"],
    "ours": [
        "-pvertex_local.notebooks.checks",
        "--nbval-lax",
        f"--nbval-cell-timeout={SECONDS}",
        "-onbcheck_kernelspec=",
        "--nbcheck-evidence=",
    ],
}


def main(arguments: list[str] | None = None) -> int:
    """Print or write the table; return 1 if this project's column has a wrong verdict, else 0."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--write", action="store_true", help="put the table into the README")
    args = parser.parse_args(arguments)
    paths = [path for folder in ("broken", "harmless") for path in notebooks(folder)]
    verdicts = {}
    for tool in TOOLS:
        with sandbox():  # one for each tool, without the buckets of the tool before
            verdicts[tool] = judge(tool, paths)
    lines = table(paths, verdicts)
    text = "\n".join(lines)
    print(text)
    if args.write:
        before, _, rest = README.read_text().partition(BEGIN)
        files.replace(README, f"{before}{BEGIN}\n{text}\n{END}{rest.partition(END)[2]}")
    wrong = [path for path in paths if is_wrong(path, verdicts["ours"][key(path)])]
    return 1 if wrong else 0


def notebooks(folder: str) -> list[Path]:
    """Return those notebooks of a folder of `tests` that every tool can read."""
    readable = []
    for path in sorted((REPO / "tests" / folder).glob("*.ipynb")):
        try:
            if "kernelspec" in files.read(path).metadata:
                readable.append(path)
        except LocalModeError:
            continue
    return readable


def key(path: Path) -> str:
    """Return the file name for a copy of a notebook, with its folder (broken or harmless)."""
    return f"{path.parent.name}_{path.name}"


def judge(tool: str, paths: list[Path]) -> dict[str, str]:
    """Return what a tool says about each notebook: "fails", "passes", "warns", "has no end"."""
    if tool != "pytest-notebook":
        return run(tool, paths, [])
    # It compares all outputs of a notebook or none.
    promising = [path for path in paths if any(map(is_promise, files.read(path).cells))]
    others = [path for path in paths if path not in promising]
    return run(tool, others, [*IGNORED, OUTPUTS]) | run(tool, promising, IGNORED)


def run(tool: str, paths: list[Path], ignored: list[str]) -> dict[str, str]:
    """Run pytest with a tool on copies of notebooks; return its verdicts.

    Args:
        tool: one of `TOOLS`.
        paths: the notebooks.
        ignored: the parts of notebooks that pytest-notebook does not compare.
    """
    with tempfile.TemporaryDirectory(prefix="compare-") as name:
        folder = Path(name)
        for path in paths:
            shutil.copy(path, folder / key(path))
        settings = "".join(f"\n    {each}" for each in ignored)
        (folder / "pytest.ini").write_text(f"[pytest]\nnb_diff_ignore ={settings}\n")
        report = folder / "report.xml"
        command = [sys.executable, "-m", "pytest", "-q", "-n2", "--dist=loadfile"]
        command += ["-pno:cacheprovider", f"--junit-xml={report}", *TOOLS[tool]]
        finished = subprocess.run(
            command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        if finished.returncode not in (0, 1):  # else notebooks that did not run would pass
            raise SystemExit(f"{tool} did not run:\n{finished.stdout}")
        return verdicts_of(report, finished.stdout, [key(path) for path in paths])


def verdicts_of(report: Path, output: str, names: list[str]) -> dict[str, str]:
    """Return the verdicts in a JUnit file and in pytest's output."""
    summary = output.partition("= notebooks =")[2]
    warned = set(re.findall(r"^(\S+\.ipynb): passed .*warning", summary, re.MULTILINE))
    verdicts = {name: "warns" if name in warned else "passes" for name in names}
    for case in ET.parse(report).iter("testcase"):
        text = f"{case.get('classname')}.{case.get('file')}.{case.get('name')}"
        found = [name for name in names if name in text or Path(name).stem in text]
        for each in case:
            if each.tag in ("failure", "error"):
                endless = "from pytest-timeout" in (each.get("message") or "")
                verdicts |= dict.fromkeys(found, "has no end" if endless else "fails")
    return verdicts


def is_wrong(path: Path, verdict: str) -> bool:
    """Return whether a verdict is wrong: a failure that passes, a false alarm, or no end."""
    right = ["fails"] if path.parent.name == "broken" else ["passes", "warns"]
    return verdict not in right


def table(paths: list[Path], verdicts: dict[str, dict[str, str]]) -> list[str]:
    """Return the table as lines of Markdown; wrong verdicts are bold."""
    heads = [f"{tool} {version(tool)}" if tool != "ours" else "ours" for tool in TOOLS]
    lines = [f"| The notebook | {' | '.join(heads)} |", "|---" * (len(heads) + 1) + "|"]
    for path in paths:
        sentence = files.read(path).cells[0].source.splitlines()[0]
        row = [verdicts[tool][key(path)] for tool in TOOLS]
        marked = [f"**{each}**" if is_wrong(path, each) else each for each in row]
        link = os.path.relpath(path, README.parent)
        lines.append(f"| [{sentence}]({link}) | {' | '.join(marked)} |")
    counts = [sum(is_wrong(path, verdicts[tool][key(path)]) for path in paths) for tool in TOOLS]
    lines.append(f"| Wrong, of {len(paths)} | {' | '.join(map(str, counts))} |")
    return lines


if __name__ == "__main__":
    raise SystemExit(main())
