"""What a search may ask for: what local mode refuses by name, and what Vertex AI refuses as well.

`jobs.options` checks the job of the trials like every custom job. The limits are those that Google
documents for the fields (google.cloud.aiplatform_v1.types.study); the sentences are local mode's.
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Sequence

from google.cloud.aiplatform_v1.types import CustomJobSpec, HyperparameterTuningJob, StudySpec

from vertex_local.errors import FailedPrecondition, InvalidArgument, Unimplemented
from vertex_local.jobs import options
from vertex_local.jobs.command import SHELLS
from vertex_local.tuning import study
from vertex_local.tuning.study import GRID, LOG, REVERSE_LOG, ParameterSpec

REFUSED_IN_STUDIES = (
    "decay_curve_stopping_spec",
    "convex_automated_stopping_spec",
    "study_stopping_config",
)
SCALES = tuple(ParameterSpec.ScaleType)
ALGORITHMS = tuple(StudySpec.Algorithm)
SELECTIONS = tuple(StudySpec.MeasurementSelectionType)
GOALS = tuple(StudySpec.MetricSpec.GoalType)
MAX_DISCRETE_VALUES, MIN_DISCRETE_GAP = 1000, 1e-10
SHELL_ARGUMENT = re.compile(r"\$\{?([@*\d])")  # "$@", $*, $0, ${1}


def check(search: HyperparameterTuningJob) -> None:
    """Check a search before anything runs.

    Raises:
        Unimplemented: if it asks for what local mode does not do; names all such fields.
        InvalidArgument: if Vertex AI would refuse it, or if its trials would never get their
            parameters.
        FailedPrecondition: if the search needs Optuna, which is not installed.
    """
    refused = [name for name in REFUSED_IN_STUDIES if name in search.study_spec]
    if search.study_spec.median_automated_stopping_spec.use_elapsed_duration:
        refused.append("median_automated_stopping_spec.use_elapsed_duration")
    if any("safety_config" in each for each in search.study_spec.metrics):
        refused.append("metrics.safety_config")
    if any(each.conditional_parameter_specs for each in search.study_spec.parameters):
        refused.append("conditional_parameter_specs")
    if refused:
        raise Unimplemented(", ".join(f"study_spec.{name}" for name in refused))
    options.check(search, search.trial_job_spec)
    _check_counts(search)
    _check_study(search.study_spec)
    _check_flags_arrive(search.trial_job_spec)
    if search.study_spec.algorithm != GRID and not study.has_optuna():
        raise FailedPrecondition(
            "Local mode proposes parameters with Optuna, which is not installed: run `pip install "
            "optuna` and restart local mode, or search a grid, which needs no package."
        )


def _check_counts(search: HyperparameterTuningJob) -> None:
    for name in ("max_trial_count", "parallel_trial_count"):
        if (count := getattr(search, name)) < 1:
            raise InvalidArgument(f"{name} must be at least 1, not {count}.")
    if search.max_failed_trial_count < 0:
        raise InvalidArgument(
            f"max_failed_trial_count must be 0 or more, not {search.max_failed_trial_count}."
        )


def _check_study(spec: StudySpec) -> None:
    if spec.observation_noise:
        raise InvalidArgument(
            "study_spec.observation_noise is not supported by hyperparameter tuning jobs."
        )
    _check_enum("study_spec.algorithm", spec.algorithm, ALGORITHMS)
    _check_enum(
        "study_spec.measurement_selection_type", spec.measurement_selection_type, SELECTIONS
    )
    _check_ids("study_spec.metrics", "metric_id", [each.metric_id for each in spec.metrics])
    _check_ids(
        "study_spec.parameters", "parameter_id", [each.parameter_id for each in spec.parameters]
    )
    for metric in spec.metrics:
        _check_enum(f"The goal of {metric.metric_id!r}", metric.goal, GOALS)
    for parameter in spec.parameters:
        _check_parameter(parameter)
        if spec.algorithm == GRID and "double_value_spec" in parameter:
            raise InvalidArgument(
                f"A grid has no values for {parameter.parameter_id!r}, a double: with GRID_SEARCH "
                "each parameter must be integer, discrete or categorical."
            )


def _check_enum(what: str, value: int, known: Sequence[int]) -> None:
    if value not in known:
        raise InvalidArgument(f"{what} must be one of {', '.join(map(str, known))}, not {value}.")


def _check_ids(place: str, field: str, ids: Sequence[str]) -> None:
    if not ids:
        raise InvalidArgument(f"{place} must not be empty.")
    for name in ids:
        if not name or re.search(r"\s", name):
            raise InvalidArgument(
                f"{place}: the {field} {name!r} must not be empty or contain whitespace."
            )
        if ids.count(name) > 1:
            raise InvalidArgument(f"{place}: the {field} {name!r} is there more than once.")


def _check_parameter(parameter: ParameterSpec) -> None:
    name = parameter.parameter_id
    kind = ParameterSpec.pb(parameter).WhichOneof("parameter_value_spec")
    if kind is None:
        raise InvalidArgument(
            f"The parameter {name!r} needs one of double_value_spec, integer_value_spec, "
            "discrete_value_spec and categorical_value_spec."
        )
    spec = getattr(parameter, kind)
    if "default_value" in spec:
        raise InvalidArgument(
            f"The parameter {name!r} has a default_value, which hyperparameter tuning jobs do not "
            "support."
        )
    _check_enum(f"The scale_type of {name!r}", parameter.scale_type, SCALES)
    if kind == "categorical_value_spec":
        _check_categories(name, list(spec.values), parameter)
        return
    if kind == "discrete_value_spec":
        _check_discrete(name, list(spec.values))
        low = spec.values[0]
    else:
        low, high = spec.min_value, spec.max_value
        if not (math.isfinite(low) and math.isfinite(high) and low <= high):
            raise InvalidArgument(
                f"The parameter {name!r} needs a min_value that is not above its max_value; they "
                f"are {low} and {high}."
            )
    if parameter.scale_type in (LOG, REVERSE_LOG) and low <= 0:
        raise InvalidArgument(
            f"The parameter {name!r} has a logarithmic scale, so all its values must be above 0; "
            f"the smallest is {low:g}."
        )


def _check_categories(name: str, values: Sequence[str], parameter: ParameterSpec) -> None:
    if not values:
        raise InvalidArgument(f"The parameter {name!r} has no values.")
    if len(set(values)) < len(values):
        raise InvalidArgument(f"The parameter {name!r} has the same value more than once.")
    if parameter.scale_type:
        raise InvalidArgument(f"The parameter {name!r} is categorical: it has no scale_type.")


def _check_discrete(name: str, values: Sequence[float]) -> None:
    if not 0 < len(values) <= MAX_DISCRETE_VALUES:
        raise InvalidArgument(
            f"The parameter {name!r} must have 1 to {MAX_DISCRETE_VALUES} values, not "
            f"{len(values)}."
        )
    if not all(map(math.isfinite, values)):
        raise InvalidArgument(f"The values of the parameter {name!r} must be finite numbers.")
    pairs = itertools.pairwise(values)
    if any(after - before < MIN_DISCRETE_GAP for before, after in pairs):
        raise InvalidArgument(
            f"The values of the parameter {name!r} must increase, by at least {MIN_DISCRETE_GAP:g}."
        )


def _check_flags_arrive(spec: CustomJobSpec) -> None:
    """Refuse a shell command in which the parameters of a trial would be lost.

    Vertex AI appends them to the arguments. In `sh -c TEXT A B`, A and B are `$0` and `$1` of TEXT,
    which has to pass them on. `CustomJob.from_local_script` of the SDK writes a TEXT that does not
    for every image that is not one of Google's.
    """
    for number, pool in enumerate(spec.worker_pool_specs):
        line = [*pool.container_spec.command, *pool.container_spec.args]
        if pool.replica_count and line and _loses_arguments(line):
            raise InvalidArgument(
                f"trial_job_spec.worker_pool_specs[{number}]: the trial's parameters would never "
                "reach your script. They are appended to the command, and arguments after the text "
                "of `sh -c` are $0, $1, … of that text. Use one of Google's prebuilt images with "
                "from_local_script, or a container_spec with command=['python3', 'script.py'], or "
                "pass them on: ['sh', '-c', 'python3 script.py \"$@\"', 'sh']."
            )


def _loses_arguments(line: Sequence[str]) -> bool:
    """Return whether arguments that are appended to a command line reach no program."""
    if not SHELLS.fullmatch(line[0]):
        return False
    flags = [n for n, argument in enumerate(line) if n and re.fullmatch("-[a-z]*c[a-z]*", argument)]
    if not flags or len(line) <= flags[0] + 1:
        return False
    used = set(SHELL_ARGUMENT.findall(line[flags[0] + 1]))
    has_zero = len(line) > flags[0] + 2  # an argument after the text: it is $0
    return not used or (not has_zero and "0" not in used)
