"""The trainer does what its help and its docstring say, on local paths and in a bucket."""

from __future__ import annotations

import fcntl
import io
import itertools
import json
import os
import pty
import re
import shlex
import struct
import termios
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from trainer_cases import (
    RESULTS,
    Case,
    Trainers,
    arrays,
    command_line,
    npz,
    rows,
)

import train_nn

pytest_plugins = ["trainer_fixtures"]


# ------------------------------------------------------------------------------ results


def test_a_run_leaves_four_files_that_verify(case: Case) -> None:
    metrics = case.train_well()
    assert case.place.list("run") == RESULTS
    assert metrics["epochs_run"] == 6 and metrics["stopped_early"] is False
    assert metrics["train_rows"] == 300 and metrics["val_rows"] == 100
    assert metrics["model_uri"] == case.place.uri("run/model.pt")
    assert len(case.history()) == 7
    result = case.trainers.run("--verify", case.place.uri("run"), **case.place.env)
    assert result.code == 0
    assert result.out.splitlines() == [
        "[OK] model.pt",
        "[OK] eval_history.csv",
        "[OK] training.log",
    ]


def test_and_verify_fails_when_a_file_changed_or_is_gone(case: Case) -> None:
    case.train_well()
    case.place.write("run/model.pt", case.weights()[:-1] + b"?")
    case.place.delete("run/eval_history.csv")
    result = case.trainers.run("--verify", case.place.uri("run"), **case.place.env)
    assert result.code == 1
    assert "[FAIL] model.pt" in result.out and "[FAIL] eval_history.csv" in result.out
    for damaged in (b"{", b"[]", b'{"artifacts": 3}', b'{"artifacts": {}}'):
        case.place.write("run/metrics.json", damaged)
        result = case.trainers.run("--verify", case.place.uri("run"), **case.place.env)
        assert result.code == 1
        assert "metrics.json is damaged, or was not written by this script" in result.err
    case.place.delete("run/metrics.json")
    result = case.trainers.run("--verify", case.place.uri("run"), **case.place.env)
    assert result.code == 2 and "metrics.json" in result.err


def test_the_reported_accuracy_is_that_of_the_saved_weights(local: Case) -> None:
    metrics = local.train_well(epochs=40, learning_rate=0.01)
    model = train_nn.build_model(7)
    model.load_state_dict(torch.load(io.BytesIO(local.weights()), weights_only=True))
    val = arrays("val", 100)
    logits = model(torch.from_numpy(val["X_val"])).detach().numpy()
    assert np.mean((logits > 0) == val["y_val"]) == pytest.approx(metrics["final_val_accuracy"])
    loss = np.mean(np.logaddexp(0, logits) - val["y_val"] * logits)
    assert loss == pytest.approx(metrics["final_val_loss"], rel=1e-5)
    assert metrics["final_val_accuracy"] > 0.7  # it did learn


def test_metrics_describe_the_run(local: Case) -> None:
    metrics = local.train_well(seed=7, learning_rate=0.02, batch_size=64, precision="bf16")
    assert metrics["precision"] == "bf16"
    settings = {"epochs": 6, "learning_rate": 0.02, "patience": 0, "min_delta": 0.0}
    settings |= {"restore_best": True, "batch_size": 64, "seed": 7}
    assert metrics["hyperparameters"] == settings
    assert metrics["feature_names"] == arrays("val", 1)["feature_names"].tolist()
    assert metrics["device"] == "cpu" and metrics["device_name"]
    assert re.match(r"\d+\.\d+\.\d+", metrics["torch_version"])
    history = [line.split(",") for line in local.history()[1:]]
    best = min(history, key=lambda line: float(line[2]))
    assert [metrics["best_epoch"], metrics["best_val_loss"]] == [int(best[0]), float(best[2])]
    assert metrics["artifacts"].keys() == set(RESULTS) - {"metrics.json"}
    assert all(len(metrics[f"{part}_sha256"]) == 64 for part in ("train", "val"))


def test_the_width_of_the_model_comes_from_the_data(local: Case) -> None:
    train = local.place.write("five.npz", npz(arrays("train", 50, features=5)))
    val = local.place.write("five_val.npz", npz(arrays("val", 50, features=5)))
    local.train_well(train=train, val=val)
    assert torch.load(io.BytesIO(local.weights()), weights_only=True)["0.weight"].shape == (64, 5)


def test_other_number_types_are_converted_and_that_is_logged(local: Case) -> None:
    content = arrays("train", 300)
    doubles = content["X_train"].astype(np.float64)
    content |= {"X_train": doubles, "y_train": content["y_train"].astype(np.int64)}
    local.train_well(out="plain")
    local.train_well(train=local.place.write("doubles.npz", npz(content)))
    assert "converted from float64 to float32" in local.log()
    assert "converted from int64 to float32" in local.log()
    assert local.weights() == local.weights("plain")
    assert "converted" not in local.log("plain")


def test_one_class_in_training_is_a_warning(local: Case) -> None:
    data = npz(arrays("train", 30, y_train=np.ones(30, np.float32)))
    result = local.run(train=local.place.write("ones.npz", data))
    assert result.code == 0
    assert re.fullmatch(r"WARNING: all labels in \S+ are 1: .*\n", result.err)
    assert "WARNING" in local.log()


def test_old_results_do_not_mix_with_a_new_run(local: Case) -> None:
    local.train_well()
    assert local.run(val="missing.npz").code == 2
    assert local.place.list("run") == ["training.log"]


# ------------------------------------------------------------------------------ command line


def test_help_shows_every_option_with_its_default(trainers: Trainers) -> None:
    text = trainers.run("--help").out
    options = "train val model_out epochs learning_rate patience min_delta restore_best batch_size "
    options += "seed device checkpoint_dir checkpoint_every resume quiet verify"
    for name in options.split():
        assert f"--{name}" in text
    for default in ("500", "0.001", "50", "42", "auto", "True"):
        assert f"(default: {default})" in " ".join(text.split())


def test_dashes_are_accepted(local: Case) -> None:
    metrics = local.train_well("--learning-rate=0.5", "--no-restore-best", "--batch-size", "8")
    assert metrics["hyperparameters"]["learning_rate"] == 0.5
    assert metrics["hyperparameters"]["batch_size"] == 8
    assert metrics["hyperparameters"]["restore_best"] is False
    assert local.train_well("--no_restore_best")["hyperparameters"]["restore_best"] is False
    assert local.train_well("--restore-best")["hyperparameters"]["restore_best"] is True


def test_and_an_unknown_or_shortened_option_is_refused(local: Case) -> None:
    for option in ("--learning_rat=1", "--epoch=3", "stray"):
        assert local.run(option).code == 2


def test_the_output_folder_is_given_or_from_vertex_or_the_current_one(local: Case) -> None:
    data = [f"--train={local.train}", f"--val={local.val}", "--epochs=2"]
    here, vertex = Path(local.place.uri("here")), Path(local.place.uri("vertex"))
    here.mkdir()
    assert local.trainers.run(*data, cwd=here).code == 0
    assert local.trainers.run(*data, cwd=here, AIP_MODEL_DIR=f"{vertex}/").code == 0
    assert sorted(os.listdir(here)) == sorted(os.listdir(vertex)) == RESULTS
    run = Path(local.place.uri("run"))
    assert local.trainers.run(*local.argv(), cwd=here, AIP_MODEL_DIR=f"{vertex}2/").code == 0
    assert sorted(os.listdir(run)) == RESULTS and not Path(f"{vertex}2").exists()


def commands_in_the_docstring() -> list[str]:
    text = (train_nn.__doc__ or "").replace("\\\n", " ")
    return [line.strip() for line in text.splitlines() if line.startswith("    ") and "--" in line]


def test_the_commands_of_the_docstring_work(trainers: Trainers, tmp_path: Path) -> None:
    (tmp_path / "train_data.npz").write_bytes(npz(arrays("train", 300)))
    (tmp_path / "val_data.npz").write_bytes(npz(arrays("val", 100)))
    commands = [line for line in commands_in_the_docstring() if line[0] != "#"]
    assert len(commands) == 4
    for line in commands:
        words = shlex.split(line)
        options = words[words.index("scripts/train_nn.py") + 1 :]
        if "gs://" not in line and words[0] == "python":
            result = trainers.run(*options, cwd=tmp_path)
            assert (result.code, result.err) == (0, "")
    assert sorted(os.listdir(tmp_path / "run")) == RESULTS


def test_it_runs_as_a_script(local: Case, tmp_path: Path) -> None:
    result = command_line(*local.argv(), cwd=tmp_path)
    assert (result.code, result.err) == (0, "") and "epoch 6/6" in result.out
    assert local.place.list("run") == RESULTS


# ------------------------------------------------------------------------------ what it imports


PRINT_MODULES = "import atexit, sys; run = train_nn.main\n"
PRINT_MODULES += "train_nn.main = lambda argv: (run(argv), print(*sys.modules))[0]"


def test_a_local_run_imports_neither_google_nor_the_compiler(local: Case) -> None:
    result = local.trainers.run(*local.argv("--quiet"), before=PRINT_MODULES)
    assert result.code == 0 and "torch" in result.out.split()
    slow = {"google.auth", "google.cloud.storage", "torch._dynamo", "sympy"}
    assert not slow & set(result.out.split())


def test_and_a_run_in_a_bucket_imports_google(cloud: Case, trainers: Trainers) -> None:
    result = trainers.run(*cloud.argv("--quiet"), before=PRINT_MODULES, **cloud.place.env)
    assert result.code == 0 and "google.cloud.storage" in result.out.split()


def test_importing_the_trainer_has_no_side_effects(trainers: Trainers, tmp_path: Path) -> None:
    before = "import logging, signal; print(logging.getLogger().handlers, "
    before += "signal.getsignal(signal.SIGTERM).name, os.listdir('.'))"
    out = trainers.run("--help", before=before, cwd=tmp_path).out
    assert out.splitlines()[0] == "[] SIG_DFL []"


# ------------------------------------------------------------------------------ /gcs/


def test_an_unmounted_gcs_path_is_read_and_written_as_an_object(
    gcs: Any, cloud_trainers: Trainers
) -> None:
    if os.path.isdir("/gcs"):
        pytest.skip("buckets are mounted on this machine")
    case = Case(gcs, cloud_trainers)
    paths = [path.replace("gs://", "/gcs/") for path in (case.train, case.val)]
    out = case.place.uri("run").replace("gs://", "/gcs/")
    case.train_well(train=paths[0], val=paths[1], model_out=out)
    assert case.place.list("run") == RESULTS


def test_and_a_mounted_one_is_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(train_nn, "GCS_MOUNT", f"{tmp_path}/")
    (tmp_path / "bucket").mkdir()
    train_nn.access("write", f"{tmp_path}/bucket/file", b"content")
    assert (tmp_path / "bucket" / "file").read_bytes() == b"content"


# ------------------------------------------------------------------------------ what it prints


def test_lines_come_at_a_sensible_rhythm_without_a_terminal(local: Case) -> None:
    result = local.run(epochs=200)
    epochs = [line for line in result.out.splitlines() if line.startswith("epoch ")]
    assert 10 <= len(epochs) <= 20 and epochs[0].startswith("epoch 1/200")
    assert "\r" not in result.out + result.err + local.log()


def test_quiet_prints_nothing_but_logs_everything(local: Case) -> None:
    result = local.run("--quiet")
    assert (result.code, result.out, result.err) == (0, "", "")
    assert "epoch 6/6" in local.log()


def on_a_terminal(case: Case, *argv: object, **env: str) -> str:
    """What appears on a terminal of 80 columns."""
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    running = case.trainers.start(*case.argv(*argv), terminal=os.ttyname(slave), **env)
    shown = b""
    while b"saved epoch" not in shown:
        shown += os.read(master, 4096)
    os.close(slave)
    assert running.wait().code == 0
    os.close(master)
    return shown.decode()


def test_a_terminal_shows_the_lines_of_the_log(local: Case) -> None:
    shown = on_a_terminal(local, "--epochs=30")
    assert "epoch 30/30" in shown and "epoch 29/30" not in shown
    assert "epoch 30/30" in local.log() and "\r" not in local.log()


def test_the_log_holds_warnings_and_tracebacks(local: Case) -> None:
    bug = "def bad(*_): import warnings; warnings.warn('look out'); raise KeyError('a bug')\n"
    result = local.trainers.run(*local.argv(), before=bug + "train_nn.load_data = bad")
    assert result.code == 1
    for text in (result.err, local.log()):
        assert "look out" in text and "Traceback" in text and "KeyError: 'a bug'" in text


WARN_AT_EVERY_REQUEST = """
import warnings
warnings.simplefilter("always")
client = train_nn.gcs_client
train_nn.gcs_client = lambda: (warnings.warn("this Python is old"), client())[1]
"""


def test_a_warning_while_the_log_is_uploaded_is_only_a_line_more(cloud: Case) -> None:
    argv = cloud.argv("--quiet")
    result = cloud.trainers.run(*argv, before=WARN_AT_EVERY_REQUEST, **cloud.place.env)
    assert result.code == 0 and "this Python is old" in cloud.log(), result.err
    assert cloud.place.list("run") == RESULTS
    verified = cloud.trainers.run("--verify", cloud.place.uri("run"), **cloud.place.env)
    assert verified.code == 0, verified.out


# ------------------------------------------------------------------------------ reproducible


def test_two_runs_give_the_same_bytes(local: Case) -> None:
    for batch_size in (0, 32):
        local.train_well(out="one", batch_size=batch_size)
        local.train_well(out="two", batch_size=batch_size)
        assert local.weights("one") == local.weights("two")
        assert local.history("one") == local.history("two")


def test_and_another_seed_other_ones(local: Case) -> None:
    local.train_well(out="one")
    local.train_well(out="two", seed=43)
    assert local.weights("one") != local.weights("two")


def test_the_number_of_threads_does_not_matter(local: Case) -> None:
    train = local.place.write("many.npz", npz(arrays("train", 30_000)))
    for threads in ("1", "3"):
        before = f"import torch; torch.set_num_threads({threads})"
        argv = local.argv(train=train, out=threads, epochs=3)
        assert local.trainers.run(*argv, before=before).code == 0
    assert local.weights("1") == local.weights("3")
    assert local.history("1") == local.history("3")


# ------------------------------------------------------------------------------ learning


def plain_loop(epochs: int, optimizer: type[torch.optim.Optimizer], count: int) -> list[float]:
    """The training loop of every PyTorch tutorial."""
    torch.set_num_threads(1)
    x, y = (torch.from_numpy(array) for array in rows(count))
    torch.manual_seed(42)
    model = train_nn.build_model(7)
    steps = optimizer(model.parameters(), lr=0.001)  # type: ignore[call-arg]
    losses = []
    for _ in range(epochs):
        steps.zero_grad()
        loss = torch.nn.BCEWithLogitsLoss()(model(x), y)
        loss.backward()
        steps.step()
        losses.append(loss.item())
    return losses


def our_losses(local: Case, count: int) -> list[float]:
    x, y = rows(count)
    data = npz({"X_train": x, "y_train": y, "feature_names": arrays("val", 1)["feature_names"]})
    local.train_well(train=local.place.write("same.npz", data), epochs=30)
    return [float(line.split(",")[1]) for line in local.history()[1:]]


@pytest.mark.parametrize("count", [300, 20_000])  # one piece and three pieces of rows
def test_training_equals_the_plain_loop_with_torch_optim_adam(local: Case, count: int) -> None:
    assert our_losses(local, count) == pytest.approx(
        plain_loop(30, torch.optim.Adam, count), rel=1e-4
    )


def test_and_the_comparison_can_fail(local: Case) -> None:
    other = plain_loop(30, torch.optim.RMSprop, 300)
    assert our_losses(local, 300) != pytest.approx(other, rel=1e-2)


def test_mini_batches_use_every_row_once_in_a_new_order(local: Case) -> None:
    table = train_nn.Table(torch.arange(10.0)[:, None], torch.ones(10), ["row"], "")
    options = local.argv(batch_size=4)
    run = train_nn.Run(train_nn.parse_args([str(o) for o in options]), table, table)
    seen = [[x[:, 0].tolist() for x, _ in run.batches()] for _ in range(2)]
    assert [len(batch) for batch in seen[0] + seen[1]] == [4, 4, 2, 4, 4, 2]
    first, second = (list(itertools.chain(*part)) for part in seen)
    assert sorted(first) == sorted(second) == list(range(10))
    assert first != second != sorted(second)


def follow(losses: list[float], patience: int, min_delta: float = 0.0) -> train_nn.EarlyStopping:
    stopping = train_nn.EarlyStopping(patience, min_delta)
    for epoch, loss in enumerate(losses, start=1):
        stopping.note(epoch, loss)
        if stopping.should_stop():
            break
    return stopping


def test_best_and_stop_are_two_questions() -> None:
    stopping = train_nn.EarlyStopping(patience=2, min_delta=0.1)
    assert stopping.note(1, 1.0) and not stopping.should_stop()
    assert stopping.note(2, 0.95) and not stopping.should_stop()  # best, but little progress
    assert stopping.note(3, 0.91) and stopping.should_stop()
    assert stopping.best_epoch == 3


def test_small_steps_that_add_up_are_progress() -> None:
    assert not follow([1.0, 0.94, 0.88, 0.82, 0.76], patience=2, min_delta=0.1).should_stop()
    assert follow([1.0, 0.97, 0.94, 0.82], patience=2, min_delta=0.1).should_stop()


def test_patience_zero_never_stops() -> None:
    assert not follow([1.0] * 100, patience=0).should_stop()
    assert follow([1.0] * 100, patience=99).should_stop()


def test_early_stopping_saves_the_best_epoch(local: Case) -> None:
    options: dict[str, object] = {"epochs": 300, "learning_rate": 0.05, "patience": 5}
    best = local.train_well(out="best", **options)
    assert best["stopped_early"] and best["epochs_run"] == best["best_epoch"] + 5 < 300
    assert best["final_val_loss"] == best["best_val_loss"]
    last = local.train_well("--no_restore_best", out="last", **options)
    assert last["best_epoch"] == best["best_epoch"] and last["final_epoch"] == last["epochs_run"]
    assert last["final_val_loss"] > last["best_val_loss"]
    assert local.weights("best") != local.weights("last")
    assert local.history("best") == local.history("last")


# ------------------------------------------------------------------------------ tuning

HYPERTUNE = """
import json
class HyperTune:
    def report_hyperparameter_tuning_metric(self, tag, value, step):
        with open("reported", "a") as file:
            file.write(json.dumps([tag, value, step]) + "\\n")
"""


def test_a_tuning_service_is_told_if_its_package_is_there(local: Case, tmp_path: Path) -> None:
    (tmp_path / "hypertune.py").write_text(HYPERTUNE)
    argv = local.argv(out="tuned")
    assert local.trainers.run(*argv, cwd=tmp_path, PYTHONPATH=str(tmp_path)).code == 0
    metrics = json.loads(local.place.read("tuned/metrics.json"))
    reported = [json.loads(line) for line in (tmp_path / "reported").read_text().splitlines()]
    assert [step for _, _, step in reported] == [1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6]
    lines = [line.split(",") for line in local.history("tuned")[1:]]
    told = [
        [name, float(line[i])]
        for line in lines
        for i, name in ((2, "val_loss"), (3, "val_accuracy"))
    ]
    assert [[name, value] for name, value, _ in reported] == told
    assert told[-2][1] == metrics["final_val_loss"]
    local.train_well()
    assert local.weights() == local.weights("tuned")
