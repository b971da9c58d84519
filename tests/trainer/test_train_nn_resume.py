"""A run that was stopped at any moment and started again ends like one that never stopped."""

from __future__ import annotations

import contextlib
import io
import random
import signal
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from trainer_cases import Case, arrays, npz

pytest_plugins = ["trainer_fixtures"]

BATCHES: dict[str, object] = {"batch_size": 64, "learning_rate": 0.01}


def checkpointed(case: Case, *extra: object, **options: object) -> Any:
    return case.train_well(*extra, checkpoint_dir=case.place.uri("ck"), **options)


def same_results(case: Case, one: str, other: str) -> bool:
    return (case.weights(one), case.history(one)) == (case.weights(other), case.history(other))


def next_epoch(case: Case) -> int:
    state = torch.load(io.BytesIO(case.place.read("ck/checkpoint.pt")), weights_only=True)
    return int(state["next_epoch"])


# ------------------------------------------------------------------------------ continuing


@pytest.mark.parametrize("batch_size", [0, 64])
def test_three_epochs_and_three_more_are_six(case: Case, batch_size: int) -> None:
    case.train_well(out="straight", epochs=6, batch_size=batch_size)
    checkpointed(case, out="parts", epochs=3, batch_size=batch_size)
    metrics = checkpointed(case, "--resume", out="parts", epochs=6, batch_size=batch_size)
    assert "resumed after epoch 3" in case.log("parts")
    assert metrics["epochs_run"] == 6
    assert same_results(case, "straight", "parts")


def test_and_three_without_a_checkpoint_are_not(local: Case) -> None:
    local.train_well(out="straight", epochs=6)
    local.train_well(out="parts", epochs=3)
    assert not same_results(local, "straight", "parts")


def test_early_stopping_goes_on_where_it_was(local: Case) -> None:
    options: dict[str, object] = {"learning_rate": 0.05, "patience": 6}
    straight = local.train_well(out="straight", epochs=200, **options)
    assert straight["stopped_early"]
    for epochs in (straight["best_epoch"] + 3, 200, 200):  # stop while it waits; end; start again
        metrics = checkpointed(local, out="parts", epochs=epochs, **options)
    assert metrics["stopped_early"] and metrics["best_epoch"] == straight["best_epoch"]
    assert same_results(local, "straight", "parts")


def test_vertex_names_the_folder(local: Case) -> None:
    folder = local.place.uri("vertex/checkpoints/")
    asked = {"checkpoint_every": 4}
    assert local.trainers.run(*local.argv(**asked), AIP_CHECKPOINT_DIR=folder).code == 0
    assert local.place.list("vertex/checkpoints") == ["checkpoint.pt"]
    assert local.trainers.run(*local.argv(epochs=9, **asked), AIP_CHECKPOINT_DIR=folder).code == 0
    assert "resumed after epoch 6" in local.log()


def test_a_short_run_leaves_nothing_in_the_folder_of_vertex(local: Case) -> None:
    folder = local.place.uri("vertex/checkpoints/")
    assert local.trainers.run(*local.argv(), AIP_CHECKPOINT_DIR=folder).code == 0
    assert "vertex" not in local.place.list("")


def test_and_without_a_folder_nothing_is_saved(local: Case) -> None:
    local.train_well("--checkpoint_every=1")
    assert local.place.list("") == ["data", "run"]


def test_checkpoints_come_as_often_as_asked(local: Case) -> None:
    checkpointed(local, epochs=10, checkpoint_every=3)
    assert next_epoch(local) == 11 and local.place.list("ck") == ["checkpoint.pt"]
    argv = local.argv(
        out="more", epochs=21, checkpoint_every=3, checkpoint_dir=local.place.uri("ck")
    )
    end = "train_nn.write_results = lambda *_: os._exit(7)\n"
    end += "save = train_nn.save_checkpoint\n"
    end += "train_nn.save_checkpoint = lambda run: (save(run), print('saved', len(run.history)))"
    result = local.trainers.run(*argv, before=end)
    saved = [line for line in result.out.splitlines() if line.startswith("saved")]
    assert saved == [f"saved {epoch}" for epoch in (12, 15, 18, 21)]


# ------------------------------------------------------------------------------ being killed


def saved(folder: Path) -> dict[str, int]:
    """When each checkpoint was written; none of those that are just being replaced."""
    found = {}
    for path in folder.glob("*.pt"):
        with contextlib.suppress(FileNotFoundError):
            found[path.name] = path.stat().st_mtime_ns
    return found


def test_killed_at_random_moments_it_ends_the_same(local: Case) -> None:
    options: dict[str, object] = {"epochs": 60, "checkpoint_every": 1, **BATCHES}
    local.train_well(out="straight", **options)
    folder, generator = Path(local.place.uri("ck")), random.Random(1)
    killed, resumed, result = 0, set(), None
    while not result or result.code:
        running = local.start(out="killed", checkpoint_dir=folder, **options)
        for _ in range(generator.randrange(10)):  # so many checkpoints later; 0: as it starts
            before = saved(folder)
            while saved(folder) == before and not running.ended():
                time.sleep(0.001)
        time.sleep(generator.uniform(0, 0.01))
        running.kill()
        result = running.wait()
        if "resumed after epoch" in result.out:
            resumed.add(result.out.partition("resumed after epoch ")[2].split()[0])
        assert result.code in (0, -signal.SIGKILL)
        killed += result.code != 0
    assert killed >= 5 and len(resumed) >= 3, (killed, resumed)
    assert same_results(local, "straight", "killed")
    assert local.trainers.run("--verify", local.place.uri("killed")).code == 0
    leftovers = [name for name in local.place.list("killed") if "part" in name]
    assert leftovers == []


def test_killed_in_the_cloud_it_ends_the_same(cloud: Case) -> None:
    options: dict[str, object] = {"epochs": 8, "checkpoint_every": 1, **BATCHES}
    cloud.train_well(out="straight", **options)
    options["checkpoint_dir"] = cloud.place.uri("ck")
    for done in (2, 4):  # the epoch that is next when it is killed, at least
        running = cloud.start(out="killed", **options)
        while "checkpoint.pt" not in cloud.place.list("ck") or next_epoch(cloud) < done:
            time.sleep(0.01)
        running.kill()
        assert running.wait().code in (0, -signal.SIGKILL)
    metrics = cloud.train_well(out="killed", **options)
    assert metrics["epochs_run"] == 8 and "resumed after epoch" in cloud.log("killed")
    assert same_results(cloud, "straight", "killed")


def test_sigterm_saves_a_checkpoint_and_the_log_and_exits_143(case: Case) -> None:
    options: dict[str, object] = {"epochs": 100_000, "checkpoint_dir": case.place.uri("ck")}
    running = case.start(**options)
    running.wait_for("epoch 1/")
    running.kill(signal.SIGTERM)
    result = running.wait()
    assert result.code == 143
    assert case.place.list("run") == ["training.log"]
    assert "stopped by SIGTERM after epoch" in case.log()
    done = int(case.log().partition("SIGTERM after epoch ")[2].split()[0])
    assert next_epoch(case) == done + 1 and case.place.list("ck") == ["checkpoint.pt"]

    case.train_well(epochs=done + 2, checkpoint_dir=case.place.uri("ck"))
    case.train_well(out="straight", epochs=done + 2)
    assert same_results(case, "straight", "run")


@pytest.mark.parametrize("seconds", [0, 3600])
def test_the_log_of_a_killed_job_reaches_the_bucket_in_time(cloud: Case, seconds: int) -> None:
    before = f"train_nn.UPLOAD_LOG_EVERY = {seconds}"
    argv = cloud.argv(epochs=3000)
    running = cloud.trainers.start(*argv, before=before, **cloud.place.env)
    running.wait_for("epoch 600/")
    running.kill()
    running.wait()
    assert "train_nn.py" in cloud.log()
    assert ("epoch 300/" in cloud.log()) == (seconds == 0)


# ------------------------------------------------------------------------------ damaged


def test_a_truncated_checkpoint_is_refused_and_kept(case: Case) -> None:
    checkpointed(case, epochs=5)
    damaged = case.place.read("ck/checkpoint.pt")[:2000]
    case.place.write("ck/checkpoint.pt", damaged)
    result = case.run(epochs=8, checkpoint_dir=case.place.uri("ck"))
    assert (result.code, result.err.count("\n")) == (2, 1)
    assert "checkpoint.pt is damaged" in result.err and "remove it" in result.err
    assert case.place.read("ck/checkpoint.pt") == damaged


NO_CHECKPOINTS = {
    "text": b"hello",
    "nothing": b"",
    "a model": None,
    "a list": [1, 2],
    "a broken state": {"next_epoch": 3},
}


@pytest.mark.parametrize("kind", NO_CHECKPOINTS)
def test_what_is_no_checkpoint_is_refused(local: Case, kind: str) -> None:
    content = NO_CHECKPOINTS[kind]
    if not isinstance(content, bytes):
        file = io.BytesIO()
        torch.save(content if content else torch.nn.Linear(1, 1).state_dict(), file)
        content = file.getvalue()
    local.place.write("ck/checkpoint.pt", content)
    result = local.run(checkpoint_dir=local.place.uri("ck"))
    assert (result.code, result.err.count("ERROR")) == (2, 1)
    assert "checkpoint.pt is damaged, or no checkpoint" in result.err
    assert local.place.list("run") == ["training.log"]


def test_resume_without_a_checkpoint_is_refused(case: Case) -> None:
    result = case.run("--resume", checkpoint_dir=case.place.uri("ck"))
    assert result.code == 2 and "there is no checkpoint" in result.err
    assert case.place.list("run") == ["training.log"]


# ------------------------------------------------------------------------------ another run

OTHER = {"learning_rate": 0.5, "patience": 3, "min_delta": 0.1, "batch_size": 7, "seed": 1}


@pytest.mark.parametrize("name", [*OTHER, "train", "val"])
def test_a_checkpoint_of_another_run_is_refused(local: Case, name: str) -> None:
    checkpointed(local)
    if name in OTHER:
        value, word = OTHER[name], f"--{name} was "
    else:
        value = local.place.write("other.npz", npz(arrays(name, 50)))
        word = "training data was" if name == "train" else "validation data was"
    argv: dict[str, Any] = {name: value}
    result = local.run(checkpoint_dir=local.place.uri("ck"), **argv)
    assert result.code == 2 and word in result.err and "another --checkpoint_dir" in result.err
    assert local.place.list("run") == ["training.log"]


def test_fewer_epochs_than_are_done_are_refused(local: Case) -> None:
    checkpointed(local, epochs=6)
    result = local.run(epochs=5, checkpoint_dir=local.place.uri("ck"))
    assert result.code == 2 and "6 epochs are done" in result.err


def test_but_the_other_way_to_choose_the_weights_is_not_another_run(local: Case) -> None:
    checkpointed(local)
    assert "resumed after epoch 6" not in local.log()
    checkpointed(local, "--no_restore_best")
    assert "resumed after epoch 6" in local.log()
