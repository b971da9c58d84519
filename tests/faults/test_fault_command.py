"""The command `vertex-local fault`, and the file that it shares with the server."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from vertex_local import cli
from vertex_local.config import Root
from vertex_local.faults.kinds import KINDS
from vertex_local.faults.store import Faults


@pytest.fixture
def root(own_root: Root) -> Root:
    """A root without a server: the command needs none."""
    return own_root


def command(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str]:
    """Run `vertex-local fault …`; return its status and all it printed."""
    status = cli.main(["fault", *words])
    printed = capsys.readouterr()
    return status, printed.out + printed.err


def test_faults_are_added_listed_and_cleared(
    root: Root, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command(capsys, "list") == (0, "There are no faults.\n")
    status, text = command(capsys, "add", "preemption", "--after=2", "--times=2", "--job=doe_*")
    assert status == 0 and text.startswith("Added fault 1: preemption --job='doe_*' --after=2.0")
    assert command(capsys, "add", "quota")[0] == 0
    status, text = command(capsys, "list")
    assert [line.split()[:2] for line in text.splitlines()] == [
        ["1:", "preemption"],
        ["2:", "quota"],
    ]
    assert "2 more; happened 0 times" in text and "until it is cleared" in text
    assert command(capsys, "clear", "1") == (0, "Cleared 1 fault.\n")
    assert command(capsys, "clear", "1") == (1, "Cleared 0 faults.\n")
    assert command(capsys, "clear") == (0, "Cleared 1 fault.\n")
    assert command(capsys, "clear") == (0, "Cleared 0 faults.\n")


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (("preemption", "--after=soon"), "--after must be a number, not 'soon'"),
        (("preemption", "--after=nan"), "--after must be 0 or more, not nan"),
        (("preemption", "--after=-1"), "--after must be 0 or more, not -1"),
        (("preemption", "--times=0"), "--times must be 1 or more, not 0"),
        (("preemption", "--times=1.5"), "--times must be a whole number, not '1.5'"),
        (("slow-start", "--factor=0.5"), "--factor must be 1 or more"),
        (("storage-slow", "--rate=0"), "--rate must be 0.001 or more"),
        (("storage-429", "--access=list"), "--access must be one of read, write, any"),
    ],
)
def test_what_makes_no_sense_is_refused_and_nothing_is_kept(
    root: Root, capsys: pytest.CaptureFixture[str], words: tuple[str, ...], complaint: str
) -> None:
    status, text = command(capsys, "add", *words)
    assert status == 1 and complaint in text
    assert Faults(root).all() == []


def test_reset_clears_all(root: Root, capsys: pytest.CaptureFixture[str]) -> None:
    command(capsys, "add", "quota")
    assert cli.main(["reset", "--yes"]) == 0
    assert Faults(root).all() == [] and list(root.path.glob("faults*")) == []


def test_a_fault_of_one_time_happens_to_one_of_many(root: Root) -> None:
    fault = Faults(root).add("stockout", {"times": "5"})
    taken: list[int] = []

    def take() -> None:
        mine = Faults(root)  # as another process has it
        while (got := mine.take(lambda each: each.kind == "stockout")) is not None:
            taken.append(got.happened)

    threads = [threading.Thread(target=take) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(taken) == list(range(fault.left or 0))


def test_a_file_that_is_damaged_is_no_fault(root: Root) -> None:
    Faults(root).add("quota", {})
    root.faults.write_text('[{"number": 1, "unknown": 2}]')
    assert Faults(root).all() == []
    assert Faults(root).add("quota", {}).number == 1


def test_the_reference_explains_every_kind(repo: Path) -> None:
    text = (repo / "scripts/vertex_local/README.md").read_text()
    for kind in KINDS.values():
        assert f"| `{kind.name}` | {kind.summary} | {kind.source} |" in text
    assert "`no-such-kind`" not in text
