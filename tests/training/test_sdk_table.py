"""Tries every call and option of the SDK's training jobs; a table shows what came out.

The table stands in scripts/vertex_local/README.md. After a change, write it anew with

    REFRESH_README=1 .venv/bin/pytest -n0 tests/training/test_sdk_table.py
"""

from __future__ import annotations

import inspect
import os
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from google.api_core import exceptions
from google.cloud import aiplatform, storage
from google.oauth2.credentials import Credentials
from sdk_options import (
    EXPERIMENTS,
    GPU_IMAGE,
    KEY,
    MODEL,
    PLACE,
    REGION,
    SCRIPT,
    TRIAL,
    Case,
    NoEffect,
    Refused,
    Seen,
    Works,
    common_constructor_options,
    experiment_options,
    has_image,
    init_options,
    lifetime_options,
    machine_options,
    model_options,
    pipeline_options,
    tuning_options,
)
from test_jobs import wait_until
from test_packages import archive_of_sdk

from vertex_local.config import Root, ServerRecord
from vertex_local.training import states

PIPELINES = (
    aiplatform.CustomTrainingJob,
    aiplatform.CustomPythonPackageTrainingJob,
    aiplatform.CustomContainerTrainingJob,
)
KINDS = WORKS, NO_EFFECT, REFUSED = (
    "works",
    "accepted; the job's log says that it has no effect",
    "refused by name",
)
# Kept as records: see test_registry.py.
RECORDS = (aiplatform.Model, aiplatform.ModelRegistry, aiplatform.Tensorboard)
BEGIN, END = "<!-- made by tests/training/test_sdk_table.py -->", "<!-- end of what it made -->"
Outcome = tuple[str, str]  # which of the three, and the name in the API if it differs
Cases = dict[str, Case]
POOL = {
    "machine_spec": {"machine_type": "n1-standard-4"},
    "replica_count": 1,
    "container_spec": {"image_uri": GPU_IMAGE, "command": ["python3", "-c", SCRIPT]},
}


def parameters(call: Callable[..., Any]) -> set[str]:
    """Return the names of a call's options, as the installed SDK has them."""
    return set(inspect.signature(call).parameters) - {"self", "cls"}


class Trial:
    """One way to start a job: the options of its constructor and of the call that starts it.

    Args:
        make: the constructor.
        start: the name of the method that starts the job.
        constructor: a case for each option of the constructor.
        call: a case for each option of the method.
    """

    def __init__(
        self, make: Callable[..., Any], start: str, constructor: Cases, call: Cases
    ) -> None:
        self.make, self.start = make, start
        self.job: Any = None
        self.cases = {"constructor": constructor, "call": call}
        self.outcomes: dict[str, dict[str, Outcome]] = {"constructor": {}, "call": {}}

    def _values(self, wanted: Callable[[Case], bool]) -> tuple[dict[str, Any], dict[str, Any]]:
        constructor, call = (
            {name: case.value for name, case in self.cases[part].items() if wanted(case)}
            for part in ("constructor", "call")
        )
        return constructor, call

    @property
    def kind(self) -> type:
        """The class of the job."""
        if self.make is after_init:
            return aiplatform.CustomContainerTrainingJob
        return self.make if inspect.isclass(self.make) else aiplatform.CustomJob

    def begin(self) -> None:
        """Start a job with every option that does not have it refused; do not wait for it."""
        constructor, call = self._values(lambda case: not isinstance(case, Refused))
        self.job = self.make(**constructor)
        getattr(self.job, self.start)(**call)

    def finish(self, root: Root) -> None:
        """Wait for the job; note what became of each option."""
        job = self.job
        job.wait_for_resource_creation()
        wait_until(lambda: states.is_final(job.state), "the end of the job")
        record, search = job, None
        if isinstance(job, aiplatform.HyperparameterTuningJob):
            search = job.gca_resource
            record = aiplatform.CustomJob.get(job.trials[0].custom_job, location=REGION)
        elif not isinstance(job, aiplatform.CustomJob):
            name = job.gca_resource.training_task_metadata["backingCustomJob"]
            record = aiplatform.CustomJob.get(name, location=job.location)
        model = getattr(job.gca_resource, "model_to_upload", None)
        seen = Seen(record.gca_resource, root.jobs / record.name, model, search)
        for part, cases in self.cases.items():
            for name, case in cases.items():
                if isinstance(case, Works):
                    self.outcomes[part][name] = (WORKS if case.check(seen) else "NOT SEEN", "")
                if isinstance(case, NoEffect):
                    noted = "no effect here:" in seen.notes and case.name in seen.notes
                    self.outcomes[part][name] = (NO_EFFECT if noted else "NOT SAID", case.name)

    def refusals(self) -> None:
        """Try the options that have a job refused, group by group; note the refusals."""
        every = [case for cases in self.cases.values() for case in cases.values()]
        for group in {case.group for case in every if isinstance(case, Refused)}:
            message = self._refusal(group)
            for part, cases in self.cases.items():
                for name, case in cases.items():
                    if isinstance(case, Refused) and case.group == group:
                        named = "not in local mode: " in message and case.name in message
                        self.outcomes[part][name] = (REFUSED if named else "ACCEPTED", case.name)

    def _refusal(self, group: int) -> str:
        """Return the message with which a job with this group's options is refused."""
        constructor, call = self._values(
            lambda case: not isinstance(case, Refused) or case.group == group
        )
        if group in (1, 2) and "dataset" in self.cases["call"]:  # other ways to split it
            call["dataset"] = self.cases["call"]["dataset"].value
        if group == EXPERIMENTS:  # the SDK itself does not let them go together
            call.pop("tensorboard", None)
        if "sync" in call:
            call["sync"] = True
        try:
            with warnings.catch_warnings():  # the SDK leaves a script open when it adds autologging
                warnings.simplefilter("ignore", ResourceWarning)
                getattr(self.make(**constructor), self.start)(**call)
        except exceptions.MethodNotAllowed as err:
            return str(err)
        return ""


@pytest.fixture(scope="module")
def place(server: ServerRecord) -> Iterator[storage.Bucket]:
    """A bucket with a package in it."""
    bucket = storage.Client().create_bucket("sdk-table")
    bucket.blob("package.tar.gz").upload_from_string(archive_of_sdk(SCRIPT))
    bucket.blob("out/model/model.pt").upload_from_string("weights")  # of the jobs' models
    aiplatform.Model.upload(display_name="a model", model_id=MODEL, location=REGION)
    yield bucket


@pytest.fixture(scope="module")
def trials(
    server: ServerRecord, place: storage.Bucket, root: Root, tmp_path_factory: Any
) -> Iterator[dict[str, Trial]]:
    """All trials, with their outcomes."""
    script = tmp_path_factory.mktemp("script") / "script.py"
    script.write_text(SCRIPT)
    credentials = Credentials(token=server.token)
    made = all_trials(place.name, str(script), credentials)
    for trial in made.values():
        trial.begin()
    for trial in made.values():
        trial.refusals()
        trial.finish(root)
    before = dict(vars(aiplatform.initializer.global_config))
    made["init"] = init = Trial(
        after_init, "run", init_options(server.api_url, credentials), {"sync": Works(False, bool)}
    )
    init.begin()
    init.finish(root)
    init.refusals()
    vars(aiplatform.initializer.global_config).update(before)
    tried = custom_job(place.name, TRIAL)
    made["tuning"] = tuning = Trial(
        aiplatform.HyperparameterTuningJob, "run", *tuning_options(tried)
    )
    tuning.begin()
    tuning.finish(root)
    tuning.refusals()
    yield made


def after_init(**options: Any) -> aiplatform.CustomContainerTrainingJob:
    """Call `aiplatform.init`; return a job that has no options of its own."""
    aiplatform.init(**options)
    return aiplatform.CustomContainerTrainingJob("a job", GPU_IMAGE, ["python3", "-c", SCRIPT])


def custom_job(bucket: str, script: str) -> aiplatform.CustomJob:
    container = {"image_uri": GPU_IMAGE, "command": ["python3", "-c", script]}
    pool = POOL | {"container_spec": container}
    return aiplatform.CustomJob("a job", [pool], staging_bucket=f"gs://{bucket}")


def all_trials(bucket: str, script: str, credentials: Credentials) -> dict[str, Trial]:
    """Return a trial for each way to start a job."""
    common = common_constructor_options(bucket, credentials)
    pipeline = common | model_options() | {"container_uri": Works(GPU_IMAGE, has_image)}
    scripted: Cases = {
        "script_path": Works(script, lambda seen: "argv" in seen.printed),
        "requirements": Works(
            ["numpy>=1"], lambda seen: any(seen.folder.rglob("*.egg-info/requires.txt"))
        ),
    }
    packaged: Cases = {
        "python_package_gcs_uri": Works(
            f"gs://{bucket}/package.tar.gz",
            lambda seen: (
                list(seen.pool.python_package_spec.package_uris)
                == [f"gs://{bucket}/package.tar.gz"]
            ),
        ),
        "python_module_name": Works("trainer.task", lambda seen: "argv" in seen.printed),
    }
    contained: Cases = {
        "command": Works(["python3", "-c", SCRIPT], lambda seen: "argv" in seen.printed)
    }
    run = pipeline_options(bucket)
    base: Cases = {name: run[name] for name in ("base_output_dir",)}
    key: Cases = {"encryption_spec_key_name": Refused(KEY, "encryption_spec")}
    alone: Cases = {"persistent_resource_id": Refused("mine", "persistent_resource_id")}
    job_run = lifetime_options() | experiment_options()
    job_submit = {name: case for name, case in job_run.items() if name != "sync"}
    local = machine_options() | {
        name: run[name] for name in ("args", "environment_variables", "base_output_dir")
    }
    local["enable_autolog"] = Refused(True, "metadataStores", EXPERIMENTS)
    script_job, package_job, container_job = PIPELINES
    return {
        "script.run": Trial(script_job, "run", pipeline | scripted, run),
        "script.submit": Trial(script_job, "submit", pipeline | scripted, run),
        "package.run": Trial(package_job, "run", pipeline | packaged, run),
        "container.run": Trial(container_job, "run", pipeline | contained, run),
        "container.submit": Trial(container_job, "submit", pipeline | contained, run),
        "local": Trial(
            aiplatform.CustomJob.from_local_script,
            "run",
            common | local | scripted | key | alone | {"container_uri": pipeline["container_uri"]},
            job_run,
        ),
        "job": Trial(
            aiplatform.CustomJob,
            "submit",
            common | base | key | alone | {"worker_pool_specs": Works([POOL], has_image)},
            job_submit,
        ),
    }


MEMBERS: dict[str, Callable[[Any], bool]] = {
    "create_time": lambda job: job.create_time <= job.update_time,
    "start_time": lambda job: job.start_time >= job.create_time,
    "end_time": lambda job: job.end_time >= job.start_time,
    "update_time": lambda job: job.update_time == job.end_time,
    "display_name": lambda job: job.display_name == "a name",
    "name": lambda job: job.resource_name.endswith(f"/{job.name}"),
    "resource_name": lambda job: f"/locations/{REGION}/" in job.resource_name,
    "labels": lambda job: job.labels == {"a": "b"},
    "state": lambda job: job.state.name.endswith("_STATE_SUCCEEDED"),
    "error": lambda job: not getattr(job.error, "code", 0),
    "has_failed": lambda job: job.has_failed is False,
    "gca_resource": lambda job: job.gca_resource.name == job.resource_name,
    "job_spec": lambda job: len(job.job_spec.worker_pool_specs) == 1,
    "encryption_spec": lambda job: not job.encryption_spec,
    "network": lambda job: not job.network,
    "web_access_uris": lambda job: job.web_access_uris == {},
    "to_dict": lambda job: job.to_dict()["displayName"] == "a name",
    "done": lambda job: job.done(),
    "wait": lambda job: job.wait() is None,
    "wait_for_completion": lambda job: job.wait_for_completion() is None,
    "wait_for_resource_creation": lambda job: job.wait_for_resource_creation() is None,
    "trials": lambda job: [each.id for each in job.trials] == ["1", "2"],
    "get_model": lambda job: (
        job.get_model().version_id == job.gca_resource.model_to_upload.version_id
    ),
    "get": lambda job: type(job).get(**GET, resource_name=job.name).state == job.state,
    "list": lambda job: job.name in [each.name for each in type(job).list(**LIST)],
    "cancel": lambda job: job.cancel() is None and job.state.name.endswith("SUCCEEDED"),
    "delete": lambda job: job.delete(sync=True) is None and raises("does not exist", job.done),
}
GET: dict[str, Any] = {"project": "vertex-local", "location": REGION, "credentials": None}
LIST = GET | {"filter": "labels.a=b", "order_by": "create_time desc"}
TRIED = {
    "get": {"resource_name", *GET},
    "list": set(LIST),
    "delete": {"sync"},
    "get_model": {"sync"},
}


def raises(words: str, call: Callable[[], Any]) -> bool:
    """Return whether a call fails with these words."""
    try:
        call()
    except (RuntimeError, exceptions.GoogleAPICallError) as err:
        return words in str(err)
    return False


@pytest.fixture(scope="module")
def members(trials: dict[str, Trial]) -> dict[str, Outcome]:
    """What became of each method and property of the five classes of jobs that have run."""
    found: dict[str, Outcome] = {}
    for name in ("script.run", "package.run", "container.run", "job", "tuning"):
        job = trials[name].job
        for member, check in MEMBERS.items():
            if hasattr(type(job), member):
                outcome = (WORKS if check(job) else f"NOT SEEN IN {name}", "")
                found[member] = max(found.get(member, outcome), outcome)
    return found


def others() -> list[type]:
    """Return the SDK's other classes: those for which local mode has no resources at all."""
    known = {*PIPELINES, aiplatform.CustomJob, aiplatform.HyperparameterTuningJob, *RECORDS}
    names = [name for name in dir(aiplatform) if not name.startswith("_")]
    found = (getattr(aiplatform, name) for name in names)
    return [each for each in found if inspect.isclass(each) and each not in known]


PARENTS = {
    "entity_type_name": f"{PLACE}/featurestores/f/entityTypes/e",
    "experiment": "an-experiment",
    "featurestore_name": "f",
    "model": f"{PLACE}/models/1",
    "tensorboard_experiment_name": f"{PLACE}/tensorboards/1/experiments/e",
    "tensorboard_name": "1",
    "tensorboard_run_name": f"{PLACE}/tensorboards/1/experiments/e/runs/r",
}


def ask_for(kind: type, client: Any) -> None:
    """Ask for resources of this class: the ones that there are, or a new one to be trained."""
    if schemas := getattr(kind, "_supported_training_schemas", ()):
        pipeline = {"display_name": "x", "training_task_definition": schemas[0]}
        client.create_training_pipeline(parent=PLACE, training_pipeline=pipeline)
        return
    call = getattr(kind, "list", None) or kind
    options = inspect.signature(call).parameters
    required = {name: value for name, value in PARENTS.items() if name in options}
    call(**required)


def test_every_other_class_is_refused_by_name(trials: dict[str, Trial]) -> None:
    client = trials["script.run"].job.api_client
    for kind in others():
        with pytest.raises(exceptions.MethodNotAllowed, match="not in local mode: "):
            ask_for(kind, client)


def test_every_option_of_the_installed_sdk_is_tried(
    trials: dict[str, Trial], members: dict[str, Outcome]
) -> None:
    for trial in trials.values():
        make = aiplatform.init if trial.make is after_init else trial.make
        assert set(trial.outcomes["constructor"]) == parameters(make), make
        if make is not aiplatform.init:
            assert set(trial.outcomes["call"]) == parameters(getattr(trial.kind, trial.start))
        apart = {"run", "submit", "from_local_script", "client_class"}
        broken = {"preview"}  # the SDK itself fails there: it calls a name as if it were a class
        public = {name for name in dir(trial.kind) if not name.startswith("_")}
        assert public - apart - broken <= set(members)
        for name, options in TRIED.items():
            if hasattr(trial.kind, name):
                assert parameters(getattr(trial.kind, name)) == options


def test_every_option_does_something_or_says_that_it_does_not(
    trials: dict[str, Trial], members: dict[str, Outcome]
) -> None:
    for trial in trials.values():
        for outcomes in (*trial.outcomes.values(), members):
            odd = {name: it for name, it in outcomes.items() if it[0] not in KINDS}
            assert not odd, trial.make


def test_the_readme_shows_what_came_out(
    trials: dict[str, Trial], members: dict[str, Outcome], repo: Path
) -> None:
    readme = repo / "scripts" / "vertex_local" / "README.md"
    text = readme.read_text()
    before, rest = text.split(BEGIN)
    shown, after = rest.split(END)
    table = f"\n\n{render(trials, members)}\n\n"
    if os.environ.get("REFRESH_README"):
        readme.write_text(before + BEGIN + table + END + after)
    else:
        assert shown == table, "see the docstring of this file"


def render(trials: dict[str, Trial], members: dict[str, Outcome]) -> str:
    """Return the table: a line for each call, one for calls with the same outcomes."""
    calls: dict[str, dict[str, Outcome]] = {}
    for trial in trials.values():
        make = "aiplatform.init" if trial.make is after_init else trial.make.__qualname__
        calls[f"`{make}(…)`"] = trial.outcomes["constructor"]
        if trial.make is not after_init:
            calls[f"`{trial.kind.__name__}.{trial.start}(…)`"] = trial.outcomes["call"]
    calls["methods and properties of these jobs"] = members
    calls[", ".join(f"`{kind.__name__}`" for kind in RECORDS)] = {
        "records of them, with versions and aliases": (WORKS, ""),
        "deploying, predicting, evaluating": (REFUSED, ""),
    }
    calls["other classes of `aiplatform`"] = {each.__name__: (REFUSED, "") for each in others()}
    rows: dict[tuple[str, ...], list[str]] = {}
    for label, outcomes in calls.items():
        rows.setdefault(cells(outcomes), []).append(label)
    lines = [f"| Call | {' | '.join(kind.capitalize() for kind in KINDS)} |", "|---|---|---|---|"]
    lines += [f"| {', '.join(labels)} | {' | '.join(row)} |" for row, labels in rows.items()]
    return "\n".join(lines)


def cells(outcomes: dict[str, Outcome]) -> tuple[str, ...]:
    """Return the options of a call, by what became of them; with their names in the API."""
    texts = []
    for kind in KINDS:
        by_name: dict[str, list[str]] = {}
        for option, (what, name) in sorted(outcomes.items()):
            if what == kind:
                by_name.setdefault("" if name in ("", option) else name, []).append(f"`{option}`")
        texts.append(
            "; ".join(
                ", ".join(options) + (f" (`{name}`)" if name else "")
                for name, options in by_name.items()
            )
        )
    return tuple(texts)
