"""Time and cost of a run: against arithmetic done by hand, and in words where nothing is known."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

from lesson import choosing
from vertex_local import costs

HEADER = ",".join(costs.Price.__dataclass_fields__)
TABLE = f"""{HEADER}
cheap,machine,,on-demand,us-central1,hour,0.6,,2026,2026-11-23,list,high,
big,machine,,on-demand,us-central1,hour,2.4,,2026,2026-11-23,list,low,
pd-ssd,disk,,on-demand,us-central1,GB hour,0,,2026,2026-11-23,list,high,
GPU,accelerator,,on-demand,us-central1,hour,0,,2026,2026-11-23,list,high,
"""
ASSUMED = choosing.Assumptions(epochs=60, provisioning_minutes=4)


@pytest.fixture(autouse=True)
def prices(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "prices.csv").write_text(TABLE)
    monkeypatch.setattr(costs, "PRICES", tmp_path / "prices.csv")


def line(*seconds: float, other: float = 60.0) -> pd.DataFrame:
    """A curve for 100, 1000 … rows: a start of one minute, quartiles at half and double."""
    rows = [100 * 10**i for i in range(len(seconds))]
    table = pd.DataFrame({"rows": rows, "epoch_seconds": seconds, "other_seconds": other})
    return table.assign(low_seconds=table["epoch_seconds"] / 2, high_seconds=2.0 * table.iloc[:, 1])


CPU = choosing.Option("cheap", measured=line(1.0, 10.0))
GPU = choosing.Option("big", "GPU", 1)


@pytest.mark.parametrize(
    ("rows", "seconds"),
    [(100, 1), (1000, 10), (10, 1), (316.2278, math.sqrt(10)), (2000, 20), (10_000, 100)],
)
def test_between_and_beyond_the_measured_sizes(rows: float, seconds: float) -> None:
    assert choosing.interpolate(line(1.0, 10.0), rows) == pytest.approx(seconds, rel=1e-6)


def test_beyond_the_measured_sizes_time_never_falls() -> None:
    assert choosing.interpolate(line(10.0, 5.0), 10_000) == pytest.approx(5)
    assert choosing.interpolate(line(1.0), 300) == pytest.approx(3)  # one point: proportional


def test_a_run_is_provisioning_and_start_and_epochs() -> None:
    run = choosing.predict(CPU, 1000, ASSUMED)  # 4 min + 1 min + 60 times 10 s
    assert run is not None
    assert run.minutes == pytest.approx((15, 10, 25))
    assert run.usd == pytest.approx((0.15, 0.10, 0.25))  # 0.6 an hour, a price without doubt


def test_the_doubt_about_a_price_widens_the_cost_only() -> None:
    dear = choosing.Option("big", measured=line(1.0, 10.0))
    run = choosing.predict(dear, 1000, replace(ASSUMED, price_spread={"high": 0, "low": 0.5}))
    assert run is not None and run.minutes == pytest.approx((15, 10, 25))
    assert run.usd == pytest.approx((0.6, 0.4 * 0.5, 1.0 * 1.5))


def test_a_slower_cpu_takes_longer_to_compute_but_a_gpu_does_not() -> None:
    slow = replace(ASSUMED, cpu_factor=2)
    assert choosing.predict(CPU, 1000, slow).minutes[0] == pytest.approx(25)  # type: ignore[union-attr]
    gpu = replace(GPU, measured=line(1.0, 10.0))
    assert choosing.predict(gpu, 1000, slow).minutes[0] == pytest.approx(15)  # type: ignore[union-attr]


def test_at_the_needed_speed_up_both_cost_the_same() -> None:
    rows = 100_000  # 1000 s an epoch: 1000 minutes of work
    speed_up = choosing.needed_speed_up(GPU, CPU, rows, ASSUMED)
    assert 4 < speed_up < 5  # a little more than the ratio of the prices
    gpu = replace(GPU, measured=line(1 / speed_up, 10 / speed_up))
    runs = [choosing.predict(option, rows, ASSUMED) for option in (CPU, gpu)]
    assert runs[0] is not None and runs[1] is not None
    assert runs[0].usd[0] == pytest.approx(runs[1].usd[0])


def test_for_little_work_no_speed_is_enough() -> None:
    assert choosing.needed_speed_up(GPU, CPU, 100, ASSUMED) == math.inf
    floor = choosing.floor_usd(GPU, CPU, 100, ASSUMED)
    run = choosing.predict(CPU, 100, ASSUMED)
    assert floor is not None and run is not None and floor > run.usd[0]


def test_the_first_rows_are_where_the_cpu_costs_the_floor() -> None:
    # 2.4 * 5 min = 0.6 * (5 min + work) at 15 minutes of work: 15 s an epoch, 1500 rows
    assert choosing.first_rows(GPU, CPU, ASSUMED) == pytest.approx(1500, rel=1e-6)
    assert choosing.first_rows(GPU, CPU, ASSUMED, price_factor=2) > 1500
    assert choosing.first_rows(GPU, CPU, replace(ASSUMED, epochs=120)) == pytest.approx(750, 0.01)


def test_without_a_price_there_is_no_break_even() -> None:
    unknown = choosing.Option("unknown", "GPU", 1)
    assert math.isnan(choosing.needed_speed_up(unknown, CPU, 1000, ASSUMED))
    assert choosing.predict(replace(unknown, measured=line(1.0)), 1000, ASSUMED) is None
    assert choosing.predict(GPU, 1000, ASSUMED) is None  # not measured


def test_the_cheapest_in_time_is_recommended() -> None:
    fast = replace(GPU, measured=line(0.01, 0.1))
    said = choosing.recommend([CPU, fast], 1000, 60, ASSUMED)
    assert said.startswith("Take cheap, no GPU: ")
    said = choosing.recommend([CPU, fast], 1000, 10, ASSUMED)
    assert said.startswith("Take big + 1 × GPU: ") and "15.0 min, too late" in said


def test_what_was_not_measured_gets_a_condition() -> None:
    said = choosing.recommend([CPU, GPU], 1000, 10, ASSUMED)
    assert said.startswith("Nothing that was measured is ready in time. Measure a GPU")
    said = " ".join(said.split())
    assert "Dearer than the CPU, however fast it is; ready in time if 2.0 times as fast" in said
    said = " ".join(choosing.recommend([CPU, GPU], 100_000, 5, ASSUMED).split())
    assert "Cheaper than the CPU if more than 4.1 times as fast" in said
    assert "not ready in time, however fast it is" in said
    assert "The times are extrapolated" in said


@pytest.mark.parametrize("rows", [0, -5, math.nan, math.inf])
def test_no_rows_get_words(rows: float) -> None:
    said = choosing.recommend([CPU, GPU], rows, 60, ASSUMED)  # type: ignore[arg-type]
    assert said == f"No recommendation: rows must be above 0, not {rows}."


def test_no_epochs_and_no_time_get_words() -> None:
    said = choosing.recommend([CPU], 10, 60, replace(ASSUMED, epochs=0))
    assert "epochs must be above 0" in said
    assert "the deadline must be above 0" in choosing.recommend([CPU], 10, 0, ASSUMED)


def test_an_unknown_gpu_and_a_missing_price_get_words() -> None:
    others = [choosing.Option("big", "GPU_9000", 1), choosing.Option("unknown")]
    said = " ".join(choosing.recommend([CPU, *others], 1000, 60, ASSUMED).split())
    assert said.startswith("Take cheap, no GPU")
    assert "no on-demand price for GPU_9000" in said
    assert "no on-demand price for unknown" in said


def test_nothing_measured_gets_words() -> None:
    said = choosing.recommend([replace(CPU, measured=None), GPU], 1000, 60, ASSUMED)
    assert "no measurement; run scripts/maintainers/benchmark.py compute" in " ".join(said.split())


def test_the_tables_of_the_project_can_be_read_and_traced(repo: Path) -> None:
    table = choosing.read_benchmarks(repo / "data")
    for _, row in table.iterrows():
        text = (repo / "data" / row["file"]).read_text().splitlines()[row["line"] - 1]
        assert text.startswith(f"{row['rows']},{row['width']},{row['batch_size']},{row['device']},")
    assert (table["low_seconds"] <= table["epoch_seconds"]).all()
    assert (table["epoch_seconds"] <= table["high_seconds"]).all()


def test_a_curve_has_one_line_for_each_size_the_fastest(tmp_path: Path) -> None:
    table = pd.DataFrame({"rows": [10, 10, 5], "epoch_seconds": [2, 1, 3], "threads": [1, 2, 1]})
    found = choosing.curve(table)
    assert found["rows"].tolist() == [5, 10] and found["epoch_seconds"].tolist() == [3, 1]
    assert choosing.curve(table, threads=1)["epoch_seconds"].tolist() == [3, 2]
    assert choosing.curve(table, threads=7).empty


def test_no_tables_and_wrong_tables_are_said_in_words(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="holds no benchmark-"):
        choosing.read_benchmarks(tmp_path)
    (tmp_path / "benchmark-x.csv").write_text("rows,width\n1,2\n")
    with pytest.raises(ValueError, match=r"benchmark-x.csv lacks the columns batch_size, device"):
        choosing.read_benchmarks(tmp_path)
