"""The lesson's exercises: what a check cell says about an answer.

Each check takes the notebook's names, `globals()`, and returns a text. It begins with `Correct` if
the answer is right, else with `Not yet` and a hint. A check never raises an exception. The
solutions are in the notebook, below each task.
"""

from __future__ import annotations

import functools
import json
import math
import numbers
import re
import textwrap
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeGuard

from lesson.setup import WIDTH
from vertex_local import costs

AGAIN = "Run the cells above again, from Setup on."

Names = Mapping[str, Any]
Check = Callable[[Names], str]

# The sizes of G2 machines with one L4, and with more; Google's documentation of compute
# resources, 2026-08-22.
ONE_L4 = {f"g2-standard-{size}" for size in (4, 8, 12, 16, 32)}
MORE_L4 = {"g2-standard-24": 2, "g2-standard-48": 4, "g2-standard-96": 8}
# The workshop of the cost exercise.
ATTENDEES, MINUTES, MACHINE, ACCELERATOR = 25, 10, "n1-standard-8", "NVIDIA_TESLA_T4"
TOLERANCE = 0.013  # relative, for costs: 5 for 5.05 is right; provisioning for one job only is not


class NotYet(Exception):
    """The answer is not right yet; the message is a hint."""


def require(fine: object, hint: str) -> None:
    if not fine:
        raise NotYet(hint)


def described(answer: object) -> str:
    """Return an answer in words that a learner knows: 250, 'text', a function, a list …"""
    if callable(answer):
        return "a function or a type, not its value"
    if isinstance(answer, float) and not math.isfinite(answer):
        return "no finite number"
    if answer is None or isinstance(answer, (bool, int, float, str)):
        return textwrap.shorten(repr(answer), 50, placeholder=" …")
    name = type(answer).__name__.removeprefix("nd")  # NumPy has ndarray
    return f"{'an' if name[0] in 'aeiou' else 'a'} {name}"


def is_number(answer: object) -> TypeGuard[float]:
    """Tell whether an answer is one finite number, Python's or NumPy's, and not True or False."""
    return (
        isinstance(answer, numbers.Real) and not isinstance(answer, bool) and math.isfinite(answer)
    )


def check(*needed: str) -> Callable[[Callable[..., str]], Check]:
    """Return a decorator that makes a check, which never raises, of a function.

    Args:
        needed: the notebook's names whose values are the function's arguments. The function
            returns the comment on a right answer, and raises NotYet for a wrong one.
    """

    def decorate(function: Callable[..., str]) -> Check:
        @functools.wraps(function)
        def checked(names: Names) -> str:
            try:
                for name in needed:
                    require(name in names, f"{name} has no value. {AGAIN}")
                text = f"Correct: {function(*(names[name] for name in needed))}"
            except NotYet as hint:
                text = f"Not yet: {hint}"
            except Exception as error:
                text = (
                    f"Not yet: {needed[0]} has a form that cannot be checked ({error}). Keep the "
                    "form that the cell had, and change only what the task says."
                )
            return textwrap.fill(text, WIDTH, break_long_words=False, break_on_hyphens=False)

        return checked

    return decorate


def one_text(name: str, answer: object) -> str:
    """Return an answer that must be a text; raise NotYet if it is none, or holds braces."""
    require(
        isinstance(answer, str),
        f"{name} is {described(answer)}; write a text, between quotation marks.",
    )
    text = str(answer)
    require(
        "{" not in text and "}" not in text,
        f"{name} holds braces. Put an f before the first quotation mark, so that Python fills in "
        "the value of the name between them.",
    )
    return text


# ------------------------------------------------------------------------------ 06


@check("WORK")
def other_seed(work: Path) -> str:
    """Check that the run in third_run differs from the first one in its seed only."""
    first, third = _metrics(work / "first_run"), _metrics(work / "third_run")
    require(first, "the run in first_run is missing. Run the local test again.")
    elsewhere = _newest_other_run(work, third)
    require(
        third,
        "third_run holds no finished run. "
        + (
            f"A run with seed {elsewhere[1]} lies in {elsewhere[0]!r}: correct --model_out."
            if elsewhere
            else "Did the command end with an error? Its last line says why."
        ),
    )
    second = _metrics(work / "second_run")
    require(
        not second or first["seed"] == second["seed"],
        f"first_run was overwritten: it has seed {first['seed']} now. Run the local test again; "
        "then write this run into third_run.",
    )
    if third["seed"] == first["seed"]:
        raise NotYet(_same_seed(work / "third_run", third, elsewhere))
    for what in ("train_sha256", "val_sha256"):
        require(third[what] == first[what], "the runs read different data. Change the seed only.")
    changed = [
        f"--{name}"
        for name, value in first["hyperparameters"].items()
        if name != "seed" and third["hyperparameters"][name] != value
    ]
    require(not changed, f"{', '.join(changed)} differ, too. Change the seed only.")
    require(
        third["final_val_loss"] != first["final_val_loss"],
        "the losses are equal, so the seed seems to have no effect.",
    )
    return (
        f"with seed {third['seed']} the validation loss is {third['final_val_loss']:.4f} instead "
        f"of {first['final_val_loss']:.4f}, and the accuracy {third['final_val_accuracy']:.3f} "
        f"instead of {first['final_val_accuracy']:.3f}. Similar, but not equal."
    )


def _metrics(folder: Path) -> dict[str, Any]:
    """Return metrics.json of a local run; empty if it did not finish."""
    path = folder / "metrics.json"
    return dict(json.loads(path.read_text())) if path.is_file() else {}


def _newest_other_run(work: Path, third: dict[str, Any]) -> tuple[str, int] | None:
    """Return folder and seed of the newest run with another seed in a folder beside third_run."""
    known = {work / name for name in ("first_run", "second_run", "third_run")}
    paths = [p for p in work.glob("*/metrics.json") if p.parent not in known]
    paths.sort(key=lambda path: path.stat().st_mtime)
    for path in reversed(paths):
        found = _metrics(path.parent)
        if "seed" in found and found["seed"] != third.get("seed", 42):
            return path.parent.name, found["seed"]
    return None


def _same_seed(folder: Path, third: dict[str, Any], elsewhere: tuple[str, int] | None) -> str:
    """Return a hint why the run in third_run has the same seed as the first one."""
    if elsewhere:
        name, seed = elsewhere
        return f"a run with seed {seed} lies in {name!r}, not in third_run: correct --model_out."
    log = folder / "training.log"
    last = log.read_text().splitlines()[-1:] if log.is_file() else []
    if last and "ERROR" in last[0]:
        return f"your last run into third_run failed: {last[0].partition('ERROR')[2].strip(' :')}"
    return (
        f"the run in third_run has seed {third['seed']}, like the first. Add --seed=1 to the "
        "command and run it. If it is there already, the command failed (its last line says why), "
        "and what lies in third_run is from before."
    )


@check("my_estimate")
def workshop_cost(answer: Any) -> str:
    """Check the cost of a workshop in which everybody runs the GPU job once.

    Both amounts are right, with provisioning and without: whether it is billed is not known.
    """
    require(
        not isinstance(answer, costs.Estimate),
        "my_estimate is a whole estimate. Its amount, as a number, is .usd: costs.estimate(…).usd",
    )
    require(
        is_number(answer),
        f"my_estimate is {described(answer)}; it must be a number such as 1.25, without quotation "
        "marks and signs.",
    )
    require(
        answer,
        "put your estimate, in US dollars, into my_estimate. If the cell ended with an error: "
        "an estimate can be multiplied only as a number, costs.estimate(…).usd",
    )
    require(answer > 0, "a cost is above 0.")
    one = costs.estimate(MACHINE, ACCELERATOR, 1, minutes=MINUTES)
    require(one.usd, f"the answer cannot be checked. {one}")
    with_wait, computing = ATTENDEES * (one.usd or 0.0), ATTENDEES * one.share(MINUTES)
    if _close(answer, with_wait) or _close(answer, computing):
        return (
            f"about {computing:.2f} US dollars of computing for all {ATTENDEES}, and "
            f"{with_wait - computing:.2f} more if provisioning is billed, too. Prices of "
            f"{one.dates}: look at the current ones before you plan."
        )
    raise NotYet(_wrong_cost(float(answer), with_wait))


def _close(value: float, expected: float) -> bool:
    return abs(value - expected) <= TOLERANCE * expected


def _wrong_cost(answer: float, right: float) -> str:
    """Return a hint about the mistake that leads to a wrong cost."""
    hour = costs.estimate(MACHINE, ACCELERATOR, 1).usd_per_hour or 0.0
    for amount in (right, hour * ATTENDEES * MINUTES / 60):
        if _close(answer, amount / ATTENDEES):
            return f"that is the cost for one person. There are {ATTENDEES}."
        if _close(answer, amount * 100):
            return "that is in cents. Give it in dollars."
        if _close(answer, amount * ATTENDEES):
            return f"the {ATTENDEES} people are counted twice."
    if any(_close(answer, n * (hour + extra)) for n in (1, ATTENDEES) for extra in (0, hour / 15)):
        return f"that is for a whole hour. A job takes {MINUTES} minutes: minutes={MINUTES}"
    distance, hint = min(
        (abs(n * usd - answer) / answer, hint)
        for found, hint in _other_questions()
        for usd in (found.usd or 0.0, found.share(found.minutes))
        for n in (1, ATTENDEES)
    )
    if distance <= TOLERANCE:
        return hint
    side = "above" if answer > right else "below"
    return (
        f"your estimate is {side} what the price table gives, {answer / right:.2g} times as much. "
        "Begin with one job: print(costs.estimate(…)) shows its parts."
    )


def _other_questions() -> list[tuple[costs.Estimate, str]]:
    """Return estimates that a learner may have made in place of the right one, with a hint each."""
    task = f"The task says {MACHINE} with one {ACCELERATOR}."
    together = ATTENDEES * MINUTES
    gpu = functools.partial(costs.estimate, MACHINE, ACCELERATOR)
    return [
        (
            gpu(1, minutes=together),
            f"that is for jobs of {together} minutes. There are {ATTENDEES} jobs of {MINUTES} "
            "minutes, and each needs a machine of its own.",
        ),
        (gpu(1), f"that is the provisioning alone. Add the computing: minutes={MINUTES}"),
        (gpu(1, MINUTES), f"the minutes must be given by their name: minutes={MINUTES}"),
        (gpu(ATTENDEES, minutes=MINUTES), f"that is one machine with {ATTENDEES} GPUs. {task}"),
        (gpu(2, minutes=MINUTES), f"that is a machine with two GPUs. {task}"),
        (costs.estimate(MACHINE, minutes=MINUTES), f"that is the price without the GPU. {task}"),
        (
            costs.estimate("n1-standard-4", ACCELERATOR, 1, minutes=MINUTES),
            f"that is the price with an n1-standard-4. {task}",
        ),
        (
            costs.estimate("n1-standard-4", minutes=MINUTES),
            f"that is the price of an n1-standard-4 without a GPU. {task}",
        ),
    ]


@check("my_answer", "ARTIFACT_DIR")
def output_file(answer: Any, base: str) -> str:
    """Check where `model.pt` lies when only `base_output_dir` is given.

    Source of the rule: documentation of `base_output_directory` in the SDK's `CustomJobSpec`.
    """
    text = one_text("my_answer", answer)
    require(text, "write the whole name, from gs:// to model.pt, between the quotation marks.")
    require(
        not re.search(r"\s", text),
        "my_answer holds a space or a line break, perhaps at its end. The name has none.",
    )
    require(
        "ARTIFACT_DIR" not in text,
        "ARTIFACT_DIR stands there as a word. For its value, write {ARTIFACT_DIR}, with an f "
        "before the first quotation mark.",
    )
    require(
        "AIP_MODEL_DIR" not in text,
        "AIP_MODEL_DIR stands there as a word. Write its value: which folder does Vertex AI add?",
    )
    require(text.startswith("gs://"), "begin with gs://, as ARTIFACT_DIR does: {ARTIFACT_DIR}/…")
    require("gs://" not in text[5:], "gs:// is there twice: ARTIFACT_DIR begins with it.")
    require("//" not in text[5:], "there are two slashes in a row.")
    require("\\" not in text, "a name in Cloud Storage has slashes (/), not backslashes.")
    require(
        text.startswith(base),
        f"that is another folder than this run's. It begins with {base}, the value of "
        "ARTIFACT_DIR.",
    )
    inside = text.removeprefix(base)
    require(
        inside.strip("/"), "that is the run's folder. The name goes on from there, to model.pt."
    )
    require(inside.startswith("/"), "a slash is missing after {ARTIFACT_DIR}.")
    inside = inside.removeprefix("/")
    require(
        inside != "model.pt",
        "that is where --model_out puts it. Without it, the script uses AIP_MODEL_DIR. Which "
        "folder does Vertex AI add to base_output_dir?",
    )
    require(
        inside.endswith("model.pt"),
        "that is not yet the whole name: it ends with the file, model.pt.",
    )
    require(
        inside == "model/model.pt",
        f"model.pt is right at the end, but not the folder before it: {inside!r}. The box above "
        "the launch says what AIP_MODEL_DIR is.",
    )
    return "Vertex AI sets AIP_MODEL_DIR to base_output_dir plus /model/."


def failed_job_args(bucket_name: str) -> list[str]:
    """Return the arguments of a colleague's job, one of which names a missing file."""
    return [
        f"--train=gs://{bucket_name}/data/train_data.npz",
        f"--val=gs://{bucket_name}/data/validation_data.npz",
        "--epochs=200",
    ]


@check("not_found", "BUCKET_NAME")
def failed_job(answer: Any, bucket_name: str) -> str:
    """Check the name of the object that a colleague's job did not find."""
    text = one_text("not_found", answer)
    require(
        text.strip(),
        "copy the name of the object that the script did not find, between the quotation marks.",
    )
    name = text.strip().strip("'\"`.:,").removeprefix("gs://").removeprefix("/gcs/")
    require(
        not re.search(r"\s", name) or "validation_data" not in name,
        "the name is in your answer. Leave out the words around it.",
    )
    name = name.removeprefix(f"{bucket_name}/").removeprefix("data/")
    for there in ("train_data.npz", "val_data.npz", "preprocessing.json", "titanic_train.csv"):
        require(
            name not in (there, there.partition(".")[0]),
            f"{there} is in the bucket, as the list shows. Which one is not?",
        )
    require(
        "train_nn" not in name and "training.log" not in name,
        "that file was there: the script ran and left a log. What did the script not find?",
    )
    require(
        not re.search("traceback|exit|status|replica", name.lower()),
        "that says that the script failed. What did it not find?",
    )
    require(name != "validation_data", "almost: the name has an ending, too.")
    require(
        name == "validation_data.npz" or "validation" not in name.lower(),
        "almost. Copy the name from the log, letter by letter.",
    )
    require(
        name == "validation_data.npz",
        "look for a name that begins with gs:// in the last line of the log.",
    )
    return (
        "there is no such object; the file is called data/val_data.npz. The machine was started "
        "for nothing: a list of the bucket would have shown it before."
    )


@check("l4_request")
def l4_request(request: Any) -> str:
    """Check that a request asks for one L4 in a way that Vertex AI accepts."""
    require(isinstance(request, Mapping), "l4_request must stay a dict: {…: …, …: …}.")
    wanted = ["machine_type", "accelerator_type", "accelerator_count"]
    require(
        set(request) == set(wanted), f"it needs these keys, and no others: {wanted}. Type "
        "and count are given also where the GPU is built in.",
    )  # fmt: skip
    machine, gpu, count = (request[name] for name in wanted)
    require(
        gpu == "NVIDIA_L4",
        f"accelerator_type {gpu!r} is not how Vertex AI writes it. The task is to get an L4; the "
        "table has the word.",
    )
    require(machine, "machine_type is empty. Look for NVIDIA_L4 in the table above.")
    require(
        str(machine).strip().lower() == machine,
        f"machine_type {machine!r}: write it as in the table, in lowercase and without spaces.",
    )
    require(
        machine not in MORE_L4,
        f"a {machine} has {MORE_L4.get(machine)} L4 built in. Take one with a single L4.",
    )
    require(
        machine in ONE_L4,
        f"an L4 does not fit the machine type {machine}. Look for NVIDIA_L4 in the table above.",
    )
    require(
        isinstance(count, numbers.Integral) and not isinstance(count, bool),
        f"accelerator_count is {described(count)}; it must be a whole number, without quotation "
        "marks.",
    )
    require(count == 1, f"how many L4 does the table give for one {machine}? Not {count}.")
    return f"{machine} is a machine with one L4 built in."


# The right choice, a hint, and the reason.
CHOICES = {
    "A": (
        "cpu",
        "compare the seconds of training with the minutes before it, in the picture above.",
        "569 rows are computed in a second or two; a GPU would wait most of the time",
    ),
    "B": (
        "gpu",
        "nine hours for each epoch is long; and what should you measure before you pay for more?",
        "a large network with many images keeps one GPU busy, and nine hours are worth it",
    ),
    "C": (
        "several gpus",
        "compare 300 GB with the memory of one GPU in the table above.",
        "the network does not fit into the memory of one device",
    ),
}
HARDWARE = ["cpu", "gpu", "several gpus"]


@check("choices")
def compute_choice(choices: Any) -> str:
    """Check the choice between CPU, one GPU and several GPUs for three workloads."""
    require(isinstance(choices, Mapping), 'choices must stay a dict: {"A": …, "B": …, "C": …}.')
    for name, (expected, hint, _) in CHOICES.items():
        require(name in choices, f"the answer for {name} is missing.")
        choice = str(choices[name]).strip().lower()
        require(choice, f'choose "cpu", "gpu" or "several gpus" for {name}.')
        require(
            choice in HARDWARE,
            f'{name} is {choices[name]!r}; choose "cpu", "gpu" or "several gpus".',
        )
        require(choice == expected, f"think again about {name}: {hint}")
    return "; ".join(f"{name}: {reason}" for name, (*_, reason) in CHOICES.items()) + "."


# ------------------------------------------------------------------------------ 06d

# Whether a step leaks, a hint, and the reason.
LEAKS = {
    "A": (True, "whose ages are in the median?", "the median knows the held-out ages"),
    "B": (False, "which rows does it use?", "only training rows are used"),
    "C": (
        True,
        "what has the test file decided, and can it still judge the model?",
        "the test file is then no longer new to the model",
    ),
}


@check("leaks")
def leaks(answers: Any) -> str:
    """Check which of three steps lets held-out data into the training."""
    require(isinstance(answers, Mapping), 'leaks must stay a dict: {"A": …, "B": …, "C": …}.')
    for name, (expected, hint, _) in LEAKS.items():
        require(answers.get(name) is not None, f"write True or False for {name}.")
        require(
            isinstance(answers[name], bool),
            f"{name} is {answers[name]!r}; write True or False, without quotation marks.",
        )
        require(answers[name] == expected, f"think again about {name}: {hint}")
    return "; ".join(f"{name}: {reason}" for name, (*_, reason) in LEAKS.items()) + "."


# The largest values of the lesson's passengers, in data/titanic_*.csv.
MOST = {"Pclass": 3, "Age": 80, "SibSp": 8, "Parch": 6, "Fare": 513}


@check("other", "passenger", "survival_chances")
def changed_passenger(after: Any, before: Any, chances: Callable[[list[Any]], Any]) -> str:
    """Check that at most two changed facts lift a passenger's chance above 60 %."""
    require(isinstance(after, Mapping), "other must stay a dict: {**passenger, …}.")
    require(
        after is not before,
        "other and passenger are the same dict, so both were changed. Run the cell that makes the "
        "passenger again, and begin with other = {**passenger}.",
    )
    unknown = [name for name in after if name not in before]
    require(not unknown, f"{unknown} is no fact of a passenger. The facts: {list(before)}.")
    absent = [name for name in before if name not in after]
    require(not absent, f"{absent} is missing. Begin with other = {{**passenger}}.")
    changed = [name for name in before if after[name] != before[name]]
    require(
        changed,
        "other and passenger are equal. Change one or two facts in the cell of other. If you "
        "changed passenger itself, first run the cell that makes it again.",
    )
    require(
        len(changed) <= 2, f"you changed {len(changed)} facts ({', '.join(changed)}): two at most."
    )
    for name, most in MOST.items():
        value = after[name]
        if name == "Age" and value is None:
            continue
        require(
            is_number(value),
            f"{name} is {described(value)}; write a number, without quotation marks.",
        )
        require(value >= 0, f"{name} is {value}; it cannot be below 0.")
        require(value <= most, f"{name} is {value}; on the Titanic it was at most {most}.")
    require(after["Pclass"] in (1, 2, 3), "Pclass is 1, 2 or 3.")
    try:
        chance = float(chances([dict(after)])[0])
    except ValueError as error:
        raise NotYet(str(error)) from error
    require(math.isfinite(chance), "the model finds no chance: a fact is not a number.")
    require(
        chance > 0.6,
        f"with {' and '.join(changed)} changed, the chance is {chance:.0%}. Which facts mattered "
        "when the boats were filled?",
    )
    return f"with {' and '.join(changed)} changed, the chance is {chance:.0%}."


# ------------------------------------------------------------------------------ 06f

CAUSES = {1: "capacity", 2: "settings", 3: "permission", 4: "memory"}
WHERE_TO_LOOK = {
    "capacity": "its log holds no line of the script, and the error names a region.",
    "settings": "the script itself says, in its last line, what is wrong.",
    "permission": "look for a number of three digits, and for what was not allowed.",
    "memory": "the error says what there was too little of.",
}


@check("causes")
def diagnoses(answer: Any) -> str:
    """Check the causes that a learner names for the four broken jobs."""
    require(isinstance(answer, Mapping), "causes must stay a dict: {1: …, 2: …, 3: …, 4: …}.")
    require(
        sorted(answer, key=str) == sorted(CAUSES),
        "causes needs the keys 1, 2, 3 and 4, as numbers.",
    )
    for number, cause in CAUSES.items():
        given = str(answer[number] or "").strip().lower()
        known = ", ".join(WHERE_TO_LOOK)
        require(given, f"choose a cause for job {number}: {known}.")
        require(
            given in WHERE_TO_LOOK,
            f"job {number}: {described(answer[number])} is none of {known}.",
        )
        require(given == cause, f"job {number}: {WHERE_TO_LOOK[cause]}")
    return (
        "wait or go elsewhere (1), correct the argument (2), ask for access to the bucket (3), "
        "take a larger machine or smaller batches (4)."
    )
