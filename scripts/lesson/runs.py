"""Finished runs in Cloud Storage: the folders in which train_nn.py left its four files."""

from __future__ import annotations

import io
import json
from typing import Any

import pandas as pd

from vertex_local import costs

SHOWN = ["device", "device_name", "epochs_run", "best_epoch", "seconds"]
SHOWN += ["final_val_loss", "final_val_accuracy"]
RUNS = "artifacts/pytorch/"


def show(client: Any, uri: str) -> None:
    """Print the objects below a `gs://` URI with their sizes in bytes, and the total in MB."""
    bucket_name, _, folder = uri.removeprefix("gs://").partition("/")
    prefix = f"{folder.rstrip('/')}/" if folder else ""
    blobs = list(client.list_blobs(bucket_name, prefix=prefix))
    for blob in blobs:
        print(f"{blob.size:>10,}  {blob.name}")
    print(f"Total: {sum(blob.size for blob in blobs) / 1e6:.3f} MB in {len(blobs)} objects")


def read(client: Any, uri: str, name: str) -> bytes:
    """Return the content of one file of the run in a `gs://` folder."""
    bucket_name, _, folder = uri.removeprefix("gs://").partition("/")
    return bytes(client.bucket(bucket_name).blob(f"{folder}/{name}").download_as_bytes())


def metrics(client: Any, uri: str) -> dict[str, Any]:
    """Return `metrics.json` of the run in a `gs://` folder; data/README.md explains its fields."""
    return dict(json.loads(read(client, uri, "metrics.json")))


def history(client: Any, uri: str) -> pd.DataFrame:
    """Return the history of the run in a `gs://` folder: one row for each epoch."""
    return pd.read_csv(io.BytesIO(read(client, uri, "eval_history.csv")))


def model(client: Any, uri: str) -> Any:
    """Return the trained network of the run in a `gs://` folder, on the CPU, in evaluation mode."""
    import torch

    from train_nn import build_model

    weights = torch.load(io.BytesIO(read(client, uri, "model.pt")), "cpu", weights_only=True)
    network = build_model(len(metrics(client, uri)["feature_names"]))
    network.load_state_dict(weights)
    return network.eval()


def chances(network: Any, features: Any) -> Any:
    """Return the chance of survival, 0 to 1, for each row of scaled features (float32)."""
    import torch

    with torch.no_grad():
        return torch.sigmoid(network(torch.from_numpy(features)).flatten()).numpy()


def finished(client: Any, bucket_name: str) -> list[str]:
    """Return the folders of all finished runs of a bucket, the newest last.

    They are sorted by name, because a run's id begins with its date and time.
    """
    blobs = client.list_blobs(bucket_name, prefix=RUNS)
    folders = [
        b.name.removesuffix("/metrics.json") for b in blobs if b.name.endswith("/metrics.json")
    ]
    return [f"gs://{bucket_name}/{folder}" for folder in sorted(folders)]


def table(client: Any, bucket_name: str, newest: int) -> pd.DataFrame:
    """Return a table with one column for each of the newest finished runs, the newest last.

    Args:
        client: a client of Cloud Storage.
        bucket_name: the bucket.
        newest: the largest number of columns.

    Raises:
        LookupError: if there is none yet.
    """
    folders = finished(client, bucket_name)[-newest:]
    if not folders:
        raise LookupError(f"No run has finished yet in gs://{bucket_name}/{RUNS}: launch a job.")
    columns = {folder.rpartition("/")[2]: metrics(client, folder) for folder in folders}
    return pd.DataFrame({name: pd.Series(run).reindex(SHOWN) for name, run in columns.items()})


def plot_times(runs: pd.DataFrame) -> None:
    """Draw the seconds of each run of `table`: training as measured, provisioning as assumed."""
    import matplotlib.pyplot as plt

    names = [f"{name}\non {device}" for name, device in runs.loc["device"].items()]
    training = runs.loc["seconds"].astype(float)
    waiting = 60 * costs.PROVISIONING_MINUTES
    _, axes = plt.subplots(figsize=(7, 2.6), layout="tight")
    axes.barh(names, waiting, color="lightgray", hatch="//", label="provisioning (assumed)")
    bars = axes.barh(names, training, left=waiting, label="training (measured)")
    axes.bar_label(bars, [f"{seconds:.2f} s of training" for seconds in training], padding=4)
    axes.set(xlabel="seconds", xlim=(0, 1.4 * (waiting + training.max())))
    axes.invert_yaxis()
    axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1), ncols=2, frameon=False)
    plt.show()
