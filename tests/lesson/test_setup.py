"""The set-up of the notebooks: the two names, and whom the clients talk to."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import nbformat
import pytest
from google.api_core.exceptions import Forbidden
from google.auth.exceptions import DefaultCredentialsError, RefreshError
from google.cloud import aiplatform, storage
from test_jobs import wait_until

from lesson import setup
from lesson.setup import SetupError
from vertex_local.config import ServerRecord
from vertex_local.storage.names import bucket_name_problem

NOTEBOOKS = sorted((Path(__file__).resolve().parents[2] / "notebooks").glob("*.ipynb"))


# ------------------------------------------------------------------------------ names


@pytest.mark.parametrize(
    ("name", "label"),
    [
        ("DOE", "doe"),
        ("van der Berg", "van-der-berg"),
        ("O'Brien", "o-brien"),
        ("García Márquez", "garcia-marquez"),
        ("  Nguyễn ", "nguyen"),
        ("Smith_Jones", "smith-jones"),
        ("李", "李"),
        ("Müller-Lüdenscheidt", "muller-ludenscheidt"),
        ("rehearsal-20261126-201500", "rehearsal-20261126-201500"),
    ],
)
def test_a_name_as_people_have_it_becomes_a_label(name: str, label: str) -> None:
    assert setup.check_names("doe-titanic", name) == label
    assert re.fullmatch(r"[\w-]{1,63}", label) and label == label.lower()  # Google's rule


@pytest.mark.parametrize("name", ["", "   ", "!?", "🚢", None, 42, ["Doe"], "x" * 64])
def test_a_name_that_cannot_mark_a_job_is_refused_by_its_variable(name: Any) -> None:
    with pytest.raises(SetupError, match=r"^LAST_NAME = .*(letter|at most 63)"):
        setup.check_names("doe-titanic", name)


def test_jobs_can_be_launched_and_found_under_such_names(bucket: storage.Bucket) -> None:
    jobs = {}
    for name in ("van der Berg", "O'Brien", "García Márquez", "李", "x" * 63):
        owner = setup.check_names(bucket.name, name)
        jobs[owner] = aiplatform.CustomContainerTrainingJob(
            display_name=f"{name}_pytorch_nn_gpu_20261126-201500",
            container_uri="us-docker.pkg.dev/vertex-ai/training/pytorch-xla.2-4.py310:latest",
            command=["python3", "-c", "print(1)"],
            labels={"owner": owner},
            staging_bucket=f"gs://{bucket.name}",
        )
        jobs[owner].submit(machine_type="n1-standard-4")
    for owner, job in jobs.items():
        wait_until(job.done, "the end of the job")
        assert job.state.name == "PIPELINE_STATE_SUCCEEDED"
        found = aiplatform.CustomContainerTrainingJob.list(filter=f'labels.owner="{owner}"')
        assert [each.display_name for each in found] == [job.display_name]


@pytest.mark.parametrize(
    ("name", "rule"),
    [
        ("gs://doe-titanic", "leave out gs://.*'doe-titanic'"),
        ("gs://doe-titanic/data", "leave out gs://.*'doe-titanic'"),
        ("https://storage.googleapis.com/doe", "leave out https://.*'doe-titanic'"),
        ("Doe_Titanic", "lowercase letters.*'doe-titanic'"),
        ("DOE-TITANIC", "lowercase letters.*'doe-titanic'"),
        ("doe-titanic/data", "no slash.*'doe-titanic'"),
        ("doe titanic", "no spaces.*'doe-titanic'"),
        ("doe-titanic ", "no spaces.*'doe-titanic'"),
        ("doe.titanic", "letters"),
        ("garcía-titanic", "letters.*'garcia-titanic'"),
        ("李-titanic", "letters.*such as 'titanic'"),
        ("Google-Data", "letters.*such as 'doe-titanic'"),
        ("do", "3 to 63"),
        ("x" * 64, "3 to 63 characters, and this one has 64"),
        ("-doe-titanic", "begins and ends with a letter"),
        ("doe-titanic_", "begins and ends with a letter"),
        ("google-titanic", "goog"),
        ("my-g00gle-data", "goog"),
        ("", "between quotation marks"),
        ("   ", "between quotation marks"),
        (None, "between quotation marks"),
    ],
)
def test_a_bucket_name_is_refused_by_its_variable_and_its_rule(name: Any, rule: str) -> None:
    with pytest.raises(SetupError, match=f"^BUCKET_NAME = .*{rule}") as caught:
        setup.check_names(name, "DOE")
    for suggested in re.findall("such as '(.*)'", str(caught.value)):
        assert setup.bucket_problem(suggested) == ""


@pytest.mark.parametrize(
    "name", ["doe-titanic", "sinkorswim-johndoe-titanic", "a1b", "doe_titanic", "x" * 63, "007"]
)
def test_what_the_lesson_accepts_is_a_bucket_name(name: str) -> None:
    assert setup.bucket_problem(name) == ""
    assert bucket_name_problem(name) is None


def test_the_message_stands_alone_in_jupyter() -> None:
    shown = SetupError("x\n  " + "a command " * 9)._render_traceback_()
    assert shown == ["SetupError: x", "  " + "a command " * 9]  # to be copied in one piece


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.name)
def test_the_cell_in_which_names_are_edited_checks_them(path: Path) -> None:
    code = [c.source for c in nbformat.read(path, 4).cells if c.cell_type == "code"]
    for source in code:
        if re.search(r"^BUCKET_NAME = ", source, re.MULTILINE):
            assert "setup.check_names(BUCKET_NAME, LAST_NAME)" in source


# ------------------------------------------------------------------------------ whom they talk to

CLOUD = "https://storage.googleapis.com"


@pytest.fixture
def jobs_endpoint(server: ServerRecord) -> Iterator[Any]:
    """Set where the SDK's jobs go, and set it back."""
    config = aiplatform.initializer.global_config
    before = config.api_endpoint

    def set_to(endpoint: str | None) -> None:
        config._api_endpoint = endpoint

    yield set_to
    config._api_endpoint = before


def client(endpoint: str) -> Any:
    return SimpleNamespace(api_endpoint=endpoint, project="my-project")


def test_in_local_mode_nothing_costs_money(server: ServerRecord) -> None:
    said = setup.where(storage.Client())
    assert "THIS MACHINE" in said and "Free" in said and "GOOGLE" not in said
    assert setup.where() == said


def test_on_google_cloud_the_project_that_pays_is_named(jobs_endpoint: Any) -> None:
    for endpoint in (None, "us-central1-aiplatform.googleapis.com", "https://10.0.0.5"):
        jobs_endpoint(endpoint)
        said = setup.where(client(CLOUD))
        assert "GOOGLE CLOUD, project my-project" in said and "cost money" in said
        assert "THIS MACHINE" not in said
    assert "GOOGLE CLOUD. " in setup.where()


def test_a_mixture_is_said_loudly(jobs_endpoint: Any) -> None:
    jobs_endpoint(None)
    said = setup.where(client("http://127.0.0.1:4443"))
    assert "MIXED" in said and "training jobs on GOOGLE CLOUD, project my-project" in said
    jobs_endpoint("http://localhost:8080")
    assert "but storage on GOOGLE CLOUD" in setup.where(client(CLOUD))


@pytest.mark.parametrize(
    ("endpoint", "here"),
    [
        ("http://127.0.0.1:1", True),
        ("http://[::1]:1", True),
        ("localhost:8080", True),
        ("https://localhost.example.com", False),
        ("https://127.0.0.1.example.com", False),
        ("", False),
        (None, False),
    ],
)
def test_only_this_machine_is_here(endpoint: str | None, here: bool) -> None:
    assert setup.is_here(endpoint) is here


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.name)
def test_every_notebook_says_whom_it_talks_to_before_it_makes_anything(path: Path) -> None:
    code = [c.source for c in nbformat.read(path, 4).cells if c.cell_type == "code"]
    before, said, _ = "\n".join(code).partition("print(setup.where(")
    assert said
    assert not re.search(r"open_bucket|create_bucket|upload_|\.run\(|Job\(", before)


# ------------------------------------------------------------------------------ clients and bucket


def test_without_an_account_the_way_out_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse() -> None:
        raise DefaultCredentialsError("none")

    monkeypatch.setattr(storage, "Client", refuse)
    with pytest.raises(
        SetupError, match=r"gcloud auth application-default login(.|\n)*workshop.py"
    ):
        setup.storage_client()


def test_the_bucket_is_made_once_with_the_passengers(
    server: ServerRecord, capsys: pytest.CaptureFixture[str]
) -> None:
    names = storage.Client()
    made = setup.open_bucket(names, "test-of-setup", "us-central1")
    assert "Created gs://test-of-setup" in capsys.readouterr().out
    assert made.blob("titanic_train.csv").download_as_bytes() == setup.PASSENGERS.read_bytes()
    setup.open_bucket(names, "test-of-setup", "us-central1")
    assert capsys.readouterr().out == ""


def test_somebody_elses_bucket_is_said_by_the_variable() -> None:
    def forbid(name: str) -> None:
        raise Forbidden("403 no access")

    theirs = SimpleNamespace(lookup_bucket=forbid, project="p")
    with pytest.raises(SetupError, match=r"BUCKET_NAME = 'data': .*choose another.*Storage Admin"):
        setup.open_bucket(theirs, "data", "us-central1")


def test_an_expired_login_is_said_with_the_command() -> None:
    def expired(name: str) -> None:
        raise RefreshError("Reauthentication is needed")

    with pytest.raises(SetupError, match=r"Reauthentication is needed(.|\n)*\n  gcloud auth"):
        setup.open_bucket(SimpleNamespace(lookup_bucket=expired), "data", "us-central1")


def test_missing_packages_are_named_with_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    setup.check_packages()
    monkeypatch.setattr(setup, "PACKAGES", [*setup.PACKAGES, "no-such-package"])
    with pytest.raises(SetupError, match=r"-m pip install no-such-package(.|\n)*Restart Kernel"):
        setup.check_packages()


def test_the_versions_are_shown(capsys: pytest.CaptureFixture[str]) -> None:
    setup.check_packages()
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 1 + len(setup.PACKAGES)
    assert all(re.fullmatch(r"\[OK\] \S+ \d\S*", line) for line in lines)
