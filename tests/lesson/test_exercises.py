"""What the check cells say: each likely wrong answer gets a sentence that leads on.

The answers are typed as learners type them: each text is the content of the exercise's cell.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lesson import exercises
from vertex_local import costs

Check = Callable[[Any], str]

BASE = "gs://doe-titanic/artifacts/pytorch/20261126-201500"


def names() -> dict[str, Any]:
    """What a notebook has defined when a learner comes to an exercise."""
    passenger = {"Pclass": 3, "Sex": "male", "Age": None, "SibSp": 0}
    passenger |= {"Parch": 0, "Fare": 8.05, "Embarked": "S"}
    known = {"BUCKET_NAME": "doe-titanic", "ARTIFACT_DIR": BASE, "costs": costs, "Path": Path}
    return known | {
        "passenger": passenger,
        "survival_chances": chances,
        "RUN_ID": "20261126-201500",
    }


def chances(rows: list[dict[str, Any]]) -> list[float]:
    """A model that knows who reached the boats, and refuses unknown words as the lesson's does."""
    (row,) = rows
    if row["Sex"] not in ("male", "female"):
        raise ValueError(f"Sex is {row['Sex']!r}; the model knows only 'female', 'male'.")
    return [{("female", 1): 0.95, ("female", 3): 0.55}.get((row["Sex"], row["Pclass"]), 0.1)]


def say(check: Check, typed: str) -> str:
    """Run what a learner typed, then the check; a cell that fails leaves the starter's value."""
    found = names() | {"my_estimate": 0.0, "my_answer": "", "not_found": ""}
    try:
        exec(typed, found)
    except (NameError, TypeError, SyntaxError):
        pass  # shown in the learner's own cell
    return check(found)


GPU = 'costs.estimate("n1-standard-8", "NVIDIA_TESLA_T4", '
ESTIMATE = f"{GPU}1, minutes=10)"
L4 = '{{"machine_type": {}, "accelerator_type": {}, "accelerator_count": {}}}'
# Of each exercise: the name that the learner gives a value, and what is typed behind the `=`.
WRONG: dict[tuple[Check, str], list[tuple[str, str]]] = {
    # 2: what does it cost for everybody?
    (exercises.workshop_cost, "my_estimate"): [
        ("0.0", "put your estimate"),
        (ESTIMATE, ".usd"),
        (f"25 * {ESTIMATE}", ".usd"),  # a TypeError
        (f"{ESTIMATE}.usd", "one person"),
        (f"{ESTIMATE.replace('=10', '=250')}.usd", "25 jobs of 10 minutes"),
        (f"25 * {ESTIMATE.replace('=10', '=250')}.usd", "25 jobs of 10 minutes"),
        (f"25 * {ESTIMATE.replace('=10', '=60')}.usd", "hour"),
        ('25 * costs.estimate("n1-standard-8", minutes=10).usd', "without the GPU"),
        ('"5.05"', "a number"),
        ('"$5.05"', "a number"),
        (f"2500 * {ESTIMATE}.usd", "in cents"),
        (f"625 * {ESTIMATE}.usd", "counted twice"),
        ("None", "a number"),
        ("-5", "above 0"),
        ('float("nan")', "no finite number; it must be"),
        ("3,5", "a tuple; it must be a number such as"),
        ("costs.estimate", "a function or a type"),
        (f"{GPU}1).usd", "the provisioning alone"),
        (f"25 * {GPU}1, 10).usd", "by their name: minutes=10"),
        (f"{GPU}25, minutes=10).usd", "machine with 25 GPUs"),
        (f"25 * {GPU}2, minutes=10).usd", "with two GPUs"),
        ('25 * costs.estimate("n1-standard-4", minutes=10).usd', "n1-standard-4 without a GPU"),
        ("123456", "above what the price table gives"),
        (f"[{ESTIMATE}.usd] * 25", "a number"),
    ],
    # 3: predict the output folder
    (exercises.output_file, "my_answer"): [
        ('""', "whole name"),
        ('"{ARTIFACT_DIR}/model/model.pt"', "Put an f before"),
        ('f"{ARTIFACT_DIR}/model/model.pt "', "space"),
        ('f"{ARTIFACT_DIR}/model.pt"', "--model_out"),
        ('f"{ARTIFACT_DIR}/model/"', "ends with the file"),
        ('f"{ARTIFACT_DIR}/model"', "ends with the file"),
        ('f"{ARTIFACT_DIR}model/model.pt"', "slash is missing"),
        ('f"{ARTIFACT_DIR}//model/model.pt"', "two slashes"),
        ('ARTIFACT_DIR + r"\\model\\model.pt"', "not backslashes"),
        ('f"{ARTIFACT_DIR} /model/model.pt"', "holds a space"),
        ('f"gs://{ARTIFACT_DIR}/model/model.pt"', "is there twice"),
        ('f"ARTIFACT_DIR/model/model.pt"', "as a word"),
        ('f"{ARTIFACT_DIR}/AIP_MODEL_DIR/model.pt"', "as a word"),
        ("ARTIFACT_DIR", "is the run's folder"),
        ('"https://example.com/model.pt"', "begin with gs://"),
        ("print", "a function or a type, not its value; write"),
        ("250", "my_answer is 250; write a text"),
        ('"model/model.pt"', "begin with gs://"),
        ('f"{ARTIFACT_DIR}/models/model.pt"', "folder before it"),
        ('f"{ARTIFACT_DIR}/checkpoints/model.pt"', "AIP_MODEL_DIR"),
        ('Path(f"{ARTIFACT_DIR}/model/model.pt")', "write a text"),
        ('"gs://doe-titanic/artifacts/model/model.pt"', "another folder"),
        ("{ARTIFACT_DIR}/model/model.pt", "whole name"),  # no quotes
        ('f"{ARTIFACT_DIR}/model/model.pth"', "ends with the file"),
    ],
    # 4: why did this job fail?
    (exercises.failed_job, "not_found"): [
        ('""', "copy the name"),
        ('"exited with a non-zero status of 2"', "did it not find"),
        ('"gs://doe-titanic/data/val_data.npz"', "Which one is not"),
        ('"train_data.npz"', "Which one is not"),
        ('"train_nn.py"', "What did the script not find"),
        ('"training.log"', "What did the script not find"),
        ('"val_data"', "Which one is not"),
        ('"data/titanic_train.csv"', "Which one is not"),
        ('"validation_data"', "an ending"),
        ('"Validation_data.npz"', "letter by letter"),
        ('"gs://other/data/validation_data.npz"', "letter by letter"),
        ('"gs://{BUCKET_NAME}/data/validation_data.npz"', "Put an f before"),
        (
            '"cannot read gs://doe-titanic/data/validation_data.npz: no such bucket"',
            "Leave out the words",
        ),
        ('["validation_data.npz"]', "write a text"),
        ('"doe-titanic"', "begins with gs://"),
        ('"Traceback"', "did it not find"),
    ],
    # 5: ask for an L4 correctly
    (exercises.l4_request, "l4_request"): [
        *[
            (L4.format(machine, gpu, count), said)
            for machine, gpu, count, said in [
                (
                    '"n1-standard-8"',
                    '"NVIDIA_L4"',
                    "1",
                    "does not fit the machine type n1-standard-8",
                ),
                ('"n1-standard-16"', '"NVIDIA_L4"', "1", "does not fit"),
                ('"g2-standard-8"', '"NVIDIA_L4"', '"1"', "whole number"),
                ('"g2-standard-8"', '"NVIDIA_L4"', "2", "for one g2-standard-8"),
                ('"g2-standard-24"', '"NVIDIA_L4"', "2", "has 2 L4 built in"),
                ('"g2-standard-8"', '"NVIDIA_TESLA_L4"', "1", "the table has the word"),
                ('"g2-standard-8"', '"L4"', "1", "the table has the word"),
                ('"n1-standard-8"', '"NVIDIA_TESLA_T4"', "1", "to get an L4"),
                ('"G2-standard-8"', '"NVIDIA_L4"', "1", "lowercase"),
                ('"g2-standard-8 "', '"NVIDIA_L4"', "1", "without spaces"),
                ('"g2-standard"', '"NVIDIA_L4"', "1", "does not fit"),
                ('"g2-standard-8"', '"NVIDIA_L4"', "None", "whole number"),
                ('["g2-standard-8"]', '"NVIDIA_L4"', "1", "as in the table"),
                ('""', '"NVIDIA_L4"', "1", "machine_type is empty"),
                ('"g2-standard-8"', '"NVIDIA_L4"', "True", "whole number"),
            ]
        ],
        ('{"machine_type": "g2-standard-8"}', "these keys"),
        ('{1: "NVIDIA_L4", "machine": 2}', "these keys"),
        ('{"g2-standard-8", "NVIDIA_L4", 1}', "must stay a dict"),
    ],
    # 6: choose the hardware
    (exercises.compute_choice, "choices"): [
        ('{"A": "", "B": "", "C": ""}', "for A"),
        *[
            (f'{{"A": {a}, "B": {b}, "C": {c}}}', said)
            for a, b, c, said in [
                ('"gpu"', '"gpu"', '"several gpus"', "think again about A"),
                ('"cpu"', '"cpu"', '"several gpus"', "think again about B"),
                ('"cpu"', '"several gpus"', '"several gpus"', "measure before you pay"),
                ('"cpu"', '"gpu"', '"gpu"', "memory of one GPU"),
                ('"cpu"', '"gpu"', '"cpu"', "memory of one GPU"),
                ('"cpu"', '"gpu"', '"several"', "'several'; choose"),
                ('"cpu"', '"gpus"', '"several gpus"', "'gpus'; choose"),
                ('"cpu"', '"gpu"', '"tpu"', "'tpu'; choose"),
                ('"n1-standard-4"', '"gpu"', '"several gpus"', "choose"),
                ("None", '"gpu"', '"several gpus"', "choose"),
            ]
        ],
        ('{"A": "cpu", "B": "gpu"}', "the answer for C is missing"),
        ('["cpu", "gpu", "several gpus"]', "must stay a dict"),
    ],
    # 06d, 1: a better ticket
    (exercises.changed_passenger, "other"): [
        ("{**passenger}", "Change one or two"),
        ('{**passenger, "Sex": "Female"}', "Sex is 'Female'; the model knows only"),
        ('{**passenger, "Sex": "woman"}', "the model knows only"),
        ('{**passenger, "sex": "female"}', "['sex'] is no fact"),
        ('{**passenger, "Pclass": "1", "Sex": "female"}', "Pclass is '1'; write a number"),
        ('{**passenger, "Pclass": 0, "Sex": "female"}', "Pclass is 1, 2 or 3"),
        ('{**passenger, "Age": "30", "Sex": "female"}', "Age is '30'; write a number"),
        ('{**passenger, "Age": 5}', "the chance is 10%"),
        ('{**passenger, "Sex": "female"}', "the chance is 55%"),
        ('{**passenger, "Sex": "female", "Pclass": 1, "Fare": 90}', "you changed 3 facts"),
        ('{**passenger, "Fare": -1, "Sex": "female"}', "cannot be below 0"),
        ('{**passenger, "Fare": None, "Sex": "female"}', "Fare is None"),
        ('{"Sex": "female", "Pclass": 1}', "is missing"),
        ('passenger; other["Sex"] = "female"; other["Pclass"] = 1', "the same dict"),
        ('{**passenger, "Age": float("nan"), "Sex": "female"}', "Age is no finite number"),
        ('{**passenger, "Fare": 1e9}', "at most 513"),
        ('{**passenger, "Pclass": True, "Sex": "female"}', "Pclass is True; write a number"),
        ('[{**passenger, "Sex": "female"}]', "must stay a dict"),
        ('{**passenger, "Sex": ["female"]}', "the model knows only"),
    ],
    # 06d, 2: which step leaks?
    (exercises.leaks, "leaks"): [
        ('{"A": None, "B": None, "C": None}', "True or False for A"),
        ('{"A": False, "B": False, "C": True}', "think again about A"),
        ('{"A": True, "B": True, "C": True}', "think again about B"),
        ('{"A": True, "B": False, "C": False}', "think again about C"),
        ('{"A": "True", "B": "False", "C": "True"}', "without quotation marks"),
        ('{"A": "yes", "B": "no", "C": "yes"}', "without quotation marks"),
        ('{"A": 1, "B": 0, "C": 1}', "write True or False"),
        ('{"A": True, "B": False}', "True or False for C"),
        ('{"a": True, "b": False, "c": True}', "True or False for A"),
        ("[True, False, True]", "must stay a dict"),
        ("None", "must stay a dict"),
    ],
}


@pytest.mark.parametrize(
    ("check", "typed", "said"),
    [
        (check, f"{name} = {typed}", said)
        for (check, name), cases in WRONG.items()
        for typed, said in cases
    ],
)
def test_a_wrong_answer_gets_a_sentence_that_leads_on(check: Check, typed: str, said: str) -> None:
    answer = " ".join(say(check, typed).split("\n"))
    assert answer.startswith("Not yet: ") and said in answer, answer
    assert "cannot be checked" not in answer and "nan" not in answer


def test_every_exercise_has_ten_likely_wrong_answers() -> None:
    assert all(len(cases) >= 10 for cases in WRONG.values())


@pytest.mark.parametrize(
    ("check", "typed"),
    [
        (exercises.workshop_cost, f"my_estimate = 25 * {ESTIMATE}.usd"),
        (
            exercises.workshop_cost,
            'my_estimate = 25 * costs.estimate("n1-standard-8", "NVIDIA_TESLA_T4", 1, minutes=10, '
            "provisioning_minutes=0).usd",
        ),
        (
            exercises.workshop_cost,
            f"my_estimate = {ESTIMATE.replace('minutes', 'replica_count=25, minutes')}.usd",
        ),
        (exercises.workshop_cost, "my_estimate = 5"),
        (exercises.workshop_cost, "my_estimate = 3.6  # without provisioning"),
        (exercises.output_file, 'my_answer = f"{ARTIFACT_DIR}/model/model.pt"'),
        (exercises.output_file, 'my_answer = ARTIFACT_DIR + "/model/model.pt"'),
        (exercises.failed_job, 'not_found = f"gs://{BUCKET_NAME}/data/validation_data.npz"'),
        (exercises.failed_job, 'not_found = "validation_data.npz"'),
        (exercises.failed_job, 'not_found = " gs://doe-titanic/data/validation_data.npz: "'),
        (
            exercises.l4_request,
            'l4_request = dict(machine_type="g2-standard-4", accelerator_type="NVIDIA_L4", '
            "accelerator_count=1)",
        ),
        (exercises.compute_choice, 'choices = {"A": "CPU", "B": "gpu", "C": "several GPUs "}'),
        (exercises.changed_passenger, 'other = {**passenger, "Sex": "female", "Pclass": 1}'),
        (
            exercises.changed_passenger,
            'import numpy as np; other = dict(passenger, Sex="female", Pclass=np.int64(1))',
        ),
        (exercises.leaks, 'leaks = {"A": True, "B": False, "C": True}'),
    ],
)
def test_a_right_answer_is_said_to_be_right(check: Check, typed: str) -> None:
    assert say(check, typed).startswith("Correct: ")


def test_a_hint_is_not_the_solution() -> None:
    for table in (exercises.CHOICES, exercises.LEAKS):
        for expected, hint, reason in table.values():
            assert str(expected) not in hint and reason not in hint


@pytest.mark.parametrize("check", [*(check for check, _ in WRONG), exercises.other_seed])
def test_no_check_raises_whatever_it_finds(check: Check) -> None:
    assert "has no value" in check({})
    strange: list[Any] = [None, 0, "", "x", b"x", [], {}, {1: 2}, object(), float("inf"), print]
    for value in strange:
        everything = dict.fromkeys((name for _, name in WRONG), value)
        assert check(names() | {"WORK": value} | everything).startswith("Not yet: ")


# ------------------------------------------------------------------------------ another seed


@pytest.fixture
def work(tmp_path: Path) -> Path:
    """The folder of the notebook after both runs of the lesson and the exercise's starter."""
    for name in ("first_run", "second_run", "third_run"):
        write_run(tmp_path / name)
    return tmp_path


def write_run(folder: Path, seed: int = 42, log: str = "INFO saved", **changed: Any) -> None:
    """Leave what train_nn.py leaves of a finished run, as far as the check reads it."""
    folder.mkdir(exist_ok=True)
    settings = {"epochs": 500, "learning_rate": 0.001, "seed": seed} | changed
    found = {"seed": seed, "hyperparameters": settings, "train_sha256": "t", "val_sha256": "v"}
    found |= {"final_val_loss": 0.4 + seed / 1000, "final_val_accuracy": 0.8} | changed
    (folder / "metrics.json").write_text(json.dumps(found))
    (folder / "training.log").write_text(f"2026-11-26 20:00:00 {log}\n")


def test_another_seed_is_right(work: Path) -> None:
    write_run(work / "third_run", seed=1)
    said = exercises.other_seed({"WORK": work})
    assert said.startswith("Correct: with seed 1") and "0.4010 instead of" in said
    assert max(map(len, said.splitlines())) <= exercises.WIDTH


def without_metrics(folder: Path) -> None:
    os.remove(folder / "metrics.json")


def refuse(work: Path) -> None:
    log = "2026-11-26 20:00:01 ERROR --seed must be 0 or more, not -1\n"
    (work / "third_run" / "training.log").write_text(log)


@pytest.mark.parametrize(
    ("mistake", "said"),
    [
        # The starter was run as it is; or --sed=1, --seed=x, -seed=1: the command failed at once.
        (lambda work: None, "If it is there already, the command failed"),
        (
            lambda work: write_run(work / "thrid_run", seed=1),
            "a run with seed 1 lies in 'thrid_run'",
        ),
        (
            lambda work: write_run(work / "third_run ", seed=1),
            "a run with seed 1 lies in 'third_run '",
        ),
        (lambda work: without_metrics(work / "third_run"), "Did the command end with an error?"),
        (
            lambda work: (without_metrics(work / "third_run"), write_run(work / "seed_1", seed=1)),
            "A run with seed 1 lies in 'seed_1'",
        ),
        (lambda work: write_run(work / "first_run", seed=1), "first_run was overwritten"),
        (refuse, "your last run into third_run failed: --seed must be 0 or more"),
        (
            lambda work: write_run(work / "third_run", seed=1, epochs=100),
            "--epochs differ, too. Change the seed only",
        ),
        (
            lambda work: write_run(work / "third_run", seed=1, train_sha256="other"),
            "different data",
        ),
        (lambda work: without_metrics(work / "first_run"), "Run the local test again"),
        (
            lambda work: write_run(work / "third_run", seed=1, final_val_loss=0.442),
            "seems to have no effect",
        ),
        (
            lambda work: (work / "third_run" / "metrics.json").write_text("{"),
            "cannot be checked",
        ),
    ],
)
def test_a_run_that_is_not_another_seed_is_told_why(
    work: Path, mistake: Callable[[Path], object], said: str
) -> None:
    mistake(work)
    answer = " ".join(exercises.other_seed({"WORK": work}).split("\n"))
    assert answer.startswith("Not yet: ") and said in answer, answer
