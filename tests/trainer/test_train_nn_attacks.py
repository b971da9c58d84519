"""What outside users did to the trainer: each ends with a sentence, and loses nothing."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from trainer_cases import PYTHON, RESULTS, SCRIPT, Case, Result, arrays, clean_environment, npz

pytest_plugins = ["trainer_fixtures"]


def refused(result: Result, *words: str) -> str:
    """Insist on exit code 2 and one sentence that holds `words`; return it."""
    assert result.code == 2 and "Traceback" not in result.err, result
    (line,) = [line for line in result.err.splitlines() if line.startswith("ERROR: ")]
    for word in words:
        assert word in line
    assert len(line) < 1100
    return line


# ------------------------------------------------------------------------------ places

NO_PLACES = ["gs://", "gs:///run", "gs:/b/run", "GS://bucket/run", "gcs://bucket/run", "gs:bucket"]
NO_PLACES += [
    "s3://bucket/run",
    "file:///tmp/run",
    "https://x.org/run",
    " gs://bucket/run",
    "",
    " ",
]
NO_PLACES += ["/gcs", "/gcs/", "/gcs//run", "gs://$BUCKET/run", "gs://{BUCKET}/run", "gs://B/run"]
NO_PLACES += ["gs://bucket/\udcff", "a/gs://bucket/run", "gs//bucket/run", "gcs//bucket/run"]
NO_PLACES += ["~/run", "$HOME/run", "${HOME}/run", "{{out}}/run"]  # no shell has read them
NO_PLACES += ["//gcs/bucket/run", "/./gcs/bucket/run", "/tmp/../gcs/bucket", "/gcs/bucket/../etc"]


@pytest.mark.parametrize("place", NO_PLACES)
def test_what_is_no_place_is_refused_before_anything_runs(
    local: Case, tmp_path: Path, place: str
) -> None:
    here = tmp_path / "here"
    here.mkdir()
    for option in ("model_out", "train", "val", "checkpoint_dir", "verify"):
        argv = local.argv(**{option: place})
        result = local.trainers.run(*argv, cwd=here)
        if place or option not in ("train", "val"):
            refused(result, f"--{option} {place!r} must be a path")
        assert result.code == 2 and os.listdir(here) == []


def test_an_empty_bucket_variable_of_vertex_is_refused(local: Case, tmp_path: Path) -> None:
    argv = [word for word in local.argv() if not str(word).startswith("--model_out")]
    for place in ("gs://", "gs:///model/"):
        refused(local.trainers.run(*argv, cwd=tmp_path, AIP_MODEL_DIR=place), "must be a path")
    assert local.trainers.run(*argv, cwd=tmp_path, AIP_MODEL_DIR="").code == 0  # not set


@pytest.mark.parametrize(
    "name", ["with space", "run:1", "2026-11-26T10:00:00", "gcs", "a$b~", "\u51fa\u529b"]
)
def test_but_any_folder_is_a_place(local: Case, name: str) -> None:
    local.train_well(out=f"{name}/run")
    assert local.place.list(f"{name}/run") == RESULTS


def test_a_path_with_too_many_parts_is_refused(local: Case) -> None:
    result = local.run(model_out="/".join("a" * 5000))
    refused(result, "cannot write a/a/")


# ------------------------------------------------------------------------------ options


@pytest.mark.parametrize("value", ["64.0", "6.4e1", "64"])
def test_whole_numbers_may_be_written_as_a_tuning_service_does(local: Case, value: str) -> None:
    metrics = local.train_well(f"--batch_size={value}", f"--epochs={value}")
    assert metrics["hyperparameters"]["batch_size"] == 64 == metrics["epochs_run"]


@pytest.mark.parametrize("value", ["128.5", "nan", "inf", "1e999", "many", "", "9" * 5000])
def test_and_others_are_refused_in_words(local: Case, value: str) -> None:
    result = local.run(f"--batch_size={value}")
    assert result.code == 2
    assert result.err.splitlines()[-1].endswith(f"must be a whole number, not {value[:50]}")


WORDS = {"False": False, "0": False, "0.0": False, "TRUE": True, "1": True, "1.0": True}


@pytest.mark.parametrize("word", WORDS)
def test_a_switch_may_have_a_value(local: Case, word: str) -> None:
    metrics = local.train_well(f"--restore_best={word}", f"--quiet={word}")
    assert metrics["hyperparameters"]["restore_best"] is WORDS[word]


def test_and_no_other_one(local: Case) -> None:
    result = local.run("--restore_best=maybe")
    assert result.code == 2 and "--restore_best: must be true or false, not maybe" in result.err


LIMITS = {"learning_rate": ["1e38", "1e+30"], "epochs": [str(10**30), "1000000000"]}
LIMITS |= {"seed": [str(2**63), str(2**63 - 1)], "min_delta": ["inf", "1e+30"]}


@pytest.mark.parametrize("name", LIMITS)
def test_the_limit_that_was_passed_is_named(local: Case, name: str) -> None:
    value, limit = LIMITS[name]
    refused(local.run(f"--{name}={value}"), f"--{name} must be from", f" to {limit}, not ")


# ------------------------------------------------------------------------------ environment

FIRST = '{"type": "workerpool0", "index": 0}}'
HALF = {
    "garbage": {"WORLD_SIZE": "garbage"},
    "a fraction": {"WORLD_SIZE": "1.5"},
    "zero": {"WORLD_SIZE": "0"},
    "alone": {"WORLD_SIZE": "2"},
    "no rank": {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"},
    "no address": {"WORLD_SIZE": "2", "RANK": "0", "MASTER_PORT": "1"},
    "no port": {"WORLD_SIZE": "2", "RANK": "0", "MASTER_ADDR": "127.0.0.1"},
    "a wrong port": {"WORLD_SIZE": "2", "RANK": "0", "MASTER_ADDR": "a", "MASTER_PORT": "x"},
    "a wrong rank": {"WORLD_SIZE": "2", "RANK": "2", "MASTER_ADDR": "a", "MASTER_PORT": "1"},
    "a negative rank": {"WORLD_SIZE": "2", "RANK": "-1", "MASTER_ADDR": "a", "MASTER_PORT": "1"},
    "broken": {"CLUSTER_SPEC": "{broken"},
    "a text": {"CLUSTER_SPEC": '"x"'},
    "a number": {"CLUSTER_SPEC": "5"},
    "a list": {"CLUSTER_SPEC": "[]"},
    "null": {"CLUSTER_SPEC": "null"},
    "no pools": {"CLUSTER_SPEC": '{"cluster": {}}'},
    "an empty pool": {"CLUSTER_SPEC": '{"cluster": {"workerpool0": []}, "task": ' + FIRST},
    "no task": {"CLUSTER_SPEC": '{"cluster": {"workerpool0": ["a:1"]}}'},
    "a pool of texts": {"CLUSTER_SPEC": '{"cluster": {"workerpool0": "a"}, "task": ' + FIRST},
}


@pytest.mark.parametrize("kind", HALF)
def test_half_an_environment_is_refused_and_old_results_are_gone(local: Case, kind: str) -> None:
    local.train_well(epochs=1)
    name = "a:x" if kind == "a wrong port" else next(iter(HALF[kind]))
    line = refused(local.trainers.run(*local.argv(), **HALF[kind]), name)
    assert local.place.list("run") == ["training.log"]
    assert line.removeprefix("ERROR: ") in local.log()


LEFT_OVER = [{"RANK": "1"}, {"RANK": ""}, {"WORLD_SIZE": ""}, {"RANK": "garbage"}]
LEFT_OVER += [{"MASTER_ADDR": "a"}, {"LOCAL_RANK": "x"}]


@pytest.mark.parametrize("env", LEFT_OVER, ids=str)
def test_what_is_left_over_from_another_job_is_ignored_with_a_line(
    local: Case, env: dict[str, str]
) -> None:
    result = local.trainers.run(*local.argv(), **env)
    assert (result.code, result.err) == (0, "") and "epoch 6/6" in result.out
    assert local.place.list("run") == RESULTS and next(iter(env)) in local.log()


# ------------------------------------------------------------------------------ printing


def shell(case: Case, line: str, **env: str) -> subprocess.CompletedProcess[str]:
    """Run the trainer as `bash` does: $TRAINER stands for the command."""
    env = {**clean_environment(), "RUN": case.place.uri("run"), **env}
    argv = [PYTHON, str(SCRIPT), *map(str, case.argv())]
    command = ["bash", "-c", f"set -o pipefail; {line}", "bash", *argv]
    return subprocess.run(command, env=env, capture_output=True, text=True, timeout=100)


NOWHERE = ['"$@" | head -1', '"$@" >/dev/full', '"$@" >/dev/full 2>&1', '"$@" >&- 2>&-']


@pytest.mark.parametrize("line", NOWHERE)
def test_output_that_goes_nowhere_does_not_end_a_training(local: Case, line: str) -> None:
    assert shell(local, line).returncode == 0
    assert local.place.list("run") == RESULTS and "epoch 6/6" in local.log()


def test_a_terminal_that_does_not_know_a_letter(local: Case) -> None:
    argv = local.argv(model_out=local.place.uri("\u51fa\u529b"))
    command = [PYTHON, str(SCRIPT), *map(str, argv)]
    env = {**clean_environment(), "PYTHONIOENCODING": "latin-1"}
    done = subprocess.run(command, env=env, capture_output=True, timeout=100)
    assert done.returncode == 0 and b"\\u51fa" in done.stdout
    assert local.place.list("\u51fa\u529b") == RESULTS


# ------------------------------------------------------------------------------ signals


def test_ctrl_c_three_times_ends_with_a_line_and_the_log(local: Case) -> None:
    running = local.start(epochs=1_000_000)
    running.wait_for("epoch 1/")
    for _ in range(3):
        running.kill(signal.SIGINT)
    result = running.wait()
    assert (result.code, result.err) == (130, "ERROR: interrupted\n")
    assert local.place.list("run") == ["training.log"] and "interrupted" in local.log()


def test_sigterm_twice_is_sigterm(local: Case) -> None:
    running = local.start(epochs=1_000_000, checkpoint_dir=local.place.uri("ck"))
    running.wait_for("epoch 1/")
    running.kill(signal.SIGTERM)
    running.kill(signal.SIGTERM)
    result = running.wait()
    assert result.code == 143 and result.err.count("stopped by SIGTERM after epoch") == 1
    assert local.place.list("ck") == ["checkpoint.pt"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_during_the_imports_ends_with_a_line(local: Case, number: int) -> None:
    argv = [PYTHON, "-X", "importtime", str(SCRIPT), *map(str, local.argv())]
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(argv, env=clean_environment(), **pipes) as process:
        assert process.stderr
        while "numpy" not in process.stderr.readline():  # it has begun to import
            pass
        process.send_signal(number)
        _, err = process.communicate(timeout=60)
    assert process.returncode == 128 + number and "Traceback" not in err
    assert err.splitlines()[-1] == "ERROR: stopped while starting"


# ------------------------------------------------------------------------------ data


def zipped(**members: bytes) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, data in members.items():
            archive.writestr(name.replace("_npy", ".npy"), data)
    return file.getvalue()


def test_a_member_that_is_no_array(local: Case) -> None:
    for names in (("X_train", "y_train"), ("X_train_npy", "y_train_npy")):
        data = zipped(**dict.fromkeys(names, b"1,2,3"))
        result = local.run(train=local.place.write("bad.npz", data))
        refused(result, "bad.npz")


def test_names_of_a_wrong_shape(local: Case) -> None:
    for names in (np.array("pclass"), np.array([list("abcdefg")])):
        data = npz(arrays("train", 30, feature_names=names))
        refused(local.run(train=local.place.write("bad.npz", data)), "feature_names (")


def test_names_stored_as_bytes_are_texts(local: Case) -> None:
    names = arrays("train", 1)["feature_names"]
    data = npz(arrays("train", 300, feature_names=names.astype("S")))
    metrics = local.train_well(train=local.place.write("bytes.npz", data))
    assert metrics["feature_names"] == names.tolist()


def test_the_first_name_that_differs_is_shown_and_it_alone(local: Case) -> None:
    names = np.array(["pclass", "sex", "years" * 200_000, "sibsp", "parch", "price", "embarked"])
    data = npz(arrays("train", 30, feature_names=names))
    line = refused(local.run(train=local.place.write("bad.npz", data)), "column 2", "'age'")
    assert "price" not in line and len(line) < 1000


def test_data_that_does_not_fit_into_memory(local: Case) -> None:
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        header, {"descr": "<f4", "fortran_order": False, "shape": (10**12, 7)}
    )
    file = npz(arrays("train", 30, X_train=None))
    with zipfile.ZipFile(bad := io.BytesIO(file), "a") as archive:
        archive.writestr("X_train.npy", header.getvalue())
    result = local.run(train=local.place.write("huge.npz", bad.getvalue()))
    refused(result, "not enough memory", "TiB", "fewer rows")


@pytest.mark.parametrize("name", RESULTS)
def test_data_in_the_place_of_a_result_are_refused_and_kept(local: Case, name: str) -> None:
    data = npz(arrays("train", 300))
    train = local.place.write(f"run/{name}", data)
    result = local.run(train=train)
    assert result.code == 2 and f"{train} would be replaced by a result" in result.err
    assert local.place.read(f"run/{name}") == data


def test_a_name_that_would_change_the_terminal_is_printed_without_that(local: Case) -> None:
    names = np.array(["\r\x1b[31mred", *"bcdefg"])
    x = arrays("train", 30)["X_train"]
    x[0, 0] = np.nan
    data = npz(arrays("train", 30, X_train=x, feature_names=names))
    assert refused(local.run(train=local.place.write("bad.npz", data)), "[31mred").isprintable()


# ------------------------------------------------------------------------------ checkpoints


def spoil(state: Any, path: tuple[Any, ...], value: Any) -> None:
    *parents, last = path
    for key in parents:
        state = state[key]
    if value is KeyError:
        del state[last]
    else:
        state[last] = value


SPOILT: dict[str, tuple[tuple[Any, ...], Any]] = {
    "made_with is a list": (("made_with",), ["x"]),
    "made_with has an unknown name": (("made_with", "--luck"), 7),
    "a setting of another type": (("made_with", "--seed"), "42"),
    "next_epoch is NaN": (("next_epoch",), float("nan")),
    "next_epoch is far away": (("next_epoch",), 10**15),
    "next_epoch is negative": (("next_epoch",), -3),
    "next_epoch is another one": (("next_epoch",), 5),
    "next_epoch is missing": (("next_epoch",), KeyError),
    "no history": (("history",), KeyError),
    "a history of another shape": (("history",), torch.zeros(6, 3, dtype=torch.float64)),
    "a history of NaN": (("history",), torch.full((6, 4), torch.nan, dtype=torch.float64)),
    "a history of lists": (("history",), [[0.1, 0.2, 0.3, 0.4]] * 6),
    "weights of another shape": (("model", "0.weight"), torch.zeros(64, 5)),
    "weights that are NaN": (("model", "0.weight"), torch.full((64, 7), torch.nan)),
    "best weights that are infinite": (("best_weights", "0.bias"), torch.full((64,), torch.inf)),
    "best weights of another shape": (("best_weights", "0.bias"), torch.zeros(5)),
    "no best weights": (("best_weights",), {}),
    "doubles": (("model", "0.bias"), torch.zeros(64, dtype=torch.float64)),
    "a missing layer": (("model", "4.bias"), KeyError),
    "an extra layer": (("model", "9.bias"), torch.zeros(1)),
    "an unknown part of the optimizer": (("optimizer", "means"), []),
    "too few moments": (("optimizer", "moments"), torch.zeros(7)),
    "too many moments": (("optimizer", "moments"), torch.zeros(9999)),
    "too few steps": (("optimizer", "steps"), torch.zeros(1)),
    "no optimizer": (("optimizer",), None),
    "an extra field": (("stopping",), {"waited": 3}),
    "a shuffling state of another type": (("shuffle",), "random"),
    "a shuffling state of zeros": (("shuffle",), torch.zeros(5056, dtype=torch.uint8)),
}


@pytest.mark.parametrize("kind", SPOILT)
def test_a_checkpoint_that_can_be_read_but_not_used_is_refused(local: Case, kind: str) -> None:
    folder = local.place.uri("ck")
    local.train_well(checkpoint_dir=folder)
    path = Path(folder) / "checkpoint.pt"
    state = torch.load(path, weights_only=True)
    spoil(state, *SPOILT[kind])
    torch.save(state, path)
    result = local.run(checkpoint_dir=folder, epochs=9)
    refused(result, "checkpoint.pt is ", "another --checkpoint_dir")
    assert local.place.list("run") == ["training.log"]


def test_a_checkpoint_that_does_not_fit_into_memory_is_not_called_damaged(local: Case) -> None:
    folder = local.place.uri("ck")
    local.train_well(checkpoint_dir=folder)
    load = "def load(*_, **__): raise RuntimeError('you tried to allocate 8 bytes')\n"
    argv = local.argv(checkpoint_dir=folder)
    result = local.trainers.run(*argv, before=f"{load}train_nn.torch.load = load")
    assert "damaged" not in refused(result, "not enough memory", "8 bytes")


def test_a_checkpoint_of_large_gradients_is_used(local: Case) -> None:
    """Adam squares them: above 1e19, the squares are infinite, and the steps are 0."""
    x = arrays("train", 300)["X_train"] * 1e22
    train = local.place.write("large.npz", npz(arrays("train", 300, X_train=x)))
    folder = local.place.uri("ck")
    local.train_well(train=train, checkpoint_dir=folder)
    state = torch.load(Path(folder) / "checkpoint.pt", weights_only=True)
    assert state["optimizer"]["moments"].isinf().any()
    local.train_well("--resume", train=train, checkpoint_dir=folder, epochs=9)


def test_a_checkpoint_that_is_stored_with_gaps_is_used_as_it_is(local: Case) -> None:
    folder = local.place.uri("ck")
    local.train_well(checkpoint_dir=folder)
    path = Path(folder) / "checkpoint.pt"
    state = torch.load(path, weights_only=True)
    moments = state["optimizer"]["moments"]
    state["optimizer"]["moments"] = torch.stack([moments, moments], 1)[:, 0]
    torch.save(state, path)
    local.train_well("--resume", checkpoint_dir=folder, epochs=9)
    local.train_well(out="straight", epochs=9)
    assert local.weights() == local.weights("straight")


def test_a_folder_for_checkpoints_that_cannot_be_written_is_refused_before_the_training(
    case: Case,
) -> None:
    case.place.write("file", b"")
    wrong = "gs://no-such-bucket/ck" if "gs:" in case.place.uri("") else case.place.uri("file/ck")
    result = case.run(checkpoint_dir=wrong, checkpoint_every=100)
    refused(result, f"cannot write {wrong}/checkpoint.pt")
    assert "epoch 1/" not in result.out and case.place.list("run") == ["training.log"]


def test_and_one_that_is_only_written_again_is_used(local: Case) -> None:
    folder = local.place.uri("ck")
    local.train_well(checkpoint_dir=folder)
    path = Path(folder) / "checkpoint.pt"
    torch.save(torch.load(path, weights_only=True), path)
    local.train_well("--resume", checkpoint_dir=folder, epochs=9)
    local.train_well(out="straight", epochs=9)
    assert local.weights() == local.weights("straight")


# ------------------------------------------------------------------------------ who else listens


def test_tensorboard_gets_all_metrics_where_vertex_names_a_folder(local: Case) -> None:
    fake = "import types\n"
    fake += "class SummaryWriter:\n"
    fake += "    def __init__(self, folder): self.file = open('board', 'w'); self.put(folder)\n"
    fake += "    def put(self, *words): print(*words, file=self.file)\n"
    fake += "    add_scalar = put\n"
    fake += "    def close(self): self.put('closed'); self.file.flush()\n"
    fake += "module = types.ModuleType('torch.utils.tensorboard')\n"
    fake += "module.SummaryWriter = SummaryWriter\n"
    fake += "sys.modules['torch.utils.tensorboard'] = module\n"
    folder = Path(local.place.uri(""))
    argv = local.argv(epochs=2)
    where = {"AIP_TENSORBOARD_LOG_DIR": "logs"}
    assert local.trainers.run(*argv, before=fake, cwd=folder, **where).code == 0
    lines = local.place.read("board").decode().split("\n")
    assert lines[0] == "logs" and lines[-2] == "closed" and len(lines) == 2 + 6 + 1
    assert lines[1].startswith("train_loss 0.") and lines[6].startswith("val_accuracy 0.")
    stop = "def stop(run): raise KeyboardInterrupt\ntrain_nn.train_and_evaluate = stop\n"
    assert local.trainers.run(*argv, before=fake + stop, cwd=folder, **where).code == 130
    assert local.place.read("board").decode().split() == ["logs", "closed"]
    local.place.delete("board")
    assert local.trainers.run(*argv, before=fake, cwd=folder).code == 0  # no folder is named
    assert "board" not in local.place.list("")


@pytest.mark.parametrize("module", ["hypertune", "torch.utils.tensorboard"])
def test_a_listener_that_fails_does_not_end_the_training(local: Case, module: str) -> None:
    bad = f"import types; sys.modules['{module}'] = types.ModuleType('{module}')"
    argv = local.argv()
    result = local.trainers.run(*argv, before=bad, AIP_TENSORBOARD_LOG_DIR="logs")
    assert result.code == 0 and f"WARNING: {module} is not used" in result.err


def test_a_long_run_tells_its_speed_and_the_time_left(local: Case) -> None:
    before = "train_nn.Progress.long_run = 0"
    lines = local.trainers.run(*local.argv(), before=before).out.splitlines()
    epochs = [line for line in lines if line.startswith("epoch ")]
    assert all("rows/s  at most 0:00:0" in line for line in epochs)
    assert "rows/s" not in local.run().out


def test_bf16_computes_with_other_numbers_and_learns(local: Case) -> None:
    full = local.train_well(out="full", epochs=40, learning_rate=0.01)
    half = local.train_well(out="half", epochs=40, learning_rate=0.01, precision="bf16")
    assert local.weights("full") != local.weights("half")
    assert half["final_val_accuracy"] == pytest.approx(full["final_val_accuracy"], abs=0.1)
    state = torch.load(io.BytesIO(local.weights("half")), weights_only=True)
    assert {value.dtype for value in state.values()} == {torch.float32}


def test_a_loss_that_is_nan_is_reported_to_the_tuning_service(local: Case, tmp_path: Path) -> None:
    text = "class HyperTune:\n    def report_hyperparameter_tuning_metric(self, *report):\n"
    (tmp_path / "hypertune.py").write_text(f"{text}        print('told', *report)\n")
    huge = arrays("train", 300, X_train=arrays("train", 300)["X_train"] * 1e30)
    train = local.place.write("huge.npz", npz(huge))
    argv = local.argv(train=train, learning_rate=1e18, epochs=50)
    result = local.trainers.run(*argv, PYTHONPATH=str(tmp_path))
    told = [line for line in result.out.splitlines() if line.startswith("told val_loss")]
    assert result.code == 3 and told[-1].split()[2] in ("nan", "inf")
