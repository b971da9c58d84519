"""No field of a job is accepted and silently ignored, also none that a newer SDK brings."""

from __future__ import annotations

from importlib import metadata

import pytest
from google.cloud.aiplatform_v1 import types

from vertex_local import features
from vertex_local.errors import Unimplemented
from vertex_local.jobs import options

SET_BY_THE_SERVICE = {
    *("name", "state", "error", "create_time", "start_time", "end_time", "update_time"),
    *("training_task_metadata", "web_access_uris", "satisfies_pzs", "satisfies_pzi"),
}
CARRIED_OUT = {
    "CustomJob": {"display_name", "job_spec", "labels"},
    "TrainingPipeline": {
        *("display_name", "labels", "training_task_definition", "training_task_inputs"),
        *("model_to_upload", "model_id", "parent_model"),
    },
    "CustomJobSpec": {"worker_pool_specs", "scheduling", "base_output_directory", "tensorboard"},
    "Scheduling": {"timeout", "disable_retries"},
    "WorkerPoolSpec": {"container_spec", "python_package_spec", "machine_spec", "replica_count"},
    "MachineSpec": {"machine_type", "accelerator_type", "accelerator_count"},
    "PythonPackageSpec": {"executor_image_uri", "package_uris", "python_module", "args", "env"},
    "ContainerSpec": {"image_uri", "command", "args", "env"},
}
LISTED = {
    name.rpartition(".")[2]
    for names in (
        options.REFUSED_IN_PIPELINES,
        options.REFUSED_BESIDE_JOBS,
        options.REFUSED_IN_JOBS,
        options.REFUSED_IN_POOLS,
        options.WITHOUT_EFFECT_IN_JOBS,
        options.WITHOUT_EFFECT_IN_POOLS,
    )
    for name in names
}


@pytest.mark.parametrize("message", CARRIED_OUT)
def test_every_field_is_carried_out_or_listed(message: str) -> None:
    kind = getattr(types, message)
    fields = {field.name for field in kind.pb(kind()).DESCRIPTOR.fields}
    assert CARRIED_OUT[message] <= fields
    assert fields - SET_BY_THE_SERVICE - CARRIED_OUT[message] <= LISTED


def spec(**more: object) -> types.CustomJobSpec:
    pool = {
        "replica_count": 1,
        "machine_spec": {"machine_type": "n1-standard-4"},
        "container_spec": {"image_uri": "i", "command": ["sh"]},
        **more,
    }
    return types.CustomJobSpec(worker_pool_specs=[pool])


def test_a_refusal_names_everything_that_is_refused() -> None:
    asked = spec(nfs_mounts=[{"server": "s"}], machine_spec={"tpu_topology": "2x2"})
    asked.network = "n"
    job = types.CustomJob(encryption_spec={"kms_key_name": "k"}, job_spec=asked)
    with pytest.raises(Unimplemented) as caught:
        options.check(job, job.job_spec)
    assert str(caught.value) == (
        "works on Vertex AI, not in local mode: encryption keys of your own (encryption_spec), "
        "VPC networks (network), NFS (nfs_mounts), TPUs (machine_spec.tpu_topology) "
        f"(as of version {metadata.version('vertex-ai-workshop')}). Read from a bucket."
    )


@pytest.mark.parametrize("name", [*options.REFUSED_IN_JOBS, *options.REFUSED_IN_POOLS])
def test_each_refused_field_is_a_feature_in_googles_terms(name: str) -> None:
    feature, _ = features.of_fields([name])
    assert feature.endswith(f" ({name})")


def test_what_everybody_sends_is_not_said_to_be_without_effect() -> None:
    usual = spec(disk_spec={"boot_disk_type": "pd-ssd", "boot_disk_size_gb": 100})
    assert options.without_effect(usual) == []
    usual.worker_pool_specs[0].disk_spec.boot_disk_size_gb = 200
    usual.scheduling.strategy = types.Scheduling.Strategy.SPOT
    assert options.without_effect(usual) == ["scheduling.strategy", "disk_spec"]
