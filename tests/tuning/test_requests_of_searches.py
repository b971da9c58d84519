"""Searches over raw HTTP and through gcloud: what is refused before anything runs, and in words."""

from __future__ import annotations

import json
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import yaml
from google.cloud import aiplatform, storage
from google.cloud.aiplatform_v1.types import CustomJob, HyperparameterTuningJob
from test_gcloud import gcloud
from test_jobs import IMAGE, wait_until
from test_requests import PLACE, assert_google_error, send
from test_searches import ENDLESS, LOSS, REPORT, log_of, search

from vertex_local.config import Root, ServerRecord
from vertex_local.errors import FailedPrecondition
from vertex_local.training.budget import Budget
from vertex_local.training.records import Records
from vertex_local.tuning import options, study

SEARCHES = f"{PLACE}/hyperparameterTuningJobs"
RATE = {"parameterId": "x", "doubleValueSpec": {"maxValue": 3}}  # a minimum of 0 is not sent
METRIC = {"metricId": "loss", "goal": "MINIMIZE"}


def body_of(script: str = LOSS, **changes: Any) -> dict[str, Any]:
    """Return a request for a search, with some of its fields changed: `study`, `pool`, others."""
    container = {"imageUri": IMAGE, "command": ["python3", "-c", script]}
    pool = {
        "machineSpec": {"machineType": "n1-standard-4"},
        "replicaCount": "1",
        "containerSpec": container | changes.pop("container", {}),
    }
    return {
        "displayName": "raw",
        "maxTrialCount": 2,
        "parallelTrialCount": 1,
        "studySpec": {"metrics": [METRIC], "parameters": [RATE]} | changes.pop("study", {}),
        "trialJobSpec": {"workerPoolSpecs": [pool]} | changes.pop("job", {}),
    } | changes


def parameter(kind: str, spec: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"parameters": [{"parameterId": "x", kind: spec} | more]}


BOUNDS = {"minValue": 1, "maxValue": 2}
SHELL = ["sh", "-c", "pip install x && python3 -m task.main --epochs=3"]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"displayName": ""}, "display_name"),
        ({"maxTrialCount": 0}, "max_trial_count must be at least 1"),
        ({"parallelTrialCount": 0}, "parallel_trial_count must be at least 1"),
        ({"maxFailedTrialCount": -1}, "max_failed_trial_count must be 0 or more"),
        ({"trialJobSpec": {}}, "worker_pool_specs[0]"),
        ({"study": {"metrics": []}}, "metrics must not be empty"),
        ({"study": {"parameters": []}}, "parameters must not be empty"),
        ({"study": {"metrics": [{"metricId": "a loss"}]}}, "'a loss' must not"),
        ({"study": {"metrics": [METRIC, METRIC]}}, "'loss' is there more than once"),
        ({"study": {"parameters": [RATE, RATE]}}, "'x' is there more than once"),
        ({"study": {"parameters": [RATE | {"parameterId": "x\ty"}]}}, "whitespace"),
        ({"study": {"parameters": [{"parameterId": "x"}]}}, "needs one of double_value_spec"),
        ({"study": {"parameters": [RATE | {"scaleType": "UNIT_LOG_SCALE"}]}}, "above 0"),
        ({"study": {"parameters": [RATE | {"scaleType": 3}]}}, "above 0"),
        ({"study": {"parameters": [RATE | {"scaleType": 9}]}}, "scale_type of 'x' must be one of"),
        ({"study": {"parameters": [RATE], "algorithm": 2}}, "no values for 'x', a double"),
        ({"study": {"parameters": [RATE], "algorithm": 7}}, "algorithm must be one of"),
        ({"study": {"observationNoise": "LOW"}}, "observation_noise is not supported"),
        ({"study": {"measurementSelectionType": 5}}, "measurement_selection_type must be"),
        ({"study": parameter("doubleValueSpec", {"minValue": 2, "maxValue": 1})}, "2.0 and 1.0"),
        ({"study": parameter("doubleValueSpec", {"maxValue": "Infinity"})}, "0.0 and inf"),
        ({"study": parameter("integerValueSpec", BOUNDS | {"defaultValue": 1})}, "default_value"),
        (
            {"study": parameter("integerValueSpec", {"maxValue": 9}, scaleType="UNIT_LOG_SCALE")},
            "the smallest is 0",
        ),
        ({"study": parameter("discreteValueSpec", {"values": []})}, "1 to 1000 values, not 0"),
        ({"study": parameter("discreteValueSpec", {"values": list(range(1001))})}, "not 1001"),
        ({"study": parameter("discreteValueSpec", {"values": [1, 3, 2]})}, "must increase"),
        ({"study": parameter("discreteValueSpec", {"values": [1, 1 + 1e-11]})}, "must increase"),
        ({"study": parameter("discreteValueSpec", {"values": [1, "NaN"]})}, "finite numbers"),
        ({"study": parameter("categoricalValueSpec", {"values": []})}, "has no values"),
        ({"study": parameter("categoricalValueSpec", {"values": ["a", "a"]})}, "more than once"),
        (
            {"study": parameter("categoricalValueSpec", {"values": ["a"]}, scaleType=1)},
            "categorical: it has no scale_type",
        ),
        ({"container": {"command": SHELL}}, "would never reach your script"),
        ({"container": {"command": ["/bin/bash", "-lc", "python x.py"]}}, "would never reach"),
        ({"container": {"command": ["sh"], "args": SHELL[1:]}}, "would never reach your script"),
        ({"container": {"command": ["sh", "-c", 'python x.py "$@"']}}, "would never reach"),
        ({"container": {"command": SHELL, "args": ["--a=1", "--b"]}}, "would never reach"),
    ],
)
def test_a_search_that_google_refuses_or_that_runs_in_vain_never_starts(
    server: ServerRecord, changes: dict[str, Any], words: str
) -> None:
    assert words in assert_google_error(send(server, "POST", SEARCHES, body_of(**changes)), 400)


CONDITION = {"parentCategoricalValues": {"values": ["a"]}, "parameterSpec": RATE}
SAFETY = METRIC | {"safetyConfig": {"safetyThreshold": 1}}


@pytest.mark.parametrize(
    ("changes", "names"),
    [
        (
            {"study": {"decayCurveStoppingSpec": {}, "metrics": [SAFETY]}},
            ["study_spec.decay_curve_stopping_spec", "study_spec.metrics.safety_config"],
        ),
        ({"study": {"convexAutomatedStoppingSpec": {}}}, ["convex_automated_stopping_spec"]),
        (
            {"study": {"medianAutomatedStoppingSpec": {"useElapsedDuration": True}}},
            ["median_automated_stopping_spec.use_elapsed_duration"],
        ),
        ({"study": {"studyStoppingConfig": {"maxNumTrials": 3}}}, ["study_stopping_config"]),
        (
            {"study": {"parameters": [RATE | {"conditionalParameterSpecs": [CONDITION]}]}},
            ["conditional_parameter_specs"],
        ),
        ({"encryptionSpec": {"kmsKeyName": "k"}}, ["encryption_spec"]),
        ({"job": {"network": "n"}}, ["network"]),
    ],
)
def test_what_local_mode_cannot_do_is_refused_by_name(
    server: ServerRecord, changes: dict[str, Any], names: list[str]
) -> None:
    message = assert_google_error(send(server, "POST", SEARCHES, body_of(**changes)), 405)
    assert all(name in message for name in names)


@pytest.mark.parametrize(
    "command",
    [
        ["sh", "-c", 'exec python3 -c "$0" "$@"', LOSS],
        ["bash", "-c", 'exec python3 -c "$CODE" "$@"', "bash"],
        ["bash", "-c", 'exec python3 -c "$CODE" "$0" "${@}"'],
        ["python3", "-c", LOSS],
    ],
)
def test_a_shell_that_passes_the_parameters_on_is_welcome(
    server: ServerRecord, command: list[str]
) -> None:
    env = [{"name": "CODE", "value": LOSS}]
    body = body_of(container={"command": command, "env": env}, maxTrialCount=1)
    name = send(server, "POST", SEARCHES, body).json()["name"]
    found = ended(server, name)
    assert [trial["state"] for trial in found["trials"]] == ["SUCCEEDED"], found


def ended(server: ServerRecord, name: str) -> dict[str, Any]:
    """Return a search as the API shows it at its end."""
    found: dict[str, Any] = {}

    def is_over() -> bool:
        found.update(send(server, "GET", f"/v1/{name}").json())
        return "endTime" in found

    wait_until(is_over, "the end of the search")
    return found


def test_the_answers_have_the_shape_that_vertex_ai_was_seen_to_give(server: ServerRecord) -> None:
    whole = {"parameterId": "n", "integerValueSpec": {"minValue": "80", "maxValue": "80"}}
    study_spec = {"parameters": [RATE, whole], "medianAutomatedStoppingSpec": {}}
    body = body_of(study=study_spec, trials=[{"id": "9"}], labels={"a": "b"})
    created = send(server, "POST", SEARCHES, body).json()
    assert created["state"] in ("JOB_STATE_PENDING", "JOB_STATE_RUNNING")
    assert "trials" not in created
    listed = send(server, "GET", f"{SEARCHES}?filter=labels.a=b").json()["hyperparameterTuningJobs"]
    assert [each["name"] for each in listed] == [created["name"]] and "trials" not in listed[0]
    job = ended(server, created["name"])
    assert job["state"] == "JOB_STATE_SUCCEEDED" and "error" not in job
    first = job["trials"][0]
    assert first.keys() == {
        *("id", "state", "parameters", "finalMeasurement", "startTime", "endTime", "customJob")
    }
    assert first["parameters"][1] == {"parameterId": "n", "value": 80.0}
    assert first["finalMeasurement"]["stepCount"] == "1"
    operation = send(server, "DELETE", f"/v1/{created['name']}").json()
    assert operation["done"] and "/operations/" in operation["name"]
    assert_google_error(send(server, "GET", f"/v1/{created['name']}"), 404)
    assert_google_error(send(server, "POST", f"/v1/{created['name']}:cancel"), 404)


SLOPE = (
    REPORT
    + """
import time
loss = 1.0 if os.environ["CLOUD_ML_TRIAL_ID"] == "4" else 0.1
for step in range(1, 4):
    report("loss", loss, step)
while loss == 1.0:
    time.sleep(1)
"""
)


def test_the_median_rule_stops_a_trial_that_falls_behind(server: ServerRecord, root: Root) -> None:
    body = body_of(SLOPE, study={"medianAutomatedStoppingSpec": {}}, maxTrialCount=5)
    job = ended(server, send(server, "POST", SEARCHES, body).json()["name"])
    assert [trial["state"] for trial in job["trials"]] == ["SUCCEEDED"] * 5
    assert job["trials"][3]["finalMeasurement"]["metrics"][0]["value"] == 1.0
    stopped = send(server, "GET", f"/v1/{job['trials'][3]['customJob']}").json()
    assert stopped["state"] == "JOB_STATE_CANCELLED"


def test_trials_that_are_all_equal_raise_a_doubt(bucket: storage.Bucket, root: Root) -> None:
    script = REPORT.replace("flags =", "ignored =") + "report('loss', 0.5)\n"
    job = search(bucket, script.replace("each", "word"))
    job.run()
    log = log_of(root, job)
    assert "warning of local mode: the training script never mentions x" in log
    assert "3 trials with different parameters have exactly the same result" in log
    fine = search(bucket, LOSS)
    fine.run()
    assert "warning of local mode: the" not in log_of(root, fine)
    assert "exactly the same" not in log_of(root, fine)


def test_without_optuna_only_a_grid_can_be_searched(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(study.importlib.util, "find_spec", lambda name: None)
    whole = {"parameter_id": "n", "integer_value_spec": {"min_value": 1, "max_value": 2}}
    container = {"image_uri": IMAGE, "command": ["python3", "x.py"]}
    machine = {"machine_type": "n1-standard-4"}
    pool = {"machine_spec": machine, "replica_count": 1, "container_spec": container}
    job = HyperparameterTuningJob(
        display_name="x",
        max_trial_count=1,
        parallel_trial_count=1,
        study_spec={"metrics": [{"metric_id": "loss"}], "parameters": [whole]},
        trial_job_spec={"worker_pool_specs": [pool]},
    )
    with pytest.raises(FailedPrecondition, match="pip install optuna"):
        options.check(job)
    job.study_spec.algorithm = study.GRID
    options.check(job)


def test_a_search_needs_a_budget_for_all_its_trials(server: ServerRecord, root: Root) -> None:
    job = {"name": f"{PLACE}/customJobs/1", "jobSpec": body_of()["trialJobSpec"]}
    one = Budget(0.0).expected(CustomJob.from_json(json.dumps(job)))
    assert one is not None
    records = Records(root.database)
    spent = Budget(0.0).spent(records.jobs())
    records.close()
    Budget(spent + 2.5 * one).write(root)
    try:
        refused = send(server, "POST", SEARCHES, body_of(maxTrialCount=3))
        assert "3 trials on 1 × n1-standard-4" in assert_google_error(refused, 400)
        assert send(server, "POST", SEARCHES, body_of(maxTrialCount=2)).status_code == 200
    finally:
        root.budget.unlink()


@pytest.mark.skipif(not shutil.which("gcloud"), reason="gcloud is not installed")
def test_gcloud_creates_lists_describes_cancels_and_shows_the_log(
    root: Root, server: ServerRecord, bucket: storage.Bucket, tmp_path: Path
) -> None:
    config = tmp_path / "config.yaml"
    spec = {name: value for name, value in body_of(ENDLESS).items() if name != "displayName"}
    config.write_text(yaml.safe_dump(spec))
    created = gcloud(
        root,
        server,
        *("hp-tuning-jobs", "create", f"--config={config}", f"--display-name={bucket.name}"),
        *("--max-trial-count=3", "--parallel-trial-count=2", "--algorithm=random-search"),
        "--format=value(name)",
    )
    assert created.returncode == 0, created.stderr
    name = created.stdout.strip()
    trials = f'display_name:"{bucket.name}-trial-*"'
    wait_until(lambda: len(aiplatform.CustomJob.list(filter=trials)) == 2, "two trials")

    def tuning(*arguments: str) -> str:
        done = gcloud(root, server, "hp-tuning-jobs", *arguments)
        assert done.returncode == 0, done.stderr
        return done.stdout

    with ThreadPoolExecutor() as threads:  # each gcloud takes seconds to start
        listed = threads.submit(tuning, "list", "--format=value(name)")
        cancelled = threads.submit(tuning, "cancel", name)
        assert name in listed.result().split()
        cancelled.result()
        found = ended(server, name)
        streamed = threads.submit(tuning, "stream-logs", name, "--polling-interval=1")
        described = json.loads(tuning("describe", name, "--format=json"))
    assert (found["state"], found["maxTrialCount"]) == ("JOB_STATE_CANCELLED", 3)
    assert found["studySpec"]["algorithm"] == "RANDOM_SEARCH"
    assert [trial["state"] for trial in described["trials"]] == ["INFEASIBLE"] * 2
    assert "Vertex AI uses another optimiser" in streamed.result()
    assert "workerpool0-0\t" in streamed.result()  # what a trial printed
