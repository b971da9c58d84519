"""Real jobs are accounted for: through the SDK's job objects, and in `vertex-local status`."""

from __future__ import annotations

import io
from contextlib import redirect_stdout
from pathlib import Path

import pytest
from google.cloud import storage
from test_jobs import backing_job, custom_job, make_job, run

from vertex_local import costs
from vertex_local.cli import report
from vertex_local.config import Root

GPU = {"accelerator_type": "NVIDIA_TESLA_T4", "accelerator_count": 1}


def costs_in_status(root: Root) -> list[str]:
    """What the status says about costs: of the newest job first, of all together last."""
    shown = io.StringIO()
    with redirect_stdout(shown):
        report.print_jobs(root)
    start = "On Vertex AI: "
    lines = [line.strip() for line in shown.getvalue().splitlines()]
    return [line.removeprefix(start) for line in lines if line.startswith(start)]


def test_a_training_job_is_charged_for_what_it_asked_and_how_long_it_ran(
    script: Path, bucket: storage.Bucket, root: Root
) -> None:
    job = make_job(script, bucket, "print('done')")
    run(job, machine_type="n1-standard-8", replica_count=2, **GPU)
    found = costs.of_job(job)

    ran = backing_job(job)
    minutes = (ran.end_time - ran.start_time).total_seconds() / 60
    assert found.minutes == pytest.approx(minutes) and found.minutes > 0
    assert found.what == "2 × n1-standard-8 with 1 × NVIDIA_TESLA_T4 each"
    expected = costs.estimate("n1-standard-8", **GPU, replica_count=2, minutes=minutes)
    assert found.usd == pytest.approx(expected.usd)
    assert found.usd is not None and costs.of_job(ran) == found

    newest, *_, together = costs_in_status(root)
    assert newest == " ".join(found.lines) and "confidence: " in newest and "prices: " in newest
    assert together.startswith("Together about $")


def test_a_machine_without_a_price_is_said_and_left_out_of_the_total(
    bucket: storage.Bucket, root: Root
) -> None:
    custom_job(bucket, "print('done')", {"machine_type": "n1-highmem-2"}).run()
    newest, *_, together = costs_in_status(root)
    assert "Cost unknown: data/prices.csv has no on-demand price for n1-highmem-2" in newest
    assert "whose price is unknown" in together


def test_a_custom_job_is_charged_too(bucket: storage.Bucket) -> None:
    job = custom_job(bucket, "print('done')")
    job.run()
    found = costs.of_job(job)
    assert (found.what, found.problem) == ("1 × n1-standard-4", "")
    assert found.usd and found.minutes > 0


def test_a_job_that_was_not_run_costs_words(script: Path, bucket: storage.Bucket) -> None:
    found = costs.of_job(make_job(script, bucket, ""))
    assert found.usd is None
    assert "has not been created" in found.problem


def test_no_jobs_have_no_total(own_root: Root) -> None:
    own_root.create()
    assert costs_in_status(own_root) == []


def test_a_broken_table_of_prices_does_not_break_the_status(
    root: Root, bucket: storage.Bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    custom_job(bucket, "print('done')").run()
    monkeypatch.setattr(costs, "PRICES", tmp_path / "prices.csv")
    costs.PRICES.write_text("item,usd\nbox,1\n")
    assert "prices.csv, line 2 is not a price" in costs_in_status(root)[0]
