"""Two processes that share the work find what one process finds."""

from __future__ import annotations

import io
import json
import re
import signal
import socket
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from trainer_cases import RESULTS, Case, Trainers, arrays, npz

pytest_plugins = ["trainer_fixtures"]


IMPORTED = ["torch._dynamo", "torch.distributed.run"]  # what takes long in a job of two processes


@pytest.fixture(scope="module")
def machines(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Trainers]]:
    """Two warm processes, each of which plays one machine of a job."""
    started = [Trainers(tmp_path_factory.mktemp("machine"), *IMPORTED) for _ in range(2)]
    yield started
    for trainers in started:
        trainers.close()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def vertex_environment(rank: int, port: int, how: str) -> dict[str, str]:
    """What Vertex AI sets on a job's machines: the image's variables, or CLUSTER_SPEC alone."""
    if how == "image":
        env = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
        return {**env, "WORLD_SIZE": "2", "RANK": str(rank)}
    cluster = {f"workerpool{pool}": [f"127.0.0.1:{port}"] for pool in (0, 1, 2)}
    task = {"type": f"workerpool{rank}", "index": 0}
    return {"CLUSTER_SPEC": json.dumps({"cluster": cluster, "task": task, "environment": "cloud"})}


def start(machines: list[Trainers], argv: list[object], how: str = "image") -> list[Any]:
    port = free_port()
    return [
        machine.start(*argv, **vertex_environment(rank, port, how))
        for rank, machine in enumerate(machines)
    ]


def losses(case: Case, out: str) -> list[float]:
    return [float(number) for line in case.history(out)[1:] for number in line.split(",")[1:]]


def weights(case: Case, out: str) -> torch.Tensor:
    state = torch.load(io.BytesIO(case.weights(out)), weights_only=True)
    return torch.cat([tensor.reshape(-1) for tensor in state.values()])


# 101 rows in a step: not the same number for both processes, and the last step is smaller still.
OPTIONS: dict[str, object] = {"epochs": 12, "batch_size": 101, "learning_rate": 0.01}


@pytest.mark.parametrize("how", ["image", "CLUSTER_SPEC"])
def test_two_machines_equal_one(local: Case, machines: list[Trainers], how: str) -> None:
    options = OPTIONS if how == "image" else {"epochs": 12, "learning_rate": 0.01}
    alone = local.train_well(out="one", **options)
    first, second = (r.wait() for r in start(machines, local.argv(out="two", **options), how))
    assert (first.code, second.code) == (0, 0), (first, second)
    assert "epoch 12/12" in first.out  # only the first one speaks
    assert re.fullmatch(r"process 1 of 2 waits for the others at \S+\n", second.out)
    assert local.place.list("two") == RESULTS
    together = json.loads(local.place.read("two/metrics.json"))
    assert (alone["processes"], together["processes"]) == (1, 2)
    assert losses(local, "two") == pytest.approx(losses(local, "one"), rel=1e-4)
    torch.testing.assert_close(weights(local, "two"), weights(local, "one"), rtol=1e-3, atol=1e-4)


def test_and_another_batch_size_does_not(local: Case) -> None:
    local.train_well(out="one", **OPTIONS)
    local.train_well(out="other", **{**OPTIONS, "batch_size": 51})
    assert losses(local, "other") != pytest.approx(losses(local, "one"), rel=1e-4)


TWO_GPUS = "import torch; torch.cuda.device_count = lambda: 2"


def test_a_machine_with_two_gpus_resumes_in_two_processes(
    local: Case, machines: list[Trainers]
) -> None:
    """Only the number of GPUs is made up: torchrun starts two real processes, on the CPU."""
    local.train_well(out="one", **OPTIONS)
    folder = local.place.uri("ck")
    local.train_well(out="two", **{**OPTIONS, "epochs": 5}, checkpoint_dir=folder)
    argv = local.argv("--resume", out="two", checkpoint_dir=folder, **OPTIONS)
    result = machines[0].run(*argv, before=TWO_GPUS)
    assert result.code == 0, result.err
    assert result.out.count("resumed after epoch 5") == result.out.count("epoch 12/12") == 1
    assert json.loads(local.place.read("two/metrics.json"))["processes"] == 2
    assert losses(local, "two") == pytest.approx(losses(local, "one"), rel=1e-4)


def test_and_its_exit_code_is_that_of_the_processes(local: Case, machines: list[Trainers]) -> None:
    argv = local.argv(train=local.place.uri("missing"))
    result = machines[0].run(*argv, before=TWO_GPUS)
    assert result.code == 2
    # torchrun may end the second process before it has said the same.
    assert "ERROR: cannot read" in result.err and "Traceback" not in result.err
    assert local.place.list("run") == ["training.log"]


def test_a_checkpoint_that_cannot_be_used_ends_both_machines(
    local: Case, machines: list[Trainers]
) -> None:
    folder = local.place.uri("ck")
    local.train_well(checkpoint_dir=folder)
    for running in start(machines, local.argv(checkpoint_dir=folder, seed=1)):
        result = running.wait()
        assert result.code == 2 and "--seed was 42, now it is 1" in result.err
        assert "Traceback" not in result.err


def test_sigterm_to_one_machine_stops_both(local: Case, machines: list[Trainers]) -> None:
    argv = local.argv(epochs=1_000_000, checkpoint_dir=local.place.uri("ck"))
    first, second = start(machines, argv)
    first.wait_for("epoch 1/")
    second.kill(signal.SIGTERM)
    assert (first.wait().code, second.wait().code) == (143, 143)
    done = int(local.log().partition("SIGTERM after epoch ")[2].split()[0])
    state = torch.load(local.place.uri("ck/checkpoint.pt"), weights_only=True)
    assert state["next_epoch"] == done + 1


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_machine_that_waits_for_the_others_can_be_stopped(local: Case, number: int) -> None:
    env = {"WORLD_SIZE": "2", "RANK": "1", "MASTER_ADDR": "127.0.0.1"}
    running = local.trainers.start(*local.argv(), **env, MASTER_PORT=str(free_port()))
    running.wait_for("process 1 of 2 waits for the others at 127.0.0.1")
    running.kill(number)
    assert running.wait().code == -number


def test_a_port_that_is_taken_is_a_sentence(local: Case) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        env = {"WORLD_SIZE": "2", "RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        result = local.trainers.run(*local.argv(), **env)
    assert result.code == 2 and "Traceback" not in result.err
    assert result.err.startswith(f"ERROR: cannot meet the other processes at 127.0.0.1:{port}")


def test_bad_input_ends_both_machines(local: Case, machines: list[Trainers]) -> None:
    bad = local.place.write("bad.npz", npz(arrays("train", 30, y_train=None)))
    for running in start(machines, local.argv(train=bad)):
        result = running.wait()
        assert result.code == 2 and "y_train" in result.err
    assert local.place.list("run") == ["training.log"]


def test_a_machine_that_dies_ends_the_other(local: Case, machines: list[Trainers]) -> None:
    first, second = start(machines, local.argv(epochs=1_000_000))
    first.wait_for("epoch 1/")
    second.kill()
    result = first.wait()
    assert result.code == 1 and "unexpected error" in result.err
    assert local.place.list("run") == ["training.log"]


def test_what_an_image_sets_wins_over_cluster_spec(trainers: Trainers) -> None:
    names = ("MASTER_ADDR", "MASTER_PORT", "RANK", "WORLD_SIZE")
    show = f"train_nn.read_environment(); print(*(os.environ[name] for name in {names}))"
    env = vertex_environment(1, 2222, "CLUSTER_SPEC")
    result = trainers.run("--help", before=show, **env)
    assert result.out.splitlines()[0] == "127.0.0.1 2222 1 2"
    image = {"MASTER_ADDR": "set-by-the-image", "MASTER_PORT": "1", "RANK": "2", "WORLD_SIZE": "3"}
    result = trainers.run("--help", before=show, **env, **image)
    assert result.out.splitlines()[0] == "set-by-the-image 1 2 3"


def test_the_optimizer_of_torch_can_take_the_place_of_ours(
    local: Case, machines: list[Trainers]
) -> None:
    """It stands here because these processes have imported PyTorch's compiler already."""

    def train(out: str, **options: object) -> None:
        before = "import torch; train_nn.Adam = torch.optim.Adam"
        result = machines[0].run(*local.argv(out=out, **options), before=before)
        assert (result.code, result.err) == (0, "")

    train("straight")
    train("parts", epochs=3, checkpoint_dir=local.place.uri("ck"))
    train("parts", checkpoint_dir=local.place.uri("ck"))
    assert "resumed after epoch 3" in local.log("parts")
    assert local.weights("parts") == local.weights("straight")
