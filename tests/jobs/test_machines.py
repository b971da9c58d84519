"""What Vertex AI would refuse before anything is spent is refused in the same words."""

from __future__ import annotations

from datetime import date

import pytest
from google.cloud.aiplatform_v1.types import AcceleratorType, MachineSpec

from vertex_local.errors import InvalidArgument
from vertex_local.jobs import images, machines

FIELD = "job_spec.worker_pool_specs[0].machine_spec"


def check(machine: str, accelerator: str = "", count: int = 0) -> None:
    spec = MachineSpec(machine_type=machine, accelerator_count=count)
    if accelerator:
        spec.accelerator_type = AcceleratorType[accelerator]
    machines.check(spec, FIELD)


@pytest.mark.parametrize(
    ("machine", "accelerator", "count"),
    [
        ("n1-standard-4", "", 0),
        ("n1-standard-8", "NVIDIA_TESLA_T4", 1),
        ("n1-highmem-2", "NVIDIA_TESLA_V100", 8),
        ("n1-standard-16", "NVIDIA_TESLA_V100", 2),
        ("n1-highcpu-64", "NVIDIA_TESLA_P100", 4),
        ("e2-standard-4", "", 0),
        ("n2-standard-8", "", 0),
        ("g2-standard-8", "NVIDIA_L4", 1),
        ("g2-standard-24", "NVIDIA_L4", 2),
        ("g2-standard-96", "NVIDIA_L4", 8),
        ("g4-standard-384", "NVIDIA_RTX_PRO_6000", 8),
        ("a2-highgpu-1g", "NVIDIA_TESLA_A100", 1),
        ("a2-ultragpu-4g", "NVIDIA_A100_80GB", 4),
        ("a3-megagpu-8g", "NVIDIA_H100_MEGA_80GB", 8),
    ],
)
def test_a_machine_of_the_documentation_is_accepted(
    machine: str, accelerator: str, count: int
) -> None:
    check(machine, accelerator, count)


@pytest.mark.parametrize(
    ("machine", "accelerator", "count", "message"),
    [
        ("n1-standard-2", "", 0, "Machine type n1-standard-2 is not supported."),
        ("e2-standard-2", "", 0, "Machine type e2-standard-2 is not supported."),
        ("", "", 0, "Machine type  is not supported."),
        (
            "n1-standard-8",
            "NVIDIA_L4",
            1,
            'Accelerator "NVIDIA_L4" is not supported for machine type "n1-standard-8"',
        ),
        (
            "n1-standard-64",
            "NVIDIA_TESLA_P100",
            4,
            'Accelerator "NVIDIA_TESLA_P100" is not supported for machine type "n1-standard-64"',
        ),
        (
            "e2-standard-4",
            "NVIDIA_TESLA_T4",
            1,
            'Accelerator "NVIDIA_TESLA_T4" is not supported for machine type "e2-standard-4"',
        ),
        (
            "g2-standard-8",
            "NVIDIA_L4",
            8,
            'The accelerator count "8" is not allowed. The allowed numbers of accelerator '
            '"NVIDIA_L4" to use with machine type "g2-standard-8" are: [1].',
        ),
        (
            "n1-standard-16",
            "NVIDIA_TESLA_V100",
            1,
            'The accelerator count "1" is not allowed. The allowed numbers of accelerator '
            '"NVIDIA_TESLA_V100" to use with machine type "n1-standard-16" are: [2, 4, 8].',
        ),
        (
            "n1-standard-8",
            "NVIDIA_TESLA_T4",
            0,
            f"List of found errors:\t1.Field: {FIELD}.accelerator_type; Message: Both "
            "`accelerator_type` and `accelerator_count` should be specified or none.\t",
        ),
        (
            "a2-highgpu-1g",
            "",
            0,
            "Machine type a2-highgpu-1g has its GPU built in: ask for accelerator_type "
            "NVIDIA_TESLA_A100 and accelerator_count 1 as well.",
        ),
    ],
)
def test_a_machine_that_does_not_exist_is_refused(
    machine: str, accelerator: str, count: int, message: str
) -> None:
    with pytest.raises(InvalidArgument) as caught:
        check(machine, accelerator, count)
    assert str(caught.value) == message


GPU_IMAGE = "us-docker.pkg.dev/vertex-ai/training/pytorch-gpu.2-4.py310:latest"


def test_an_image_past_its_date_gets_a_warning() -> None:
    assert images.warning(GPU_IMAGE, date(2026, 7, 24)) is None
    text = images.warning(GPU_IMAGE, date(2026, 7, 25))
    assert text is not None and "available until 2026-07-24 only" in text


@pytest.mark.parametrize(
    "uri",
    [
        "us-docker.pkg.dev/vertex-ai/training/pytorch-cpu.2-4.py310:latest",
        "us-docker.pkg.dev/vertex-ai/training/pytorch-gpu.2-4.py310:1.0",
        "docker.io/library/python:3.11",
    ],
)
def test_an_image_that_is_not_on_the_list_gets_a_warning(uri: str) -> None:
    text = images.warning(uri, date(2026, 1, 1))
    assert text is not None and "not on Google's list" in text


@pytest.mark.parametrize(
    ("name", "framework"),
    [
        ("xgboost-cpu.2-1", "XGBoost"),
        ("sklearn-cpu.1-6", "scikit-learn"),
        ("scikit-learn-cpu.0-23", "scikit-learn"),
        ("tf-gpu.2-17.py310", "TensorFlow"),
    ],
)
def test_an_image_of_another_framework_is_called_one(name: str, framework: str) -> None:
    text = images.warning(f"us-docker.pkg.dev/vertex-ai/training/{name}:latest", date(2026, 1, 1))
    assert text is not None and f"is one for {framework}" in text and "not on" not in text
