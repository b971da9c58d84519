"""A Spot job that is taken away ends with the same bytes as one that was not.

VERTEX_LOCAL_PREEMPTIONS=20 tries so many random moments for each place of the checkpoints; the
nightly run does, the usual one only takes machines away at chosen moments.
"""

from __future__ import annotations

import io
import os
from pathlib import Path

import numpy as np
import pytest
from google.cloud import aiplatform, storage
from test_jobs import IMAGE

from vertex_local.config import Root, ServerRecord
from vertex_local.faults.store import Faults

SEEDS = range(int(os.environ.get("VERTEX_LOCAL_PREEMPTIONS", "0")))
SPOT = aiplatform.gapic.Scheduling.Strategy.SPOT
Results = tuple[bytes, list[list[str]]]


@pytest.fixture(scope="module")
def data(server: ServerRecord) -> storage.Bucket:
    """A bucket with small data to train on."""
    bucket = storage.Client().create_bucket("preemption")
    random = np.random.default_rng(0)
    for name, rows in (("train", 400), ("val", 100)):
        x = random.normal(size=(rows, 7)).astype("float32")
        y = (x[:, 0] + x[:, 1] > 0).astype("float32")
        file = io.BytesIO()
        names = np.array(list("abcdefg"))
        np.savez_compressed(file, **{f"X_{name}": x, f"y_{name}": y}, feature_names=names)
        bucket.blob(f"{name}.npz").upload_from_string(file.getvalue())
    return bucket


def train(data: storage.Bucket, repo: Path, run: str, checkpoints: str) -> Results:
    """Train as a Spot job; return the weights, and the history without its seconds."""
    job = aiplatform.CustomTrainingJob(
        f"preempted {run}",
        str(repo / "scripts/train_nn.py"),
        IMAGE,
        staging_bucket=f"gs://{data.name}",
    )
    folder = f"gs://{data.name}/{run}"
    arguments = {"train": f"gs://{data.name}/train.npz", "val": f"gs://{data.name}/val.npz"}
    arguments |= {"model_out": folder, "epochs": "40", "checkpoint_every": "4", "batch_size": "16"}
    if checkpoints != "gs":  # else the script finds AIP_CHECKPOINT_DIR
        arguments["checkpoint_dir"] = checkpoints
    job.run(
        args=[f"--{name}={value}" for name, value in arguments.items()],
        base_output_dir=folder,
        machine_type="n1-standard-4",
        replica_count=1,
        scheduling_strategy=SPOT,
    )
    lines = data.blob(f"{run}/eval_history.csv").download_as_text().splitlines()
    weights = data.blob(f"{run}/model.pt").download_as_bytes()
    return weights, [line.split(",")[:-1] for line in lines]


@pytest.fixture(scope="module")
def undisturbed(data: storage.Bucket, repo: Path) -> Results:
    """What a job gives that nobody disturbs."""
    return train(data, repo, "undisturbed", "gs")


def attempts(root: Root, data: storage.Bucket, run: str) -> tuple[int, int]:
    """Return how often the job was taken away, and how often it went on from a checkpoint."""
    pipeline = aiplatform.CustomTrainingJob.list(filter=f'display_name="preempted {run}"')[0]
    name = pipeline.gca_resource.training_task_metadata["backingCustomJob"]
    log = (root.jobs / name.rpartition("/")[2] / "job.log").read_text()
    return int(pipeline.labels.get("injected-preemption", "0")), log.count("resumed after epoch")


def test_taken_away_twice_it_goes_on_and_ends_the_same(
    faults: Faults, data: storage.Bucket, repo: Path, root: Root, undisturbed: Results
) -> None:
    faults.add("preemption", {"log": "epoch 12/40"})
    faults.add("preemption", {"log": "epoch 28/40"})
    assert train(data, repo, "twice", "gs") == undisturbed
    assert attempts(root, data, "twice") == (2, 2)
    assert attempts(root, data, "undisturbed") == (0, 0)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("place", ["local", "gs"])
def test_at_any_moment(
    faults: Faults,
    data: storage.Bucket,
    repo: Path,
    root: Root,
    undisturbed: Results,
    tmp_path: Path,
    place: str,
    seed: int,
) -> None:
    run = f"{place}-{seed}"
    faults.add("preemption", {"random": "3", "seed": str(seed), "times": "2"})
    checkpoints = "gs" if place == "gs" else str(tmp_path / "checkpoints")
    assert train(data, repo, run, checkpoints) == undisturbed
