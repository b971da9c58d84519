"""What the next trial gets: inside its bounds, the same for the same record, better than chance."""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Callable
from typing import Any

import pytest
from google.cloud.aiplatform_v1.types import StudySpec, Trial

from vertex_local.tuning import study, trials

GRID, RANDOM, DEFAULT = 2, 3, 0
SPACE: list[dict[str, Any]] = [
    {"parameter_id": "real", "double_value_spec": {"max_value": 2.0}},  # a minimum of 0 is absent
    {
        "parameter_id": "log",
        "double_value_spec": {"min_value": 1e-4, "max_value": 1},
        "scale_type": 2,
    },
    {
        "parameter_id": "late",
        "double_value_spec": {"min_value": 1e-4, "max_value": 1},
        "scale_type": 3,
    },
    {"parameter_id": "whole", "integer_value_spec": {"min_value": -2, "max_value": 2}},
    {
        "parameter_id": "wlate",
        "integer_value_spec": {"min_value": 1, "max_value": 100},
        "scale_type": 3,
    },
    {"parameter_id": "some", "discrete_value_spec": {"values": [0.5, 16, 128]}},
    {"parameter_id": "name", "categorical_value_spec": {"values": ["a", "b"]}},
]


def spec_of(parameters: list[dict[str, Any]], algorithm: int = DEFAULT, goal: int = 2) -> StudySpec:
    metrics = [{"metric_id": "loss", "goal": goal}]
    return StudySpec(metrics=metrics, parameters=parameters, algorithm=algorithm)


def run(
    spec: StudySpec, count: int, loss: Callable[[dict[str, Any]], float]
) -> list[dict[str, Any]]:
    """Play a search, two trials at a time; every fifth trial fails."""
    done: list[Trial] = []
    for number in range(count):
        tried = study.propose(spec, done, seed=11)
        assert tried is not None
        parameters = [{"parameter_id": name, "value": each} for name, each in tried.items()]
        done.append(Trial(id=str(number + 1), state=Trial.State.ACTIVE, parameters=parameters))
        if number:
            ended = done[-2]
            point = {each.parameter_id: each.value for each in ended.parameters}
            ended.state = Trial.State.INFEASIBLE if number % 5 == 0 else Trial.State.SUCCEEDED
            if ended.state == Trial.State.SUCCEEDED:
                ended.final_measurement = {"metrics": [{"metric_id": "loss", "value": loss(point)}]}
    return [{each.parameter_id: each.value for each in trial.parameters} for trial in done]


@pytest.mark.parametrize("algorithm", [DEFAULT, RANDOM])
def test_proposals_are_inside_their_bounds_and_on_their_scale(algorithm: int) -> None:
    found = run(spec_of(SPACE, algorithm), 40, lambda point: point["real"] * 0)
    for point in found:
        assert 0 <= point["real"] <= 2
        assert 1e-4 <= point["log"] <= 1 and 1e-4 <= point["late"] <= 1
        assert point["whole"] in range(-2, 3) and point["wlate"] in range(1, 101)
        assert point["some"] in (0.5, 16, 128) and point["name"] in ("a", "b")
    assert {point["whole"] for point in found} == {-2, -1, 0, 1, 2}
    assert statistics.median(point["log"] for point in found) < 0.1
    assert statistics.median(point["late"] for point in found) > 0.9
    assert statistics.median(point["wlate"] for point in found) > 60


@pytest.mark.parametrize("algorithm", [DEFAULT, RANDOM])
def test_the_same_record_leads_to_the_same_proposal_and_another_seed_does_not(
    algorithm: int,
) -> None:
    spec = spec_of(SPACE, algorithm)
    first = run(spec, 12, lambda point: point["real"])
    assert first == run(spec, 12, lambda point: point["real"])
    assert study.propose(spec, [], 11) != study.propose(spec, [], 12)
    assert len({str(point) for point in first}) == 12


@pytest.mark.parametrize("goal", [1, 2])
def test_the_default_algorithm_learns_from_the_trials(goal: int) -> None:
    axis = {"min_value": -5.0, "max_value": 5.0}
    space = [{"parameter_id": name, "double_value_spec": axis} for name in ("x", "y")]
    sign = 1 if goal == 2 else -1
    found = run(spec_of(space, goal=goal), 60, lambda p: sign * math.hypot(p["x"] - 2, p["y"] + 3))
    distances = [math.hypot(p["x"] - 2, p["y"] + 3) for p in found]
    assert statistics.median(distances[40:]) < statistics.median(distances[:20]) / 2


def test_a_grid_is_the_product_of_all_values_and_then_has_no_more() -> None:
    spec = spec_of(SPACE[3:4] + SPACE[5:], GRID)
    found = [study.propose(spec, [Trial()] * number, 0) for number in range(31)]
    expected = itertools.product(range(-2, 3), (0.5, 16, 128), "ab")
    assert [tuple(point.values()) for point in found[:30] if point] == list(expected)
    assert found[30] is None


def test_a_grid_may_be_larger_than_the_memory() -> None:
    huge = {"parameter_id": "n", "integer_value_spec": {"min_value": 0, "max_value": 2**62}}
    names = ("a", "b", "c")
    spec = spec_of([huge | {"parameter_id": name} for name in names], GRID)
    assert study.propose(spec, [Trial()] * 5, 0) == {"a": 0, "b": 0, "c": 5}


def test_several_metrics_are_searched_together() -> None:
    metrics = [{"metric_id": "loss", "goal": 2}, {"metric_id": "size", "goal": 1}]
    spec = StudySpec(metrics=metrics, parameters=SPACE[:1])
    both = [{"metric_id": "size", "value": 1}, {"metric_id": "loss", "value": 2}]
    parameters = [{"parameter_id": "real", "value": 1.0}]
    done = Trial(state=4, parameters=parameters, final_measurement={"metrics": both})
    point = study.propose(spec, [done] * 8, 1)
    assert point is not None and 0 <= float(point["real"]) <= 2


@pytest.mark.parametrize(("how", "text"), [(None, "128.0"), ("float", "128.0"), ("int", "128")])
def test_a_discrete_value_arrives_in_the_harsher_form_unless_asked(
    monkeypatch: pytest.MonkeyPatch, how: str | None, text: str
) -> None:
    if how:
        monkeypatch.setenv("VERTEX_LOCAL_DISCRETE", how)
    values = [("real", 1e-7), ("whole", -2), ("some", 128), ("name", "a")]
    trial = Trial(parameters=[{"parameter_id": name, "value": each} for name, each in values])
    spec = spec_of([SPACE[0], SPACE[3], SPACE[5], SPACE[6]])
    assert trials.flags(spec, trial) == ["--real=1e-07", "--whole=-2", f"--some={text}", "--name=a"]


@pytest.mark.parametrize(
    ("sources", "names"),
    [
        ("parser.add_argument('--learning-rate')\nargs.real", []),
        ("parser.add_argument('--learning_rate')", ["real"]),
        ("really = learning_rates", ["learning_rate", "real"]),
    ],
)
def test_flags_that_a_script_never_mentions(sources: str, names: list[str]) -> None:
    spec = spec_of([SPACE[0] | {"parameter_id": name} for name in ("learning_rate", "real")])
    assert trials.unread(spec, sources) == names
