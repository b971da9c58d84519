"""The episode's exercises: what a check cell says about an answer.

Each function returns one sentence: it begins with `Correct` if the answer is right, else with
`Not yet` and what is still missing. The solutions stand in the notebook, below each task.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from vertex_local import costs

# The sizes of G2 machines with one L4; Google's documentation of compute resources, 2026-08-22.
ONE_L4 = {f"g2-standard-{size}" for size in (4, 8, 12, 16, 32)}
ATTENDEES, MINUTES = 25, 10  # of the cost exercise


def other_seed(first: Mapping[str, Any], third: Mapping[str, Any]) -> str:
    """Check that a run used another seed than the first.

    Args:
        first: `metrics.json` of the first run.
        third: `metrics.json` of the learner's run.
    """
    if third["seed"] == first["seed"]:
        return (
            f"Not yet: the run in third_run has seed {third['seed']}, like the first. Add an "
            "argument to the command."
        )
    if third["train_sha256"] != first["train_sha256"]:
        return "Not yet: the two runs read different training data. Change the seed only."
    if third["final_val_loss"] == first["final_val_loss"]:
        return "Not yet: the losses are equal, so the seed seems to have no effect."
    return (
        f"Correct: with seed {third['seed']} the validation loss is {third['final_val_loss']:.4f} "
        f"instead of {first['final_val_loss']:.4f}, and the accuracy "
        f"{third['final_val_accuracy']:.3f} instead of {first['final_val_accuracy']:.3f}. "
        "Similar, but not equal."
    )


def output_file(answer: str, base: str) -> str:
    """Check where `model.pt` lies when only `base_output_dir` is given.

    Args:
        answer: the learner's `gs://` name of the file.
        base: what was passed as `base_output_dir`.

    Source of the rule: documentation of `base_output_directory` in the SDK's `CustomJobSpec`.
    """
    if not answer:
        return "Not yet: write the whole name of the file, from gs:// to model.pt, into my_answer."
    if answer == f"{base}/model.pt":
        return (
            "Not yet: that is where --model_out would put it. Without it, the script uses "
            "AIP_MODEL_DIR. Which folder does Vertex AI add to base_output_dir?"
        )
    if answer != f"{base}/model/model.pt":
        return f"Not yet: the name begins with {base}/ and ends with /model.pt."
    return "Correct: Vertex AI sets AIP_MODEL_DIR to base_output_dir plus /model/."


def failed_job_args(bucket_name: str) -> list[str]:
    """Return the arguments of a colleague's job, which has a fault."""
    return [
        f"--train=gs://{bucket_name}/data/train_data.npz",
        f"--val=gs://{bucket_name}/data/validation_data.npz",
        "--epochs=200",
    ]


def failed_job(answer: str, bucket_name: str) -> str:
    """Check the name of the object that a colleague's job did not find.

    Args:
        answer: the learner's answer, with or without `gs://`.
        bucket_name: the bucket that the job was to read.
    """
    if not answer:
        return "Not yet: copy the name of the object that the script did not find."
    name = answer.strip().strip("'\"").removeprefix("gs://").removeprefix(f"{bucket_name}/")
    if name in ("data/validation_data.npz", "validation_data.npz"):
        return (
            "Correct: there is no such object; the file is called data/val_data.npz. The machine "
            "was started for nothing; a listing of the bucket would have shown it before."
        )
    if "traceback" in name.lower() or "exit" in name.lower():
        return "Not yet: that says that the script failed. What did it not find?"
    return "Not yet: look for a name that begins with gs:// in the last lines of the message."


def l4_request(request: Mapping[str, Any]) -> str:
    """Check that a request asks for one L4 in a way that Vertex AI accepts.

    Args:
        request: `machine_type`, `accelerator_type` and `accelerator_count`.
    """
    gpu, count = request.get("accelerator_type"), request.get("accelerator_count")
    machine = request.get("machine_type")
    if gpu != "NVIDIA_L4":
        return "Not yet: the task is to get an L4, so accelerator_type stays NVIDIA_L4."
    if machine not in ONE_L4:
        return (
            f"Not yet: an L4 does not fit the machine type {machine}. Look for NVIDIA_L4 in the "
            "table above."
        )
    if count != 1:
        return f"Not yet: a {machine} has one L4 built in, so accelerator_count is 1."
    return f"Correct: {machine} is a machine with one L4 built in."


def workshop_cost(answer: float, machine_type: str, accelerator_type: str) -> str:
    """Check the cost of a workshop in which everybody runs the GPU job once, within 5 %.

    Args:
        answer: the learner's estimate, in US dollars.
        machine_type: machine of the job.
        accelerator_type: its accelerator, of which it has one.
    """
    one = costs.estimate(machine_type, accelerator_type, 1, minutes=MINUTES)
    if one.usd is None:
        return f"The answer cannot be checked. {one}"
    expected = ATTENDEES * one.usd
    if not answer:
        return "Not yet: put your estimate, in US dollars, into my_estimate."
    ratio = answer / expected
    if abs(ratio - 1) <= 0.05:
        return (
            f"Correct: about {expected:.2f} US dollars for all {ATTENDEES}, with prices of "
            f"{one.dates}. Check the current prices before you plan."
        )
    if abs(ratio * ATTENDEES - 1) <= 0.05:
        return f"Not yet: that is the cost for one person. There are {ATTENDEES}."
    if abs(ratio * MINUTES / 60 - 1) <= 0.05:
        return f"Not yet: that is the cost of a whole hour. The job takes {MINUTES} minutes."
    return f"Not yet: your estimate is {ratio:.2f} times what the price table gives."


CHOICES = {
    "A": ("cpu", "569 rows are computed in less than a second; a GPU would wait most of the time"),
    "B": (
        "gpu",
        "a large network with many images keeps one GPU busy, and nine hours are worth it",
    ),
    "C": ("several gpus", "the network does not fit into the memory of one device"),
}


def compute_choice(choices: Mapping[str, str]) -> str:
    """Check the choice between CPU, one GPU and several GPUs for three workloads.

    Args:
        choices: `"cpu"`, `"gpu"` or `"several gpus"` for each of the keys A, B and C.
    """
    options = {option for option, _ in CHOICES.values()}
    for name, (expected, reason) in CHOICES.items():
        choice = str(choices.get(name, "")).strip().lower()
        if choice not in options:
            return f'Not yet: choose "cpu", "gpu" or "several gpus" for {name}.'
        if choice != expected:
            return f"Not yet: think again about {name}. Hint: {reason}."
    return "Correct: " + "; ".join(f"{name}: {reason}" for name, (_, reason) in CHOICES.items())


LEAKS = {
    "A": (True, "the median knows the ages of the validation rows"),
    "B": (False, "only training rows are used"),
    "C": (True, "the test file is then no longer new to the model"),
}


def leaks(answers: Mapping[str, bool | None]) -> str:
    """Check which of three steps lets held-out data into the training.

    Args:
        answers: True (leaks) or False for each of the keys A, B and C.
    """
    for name, (expected, reason) in LEAKS.items():
        if answers.get(name) is None:
            return f"Not yet: write True or False for {name}."
        if bool(answers[name]) != expected:
            return f"Not yet: think again about {name}. Hint: {reason}."
    return "Correct: " + "; ".join(f"{name}: {reason}" for name, (_, reason) in LEAKS.items())


def changed_passenger(
    before: Mapping[str, Any], after: Mapping[str, Any], chance: float, features: Sequence[str]
) -> str:
    """Check that at most two changed facts lift a passenger's chance above 60 %.

    Args:
        before: the passenger of the starter cell.
        after: the learner's passenger.
        chance: what the model says about it, 0 to 1.
        features: names of all facts that the model uses.
    """
    changed = [name for name in features if after.get(name) != before[name]]
    if not changed:
        return "Not yet: change one or two facts of the passenger, then run both cells again."
    if len(changed) > 2:
        return f"Not yet: you changed {len(changed)} facts ({', '.join(changed)}); use two at most."
    if chance <= 0.6:
        return f"Not yet: the chance is {chance:.0%} now. Which facts mattered on the Titanic?"
    return f"Correct: with {' and '.join(changed)} changed, the chance is {chance:.0%}."
