"""What `vertex-local status` says of searches."""

from __future__ import annotations

import pytest
from google.cloud import storage
from google.cloud.aiplatform_v1.types import HyperparameterTuningJob
from test_searches import LOSS, search

from vertex_local.cli import report
from vertex_local.config import Root
from vertex_local.training import states
from vertex_local.training.records import Records


def lines_about(name: str, shown: str) -> list[str]:
    """Return the line with this name and what belongs to it, which stands further to the right."""
    lines = shown.splitlines()
    start = next(number for number, line in enumerate(lines) if line.endswith(f"  {name}"))
    details = lines[start + 1 :]
    end = next((n for n, line in enumerate(details) if not line.startswith("    ")), len(details))
    return [line.strip() for line in lines[start : start + 1 + end]]


def test_a_search_is_listed_with_its_trials_and_its_best_value(
    bucket: storage.Bucket, root: Root, capsys: pytest.CaptureFixture[str]
) -> None:
    script = LOSS + "sys.exit(os.environ['CLOUD_ML_TRIAL_ID'] == '2')\n"
    job = search(bucket, script, max_trial_count=3)
    job.run()
    values = {
        trial.id: trial.final_measurement.metrics[0].value
        for trial in job.trials
        if trial.id != "2"
    }
    best = min(values, key=lambda number: values[number])
    capsys.readouterr()
    report.print_searches(root)
    first, *_, last = lines_about(job.display_name, capsys.readouterr().out)
    assert "SUCCEEDED" in first and " s " in first
    assert last == (
        f"Trials: 2 done, 1 failed, of at most 3. Best loss: {values[best]:.6g} (trial {best})."
    )
    report.print_jobs(root)
    jobs = capsys.readouterr().out
    assert "FAILED" in lines_about(f"{job.display_name}-trial-2", jobs)[0]


def records_of(root: Root) -> Records:
    root.create()
    return Records(root.database)


def test_a_root_without_searches_says_nothing_of_them(
    own_root: Root, capsys: pytest.CaptureFixture[str]
) -> None:
    records_of(own_root).close()
    report.print_searches(own_root)
    assert capsys.readouterr().out == ""


def test_a_search_without_a_measurement_has_no_best_value(
    own_root: Root, capsys: pytest.CaptureFixture[str]
) -> None:
    records = records_of(own_root)
    name = "projects/100000000000/locations/us-central1/hyperparameterTuningJobs/7"
    lost = {"id": "1", "state": "INFEASIBLE", "infeasible_reason": "why"}
    job = HyperparameterTuningJob(
        name=name,
        display_name="lost",
        max_trial_count=5,
        study_spec={"metrics": [{"metric_id": "loss", "goal": "MINIMIZE"}]},
        trials=[lost, {"id": "2", "state": "ACTIVE"}],
    )
    records.add(job)
    records.save_trials(name, job.trials)
    records.move(name, states.FAILED, "All of the first 1 trials failed.\nmore", 3)
    records.close()
    report.print_searches(own_root)
    assert lines_about("lost", capsys.readouterr().out)[1:] == [
        "All of the first 1 trials failed.",
        "Trials: 0 done, 1 failed, of at most 5.",
    ]
