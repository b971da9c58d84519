"""The page of a hyperparameter tuning job: its trials as a table and as a picture."""

from __future__ import annotations

import re
from datetime import datetime, timezone

from google.cloud import storage
from google.cloud.aiplatform_v1.types import HyperparameterTuningJob, JobState
from test_jobs import wait_until
from test_page import Page
from test_searches import ENDLESS
from test_searches import search as real_search

from vertex_local.config import ServerRecord
from vertex_local.console import curve, searches
from vertex_local.console.routes import TEMPLATES

SCRIPT = "<script>document.title='evil'</script>"


def search(values: list[float | None], goal: str = "MINIMIZE") -> HyperparameterTuningJob:
    """Return a search whose trials have measured this much; None: nothing yet."""
    trials = [
        {
            "id": str(number),
            "state": "SUCCEEDED" if value is not None else "ACTIVE",
            "custom_job": f"projects/1/locations/us-central1/customJobs/{number}0",
            "parameters": [{"parameter_id": "lr", "value": 0.1 * number}],
            "final_measurement": {
                "metrics": [] if value is None else [{"metric_id": "loss", "value": value}]
            },
            "start_time": datetime.now(timezone.utc),
        }
        for number, value in enumerate(values, start=1)
    ]
    return HyperparameterTuningJob(
        name="projects/100000000000/locations/us-central1/hyperparameterTuningJobs/7",
        display_name=SCRIPT,
        state=JobState.JOB_STATE_RUNNING,
        create_time=datetime.now(timezone.utc),
        max_trial_count=5,
        study_spec={
            "metrics": [{"metric_id": "loss", "goal": goal}],
            "parameters": [{"parameter_id": "lr"}],
        },
        trials=trials,
    )


def page(job: HyperparameterTuningJob) -> str:
    shown = searches.search_of(job)
    template = TEMPLATES.get_template("search.html")
    told = {"search": shown, "cost": "$1.", "said": [(0, SCRIPT)], "drawing": curve}
    return template.render(at=lambda path="", **_: f"/{path}", **told)


def test_trials_are_a_table_with_the_best_marked_and_a_picture() -> None:
    shown = searches.search_of(search([0.5, 0.2, None, float("nan")]))
    assert shown.best is not None and shown.best.id == "2"
    assert [row.is_best for row in shown.rows] == [False, True, False, False]
    assert [point.row.id for point in shown.points] == ["1", "2"]
    assert shown.points[0].y < shown.points[1].y  # a larger loss is higher up
    text = page(search([0.5, 0.2, None, float("nan")]))
    assert text.count("<circle") == 2 and 'class="best"' in text
    assert "4 of 5 trials" in text and '<a href="/jobs/20">trial 2</a>' in text
    assert "0.2" in text and "–" in text


def test_and_the_best_is_the_largest_where_more_is_better() -> None:
    best = searches.search_of(search([0.5, 0.2], "MAXIMIZE")).best
    assert best is not None and best.id == "1"


def test_a_search_without_measurements_has_no_picture_and_no_best() -> None:
    for values in ([], [None]):
        text = page(search(list(values)))
        assert "<circle" not in text and "The best so far" not in text


def test_its_name_is_not_interpreted() -> None:
    text = page(search([1.0]))
    assert "document.title" in text and "<script>document" not in text


def test_a_search_is_followed_and_cancelled_on_its_page(
    server: ServerRecord, bucket: storage.Bucket
) -> None:
    page, job = Page(server), real_search(bucket, ENDLESS, labels={"owner": "doe"})
    job.run(sync=False)
    job.wait_for_resource_creation()
    path = f"searches/{job.name}"
    wait_until(lambda: page.get(path).count("ACTIVE</td>") == 2, "two trials")
    text = page.read(path)
    assert "0 to 3" in text and "n1-standard-4" in text and "Cost of all trials" in text
    assert f"gcloud ai hp-tuning-jobs describe {job.name} --region=us-central1" in text
    assert "Vertex AI uses another optimiser" in text  # the service's log
    trial = re.findall(r'(jobs/\d+)">trial 1', page.get(path))[0]
    assert f"a trial of  search in {bucket.name}" in page.read(trial)
    name = f"search in {bucket.name} :"  # in the list, with its state behind
    assert name in page.read("", owner="doe") and name in page.read("", text=job.name)
    assert name not in page.read("", owner="nobody")
    assert name not in page.read("", state="FAILED")
    page.post(f"{path}/cancel")
    wait_until(lambda: "CANCELLED" in page.read(path), "the end of the search")
    assert "Cancel the search" not in page.read(path)
    page.post("searches/1/cancel", 404)
