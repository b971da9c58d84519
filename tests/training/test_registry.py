"""Models and TensorBoard instances as records: what public notebooks do with them, and what not."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import cast

import pytest
from google.api_core import exceptions
from google.cloud import aiplatform, storage
from google.cloud.aiplatform_v1.types import CustomJob
from test_jobs import make_job

from vertex_local.config import Root, ServerRecord
from vertex_local.console import views
from vertex_local.training.records import Records

SERVE = "us-docker.pkg.dev/vertex-ai/prediction/pytorch-cpu.2-4:latest"
WRITE = """
import os
from google.cloud import storage
bucket, _, folder = os.environ["AIP_MODEL_DIR"].removeprefix("gs://").partition("/")
storage.Client().bucket(bucket).blob(folder + "model.pt").upload_from_string("weights")
"""


def upload(**options: object) -> aiplatform.Model:
    return aiplatform.Model.upload(
        **{
            "display_name": "a model",
            "artifact_uri": "gs://b/model",
            "serving_container_image_uri": SERVE,
        }
        | options
    )


def versions(model: aiplatform.Model) -> dict[str, list[str]]:
    return {
        each.version_id: each.version_aliases for each in model.versioning_registry.list_versions()
    }


def test_a_job_that_shall_upload_a_model_returns_it(script: Path, bucket: storage.Bucket) -> None:
    job = make_job(script, bucket, WRITE, model_serving_container_image_uri=SERVE)
    model = job.run(
        model_display_name="trained",
        model_labels={"a": "b"},
        base_output_dir=f"gs://{bucket.name}/out",
        replica_count=1,
        machine_type="n1-standard-4",
    )
    assert model.display_name == "trained" and model.labels == {"a": "b"}
    assert model.uri == f"gs://{bucket.name}/out/model" and model.version_id == "1"
    assert model.container_spec.image_uri == SERVE
    assert model.gca_resource.training_pipeline == job.resource_name
    assert job.get_model().resource_name == model.resource_name
    again = make_job(script, bucket, WRITE, model_serving_container_image_uri=SERVE)
    newer = again.run(parent_model=model.resource_name, model_display_name="newer", replica_count=1)
    assert newer.version_id == "2" and newer.resource_name == model.resource_name
    with pytest.raises(exceptions.MethodNotAllowed, match="online prediction with endpoints"):
        model.deploy(machine_type="n1-standard-4", sync=True)


def test_a_job_that_leaves_no_artifacts_fails_in_the_services_words(
    script: Path, bucket: storage.Bucket
) -> None:
    job = make_job(script, bucket, "pass", model_serving_container_image_uri=SERVE)
    with pytest.raises(RuntimeError, match=r'There are no files under \\"gs://.*/model\\" to copy'):
        job.run(model_display_name="nothing", replica_count=1, machine_type="n1-standard-4")


def test_versions_and_aliases(server: ServerRecord) -> None:
    model = upload(model_id="mine", version_aliases=["first"], version_description="words")
    assert model.resource_name.endswith("/models/mine")
    assert versions(model) == {"1": ["default", "first"]}
    second = upload(parent_model="mine", is_default_version=False, version_aliases=["second"])
    assert second.version_id == "2"
    assert versions(model) == {"2": ["second"], "1": ["default", "first"]}
    assert aiplatform.Model("mine").version_id == "1"
    assert aiplatform.Model("mine@second").version_id == "2"
    model.versioning_registry.add_version_aliases(["default", "best"], version="2")
    assert versions(model) == {"2": ["second", "default", "best"], "1": ["first"]}
    model.versioning_registry.remove_version_aliases(["best"], version="2")
    with pytest.raises(exceptions.BadRequest, match="is the default one"):
        model.versioning_registry.delete_version("2")
    model.versioning_registry.delete_version("1")
    assert versions(model) == {"2": ["second", "default"]}
    model.delete()
    with pytest.raises(exceptions.NotFound):
        aiplatform.Model("mine")


def test_models_are_listed_and_changed(server: ServerRecord) -> None:
    model = upload(display_name="listed", labels={"kind": "listed"})
    upload(parent_model=model.resource_name, display_name="listed", labels={"kind": "listed"})
    found = aiplatform.Model.list(filter="labels.kind=listed")
    assert [each.version_id for each in found] == ["2"]  # one model, in its default version
    found[0].update(display_name="renamed", description="words")
    assert aiplatform.Model(model.resource_name).display_name == "renamed"
    assert aiplatform.Model.list(filter='display_name="nobody"') == []


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"model_id": "Not Allowed"}, exceptions.BadRequest),
        ({"version_aliases": ["1"]}, exceptions.BadRequest),
        ({"parent_model": "nobody"}, exceptions.NotFound),
        ({"model_id": "taken"}, exceptions.Conflict),
    ],
    ids=range(4),
)
def test_what_vertex_ai_refuses_is_refused(
    server: ServerRecord, options: dict[str, object], error: type[Exception]
) -> None:
    if options.get("model_id") == "taken" and not aiplatform.Model.list(filter="labels.t=t"):
        upload(model_id="taken", labels={"t": "t"})
    with pytest.raises(error):
        upload(**options)


@pytest.mark.parametrize(
    ("act", "feature"),
    [
        (
            lambda model: model.batch_predict(
                "x", gcs_source="gs://b/in", gcs_destination_prefix="gs://b/out"
            ),
            "batch prediction",
        ),
        (
            lambda model: model.api_client.export_model(name=model.resource_name, output_config={}),
            r"Model Registry \(models: export\)",
        ),
        (lambda model: model.list_model_evaluations(), "model evaluation"),
        (lambda _: aiplatform.Endpoint.create("an endpoint"), "online prediction with endpoints"),
    ],
    ids=range(4),
)
def test_what_would_serve_a_model_is_refused_by_name(
    server: ServerRecord, act: Callable[[aiplatform.Model], object], feature: str
) -> None:
    model = upload()
    with pytest.raises(exceptions.MethodNotAllowed, match=feature):
        act(model)


def test_a_job_with_a_tensorboard_says_how_to_see_it(
    script: Path, bucket: storage.Bucket, root: Root
) -> None:
    board = aiplatform.Tensorboard.create(display_name="curves")
    assert [each.name for each in aiplatform.Tensorboard.list()] == [board.name]
    code = "import os; print(os.environ['AIP_TENSORBOARD_RESOURCE_NAME'])"
    job = make_job(script, bucket, code)
    job.run(
        tensorboard=board.resource_name,
        service_account="me@p.iam.gserviceaccount.com",
        base_output_dir=f"gs://{bucket.name}/out",
        replica_count=1,
    )
    logs_of_jobs = [path for path in root.jobs.glob("*/job.log") if path.is_file()]
    (folder,) = [path.parent for path in logs_of_jobs if board.name in path.read_text()]
    logs = root.buckets / bucket.name / "out" / "logs"
    assert f"run `tensorboard --logdir {logs}`" in (folder / "service.log").read_text()
    with closing(Records(root.database)) as records:
        page = views.job_of(records, root, cast(CustomJob, records.job_with_id(folder.name)))
    assert page.commands[-1] == f"tensorboard --logdir {logs}"
    board.delete()
    with pytest.raises(exceptions.NotFound):
        aiplatform.Tensorboard(board.name)


def test_a_pipeline_shows_its_inputs_as_the_service_does(
    script: Path, bucket: storage.Bucket, root: Root
) -> None:
    """A public notebook reads the output folder out of `to_dict()`, in camelCase."""
    job = make_job(script, bucket, "import sys; print(sys.argv[1:])")
    job.run(
        args=["--epochs", 3, "--rate", 0.5],
        base_output_dir=f"gs://{bucket.name}/out",
        replica_count=1,
    )
    inputs = job.to_dict()["trainingTaskInputs"]
    assert inputs["baseOutputDirectory"]["outputUriPrefix"] == f"gs://{bucket.name}/out"
    (pool,) = inputs["workerPoolSpecs"]
    assert pool["pythonPackageSpec"]["args"] == ["--epochs", "3", "--rate", "0.5"]
    assert pool["replicaCount"] == "1"
    number = job.gca_resource.training_task_metadata["backingCustomJob"].rpartition("/")[2]
    assert "['--epochs', '3', '--rate', '0.5']" in (root.jobs / number / "job.log").read_text()
    assert aiplatform.CustomTrainingJob.get(job.name).state == job.state
