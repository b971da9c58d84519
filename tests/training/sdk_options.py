"""Every option of the SDK's training jobs: a value for it, and how to see what became of it.

An option ends in one of three ways: it works, it is accepted without effect and the job's log says
so, or the job is refused and the refusal names it. `test_sdk_table.py` tries them all.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from google.cloud import aiplatform
from google.cloud.aiplatform_v1.types import CustomJob, HyperparameterTuningJob, Scheduling
from google.cloud.aiplatform_v1.types.dataset import Dataset

GPU_IMAGE = "us-docker.pkg.dev/vertex-ai/training/pytorch-gpu.2-4.py310:latest"
SCRIPT = """
import json, os, sys
print(json.dumps({"argv": sys.argv[1:], "environment": dict(os.environ)}))
"""
TRIAL = f"""{SCRIPT}
import hypertune
reporter = hypertune.HyperTune()
for step, loss in enumerate([0.1, 0.2], start=1):
    reporter.report_hyperparameter_tuning_metric("loss", loss, step)
"""
REGION = "europe-west4"  # not the one of `aiplatform.init`
KEY = "projects/p/locations/us-central1/keyRings/r/cryptoKeys/k"
PLACE = "projects/vertex-local/locations/us-central1"


@dataclass(frozen=True)
class Seen:
    """What became of a job.

    Attributes:
        record: the custom job, as the API returns it at the end.
        folder: its folder, with the logs.
        model: the model that its pipeline uploaded.
        search: of the first trial of a tuning job, that tuning job.
    """

    record: CustomJob
    folder: Path
    model: Any = None
    search: HyperparameterTuningJob | None = None

    @property
    def printed(self) -> dict[str, Any]:
        """What the script saw."""
        return dict(json.loads((self.folder / "job.log").read_text()))

    @property
    def environment(self) -> dict[str, str]:
        return dict(self.printed["environment"])

    @property
    def pool(self) -> Any:
        return self.record.job_spec.worker_pool_specs[0]

    @property
    def scheduling(self) -> Scheduling:
        return self.record.job_spec.scheduling

    @property
    def notes(self) -> str:
        return (self.folder / "service.log").read_text()


@dataclass(frozen=True)
class Works:
    """An option that does what it does on Vertex AI."""

    value: Any
    check: Callable[[Seen], bool]


@dataclass(frozen=True)
class NoEffect:
    """An option that is accepted; the job's log names it as one without effect."""

    value: Any
    name: str


@dataclass(frozen=True)
class Refused:
    """An option with which a job is refused, by the name that it has in the API.

    Attributes:
        value: what to pass.
        name: the name in the refusal.
        group: options of one group go into one request; some exclude each other.
    """

    value: Any
    name: str
    group: int = 0


Case = Works | NoEffect | Refused
RESERVATION = "machine_spec.reservation_affinity"
DATA, MODEL = "input_data_config", "my-model"  # the second is the id of a model that is there
EXPERIMENTS = 3  # the group of what asks for experiments
REDUCTION = "worker_pool_specs[2].container_spec"


def dataset() -> aiplatform.TabularDataset:
    """Return a managed dataset as the SDK holds it; local mode has none that could be fetched."""
    found = aiplatform.TabularDataset._empty_constructor()
    schema = aiplatform.schema.dataset.metadata.tabular
    found._gca_resource = Dataset(name=f"{PLACE}/datasets/1", metadata_schema_uri=schema)
    return found


def pipeline_options(bucket: str) -> dict[str, Case]:
    """Return a case for each option of `run` and `submit` of the three pipeline classes."""
    return machine_options() | {
        "args": Works(["--x=1"], lambda seen: seen.printed["argv"] == ["--x=1"]),
        "environment_variables": Works({"A": "b"}, lambda seen: seen.environment["A"] == "b"),
        "base_output_dir": Works(
            f"gs://{bucket}/out",
            lambda seen: seen.environment["AIP_MODEL_DIR"] == f"gs://{bucket}/out/model/",
        ),
        **lifetime_options(),
        "enable_dashboard_access": Refused(True, "enable_dashboard_access"),
        "reservation_affinity_type": NoEffect("SPECIFIC_RESERVATION", RESERVATION),
        "reservation_affinity_key": NoEffect("key", RESERVATION),
        "reservation_affinity_values": NoEffect(["value"], RESERVATION),
        "model_display_name": Works("a model", lambda seen: seen.model.display_name == "a model"),
        "model_labels": Works({"a": "b"}, lambda seen: dict(seen.model.labels) == {"a": "b"}),
        "model_id": Works(MODEL, lambda seen: seen.model.name.endswith(f"/models/{MODEL}")),
        "parent_model": Works(MODEL, lambda seen: int(seen.model.version_id) > 1),
        "is_default_version": Works(
            False, lambda seen: list(seen.model.version_aliases) == ["one"]
        ),
        "model_version_aliases": Works(["one"], lambda seen: "one" in seen.model.version_aliases),
        "model_version_description": Works(
            "words", lambda seen: seen.model.version_description == "words"
        ),
        "dataset": Refused(dataset(), DATA),
        "annotation_schema_uri": Refused("gs://b/schema.yaml", DATA),
        "bigquery_destination": Refused("bq://p", DATA),
        "timestamp_split_column_name": Refused("time", DATA),
        "training_fraction_split": Refused(0.8, DATA),
        "validation_fraction_split": Refused(0.1, DATA),
        "test_fraction_split": Refused(0.1, DATA),
        "training_filter_split": Refused("a", DATA, group=1),
        "validation_filter_split": Refused("b", DATA, group=1),
        "test_filter_split": Refused("c", DATA, group=1),
        "predefined_split_column_name": Refused("part", DATA, group=2),
    }


def machine_options() -> dict[str, Case]:
    """Return a case for each option that chooses machines."""
    return {
        "replica_count": Works(2, lambda seen: seen.environment["WORLD_SIZE"] == "2"),
        "machine_type": Works(
            "n1-standard-8", lambda seen: seen.pool.machine_spec.machine_type == "n1-standard-8"
        ),
        "accelerator_type": Works(
            "NVIDIA_TESLA_T4", lambda seen: "CUDA_VISIBLE_DEVICES" not in seen.environment
        ),
        "accelerator_count": Works(2, lambda seen: seen.pool.machine_spec.accelerator_count == 2),
        "boot_disk_type": NoEffect("pd-standard", "disk_spec"),
        "boot_disk_size_gb": NoEffect(200, "disk_spec"),
        "reduction_server_replica_count": Refused(1, REDUCTION),
        "reduction_server_machine_type": Refused("n1-highcpu-16", REDUCTION),
        "reduction_server_container_uri": Refused("reducer", REDUCTION),
        "tpu_topology": Refused("2x2", "machine_spec.tpu_topology"),
    }


def lifetime_options() -> dict[str, Case]:
    """Return a case for each option that both pipelines and custom jobs have for a run."""
    restart = "scheduling.restart_job_on_worker_restart"
    return {
        "timeout": Works(1234, lambda seen: seen.scheduling.timeout.total_seconds() == 1234),
        "disable_retries": Works(True, lambda seen: seen.scheduling.disable_retries),
        "sync": Works(False, lambda seen: bool(seen.record.end_time)),
        "create_request_timeout": Works(60.0, lambda seen: bool(seen.record.name)),
        "restart_job_on_worker_restart": NoEffect(True, restart),
        "scheduling_strategy": NoEffect(Scheduling.Strategy.SPOT, "scheduling.strategy"),
        "max_wait_duration": NoEffect(600, "scheduling.max_wait_duration"),
        "service_account": NoEffect("me@p.iam.gserviceaccount.com", "service_account"),
        "network": Refused("projects/1/global/networks/n", "network"),
        "enable_web_access": Refused(True, "enable_web_access"),
        "tensorboard": Works(
            f"{PLACE}/tensorboards/1", lambda seen: "run `tensorboard --logdir " in seen.notes
        ),
        "persistent_resource_id": Refused("mine", "persistent_resource_id"),
        "psc_interface_config": Refused({"network_attachment": "a"}, "psc_interface_config"),
    }


def experiment_options() -> dict[str, Case]:
    """Return a case for each option of a custom job's run that asks the service for experiments."""
    return {
        "experiment": Refused("an-experiment", "metadataStores", group=EXPERIMENTS),
        "experiment_run": Refused("a-run", "metadataStores", group=EXPERIMENTS),
    }


def common_constructor_options(bucket: str, credentials: Any) -> dict[str, Case]:
    """Return a case for each option that all constructors of jobs have."""
    return {
        "display_name": Works("a name", lambda seen: seen.record.display_name.startswith("a name")),
        "project": Works("vertex-local", lambda seen: "/100000000000/" in seen.record.name),
        "location": Works(REGION, lambda seen: f"/{REGION}/" in seen.record.name),
        "credentials": Works(credentials, lambda seen: bool(seen.record.name)),
        "labels": Works({"a": "b"}, lambda seen: dict(seen.record.labels) == {"a": "b"}),
        "staging_bucket": Works(
            f"gs://{bucket}/staging",
            lambda seen: seen.environment["AIP_MODEL_DIR"].startswith(f"gs://{bucket}/"),
        ),
    }


def model_options() -> dict[str, Case]:
    """Return a case for each option of a pipeline's constructor; they describe a managed model."""
    explained = {"inputs": {"x": {}}, "outputs": {"y": {}}}
    how = {"sampled_shapley_attribution": {"path_count": 5}}
    return {
        "model_serving_container_image_uri": served("image_uri", "serve"),
        "model_serving_container_predict_route": served("predict_route", "/predict"),
        "model_serving_container_health_route": served("health_route", "/health"),
        "model_serving_container_command": served("command", ["serve"]),
        "model_serving_container_args": served("args", ["--fast"]),
        "model_serving_container_environment_variables": Works(
            {"A": "b"}, lambda seen: seen.model.container_spec.env[0].value == "b"
        ),
        "model_serving_container_ports": Works(
            [8080], lambda seen: seen.model.container_spec.ports[0].container_port == 8080
        ),
        "model_description": Works("words", lambda seen: seen.model.description == "words"),
        "model_instance_schema_uri": Works(
            "gs://b/i.yaml",
            lambda seen: seen.model.predict_schemata.instance_schema_uri == "gs://b/i.yaml",
        ),
        "model_parameters_schema_uri": Works(
            "gs://b/p.yaml",
            lambda seen: seen.model.predict_schemata.parameters_schema_uri == "gs://b/p.yaml",
        ),
        "model_prediction_schema_uri": Works(
            "gs://b/o.yaml",
            lambda seen: seen.model.predict_schemata.prediction_schema_uri == "gs://b/o.yaml",
        ),
        "explanation_metadata": Works(
            aiplatform.explain.ExplanationMetadata(explained),
            lambda seen: "x" in seen.model.explanation_spec.metadata.inputs,
        ),
        "explanation_parameters": Works(
            aiplatform.explain.ExplanationParameters(how),
            lambda seen: bool(seen.model.explanation_spec.parameters),
        ),
        "training_encryption_spec_key_name": Refused(KEY, "encryption_spec"),
        "model_encryption_spec_key_name": Refused(KEY, "model_to_upload.encryption_spec"),
    }


def served(name: str, value: Any) -> Works:
    """Return a case for an option that becomes a field of the model's container."""

    def check(seen: Seen) -> bool:
        found = getattr(seen.model.container_spec, name)
        return bool((list(found) if isinstance(value, list) else found) == value)

    return Works(value, check)


def has_image(seen: Seen) -> bool:
    """Return whether the job kept the image that it was given."""
    return GPU_IMAGE in (
        seen.pool.container_spec.image_uri,
        seen.pool.python_package_spec.executor_image_uri,
    )


def init_options(api: str, credentials: Any) -> dict[str, Case]:
    """Return a case for each option of `aiplatform.init`, seen in a job that is started next."""
    here = common_constructor_options("sdk-table", credentials)
    return {
        **{name: here[name] for name in ("project", "location", "credentials", "staging_bucket")},
        "api_endpoint": Works(api, lambda seen: bool(seen.record.name)),
        "api_transport": Works("rest", lambda seen: bool(seen.record.name)),
        "request_metadata": Works([("a", "b")], lambda seen: bool(seen.record.name)),
        "service_account": NoEffect("me@p.iam.gserviceaccount.com", "service_account"),
        "network": Refused("projects/1/global/networks/n", "network"),
        "encryption_spec_key_name": Refused(KEY, "encryption_spec"),
        "experiment": Refused("an-experiment", "metadataStores", EXPERIMENTS),
        "experiment_description": Refused("words", "metadataStores", EXPERIMENTS),
        "experiment_tensorboard": Works(
            aiplatform.Tensorboard.create("curves", location=REGION).resource_name,
            lambda seen: bool(seen.record.name),
        ),
        "api_key": Works("key", lambda seen: bool(seen.record.name)),
    }


def tuning_options(custom_job: aiplatform.CustomJob) -> tuple[dict[str, Case], dict[str, Case]]:
    """Return a case for each option of a tuning job's constructor and of its run.

    Args:
        custom_job: one whose script is `TRIAL`.
    """
    rate = aiplatform.hyperparameter_tuning.DoubleParameterSpec(min=0.1, max=1, scale="linear")
    common = common_constructor_options("sdk-table", None)
    constructor = {
        name: common[name]
        for name in ("display_name", "project", "location", "credentials", "labels")
    }
    constructor |= {
        "custom_job": Works(custom_job, lambda seen: "argv" in seen.printed),
        "metric_spec": Works(
            {"loss": "minimize"}, lambda seen: measured(seen).metrics[0].metric_id == "loss"
        ),
        "parameter_spec": Works(
            {"rate": rate}, lambda seen: seen.printed["argv"][0].startswith("--rate=")
        ),
        "max_trial_count": Works(2, lambda seen: len(trials(seen)) == 2),
        "parallel_trial_count": Works(
            1, lambda seen: trials(seen)[0].end_time <= trials(seen)[1].start_time
        ),
        "max_failed_trial_count": Works(1, lambda seen: searched(seen).max_failed_trial_count == 1),
        "search_algorithm": Works(
            "random", lambda seen: searched(seen).study_spec.algorithm.name == "RANDOM_SEARCH"
        ),
        "measurement_selection": Works("best", lambda seen: measured(seen).step_count == 1),
        "encryption_spec_key_name": Refused(KEY, "encryption_spec"),
    }
    every = lifetime_options()
    return constructor, {name: every[name] for name in every if name in TUNING_RUN}


def searched(seen: Seen) -> HyperparameterTuningJob:
    """Return the tuning job that was seen."""
    assert seen.search is not None
    return seen.search


def trials(seen: Seen) -> Any:
    """Return its trials."""
    return searched(seen).trials


def measured(seen: Seen) -> Any:
    """Return the final measurement of its first trial."""
    return trials(seen)[0].final_measurement


TUNING_RUN = (
    "create_request_timeout",
    "disable_retries",
    "enable_web_access",
    "max_wait_duration",
    "network",
    "restart_job_on_worker_restart",
    "scheduling_strategy",
    "service_account",
    "sync",
    "tensorboard",
    "timeout",
)
