"""The mutation check tells a tested notebook from an untested one."""

from __future__ import annotations

import json
from pathlib import Path

import mutate
import nbformat
import pytest
from mutate import Mutant, mutants, report
from nbformat.v4 import new_code_cell, new_notebook


def notebook(*cells: str) -> nbformat.NotebookNode:
    made = new_notebook(cells=[new_code_cell(text) for text in cells])
    made.metadata.kernelspec = {"name": "python3", "display_name": "", "language": "python"}
    return made


def test_a_cell_is_broken_in_three_ways() -> None:
    (tagged,) = [notebook("if 1 < x:\n    !echo {x} 2")]
    found = {each.kind: each.source for each in mutants(tagged)}
    assert found == {
        "remove": "pass",
        "number": "if 2 < x:\n    get_ipython().system('echo {x} 2')",
        "compare": "if not (1 < x):\n    get_ipython().system('echo {x} 2')",
    }
    assert [each.kind for each in mutants(notebook("print('x')", "", "# nothing"))] == [
        "remove"
    ] * 2


def test_all_else_in_a_broken_cell_stays_as_it_is_written() -> None:
    (tagged,) = [notebook('x = {\n    "ä": f"{y:.1f}",  # why\n    "b": 0x10,\n}\nprint(x == 3)')]
    found = {each.kind: each.source for each in mutants(tagged)}
    assert found["number"] == 'x = {\n    "ä": f"{y:.1f}",  # why\n    "b": 32,\n}\nprint(x == 3)'
    assert found["compare"].endswith('"b": 0x10,\n}\nprint(not (x == 3))')


def test_survivors_are_found_and_need_a_reason(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "x.ipynb"
    nbformat.write(notebook("x = 1", "print(x)"), path)
    (tmp_path / "reasons.json").write_text("[]")
    results = tmp_path / "results.json"
    arguments = [str(path)]
    arguments += ["--reasons", str(tmp_path / "reasons.json"), "--results", str(results)]
    arguments += ["--kinds", "remove"]
    assert mutate.main(arguments) == 1
    printed = capsys.readouterr().out
    assert [line.split()[:4] for line in printed.splitlines()[:2]] == [
        ["killed", "Cell", "0", "remove"],  # then x is not known
        ["survived", "Cell", "1", "remove"],
    ]
    assert "1 survived, 1 of them without a reason" in printed

    reason = {"cell": "print(x)", "kind": "remove", "reason": "it only shows x"}
    (tmp_path / "reasons.json").write_text(json.dumps([reason]))
    kept = json.loads(results.read_text())
    results.write_text(json.dumps(dict.fromkeys(kept, "killed") | {list(kept)[1]: "survived"}))
    assert mutate.main(arguments) == 0
    printed = capsys.readouterr().out
    assert "it only shows x" in printed and "1 survived, 0 of them" in printed


def test_every_reason_is_about_a_mutant_of_the_episode(repo: Path) -> None:
    path = next((repo / "notebooks").glob("06-*.ipynb"))
    known = {(each.title, each.kind) for each in mutants(nbformat.read(path, as_version=4))}
    for each in json.loads((repo / "scripts" / "maintainers" / "survivors.json").read_text()):
        assert (each["cell"], each["kind"]) in known, each
        assert each["reason"].strip()


def test_a_survivor_without_a_reason_is_a_failure(capsys: pytest.CaptureFixture[str]) -> None:
    survivor = Mutant(3, "remove", "plot()", "pass")
    assert report([survivor], []) == 1
    assert "NO REASON" in capsys.readouterr().out
    assert report([survivor], [{"cell": "plot()", "kind": "remove", "reason": "a picture"}]) == 0
    assert report([], []) == 0
