"""`benchmark.py compute`: its table says where it is from, and it goes on where it stopped."""

from __future__ import annotations

import csv
from pathlib import Path

import benchmark
import benchmark_compute
import pytest

from lesson import choosing

SMALL = ["--rows", "40", "--width", "3", "--batch_size", "0", "--epochs", "4", "--device", "cpu"]
ALONE = [*SMALL, "--processes", "1"]


def compute(folder: Path, *options: str) -> int:
    return benchmark.main(["compute", *options, "--folder", str(folder)])


def lines(folder: Path) -> list[dict[str, str]]:
    (path,) = folder.glob("benchmark-*.csv")
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def fake(point: benchmark_compute.Point, epochs: int, folder: Path) -> dict[str, str]:
    """Stands for a run of the trainer, where only what is done with its result is tested."""
    assert (folder / "train.npz").exists()
    numbers = [str(epochs), "2", "1", "3", "0.5"]
    return dict(zip(benchmark_compute.MEASURED, numbers, strict=True))


def test_a_measured_line_is_complete(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.cpu_count", lambda: 1)  # so that it is one run only
    assert compute(tmp_path, *ALONE, "--machine_type", "n1-standard-4") == 0
    (first,) = lines(tmp_path)
    assert list(first) == benchmark_compute.COLUMNS
    empty = {name for name, value in first.items() if value == ""}
    assert empty == {"accelerator_type"}
    assert (first["rows"], first["width"], first["epochs"]) == ("40", "3", "4")
    low, middle, high = (float(first[f"{name}_seconds"]) for name in ("low", "epoch", "high"))
    assert 0 < low <= middle <= high < float(first["other_seconds"])
    said = capsys.readouterr()
    assert "benchmark-cpu-n1-standard-4.csv" in said.out and "Reading the clock adds" in said.out
    assert "run/s" in said.err or "s/run" in said.err  # the progress bar
    assert len(choosing.read_benchmarks(tmp_path)) == 1


def test_one_and_two_processes_are_started_as_a_user_starts_them(tmp_path: Path) -> None:
    def words(device: str, processes: int) -> list[str]:
        point = benchmark_compute.Point(40, 3, 8, device, processes, threads=1)
        return benchmark_compute.command(point, 4, tmp_path)

    assert "torch.distributed.run" not in words("cpu", 1)
    assert {"torch.distributed.run", "--nproc_per_node=2"} <= set(words("cpu", 2))
    assert "--device=cuda:0" in words("cuda", 1)  # alone, it would take all GPUs
    assert "--device=cuda" in words("cuda", 2)
    assert {"--batch_size=8", "--epochs=4", "--patience=0"} <= set(words("cpu", 1))


def test_the_grid_has_one_and_several_processes_and_all_threads(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("os.cpu_count", lambda: 4)
    args = benchmark_compute.parse_args(["--rows", "10", "--width", "3", "--batch_size", "0", "10"])
    points = benchmark_compute.grid(args, "cpu")
    assert [(p.processes, p.threads) for p in points] == [(1, 1), (1, 4), (4, 1)]
    assert {p.batch_size for p in points} == {0}  # a batch of all rows is the same


def test_an_interrupted_benchmark_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    measured = []

    def interrupted(point: benchmark_compute.Point, *rest: object) -> dict[str, str]:
        measured.append(point)
        if len(measured) == 3:
            raise KeyboardInterrupt
        return fake(point, *rest)  # type: ignore[arg-type]

    options = ["--rows", "40", "50", "--width", "3", "4", "--batch_size", "0", "--processes", "1"]
    monkeypatch.setattr(benchmark_compute, "measure", interrupted)
    assert compute(tmp_path, *options, "--device", "cpu") == 130
    assert "the same command measures the rest" in capsys.readouterr().err
    assert len(lines(tmp_path)) == 2 and not list(tmp_path.glob("*.part"))

    assert compute(tmp_path, *options, "--device", "cpu") == 0
    assert len(set(measured)) == len(measured) - 1  # only the interrupted one twice
    assert len(lines(tmp_path)) == len(set(measured))
    again = list(measured)
    assert compute(tmp_path, *options, "--device", "cpu") == 0
    assert measured == again  # nothing is missing any more


def test_measured_again_the_faster_line_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for seconds, kept in ((5, 5), (3, 3), (4, 3)):
        result = {"epochs": "4", "epoch_seconds": str(seconds)}
        found = dict.fromkeys(benchmark_compute.MEASURED, "1") | result
        monkeypatch.setattr(benchmark_compute, "measure", lambda *_, found=found: found)
        assert compute(tmp_path, *ALONE, "--again") == 0
        assert {float(line["epoch_seconds"]) for line in lines(tmp_path)} == {kept}
    assert len({tuple(line.values()) for line in lines(tmp_path)}) == len(lines(tmp_path))


def test_what_needs_too_much_memory_is_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(benchmark_compute, "measure", fake)
    options = ["--rows", "1000", str(10**9), "--width", "3", "--batch_size", "0", "--device", "cpu"]
    assert compute(tmp_path, *options) == 0
    assert {line["rows"] for line in lines(tmp_path)} == {"1000"}
    assert "need more than 4 GB: left out" in capsys.readouterr().out


def test_a_failing_run_is_explained_and_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(benchmark_compute, "measure", fake)
    compute(tmp_path, *ALONE)
    before = lines(tmp_path)
    monkeypatch.undo()
    monkeypatch.setattr(benchmark_compute, "write_tables", lambda *_: None)
    assert compute(tmp_path, *ALONE, "--width", "9") == 1
    said = capsys.readouterr().err.splitlines()[-2:]
    assert "this run failed: " in said[0] and "cannot read" in said[1] and "train.npz" in said[1]
    assert lines(tmp_path) == before


def test_another_table_is_not_overwritten(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(benchmark_compute, "measure", fake)
    (tmp_path / "benchmark-cpu-box.csv").write_text("rows\n1\n")
    assert compute(tmp_path, *ALONE, "--machine_type", "box") == 1
    assert "has other columns" in capsys.readouterr().err
    assert (tmp_path / "benchmark-cpu-box.csv").read_text() == "rows\n1\n"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--rows", "0"], "must be a whole number of 1 or more, not 0"),
        (["--rows", "many"], "must be a whole number of 1 or more, not many"),
        (["--batch_size", "-1"], "--batch_size must be 0 or more"),
        (["--epochs", "1"], "a spread takes two numbers"),
        (["--folder", "/no/such/folder"], "there is no folder /no/such/folder"),
    ],
)
def test_bad_options_get_one_sentence(
    options: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stopped:
        benchmark.main(["compute", *options])
    assert stopped.value.code == 2
    assert words in capsys.readouterr().err.splitlines()[-1]


def test_the_readme_describes_every_column(repo: Path) -> None:
    text = (repo / "data" / "README.md").read_text()
    section = text.partition("## The measurements")[2].partition("\n## ")[0]
    assert [name for name in benchmark_compute.COLUMNS if f"`{name}`" not in section] == []
    prices = text.partition("## The prices")[2].partition("\n## ")[0]
    assert "`confidence`" in prices
