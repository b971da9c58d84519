"""The custom job of a trial: the search's job specification, with the trial's parameters in it.

Sources: the documentation of `CustomJobSpec.base_output_directory` for the folders; the package
cloudml-hypertune for the trial's id; for the flags, see the ledger in the README.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from google.cloud.aiplatform_v1.types import (
    CustomJob,
    CustomJobSpec,
    EnvVar,
    HyperparameterTuningJob,
    StudySpec,
    Trial,
)

from vertex_local import config
from vertex_local.jobs.options import MAX_NAME
from vertex_local.jobs.replica import TRIAL_ID
from vertex_local.tuning.study import ParameterSpec, Value


def job_of(search: HyperparameterTuningJob, trial: Trial) -> CustomJob:
    """Return the custom job that runs a trial, with the name in `trial.custom_job`."""
    ending = f"-trial-{trial.id}"
    spec = CustomJobSpec(search.trial_job_spec)
    for pool in spec.worker_pool_specs:
        work = pool.container_spec or pool.python_package_spec
        work.args.extend(flags(search.study_spec, trial))
        work.env = [item for item in work.env if item.name != TRIAL_ID]
        work.env.append(EnvVar(name=TRIAL_ID, value=trial.id))
    if base := spec.base_output_directory.output_uri_prefix:
        spec.base_output_directory.output_uri_prefix = f"{base.rstrip('/')}/{trial.id}"
    return CustomJob(
        name=trial.custom_job,
        display_name=search.display_name[: MAX_NAME - len(ending)] + ending,
        job_spec=spec,
        labels=search.labels,
    )


def flags(spec: StudySpec, trial: Trial) -> list[str]:
    """Return a trial's parameters as its script gets them: `--NAME=VALUE`."""
    values = {each.parameter_id: each.value for each in trial.parameters}
    return [
        f"--{each.parameter_id}={_text(each, values[each.parameter_id])}"
        for each in spec.parameters
    ]


def _text(parameter: ParameterSpec, value: Value) -> str:
    """Return a value as text: a discrete 128 as "128.0", unless VERTEX_LOCAL_DISCRETE=int."""
    whole = "integer_value_spec" in parameter or (
        "discrete_value_spec" in parameter
        and config.discrete_as_int()
        and float(value).is_integer()
    )
    return str(int(value)) if whole else str(value)


def shown(parameters: Mapping[str, Value]) -> str:
    """Return parameters for a line of the log."""
    return ", ".join(f"{name}={value}" for name, value in parameters.items())


def unread(spec: StudySpec, sources: str) -> list[str]:
    """Return the parameters whose name is nowhere in the source of a script.

    A dash counts as an underscore, since argparse turns one into the other.
    """

    def mentioned(name: str) -> bool:
        either = re.sub("[-_]", "[-_]", re.escape(name).replace(r"\-", "-"))
        return re.search(rf"(?<!\w){either}(?!\w)", sources) is not None

    return [name for each in spec.parameters if not mentioned(name := each.parameter_id)]
