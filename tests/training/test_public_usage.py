"""Training code as public samples and notebooks write it, run without a change.

Each test has the form of a widespread example: Google's sample notebooks for custom training, the
snippets of the documentation, and the low-level clients. Names and values are this project's own.
"""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from google.api_core import exceptions
from google.cloud import aiplatform, storage
from google.oauth2.credentials import Credentials
from google.protobuf import json_format
from google.protobuf.struct_pb2 import Value
from test_jobs import wait_until
from test_packages import archive_of_sdk

from vertex_local.config import PROJECT, ServerRecord

LOCATION = "us-central1"
TRAIN_VERSION = "pytorch-gpu.2-4.py310"
TRAIN_IMAGE = f"{LOCATION.split('-')[0]}-docker.pkg.dev/vertex-ai/training/{TRAIN_VERSION}:latest"
DEPLOY_IMAGE = "us-docker.pkg.dev/vertex-ai/prediction/pytorch-cpu.2-4:latest"
TRAIN_GPU, TRAIN_NGPU = aiplatform.gapic.AcceleratorType.NVIDIA_TESLA_T4, 1
TASK = """
import argparse, os
parser = argparse.ArgumentParser()
parser.add_argument("--model-dir", dest="model_dir", default=os.getenv("AIP_MODEL_DIR"))
parser.add_argument("--epochs", type=int, default=1)
args = parser.parse_args()
from google.cloud import storage
bucket, _, name = args.model_dir.removeprefix("gs://").partition("/")
blob = storage.Client().bucket(bucket).blob(name + "model.txt")
blob.upload_from_string(f"epochs={args.epochs}")
"""


@pytest.fixture
def bucket_uri(bucket: storage.Bucket) -> str:
    """The cell with which most samples begin: a bucket, and `aiplatform.init`."""
    uri = f"gs://{bucket.name}"
    aiplatform.init(project=PROJECT, location=LOCATION, staging_bucket=uri)
    bucket.blob("trainer.tar.gz").upload_from_string(archive_of_sdk(TASK))
    return uri


@pytest.fixture
def task(tmp_path: Path) -> str:
    path = tmp_path / "task.py"
    path.write_text(TASK)
    return str(path)


def written(bucket: storage.Bucket, folder: str) -> bytes:
    return bytes(bucket.blob(f"{folder}/model/model.txt").download_as_bytes())


def test_a_script_on_a_gpu(bucket_uri: str, bucket: storage.Bucket, task: str) -> None:
    job = aiplatform.CustomTrainingJob(
        display_name="cifar10_unique",
        script_path=task,
        container_uri=TRAIN_IMAGE,
        requirements=["google-cloud-storage"],
    )
    model = job.run(
        args=["--epochs=2"],
        replica_count=1,
        machine_type="n1-standard-4",
        accelerator_type=TRAIN_GPU.name,
        accelerator_count=TRAIN_NGPU,
        base_output_dir=f"{bucket_uri}/out",
    )
    assert model is None  # as on Vertex AI, where no managed model was asked for
    assert written(bucket, "out") == b"epochs=2"


def test_a_staging_bucket_that_does_not_exist(server: ServerRecord, task: str) -> None:
    job = aiplatform.CustomTrainingJob(
        "no bucket", task, TRAIN_IMAGE, staging_bucket="gs://no-such-bucket"
    )
    with pytest.raises(exceptions.NotFound, match="no-such-bucket"):
        job.run(replica_count=1)


def test_an_output_folder_that_is_not_in_a_bucket(bucket_uri: str, task: str) -> None:
    job = aiplatform.CustomTrainingJob("no output", task, TRAIN_IMAGE)
    with pytest.raises(exceptions.BadRequest, match=r"must be a Cloud Storage folder.*'/tmp/out'"):
        job.run(replica_count=1, base_output_dir="/tmp/out")


def test_worker_pool_specs_as_dictionaries(bucket_uri: str, bucket: storage.Bucket) -> None:
    worker_pool_specs = [
        {
            "machine_spec": {
                "machine_type": "n1-standard-4",
                "accelerator_type": "NVIDIA_TESLA_T4",
                "accelerator_count": 1,
            },
            "replica_count": "1",
            "disk_spec": {"boot_disk_type": "pd-ssd", "boot_disk_size_gb": 100},
            "python_package_spec": {
                "executor_image_uri": TRAIN_IMAGE,
                "package_uris": [f"{bucket_uri}/trainer.tar.gz"],
                "python_module": "trainer.task",
                "args": ["--model-dir=" + f"{bucket_uri}/dicts/model/", "--epochs=3"],
            },
        }
    ]
    job = aiplatform.CustomJob(display_name="dicts", worker_pool_specs=worker_pool_specs)
    job.run(sync=True)
    assert written(bucket, "dicts") == b"epochs=3"
    found = aiplatform.CustomJob.list(filter='display_name="dicts"', order_by="create_time desc")
    assert found[0].resource_name == job.resource_name
    assert aiplatform.CustomJob.get(job.name).state == aiplatform.gapic.JobState.JOB_STATE_SUCCEEDED


def test_a_package_in_the_background(bucket_uri: str, bucket: storage.Bucket) -> None:
    job = aiplatform.CustomPythonPackageTrainingJob(
        "package", f"{bucket_uri}/trainer.tar.gz", "trainer.task", TRAIN_IMAGE
    )
    job.run(replica_count=1, base_output_dir=f"{bucket_uri}/background", sync=False)
    job.wait_for_resource_creation()
    assert "/trainingPipelines/" in job.resource_name
    job.wait()
    assert not job.has_failed and job.done()
    assert written(bucket, "background") == b"epochs=1"


def test_a_failure_in_the_background_is_raised_by_wait(bucket_uri: str) -> None:
    job = aiplatform.CustomPythonPackageTrainingJob(
        "package", f"{bucket_uri}/trainer.tar.gz", "trainer.no_such_module", TRAIN_IMAGE
    )
    job.run(replica_count=1, sync=False)
    with pytest.raises(RuntimeError, match=r"No module named .*no_such_module"):
        job.wait()
    assert job.has_failed


def test_a_container_with_a_shell_command(
    bucket_uri: str, bucket: storage.Bucket, tmp_path: Path
) -> None:
    bucket.blob("in.txt").upload_from_string("hello")
    CMD = ["bash", "-c", f"cp /gcs/{bucket.name}/in.txt /gcs/{bucket.name}/$NAME.txt"]
    job = aiplatform.CustomContainerTrainingJob(
        display_name="container", container_uri="gcr.io/p/trainer:latest", command=CMD
    )
    job.run(replica_count=1, machine_type="n1-standard-4", environment_variables={"NAME": "out"})
    assert bucket.blob("out.txt").download_as_bytes() == b"hello"


def test_a_folder_as_script_path(bucket_uri: str, bucket: storage.Bucket, tmp_path: Path) -> None:
    (tmp_path / "__init__.py").touch()
    (tmp_path / "settings.py").write_text("EPOCHS = 6\n")
    imported = "from aiplatform_custom_trainer_script.settings import EPOCHS\n"
    (tmp_path / "task.py").write_text(imported + TASK.replace("default=1", "default=EPOCHS"))
    job = aiplatform.CustomTrainingJob("folder", str(tmp_path), TRAIN_IMAGE)
    job.run(replica_count=1, base_output_dir=f"{bucket_uri}/folder")
    assert written(bucket, "folder") == b"epochs=6"


def test_the_low_level_job_client(
    server: ServerRecord, bucket_uri: str, bucket: storage.Bucket
) -> None:
    client = aiplatform.gapic.JobServiceClient(
        client_options={"api_endpoint": server.api_url},
        credentials=Credentials(token=server.token),
        transport="rest",
    )
    custom_job = {
        "display_name": "low level",
        "job_spec": {
            "worker_pool_specs": [
                {
                    "machine_spec": {
                        "machine_type": "n1-standard-4",
                        "accelerator_type": aiplatform.gapic.AcceleratorType.NVIDIA_TESLA_T4,
                        "accelerator_count": 1,
                    },
                    "replica_count": 1,
                    "python_package_spec": {
                        "executor_image_uri": TRAIN_IMAGE,
                        "package_uris": [f"{bucket_uri}/trainer.tar.gz"],
                        "python_module": "trainer.task",
                        "args": ["--epochs=4"],
                    },
                }
            ],
            "base_output_directory": {"output_uri_prefix": f"{bucket_uri}/low"},
        },
    }
    parent = f"projects/{PROJECT}/locations/{LOCATION}"
    name = client.create_custom_job(parent=parent, custom_job=custom_job).name
    number = name.rpartition("/")[2]
    path = client.custom_job_path(PROJECT, LOCATION, number)
    for _ in range(100):
        if client.get_custom_job(name=path).end_time:
            break
        time.sleep(0.1)
    assert client.get_custom_job(name=name).state == aiplatform.gapic.JobState.JOB_STATE_SUCCEEDED
    assert written(bucket, "low") == b"epochs=4"
    request = {"parent": parent, "filter": 'displayName="low level"'}
    assert name in [each.name for each in client.list_custom_jobs(request=request)]
    client.cancel_custom_job(name=name)  # has ended: no effect
    client.delete_custom_job(name=name).result(timeout=60)
    with pytest.raises(exceptions.NotFound):
        client.get_custom_job(name=name)


def test_the_low_level_pipeline_client(
    server: ServerRecord, bucket_uri: str, bucket: storage.Bucket
) -> None:
    client = aiplatform.gapic.PipelineServiceClient(
        client_options={"api_endpoint": server.api_url},
        credentials=Credentials(token=server.token),
        transport="rest",
    )
    inputs = {  # in camelCase, as the documentation of the REST API has it
        "workerPoolSpecs": [
            {
                "replicaCount": 1,
                "machineSpec": {"machineType": "n1-standard-4"},
                "pythonPackageSpec": {
                    "executorImageUri": TRAIN_IMAGE,
                    "packageUris": [f"{bucket_uri}/trainer.tar.gz"],
                    "pythonModule": "trainer.task",
                    "args": ["--epochs=5"],
                },
            }
        ],
        "baseOutputDirectory": {"outputUriPrefix": f"{bucket_uri}/pipeline"},
    }
    pipeline = {
        "display_name": "low level",
        "training_task_definition": (
            "gs://google-cloud-aiplatform/schema/trainingjob/definition/custom_task_1.0.0.yaml"
        ),
        "training_task_inputs": json_format.ParseDict(inputs, Value()),
    }
    parent = f"projects/{PROJECT}/locations/{LOCATION}"
    made = client.create_training_pipeline(parent=parent, training_pipeline=pipeline)
    job = aiplatform.CustomTrainingJob.get(made.name)
    wait_until(job.done, "the end of the job")  # job.wait() is for jobs that were made here
    assert written(bucket, "pipeline") == b"epochs=5"
