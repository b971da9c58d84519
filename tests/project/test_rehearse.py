"""The rehearsal on Google Cloud, as far as it can be tried without it: against local mode.

Service Usage and the image registry are outside local mode; their answers are given here in their
documented form.
"""

from __future__ import annotations

import itertools
import runpy
from pathlib import Path
from typing import Any

import nbformat
import preflight
import pytest
import rehearse
from google.cloud import aiplatform, storage
from google.oauth2.credentials import Credentials
from nbformat.v4 import new_code_cell, new_notebook
from preflight import Plan

from vertex_local.config import DEFAULT_REGION, PROJECT, LocalModeError, ServerRecord

T4 = "NVIDIA_TESLA_T4"
IMAGE = "us-docker.pkg.dev/vertex-ai/training/pytorch-gpu.2-4.py310:latest"
_numbers = itertools.count()
METRIC = "aiplatform.googleapis.com%2Fcustom_model_training_nvidia_t4_gpus"


class Answers:
    """Answers requests by a part of their address: a status, or a status with JSON."""

    def __init__(self, **changes: Any) -> None:
        self.known: dict[str, Any] = {
            "/services/aiplatform.googleapis.com": {"state": "ENABLED"},
            "/services/storage.googleapis.com": {"state": "ENABLED"},
            METRIC: limits(("", "0"), ("us-east1", "0"), (DEFAULT_REGION, "2")),
            "/manifests/latest": {},
        } | changes
        self.asked: list[str] = []

    def get(self, url: str, **_options: Any) -> Any:
        self.asked.append(url)
        found = [self.known[part] for part in sorted(self.known, key=len) if part in url][-1]
        if isinstance(found, Exception):
            raise found
        status, body = (found, {}) if isinstance(found, int) else (200, found)
        return type("Answer", (), {"status_code": status, "json": lambda self: body})()


def limits(*regions: tuple[str, str]) -> dict[str, Any]:
    buckets = [
        {"effectiveLimit": limit, **({"dimensions": {"region": region}} if region else {})}
        for region, limit in regions
    ]
    return {"consumerQuotaLimits": [{"quotaBuckets": buckets}]}


@pytest.fixture
def plan(server: ServerRecord) -> Plan:
    name = f"rehearsal-bucket-{next(_numbers)}"
    jobs = [("n1-standard-4", None, IMAGE), ("n1-standard-8", T4, IMAGE)]
    credentials = Credentials(token=server.token)
    return Plan(PROJECT, name, DEFAULT_REGION, jobs, credentials, Answers())


def changed(plan: Plan, **changes: Any) -> Plan:
    return Plan(**{**vars(plan), **changes})


def test_the_preflight_passes_and_costs_nothing(
    plan: Plan, capsys: pytest.CaptureFixture[str]
) -> None:
    assert rehearse.rehearse(plan, [], yes=False) == 0
    printed = capsys.readouterr().out
    assert "[FAIL]" not in printed and "[not checked]" not in printed
    for words in (
        "credentials for the project vertex-local",
        "API aiplatform.googleapis.com is enabled",
        f"gs://{plan.bucket} does not exist; the notebook would make it",
        f"quota for {T4} in us-central1: 2",
        f"image {IMAGE} is there",
        "price: Together about $",
    ):
        assert f"[OK]          {words}" in printed
    assert "Nothing was started. Add --yes" in printed
    assert storage.Client().lookup_bucket(plan.bucket) is None
    assert len(plan.http.asked) == 4


@pytest.mark.parametrize(
    ("answers", "line"),
    [
        (
            {"/services/storage.googleapis.com": {"state": "DISABLED"}},
            "[FAIL]        The API storage",
        ),
        ({METRIC: limits(("", "0"), ("us-east1", "4"))}, f"[FAIL]        The quota for {T4}"),
        ({METRIC: limits(("us-east1", "4"))}, "[not checked] quota: the answer about"),
        ({METRIC: 403}, "[not checked] quota: the API answers with status 403"),
        ({"/manifests/latest": 404}, "[FAIL]        The image us-docker"),
        ({"/manifests/latest": 401}, "[not checked] images: us-docker.pkg.dev answers with status"),
        (
            {"/manifests/latest": preflight.requests.ConnectionError("no route")},
            "[not checked] images: us-docker.pkg.dev does not answer (no route)",
        ),
    ],
)
def test_each_check_can_fail_or_stay_open(
    plan: Plan, answers: dict[str, Any], line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    status = rehearse.rehearse(changed(plan, http=Answers(**answers)), [], yes=False)
    printed = capsys.readouterr().out
    assert line in printed, printed
    assert status == (1 if "[FAIL]" in line else 0)


def test_without_an_account_nothing_is_started(
    plan: Plan, capsys: pytest.CaptureFixture[str]
) -> None:
    assert rehearse.rehearse(changed(plan, credentials=None), [Path("no such")], yes=True) == 1
    printed = capsys.readouterr().out
    assert "gcloud auth application-default login" in printed and "Nothing was started" in printed


WORDS = ["--project", "p", "--bucket", "doe-new", "--region", DEFAULT_REGION, "--yes"]


def test_a_shell_of_local_mode_is_no_place_for_it(
    server: ServerRecord, capsys: pytest.CaptureFixture[str]
) -> None:
    assert rehearse.main(WORDS) == 1
    assert "this shell is set up for local mode" in capsys.readouterr().err


def test_the_command_says_what_is_missing_without_an_account(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("VERTEX_LOCAL_API", raising=False)
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(tmp_path / "no-account.json"))
    assert rehearse.main(WORDS) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("[FAIL]        No Google account was found. Run `gcloud auth")
    for number, check in enumerate(("services", "bucket", "quota", "images"), start=1):
        assert lines[number] == f"[not checked] {check}: it needs an account"
    assert lines[-1].startswith("Nothing was started.")


def test_a_bucket_with_something_in_it_is_refused(
    plan: Plan, bucket: storage.Bucket, capsys: pytest.CaptureFixture[str]
) -> None:
    bucket.blob("thesis.txt").upload_from_string("years of work")
    used = changed(plan, bucket=bucket.name)
    assert rehearse.rehearse(used, [Path("no such")], yes=True) == 1
    assert f"gs://{bucket.name} is not empty" in capsys.readouterr().out
    assert bucket.blob("thesis.txt").exists()


def test_a_bucket_elsewhere_is_refused(plan: Plan, capsys: pytest.CaptureFixture[str]) -> None:
    storage.Client().create_bucket(plan.bucket, location="europe-west1")
    assert rehearse.rehearse(plan, [], yes=True) == 1
    assert f"gs://{plan.bucket} is in europe-west1" in capsys.readouterr().out


def test_what_local_mode_does_not_know_is_not_called_right(
    plan: Plan, capsys: pytest.CaptureFixture[str]
) -> None:
    storage.Client().create_bucket(plan.bucket, location=plan.region)
    assert preflight.report(plan)
    assert "[not checked] bucket: " in capsys.readouterr().out  # permissions are refused there


LESSON = [
    'BUCKET_NAME = "doe-titanic"  # edit: your own bucket',
    'LAST_NAME = "DOE"  # edit\nREGION = "europe-west4"',
    "from google.cloud import storage\n"
    "bucket = storage.Client().create_bucket(BUCKET_NAME, location=REGION)\n"
    "bucket.blob('data/x.txt').upload_from_string(LAST_NAME)",
    "print('made', bucket.name, bucket.location, LAST_NAME)",
]


def test_the_notebooks_run_with_the_names_set_and_everything_is_removed(
    plan: Plan, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    good, bad = tmp_path / "good.ipynb", tmp_path / "bad.ipynb"
    nbformat.write(new_notebook(cells=[new_code_cell(text) for text in LESSON]), good)
    cells = [*LESSON[:2], "!exit 3", "print('never')"]
    nbformat.write(new_notebook(cells=[new_code_cell(text) for text in cells]), bad)
    assert rehearse.rehearse(plan, [good, bad], yes=True) == 1
    printed = capsys.readouterr().out
    assert "[4/4] ok" in printed  # the good one
    assert "bad.ipynb: code cell 3 of 4 failed: `exit 3`: exit status 3" in printed
    assert f"deleted gs://{plan.bucket}/data/x.txt" in printed
    assert f"deleted the bucket gs://{plan.bucket}; nothing is left" in printed
    assert storage.Client().lookup_bucket(plan.bucket) is None
    (kept,) = (
        line.split(": ")[1]
        for line in printed.splitlines()
        if "good.ipynb" in line and "copy" in line
    )
    shown = nbformat.read(kept, as_version=4).cells[3].outputs[0].text
    assert shown.lower().startswith(f"made {plan.bucket} us-central1 rehearsal-")


def test_a_job_that_still_runs_is_cancelled_and_its_objects_go(
    plan: Plan, bucket: storage.Bucket, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    script = tmp_path / "task.py"
    script.write_text("import time\ntime.sleep(600)\n")
    job = aiplatform.CustomTrainingJob(
        display_name="left-running",
        script_path=str(script),
        container_uri=IMAGE.replace("gpu", "xla"),
        staging_bucket=f"gs://{bucket.name}",
        labels={"owner": "rehearsal-x"},
    )
    job.submit(machine_type="n1-standard-4")
    assert rehearse.clean_up(changed(plan, bucket=bucket.name), "rehearsal-x", existed=True)
    printed = capsys.readouterr().out
    assert "cancelled the job left-running" in printed
    assert "left: 2 records of jobs" in printed
    assert f"left: the bucket gs://{bucket.name}, empty as before" in printed
    assert job.state.name == "PIPELINE_STATE_CANCELLED"
    assert list(bucket.list_blobs()) == []


def test_each_name_must_be_set_in_one_line() -> None:
    copied = new_notebook(cells=[new_code_cell("A = 1\nB = 2"), new_code_cell("A = 3")])
    with pytest.raises(LocalModeError, match="A is set in 2 lines"):
        rehearse.set_names(copied, {"A": "x"})
    with pytest.raises(LocalModeError, match="C is set in 0 lines"):
        rehearse.set_names(copied, {"C": "x"})
    rehearse.set_names(copied, {"B": "it's"})
    assert copied.cells[0].source == 'A = 1\nB = "it\'s"'


def test_the_jobs_of_the_lesson_are_found() -> None:
    found = [preflight.jobs(rehearse._code(path)) for path in rehearse.NOTEBOOKS]
    assert [[(machine, accelerator) for machine, accelerator, _ in jobs] for jobs in found] == [
        [("n1-standard-4", None), ("n1-standard-8", T4)],
        [("n1-standard-4", None), ("n1-standard-4", None)],  # two replicas of one job
        [("n1-standard-4", None)],
    ]


def test_every_notebook_with_a_job_can_be_rehearsed(repo: Path) -> None:
    with_jobs = [
        path
        for path in sorted((repo / "notebooks").glob("*.ipynb"))
        if "aiplatform.CustomTrainingJob(" in path.read_text()
        and "faults.add(" not in path.read_text()  # needs local mode, and stops elsewhere
    ]
    assert with_jobs == rehearse.NOTEBOOKS
    for path in with_jobs:
        copied = rehearse.files.read(path)
        rehearse.set_names(copied, {"BUCKET_NAME": "b", "LAST_NAME": "rehearsal", "REGION": "r"})
        # By this label the clean-up finds what still runs.
        jobs = "".join(rehearse._code(path)).split("aiplatform.CustomTrainingJob(\n")[1:]
        assert jobs and all("labels=" in text.split("\n)")[0] for text in jobs)


def test_the_command_hands_its_arguments_on(
    repo: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    workshop = runpy.run_path(str(repo / "scripts" / "workshop.py"))
    called: list[list[str]] = []
    names = workshop["main"].__globals__
    monkeypatch.setitem(names, "install", lambda: None)
    monkeypatch.setattr(
        names["subprocess"], "call", lambda command, **_: called.append(command) or 0
    )
    assert workshop["main"](["rehearse", "--project", "p", "--bucket", "b", "--region", "r"]) == 0
    assert called[0][1:] == [
        str(repo / "scripts" / "maintainers" / "rehearse.py"),
        *("--project", "p", "--bucket", "b", "--region", "r"),
    ]
