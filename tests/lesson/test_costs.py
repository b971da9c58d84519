"""What jobs cost: with a table of prices of the test's own, so that new prices break nothing."""

from __future__ import annotations

from pathlib import Path

import pytest
from google.cloud.aiplatform_v1.types import CustomJob, HyperparameterTuningJob

from vertex_local import costs

HEADER = ",".join(costs.Price.__dataclass_fields__)
TABLE = f"""{HEADER}
box,machine,,on-demand,us-central1,hour,0.6,,2026-01-02,2026-11-23,list,high,
box,machine,,spot,us-central1,hour,0.2,,2026-01-02,2026-11-23,list,high,
chip,accelerator,,on-demand,us-central1,hour,1.2,,,2026-11-23,list,low,
whole,machine,2 chip,on-demand,us-central1,hour,3,,2025,2026-11-23,list,medium,
pd-ssd,disk,,on-demand,us-central1,GB hour,0.006,,2024,2026-11-23,list,medium,
"""


@pytest.fixture(autouse=True)
def table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "prices.csv"
    path.write_text(TABLE)
    monkeypatch.setattr(costs, "PRICES", path)
    return path


def test_a_machine_and_its_disk_are_paid_while_it_runs_and_is_provisioned() -> None:
    found = costs.estimate("box", minutes=56, provisioning_minutes=4)
    assert found.usd == pytest.approx(0.6 + 100 * 0.006)
    assert found.usd_per_hour == pytest.approx(1.2)
    assert costs.estimate("box", minutes=116, provisioning_minutes=4).usd == pytest.approx(2.4)


def test_accelerators_and_replicas_multiply() -> None:
    found = costs.estimate("box", "chip", 2, replica_count=3, minutes=60, provisioning_minutes=0)
    assert found.usd == pytest.approx(3 * (0.6 + 2 * 1.2 + 0.6))
    assert "3 × box with 2 × chip each" in str(found)


def test_a_type_without_a_count_is_one() -> None:
    assert costs.estimate("box", "chip", minutes=5) == costs.estimate("box", "chip", 1, minutes=5)


def test_an_accelerator_that_is_built_in_is_not_paid_twice() -> None:
    found = costs.estimate("whole", "chip", 2, minutes=60, provisioning_minutes=0)
    assert found.usd == pytest.approx(3 + 0.6)


def test_spot_has_its_own_prices_but_the_disk_has_not() -> None:
    found = costs.estimate("box", minutes=60, provisioning_minutes=0, spot=True)
    assert found.usd == pytest.approx(0.2 + 0.6)


def test_an_estimate_names_its_dates_and_its_weakest_confidence() -> None:
    found = costs.estimate("box", "chip", minutes=30, provisioning_minutes=4)
    assert found.confidence == "low"
    assert found.dates == "2024; 2026-01-02; undated, noted 2026-11-23"
    assert str(found) == (
        "About $1.20 for 30.0 min of 1 × box with 1 × chip\n"
        "  and $0.16 more if 4 min of provisioning are billed, too\n"
        "  (prices: 2024; 2026-01-02; undated, noted 2026-11-23; confidence: low)"
    )


@pytest.mark.parametrize(
    ("question", "answer"),
    [
        ({"machine_type": "unknown"}, "no on-demand price for unknown in us-central1"),
        ({"machine_type": "box", "accelerator_type": "GPU9000"}, "price for GPU9000"),
        ({"machine_type": "whole", "spot": True}, "no spot price for whole"),
        ({"machine_type": "box", "region": "mars-north1"}, "price for box in mars-north1"),
        ({"machine_type": "box", "minutes": -1}, "minutes must be 0 or more, not -1"),
        ({"machine_type": "box", "minutes": float("nan")}, "minutes must be 0 or more, not nan"),
        ({"machine_type": "box", "replica_count": 0}, "at least one machine"),
    ],
)
def test_what_cannot_be_estimated_is_said_in_words(question: dict, answer: str) -> None:  # type: ignore[type-arg]
    found = costs.estimate(**question)
    assert found.usd is None and found.usd_per_hour is None
    assert answer in found.problem
    assert " ".join(str(found).split()) == f"Cost unknown: {found.problem}"


def test_a_missing_table_is_said_in_words(table: Path) -> None:
    table.unlink()
    assert "there is no table of prices" in str(costs.estimate("box"))


@pytest.mark.parametrize("wrong", ["dear", "-1", "inf", ""])
def test_a_broken_line_of_the_table_is_named(table: Path, wrong: str) -> None:
    table.write_text(TABLE.replace(",hour,0.2,", f",hour,{wrong},"))
    assert "prices.csv, line 3" in str(costs.estimate("box"))


def test_a_changed_table_is_read_again(table: Path) -> None:
    before = costs.estimate("box", minutes=60).usd
    table.write_text(TABLE.replace(",hour,0.6,", ",hour,60,"))
    after = costs.estimate("box", minutes=60).usd
    assert before is not None and after is not None and after > 10 * before


def test_no_time_costs_nothing() -> None:
    assert costs.estimate("box", minutes=0, provisioning_minutes=0).usd == 0


@pytest.mark.parametrize(
    ("usd", "text"),
    [
        (0, "$0.00"),
        (0.00314, "$0.0031"),
        (0.999, "$1.00"),
        (0.0996, "$0.10"),
        (1234.5, "$1,234.50"),
    ],
)
def test_amounts_are_short_but_not_zero(usd: float, text: str) -> None:
    assert costs.money(usd) == text


def record(**changes: object) -> CustomJob:
    """A job of two pools that ran for 30 minutes."""
    pool = {"machine_spec": {"machine_type": "box"}, "replica_count": 1}
    gpus = {"machine_type": "box", "accelerator_type": "NVIDIA_L4", "accelerator_count": 2}
    other = {"machine_spec": gpus, "replica_count": 2, "disk_spec": {"boot_disk_size_gb": 200}}
    fields = {
        "name": "projects/1/locations/us-central1/customJobs/2",
        "job_spec": {"worker_pool_specs": [pool, {}, other]},
        "start_time": "2026-01-01T10:00:00Z",
        "end_time": "2026-01-01T10:30:00.000000Z",
    }
    return CustomJob.from_json(CustomJob.to_json(CustomJob(fields | changes)))


@pytest.fixture
def l4(table: Path) -> None:
    table.write_text(TABLE.replace("\nchip,", "\nNVIDIA_L4,"))


@pytest.mark.usefixtures("l4")
def test_a_job_is_charged_for_all_its_pools_and_its_running_time() -> None:
    found = costs.of_job(record(), provisioning_minutes=30)
    assert found.minutes == 30
    assert found.usd == pytest.approx((0.6 + 0.6) + 2 * (0.6 + 2 * 1.2 + 1.2))


@pytest.mark.usefixtures("l4")
def test_a_job_that_never_ran_pays_its_provisioning_only() -> None:
    found = costs.of_job(record(start_time=None, end_time=None), provisioning_minutes=6)
    assert (found.minutes, found.usd) == (0, pytest.approx((1.2 + 2 * 4.2) / 10))


@pytest.mark.usefixtures("l4")
def test_a_job_that_ended_before_it_had_a_machine_pays_nothing() -> None:
    found = costs.of_job(record(start_time=None), provisioning_minutes=6)
    assert (found.minutes, found.provisioning_minutes, found.usd) == (0, 0, 0)


@pytest.mark.usefixtures("l4")
def test_a_search_costs_what_its_trials_cost_with_their_provisioning() -> None:
    job = record()
    times = {"start_time": job.start_time, "end_time": job.end_time}
    search = HyperparameterTuningJob(
        name=job.name, trial_job_spec=job.job_spec, trials=[times, times, {}]
    )
    found = costs.of_job(search, provisioning_minutes=20)
    assert (found.minutes, found.provisioning_minutes) == (60, 60)
    assert found.usd == pytest.approx(2 * (costs.of_job(job, provisioning_minutes=30).usd or 0))


@pytest.mark.parametrize(("strategy", "terms"), [(4, "spot"), (6, "flex-start")])
@pytest.mark.usefixtures("l4")
def test_the_terms_of_a_job_choose_its_prices(strategy: int, terms: str) -> None:
    spec = {"worker_pool_specs": [{"machine_spec": {"machine_type": "whole"}, "replica_count": 1}]}
    found = costs.of_job(record(job_spec=spec | {"scheduling": {"strategy": strategy}}))
    assert f"no {terms} price for whole" in found.problem


def test_what_is_no_job_is_said_in_words() -> None:
    assert str(costs.of_job("job")) == "Cost unknown: str names no machines."


def test_the_total_adds_what_is_known_and_counts_the_rest() -> None:
    known = costs.estimate("box", minutes=60, provisioning_minutes=0)
    assert costs.total([known]) == "Together about $1.20 for 1 job"
    both = costs.total([known, known, costs.estimate("unknown")])
    assert both == "Together about $2.40 for 3 jobs, not counting 1 whose price is unknown"
    assert costs.total([]) == "Together about $0.00 for 0 jobs"
