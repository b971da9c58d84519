"""Searches through the real SDK and the real server: trials, their files, and every way to end."""

from __future__ import annotations

import json
import os
import signal
from typing import Any

import pytest
from google.api_core import exceptions
from google.cloud import aiplatform, storage
from google.cloud.aiplatform import hyperparameter_tuning as hpt
from google.cloud.aiplatform_v1.types import HyperparameterTuningJob, JobState, Trial
from test_jobs import IMAGE, alive, wait_until

from vertex_local.config import Root, ServerRecord
from vertex_local.kernel import clients
from vertex_local.server import daemon
from vertex_local.training import states
from vertex_local.training.records import Records

REPORT = """
import json, os, sys
import hypertune
flags = dict(each[2:].split("=", 1) for each in sys.argv[1:])
tuner = hypertune.HyperTune()
def report(tag, value, step=0):
    tuner.report_hyperparameter_tuning_metric(tag, value, step)
"""
LOSS = REPORT + "report('loss', (float(flags['x']) - 1) ** 2, 1)\n"
X = {"x": hpt.DoubleParameterSpec(min=0.0, max=3.0, scale="linear")}


def search(
    bucket: storage.Bucket, script: str, parameters: dict[str, Any] | None = None, **options: Any
) -> aiplatform.HyperparameterTuningJob:
    """Return a search whose trials run this Python text; nothing is sent yet."""
    container = {"image_uri": IMAGE, "command": ["python3", "-c", script], "args": ["--epochs=3"]}
    machine = {"machine_type": "n1-standard-4"}
    pool = {"machine_spec": machine, "replica_count": 1, "container_spec": container}
    job = aiplatform.CustomJob(
        "trial", [pool], base_output_dir=f"gs://{bucket.name}/out", staging_bucket=bucket.name
    )
    usual = {"max_trial_count": 4, "parallel_trial_count": 2, "metric_spec": {"loss": "minimize"}}
    return aiplatform.HyperparameterTuningJob(
        display_name=f"search in {bucket.name}",
        custom_job=job,
        parameter_spec=parameters or X,
        **usual | options,
    )


def folder_of(root: Root, resource_name: str) -> Any:
    return root.jobs / resource_name.rpartition("/")[2]


def printed(root: Root, trial: Trial) -> str:
    """Return what the script of a trial printed."""
    return str((folder_of(root, trial.custom_job) / "job.log").read_text())


def log_of(root: Root, job: aiplatform.HyperparameterTuningJob) -> str:
    return str((folder_of(root, job.resource_name) / "service.log").read_text())


def parameters(trial: Trial) -> dict[str, Any]:
    return {each.parameter_id: each.value for each in trial.parameters}


def values(job: aiplatform.HyperparameterTuningJob) -> list[float]:
    return [trial.final_measurement.metrics[0].value for trial in job.trials]


def test_a_search_runs_its_trials_with_parameters_folders_and_files_of_their_own(
    bucket: storage.Bucket, root: Root
) -> None:
    script = LOSS + "print(json.dumps({'argv': sys.argv[1:], 'env': dict(os.environ)}))\n"
    space = {
        "x": hpt.DoubleParameterSpec(min=0.0, max=3.0, scale="linear"),
        "rate": hpt.DoubleParameterSpec(min=1e-4, max=0.1, scale="log"),
        "late": hpt.DoubleParameterSpec(min=0.1, max=0.9, scale="reverse_log"),
        "layers": hpt.IntegerParameterSpec(min=1, max=3, scale="linear"),
        "batch": hpt.DiscreteParameterSpec(values=[16, 32, 128], scale="linear"),
        "optimiser": hpt.CategoricalParameterSpec(values=["adam", "sgd"]),
    }
    job = search(bucket, script, space, search_algorithm="random")
    job.run()
    assert job.state == JobState.JOB_STATE_SUCCEEDED
    assert [trial.id for trial in job.trials] == ["1", "2", "3", "4"]
    assert "Vertex AI uses another optimiser" in log_of(root, job)
    files = set()
    for trial in job.trials:
        assert trial.state == Trial.State.SUCCEEDED and trial.start_time <= trial.end_time
        seen, tried = json.loads(printed(root, trial)), parameters(trial)
        flags = dict(each[2:].split("=") for each in seen["argv"])
        assert seen["argv"][0] == "--epochs=3"  # the search's flags come after the given ones
        assert float(flags["x"]) == tried["x"] and 0 <= tried["x"] <= 3
        assert float(flags["rate"]) == tried["rate"] and 1e-4 <= tried["rate"] <= 0.1
        assert float(flags["late"]) == tried["late"] and 0.1 <= tried["late"] <= 0.9
        assert flags["layers"] == str(int(tried["layers"])) and type(tried["layers"]) is float
        assert (
            flags["batch"] in ("16.0", "32.0", "128.0") and float(flags["batch"]) == tried["batch"]
        )
        assert flags["optimiser"] == tried["optimiser"] in ("adam", "sgd")
        environment = seen["env"]
        assert environment["CLOUD_ML_TRIAL_ID"] == trial.id
        assert environment["AIP_MODEL_DIR"] == f"gs://{bucket.name}/out/{trial.id}/model/"
        assert (
            environment["AIP_CHECKPOINT_DIR"] == f"gs://{bucket.name}/out/{trial.id}/checkpoints/"
        )
        assert json.loads(environment["CLUSTER_SPEC"])["task"]["trial"] == trial.id
        files.add(environment["CLOUD_ML_HP_METRIC_FILE"])
        metric = trial.final_measurement.metrics[0]
        assert metric.metric_id == "loss" and metric.value == (tried["x"] - 1) ** 2
        assert aiplatform.CustomJob.get(trial.custom_job).state == JobState.JOB_STATE_SUCCEEDED
    assert len(files) == 4
    listed = aiplatform.HyperparameterTuningJob.list(filter=f'display_name="{job.display_name}"')
    assert [each.resource_name for each in listed] == [job.resource_name]
    assert listed[0].trials == []  # as on Vertex AI
    assert len(aiplatform.HyperparameterTuningJob.get(job.resource_name).trials) == 4
    job.delete()
    with pytest.raises(exceptions.NotFound):
        aiplatform.HyperparameterTuningJob.get(job.resource_name)


def test_two_trials_run_at_once_and_never_three(bucket: storage.Bucket, root: Root) -> None:
    script = LOSS + "import time; print(time.time()); time.sleep(0.5); print(time.time())\n"
    job = search(bucket, script)
    job.run()
    times = [tuple(map(float, printed(root, trial).split())) for trial in job.trials]
    at_once = [sum(start <= other[0] <= end for other in times) for start, end in times]
    assert max(at_once) == 2


def test_a_grid_has_so_many_trials_as_points(bucket: storage.Bucket) -> None:
    space = {
        "x": hpt.IntegerParameterSpec(min=1, max=2, scale="linear"),
        "how": hpt.CategoricalParameterSpec(values=["a", "b"]),
    }
    job = search(bucket, LOSS, space, max_trial_count=10, search_algorithm="grid")
    job.run()
    assert job.state == JobState.JOB_STATE_SUCCEEDED
    assert [tuple(parameters(trial).values()) for trial in job.trials] == [
        (1.0, "a"),
        (1.0, "b"),
        (2.0, "a"),
        (2.0, "b"),
    ]


@pytest.mark.parametrize(("selection", "step"), [("best", 2), ("last", 3)])
def test_the_best_or_the_last_measurement_counts(
    bucket: storage.Bucket, selection: str, step: int
) -> None:
    script = (
        REPORT
        + """
for step, (loss, accuracy) in enumerate([(0.5, 0.6), (0.2, 0.9), (0.4, 0.7)], start=1):
    report("loss", loss, step)
    report("accuracy", accuracy, step)
report("loss", float("nan"), 4)
report("accuracy", 1.0, 4)
"""
    )
    both = {"loss": "minimize", "accuracy": "maximize"}
    job = search(
        bucket, script, metric_spec=both, max_trial_count=1, measurement_selection=selection
    )
    job.run()
    measured = job.trials[0].final_measurement
    assert measured.step_count == step
    expected = {2: [("loss", 0.2), ("accuracy", 0.9)], 3: [("loss", 0.4), ("accuracy", 0.7)]}
    assert [(each.metric_id, each.value) for each in measured.metrics] == expected[step]


@pytest.mark.parametrize(
    ("script", "words"),
    [
        ("report('los', 1.0)\nreport('acc', 2.0)", "It reported 'acc', 'los'"),
        ("report('loss', float('nan'))", "NaN"),
        ("pass", "reported no metric"),
        ("sys.exit('cannot read x')", "exited with a non-zero status of 1. cannot read x"),
    ],
)
def test_trials_without_a_measurement_are_infeasible_and_say_why(
    bucket: storage.Bucket, root: Root, script: str, words: str
) -> None:
    job = search(bucket, REPORT + script, max_trial_count=8)
    with pytest.raises(RuntimeError, match="All of the first 3 trials failed"):
        job.run()
    assert job.state == JobState.JOB_STATE_FAILED
    assert words in job.error.message
    ended = [trial for trial in job.trials if "cancelled" not in trial.infeasible_reason]
    assert 3 <= len(ended) <= 4  # the others were never started
    for trial in job.trials:
        assert trial.state == Trial.State.INFEASIBLE
        assert list(trial.final_measurement.metrics) == []
    assert all(words in trial.infeasible_reason for trial in ended)


ONE_FAILS = (
    REPORT
    + """
if os.environ["CLOUD_ML_TRIAL_ID"] == "2":
    sys.exit("no")
report("loss", 1.0)
"""
)


@pytest.mark.parametrize(("allowed", "state"), [(0, "SUCCEEDED"), (2, "SUCCEEDED"), (1, "FAILED")])
def test_one_failed_trial_ends_a_search_only_if_it_must_not_be(
    bucket: storage.Bucket, allowed: int, state: str
) -> None:
    job = search(bucket, ONE_FAILS, max_failed_trial_count=allowed, parallel_trial_count=1)
    job.run(sync=False)
    job.wait_for_resource_creation()
    wait_until(lambda: job.done(), "the end of the search")
    assert job.state.name == f"JOB_STATE_{state}"
    ends = [trial.state.name for trial in job.trials]
    assert ends == ["SUCCEEDED", "INFEASIBLE", "SUCCEEDED", "SUCCEEDED"][: len(ends)]
    assert len(ends) == (2 if state == "FAILED" else 4)


def running_trials(
    job: aiplatform.HyperparameterTuningJob, root: Root, number: int = 2
) -> list[int]:
    """Return the process ids of a search's trials, once so many have printed theirs."""

    def pids() -> list[int]:
        jobs = aiplatform.CustomJob.list(filter=f'display_name:"{job.display_name}-trial-*"')
        logs = [folder_of(root, each.resource_name) / "job.log" for each in jobs]
        return [int(log.read_text()) for log in logs if log.exists() and log.read_text()]

    wait_until(lambda: len(pids()) == number, f"{number} trials")
    return pids()


ENDLESS = LOSS + "print(os.getpid(), flush=True)\nimport signal\nwhile True: signal.pause()\n"


def test_a_cancelled_search_leaves_no_process(bucket: storage.Bucket, root: Root) -> None:
    job = search(bucket, ENDLESS)
    job.run(sync=False)
    job.wait_for_resource_creation()
    pids = running_trials(job, root)
    with pytest.raises(exceptions.BadRequest, match="cancel"):
        job.api_client.delete_hyperparameter_tuning_job(name=job.resource_name)
    job.cancel()
    wait_until(lambda: job.state.name == "JOB_STATE_CANCELLED", "the end of the search")
    assert not any(map(alive, pids))
    assert job.error.code == 1
    assert [trial.state.name for trial in job.trials] == ["INFEASIBLE"] * 2
    job.cancel()  # has no effect any more
    assert job.state.name == "JOB_STATE_CANCELLED"


def recorded(root: Root) -> HyperparameterTuningJob:
    """Return the only search of a root as it is now; to ask the API may take seconds."""
    records = Records(root.database)
    try:
        return records.searches()[0]
    finally:
        records.close()


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
def test_a_search_goes_on_after_its_server_has_ended(
    own_root: Root, own_server: ServerRecord, how: signal.Signals
) -> None:
    """Two trials are done and two run when it happens: these run again, with the same values."""
    bucket = storage.Client().create_bucket("killed")
    sign = own_root.path / "restarted"
    script = (
        LOSS
        + f"""
print(os.getpid(), flush=True)
import time
while int(os.environ["CLOUD_ML_TRIAL_ID"]) > 2 and not os.path.exists({str(sign)!r}):
    time.sleep(0.02)
"""
    )
    job = search(bucket, script, max_trial_count=5)
    job.run(sync=False)
    job.wait_for_resource_creation()
    pids = running_trials(job, own_root, 4)
    wait_until(lambda: len(recorded(own_root).trials) == 4, "the third and fourth trial")
    before = recorded(own_root).trials
    os.kill(own_server.pid, how)
    wait_until(lambda: not any(map(alive, pids)), "the end of the trials")
    sign.touch()
    clients.configure_clients(own_root, daemon.ensure(own_root))
    wait_until(lambda: states.is_final(recorded(own_root).state), "the end of the search")
    found = aiplatform.HyperparameterTuningJob.get(job.resource_name)
    assert found.state == JobState.JOB_STATE_SUCCEEDED
    assert [trial.id for trial in found.trials] == ["1", "2", "3", "4", "5"]
    assert {trial.state.name for trial in found.trials} == {"SUCCEEDED"}
    assert list(map(parameters, found.trials))[:4] == list(map(parameters, before))
    jobs = [trial.custom_job for trial in found.trials]
    assert jobs[:2] == [trial.custom_job for trial in before][:2]
    assert not set(jobs[2:]) & {trial.custom_job for trial in before}
    assert "trial 3 runs again" in log_of(own_root, found)
