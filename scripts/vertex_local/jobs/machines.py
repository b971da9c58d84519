"""Which machine types training jobs can ask for, and which accelerators fit them.

Source: Google's documentation of compute resources for custom training, as of 2026-08-22
(machine-learning/training/configure-compute). The sentences of the refusals are the service's
own, as seen in public reports, except where the code says otherwise.
"""

from __future__ import annotations

import re

from google.cloud.aiplatform_v1.types import AcceleratorType, MachineSpec

from vertex_local.errors import InvalidArgument

Counts = dict[str, tuple[int, ...]]  # accelerator type -> allowed numbers of it

WITHOUT_ACCELERATOR = re.compile(
    r"e2-standard-(4|8|16|32)|e2-highmem-(2|4|8|16)|e2-highcpu-(16|32)|n[24]-\w+-\d+"
    r"|c2-standard-(4|8|16|30|60)|m1-ultramem-(40|80|160)|m1-megamem-96"
)


def _n1(old: tuple[int, ...], v100: tuple[int, ...], p100: tuple[int, ...] = ()) -> Counts:
    counts = {f"NVIDIA_TESLA_{name}": old for name in ("P4", "T4")}
    counts["NVIDIA_TESLA_V100"] = v100
    return counts | ({"NVIDIA_TESLA_P100": p100} if p100 else {})


# Accelerators may be attached to these …
OPTIONAL: dict[str, Counts] = {
    **dict.fromkeys(
        ("n1-standard-4", "n1-standard-8", "n1-highmem-2", "n1-highmem-4", "n1-highmem-8"),
        _n1((1, 2, 4), (1, 2, 4, 8), (1, 2, 4)),
    ),
    **dict.fromkeys(
        ("n1-standard-16", "n1-highmem-16", "n1-highcpu-16"), _n1((1, 2, 4), (2, 4, 8), (1, 2, 4))
    ),
    **dict.fromkeys(
        ("n1-standard-32", "n1-highmem-32", "n1-highcpu-32"), _n1((2, 4), (4, 8), (2, 4))
    ),
    **dict.fromkeys(
        ("n1-standard-64", "n1-standard-96", "n1-highmem-64", "n1-highmem-96", "n1-highcpu-96"),
        _n1((4,), (8,)),
    ),
    "n1-highcpu-64": _n1((4,), (8,), (4,)),
}

# … and these have theirs built in.
BUILT_IN: dict[str, tuple[str, int]] = {
    **{f"g2-standard-{size}": ("NVIDIA_L4", 1) for size in (4, 8, 12, 16, 32)},
    **{f"g2-standard-{size}": ("NVIDIA_L4", size // 12) for size in (24, 48, 96)},
    **{f"g4-standard-{size}": ("NVIDIA_RTX_PRO_6000", size // 48) for size in (48, 96, 192, 384)},
    **{f"a2-highgpu-{count}g": ("NVIDIA_TESLA_A100", count) for count in (1, 2, 4, 8)},
    "a2-megagpu-16g": ("NVIDIA_TESLA_A100", 16),
    **{f"a2-ultragpu-{count}g": ("NVIDIA_A100_80GB", count) for count in (1, 2, 4, 8)},
    **{f"a3-highgpu-{count}g": ("NVIDIA_H100_80GB", count) for count in (1, 2, 4, 8)},
    "a3-megagpu-8g": ("NVIDIA_H100_MEGA_80GB", 8),
    "a3-ultragpu-8g": ("NVIDIA_H200_141GB", 8),
    "a4-highgpu-8g": ("NVIDIA_B200", 8),
    "a4x-highgpu-4g": ("NVIDIA_GB200", 4),
}


def check(machine: MachineSpec, field: str) -> None:
    """Refuse a machine that Vertex AI would refuse.

    Args:
        machine: what the job asks for.
        field: where it stands in the request, for messages, such as
            `job_spec.worker_pool_specs[0].machine_spec`.

    Raises:
        InvalidArgument: if the machine type is unknown or does not fit its accelerators.
    """
    kind, count = AcceleratorType(machine.accelerator_type), machine.accelerator_count
    if bool(kind) != bool(count):
        raise InvalidArgument(
            f"List of found errors:\t1.Field: {field}.accelerator_type; Message: Both "
            "`accelerator_type` and `accelerator_count` should be specified or none.\t"
        )
    name = machine.machine_type
    allowed = _allowed(name)
    if allowed is None:
        raise InvalidArgument(f"Machine type {name} is not supported.")
    if name in BUILT_IN and not kind:
        gpu, number = BUILT_IN[name]  # the wording of this refusal is local mode's own
        raise InvalidArgument(
            f"Machine type {name} has its GPU built in: ask for accelerator_type {gpu} and "
            f"accelerator_count {number} as well."
        )
    if kind and kind.name not in allowed:
        raise InvalidArgument(
            f'Accelerator "{kind.name}" is not supported for machine type "{name}"'
        )
    if kind and count not in allowed[kind.name]:
        numbers = ", ".join(map(str, allowed[kind.name]))
        raise InvalidArgument(
            f'The accelerator count "{count}" is not allowed. The allowed numbers of accelerator '
            f'"{kind.name}" to use with machine type "{name}" are: [{numbers}].'
        )


def _allowed(name: str) -> Counts | None:
    """Return the accelerators that fit a machine type, or None if there is no such type."""
    if name in BUILT_IN:
        gpu, number = BUILT_IN[name]
        return {gpu: (number,)}
    return {} if WITHOUT_ACCELERATOR.fullmatch(name) else OPTIONAL.get(name)
