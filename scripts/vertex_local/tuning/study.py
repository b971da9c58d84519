"""Which parameters the next trial of a search gets.

No Optuna study is kept between trials: each proposal is computed from all trials in the job's
record. So a search can go on after a restart of the server, and the same record always leads to
the same proposal. Optuna proposes everything but the points of a grid.
"""

from __future__ import annotations

import importlib.util
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

from google.cloud.aiplatform_v1.types import StudySpec, Trial

if TYPE_CHECKING:  # takes half a second to import, and most servers never run a search
    from optuna.distributions import BaseDistribution
    from optuna.samplers import BaseSampler
    from optuna.trial import FrozenTrial

Value: TypeAlias = "float | str"
ParameterSpec: TypeAlias = StudySpec.ParameterSpec
GRID = StudySpec.Algorithm.GRID_SEARCH
RANDOM = StudySpec.Algorithm.RANDOM_SEARCH
LOG, REVERSE_LOG = (
    ParameterSpec.ScaleType.UNIT_LOG_SCALE,
    ParameterSpec.ScaleType.UNIT_REVERSE_LOG_SCALE,
)
MINIMIZE = StudySpec.MetricSpec.GoalType.MINIMIZE
STARTUP_TRIALS = 5  # the first trials are random: the sampler has nothing to learn from yet


def has_optuna() -> bool:
    """Return whether the package is installed."""
    return importlib.util.find_spec("optuna") is not None


def propose(spec: StudySpec, trials: Sequence[Trial], seed: int) -> dict[str, Value] | None:
    """Return the parameters of the next trial, or None if a grid has no more points.

    Args:
        spec: the study; it has passed `options.check`.
        trials: all trials so far, the running ones included.
        seed: of this search's random numbers, 0 or more.
    """
    if spec.algorithm == GRID:
        return _grid_point(spec.parameters, len(trials))
    return _proposed_by_optuna(spec, trials, seed)


# ------------------------------------------------------------------------------ the grid


def _grid_point(parameters: Sequence[ParameterSpec], number: int) -> dict[str, Value] | None:
    """Return point `number` of the product of all values; the last parameter changes first."""
    point: dict[str, Value] = {}
    for parameter in reversed(parameters):
        values = _grid_values(parameter)
        number, index = divmod(number, len(values))
        point[parameter.parameter_id] = values[index]
    return None if number else dict(reversed(point.items()))


def _grid_values(parameter: ParameterSpec) -> Sequence[Value]:
    if "integer_value_spec" in parameter:
        spec = parameter.integer_value_spec
        return range(spec.min_value, spec.max_value + 1)
    if "discrete_value_spec" in parameter:
        return list(parameter.discrete_value_spec.values)
    return list(parameter.categorical_value_spec.values)


# ------------------------------------------------------------------------------ Optuna


@dataclass(frozen=True)
class Axis:
    """One parameter as Optuna searches it.

    The script gets a value; Optuna searches positions. They differ for a discrete parameter, whose
    position is the index of its value, and for a reverse logarithmic scale, which is a logarithmic
    one mirrored between its bounds.

    Attributes:
        name: the parameter's id.
        distribution: of the positions.
        whole: whether the positions are whole numbers.
        values: of a discrete parameter, in order; else empty.
        bounds: of a reverse logarithmic scale; else None.
    """

    name: str
    distribution: BaseDistribution
    whole: bool = False
    values: tuple[float, ...] = ()
    bounds: tuple[float, float] | None = None

    def value(self, position: Any) -> Value:
        value: Value = self.values[position] if self.values else self._mirrored(position)
        return value

    def position(self, value: Any) -> Any:
        """Return the position of a value. The record has floats only; Optuna may need an int."""
        position = self.values.index(value) if self.values else self._mirrored(value)
        return int(position) if self.whole else position

    def _mirrored(self, value: Any) -> Any:
        if self.bounds is None:
            return value
        low, high = self.bounds
        return min(max(low + high - value, low), high)  # a rounded sum can lie outside


def _axis(parameter: ParameterSpec) -> Axis:
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    name, scale = parameter.parameter_id, parameter.scale_type
    if "categorical_value_spec" in parameter:
        return Axis(name, CategoricalDistribution(list(parameter.categorical_value_spec.values)))
    if "discrete_value_spec" in parameter:
        values = tuple(parameter.discrete_value_spec.values)
        return Axis(name, IntDistribution(0, len(values) - 1), True, values)
    whole = "integer_value_spec" in parameter
    spec = parameter.integer_value_spec if whole else parameter.double_value_spec
    kind = IntDistribution if whole else FloatDistribution
    bounds = (spec.min_value, spec.max_value)
    distribution = kind(*bounds, log=scale in (LOG, REVERSE_LOG))
    return Axis(name, distribution, whole, bounds=bounds if scale == REVERSE_LOG else None)


def _proposed_by_optuna(spec: StudySpec, trials: Sequence[Trial], seed: int) -> dict[str, Value]:
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)  # the search's own log names each trial
    axes = [_axis(each) for each in spec.parameters]
    metrics = [each.metric_id for each in spec.metrics]
    study = optuna.create_study(
        directions=["minimize" if each.goal == MINIMIZE else "maximize" for each in spec.metrics],
        sampler=_sampler(spec, seed + len(trials)),
    )
    for trial in trials:
        study.add_trial(_frozen(trial, axes, metrics))
    positions = study.ask({each.name: each.distribution for each in axes}).params
    return {each.name: each.value(positions[each.name]) for each in axes}


def _sampler(spec: StudySpec, seed: int) -> BaseSampler:
    from optuna.exceptions import ExperimentalWarning
    from optuna.samplers import RandomSampler, TPESampler

    seed %= 2**32  # what numpy takes
    if spec.algorithm == RANDOM:
        return RandomSampler(seed=seed)
    with warnings.catch_warnings():  # both options have been called experimental for years
        warnings.simplefilter("ignore", ExperimentalWarning)
        return TPESampler(
            seed=seed, multivariate=True, constant_liar=True, n_startup_trials=STARTUP_TRIALS
        )


def _frozen(trial: Trial, axes: Sequence[Axis], metrics: Sequence[str]) -> FrozenTrial:
    """Return a trial of the record as a trial of Optuna."""
    from optuna.trial import TrialState, create_trial

    message = Trial.pb(trial)  # reading the plain message is several times faster
    measured = {each.metric_id: each.value for each in message.final_measurement.metrics}
    given = {each.parameter_id: _plain(each.value) for each in message.parameters}
    state = {Trial.State.SUCCEEDED: TrialState.COMPLETE, Trial.State.INFEASIBLE: TrialState.FAIL}
    return create_trial(
        state=state.get(message.state, TrialState.RUNNING),
        params={each.name: each.position(given[each.name]) for each in axes},
        distributions={each.name: each.distribution for each in axes},
        values=[measured[name] for name in metrics] if measured else None,
    )


def _plain(value: Any) -> Value:
    return str(value.string_value) if value.HasField("string_value") else float(value.number_value)
