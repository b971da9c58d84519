"""The trials of a search as a table and as a plot, and the checks of notebook 06e's exercises."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pandas as pd

from lesson.exercises import check, one_text, require

INFEASIBLE = 5  # Trial.State
COLLEAGUE = """
import hypertune

learning_rate = 0.01  # the colleague's favourite
val_loss = 0.4 + (learning_rate - 0.003) ** 2
report = hypertune.HyperTune().report_hyperparameter_tuning_metric
report("val_loss", val_loss)
"""


def value(trial: Any) -> float:
    """Return the first metric of a trial; NaN for a failed one, which has no measurement."""
    metrics = trial.final_measurement.metrics
    return float(metrics[0].value) if metrics else float("nan")


def table(search: Any) -> pd.DataFrame:
    """Return a table with one row for each trial of a `HyperparameterTuningJob`.

    Its columns are the parameters, the metric under its name, `step` and `state`. Vertex AI returns
    every number as a float; here, a column that has only whole numbers becomes one of integers.
    """
    metric = search.gca_resource.study_spec.metrics[0].metric_id
    rows = []
    for trial in search.trials:
        row = {parameter.parameter_id: parameter.value for parameter in trial.parameters}
        row |= {metric: value(trial), "step": int(trial.final_measurement.step_count)}
        rows.append({"trial": int(trial.id), **row, "state": trial.state.name})
    return pd.DataFrame(rows).set_index("trial").convert_dtypes()


def best(search: Any) -> Any:
    """Return the best trial by the first metric and its goal (minimize or maximize).

    Raises:
        ValueError: if no trial has a measurement.
    """
    measured = [trial for trial in search.trials if trial.final_measurement.metrics]
    if not measured:
        raise ValueError("no trial of this search has a measurement.")
    sign = -1 if _minimizes(search) else 1
    return max(measured, key=lambda trial: sign * value(trial))


def _minimizes(search: Any) -> bool:
    return bool(search.gca_resource.study_spec.metrics[0].goal.name == "MINIMIZE")


def plot(search: Any) -> None:
    """Plot the trials by their first two parameters, and how the best value improved.

    Both axes of the left plot are logarithmic. A trial is a circle with its number; the best one
    has a thick edge.
    """
    import matplotlib.pyplot as plt

    found = table(search)
    x, y, metric = found.columns[:3]
    winner = int(best(search).id)
    _, (space, course) = plt.subplots(1, 2, figsize=(10, 4), layout="tight")
    for number, row in found.iterrows():
        wide = 3 if number == winner else 0.8
        space.plot(row[x], row[y], "o", ms=19, mfc="white", mec="black", mew=wide)
        space.annotate(str(number), (row[x], row[y]), ha="center", va="center")
        text = "failed" if pd.isna(row[metric]) else f"{row[metric]:.3f}"
        offset = {"xytext": (0, -21), "textcoords": "offset points"}
        space.annotate(text, (row[x], row[y]), ha="center", fontsize=8, **offset)
    space.set(xscale="log", yscale="log", xlabel=x, ylabel=y, title=f"Below each trial: {metric}")
    space.margins(0.18)
    values = found[metric].astype(float)
    so_far = np.fmin.accumulate(values) if _minimizes(search) else np.fmax.accumulate(values)
    course.plot(found.index, values, "ko", mfc="white", label="trial")
    course.step(found.index, so_far, "k-", where="post", label="best so far")
    course.set(xlabel="trial", ylabel=metric, title="How the best value improved")
    course.legend()
    plt.show()


# ------------------------------------------------------------------------------ exercises


@check("metric_name", "typo")
def metric_name(answer: Any, search: Any) -> str:
    """Check the name of the metric that was reported to a search that asked for a wrong one."""
    name = one_text("metric_name", answer)
    wrong = search.gca_resource.study_spec.metrics[0].metric_id
    require(name, "write the name between the quotation marks; the reason above has it.")
    require(
        name == name.strip(),
        f"{name!r} begins or ends with a space. The names must agree to the last character.",
    )
    require(name != wrong, "that is the name which nobody reports. Read what came instead.")
    require(
        name == "val_accuracy" or re.sub("[^a-z]", "", name.lower()) != "valaccuracy",
        f"almost, but {name!r} is not what the script reports, letter by letter: capitals, signs "
        "and quotation marks count.",
    )
    require(
        name == "val_accuracy",
        f"{name!r} is not what train_nn.py reports and the search meant. It is an accuracy.",
    )
    return (
        "'val_accuracy', letter by letter. On Google Cloud, each of these trials would have cost "
        "its minutes; one trial first, with max_trial_count=1, would have shown the mistake."
    )


CAUSES = {
    "A": "trials of the same search have different values of learning_rate: look at the column.",
    "C": "the metric did arrive: the column val_loss has values.",
}


@check("cause")
def cause(answer: Any) -> str:
    """Check why all trials of the colleague's search have the same result."""
    letter = one_text("cause", answer).strip().upper()
    require(letter in ("A", "B", "C"), 'write "A", "B" or "C", with the quotation marks.')
    require(letter == "B", CAUSES.get(letter, ""))
    return (
        "the script never reads --learning_rate, so every trial did the same. Results that agree "
        "to the last digit are a warning sign, in the cloud as here."
    )
