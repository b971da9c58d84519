"""Bad input ends with one clear line, exit code 2 and training.log; no other result is left."""

from __future__ import annotations

import io
import json
import os
import resource
import signal
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from trainer_cases import Case, LocalPlace, Trainers, arrays, npz

pytest_plugins = ["trainer_fixtures"]


def refuse(case: Case, *words: str, extra: tuple[object, ...] = (), **options: object) -> str:
    """Run, and insist on a refusal that names `words`."""
    result = case.run(*extra, **options)
    lines = [line for line in result.err.splitlines() if line.startswith("ERROR: ")]
    assert (result.code, len(lines)) == (2, 1), result
    assert "Traceback" not in result.err
    for word in words:
        assert word.lower() in lines[0].lower()
    assert case.place.list("run") == ["training.log"]
    assert lines[0].removeprefix("ERROR: ") in case.log()
    return lines[0]


def changed(values: Any, place: Any, value: float) -> Any:
    copy = values.copy()
    copy[place] = value
    return copy


# ------------------------------------------------------------------------------ files


def test_good_input_is_not_refused(case: Case) -> None:
    case.train_well()


def test_a_missing_file_or_object(case: Case) -> None:
    missing = case.place.uri("data/missing.npz")
    refuse(case, missing, "no such", train=missing)
    refuse(case, missing, "no such", val=missing)


def whole_file(part: str) -> bytes:
    return npz(arrays(part, 300))


def plain_array() -> bytes:
    file = io.BytesIO()
    np.save(file, np.zeros(3))
    return file.getvalue()


FILES = {
    "not a zip": (b"PassengerId,Survived\n1,0\n", "not an .npz"),
    "an empty file": (b"", "not an .npz"),
    "one array": (plain_array(), "not an .npz"),
    "only the first half": (whole_file("train")[:3000], "damaged"),
    "all but the last bytes": (whole_file("train")[:-30], "damaged"),
    "a wrong byte": (whole_file("train")[:200] + b"?" + whole_file("train")[201:], "damaged"),
}


@pytest.mark.parametrize("kind", FILES)
def test_a_file_that_is_no_npz(case: Case, kind: str) -> None:
    data, word = FILES[kind]
    refuse(case, "bad.npz", word, train=case.place.write("bad.npz", data))


X, Y = arrays("train", 300)["X_train"], arrays("train", 300)["y_train"]
ARRAYS: dict[str, tuple[dict[str, Any], list[str]]] = {
    "other keys": (
        {"X_train": None, "y_train": None, "x": X},
        ["X_train", "y_train", "holds", "x"],
    ),
    "pickled objects": ({"X_train": np.array([[{}], ["a"]], dtype=object)}, ["pickled"]),
    "pickled names": ({"feature_names": np.array(["a", None], dtype=object)}, ["pickled"]),
    "one dimension": ({"X_train": X[:, 0]}, ["(300,)", "[rows, features]"]),
    "labels in a column": ({"y_train": Y[:, None]}, ["(300, 1)", "[rows]"]),
    "fewer labels": ({"y_train": Y[:-1]}, ["(300, 7)", "(299,)"]),
    "too few names": (
        {"feature_names": np.array(["a", "b"])},
        ["feature_names (2,)", "[features]"],
    ),
    "NaN": ({"X_train": changed(X, (5, 2), np.nan)}, ["NaN", "row 5, column 2 (age)"]),
    "infinity": ({"X_train": changed(X, (9, 6), -np.inf)}, ["row 9, column 6 (embarked)"]),
    "too large": ({"X_train": changed(X.astype(float), (1, 0), 1e300)}, ["row 1, column 0"]),
    "a label 2": ({"y_train": changed(Y, 7, 2)}, ["0 and 1", "row 7", "2"]),
    "a label 0.5": ({"y_train": changed(Y, 8, 0.5)}, ["row 8", "0.5"]),
    "a label NaN": ({"y_train": changed(Y, 3, np.nan)}, ["y_train", "NaN", "row 3"]),
    "no rows": ({"X_train": X[:0], "y_train": Y[:0]}, ["empty"]),
    "no features": ({"X_train": X[:, :0], "feature_names": np.array([], dtype=str)}, ["empty"]),
    "text": ({"X_train": X.astype(str)}, ["must hold numbers", "<U"]),
    "complex numbers": ({"X_train": X.astype(complex)}, ["must hold numbers"]),
    "other features": (
        {"X_train": X[:, :5], "feature_names": None},
        ["5 and 7 features", "column 0"],
    ),
    "other names": ({"feature_names": np.array(list("abcdefg"))}, ["feature_names differ"]),
}


@pytest.mark.parametrize("kind", ARRAYS)
def test_arrays_that_cannot_be_used(case: Case, kind: str) -> None:
    changes, words = ARRAYS[kind]
    if kind == "pickled names":
        changes = {**changes, "X_train": X[:, :2]}
    bad = case.place.write("bad.npz", npz(arrays("train", 300, **changes)))
    refuse(case, "bad.npz", *words, train=bad)


def test_validation_data_is_checked_as_well(local: Case) -> None:
    bad = npz(arrays("val", 100, y_val=np.full(100, 3.0)))
    refuse(local, "y_val", "row 0", val=local.place.write("bad.npz", bad))
    refuse(local, "X_val", val=local.train)


def test_a_folder_instead_of_a_file(local: Case) -> None:
    refuse(local, "Is a directory", train=local.place.uri("data"))


def test_a_bucket_without_an_object(cloud: Case) -> None:
    bucket = cloud.place.uri("").rstrip("/")
    for uri in (bucket, f"{bucket}/", f"{bucket}/folder/", "gs://", "gs:///object"):
        refuse(cloud, uri, train=uri)


def test_a_missing_bucket(cloud: Case) -> None:
    refuse(cloud, "gs://no-such-bucket/train.npz", "no such", train="gs://no-such-bucket/train.npz")
    result = cloud.run(model_out="gs://no-such-bucket/run")
    assert result.code == 2
    assert result.err.splitlines()[-1].startswith("ERROR: cannot write gs://no-such-bucket/run/")


# ------------------------------------------------------------------------------ options

OPTIONS = [
    ("epochs", "0"),
    ("epochs", "-3"),
    ("learning_rate", "0"),
    ("learning_rate", "-0.1"),
    ("learning_rate", "nan"),
    ("learning_rate", "inf"),
    ("patience", "-1"),
    ("min_delta", "-1"),
    ("min_delta", "nan"),
    ("batch_size", "-8"),
    ("seed", "-1"),
    ("seed", "99999999999999999999"),
    ("checkpoint_every", "-1"),
    ("device", "tpu"),
    ("device", "cuda:99"),
]


@pytest.mark.parametrize(("name", "value"), OPTIONS)
def test_options_out_of_range(local: Case, name: str, value: str) -> None:
    refuse(local, f"--{name}", **{name: value})


def test_a_missing_option_and_resume_without_a_folder(local: Case) -> None:
    assert local.trainers.run(f"--train={local.train}", cwd=Path(local.place.uri(""))).code == 2
    assert "--val" in local.place.read("training.log").decode()
    refuse(local, "--resume", "--checkpoint_dir", extra=("--resume",))


def test_cuda_where_there_is_none(local: Case) -> None:
    import torch

    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    refuse(local, "--device cuda", "0 CUDA devices", device="cuda")


def test_a_wrong_command_does_not_delete_what_lies_in_the_current_folder(local: Case) -> None:
    local.place.write("model.pt", b"precious")
    folder = Path(local.place.uri(""))
    assert local.trainers.run(cwd=folder).code == 2
    assert local.trainers.run("--train=a", "--val=b", "--epochs=0", cwd=folder).code == 2
    assert local.place.read("model.pt") == b"precious"


# ------------------------------------------------------------------------------ output


def test_an_output_folder_that_is_a_file(local: Case) -> None:
    local.place.write("file", b"")
    result = local.run(model_out=local.place.uri("file/run"))
    assert result.code == 2
    assert result.err.splitlines()[-1].startswith(f"ERROR: cannot write {local.place.uri('file')}")
    assert result.out == ""  # before any training


def test_an_output_folder_without_permission(local: Case, tmp_path: Path) -> None:
    if os.geteuid() == 0:
        before = "import os; os.setgid(65534); os.setuid(65534)"  # root may write everywhere
    else:
        before = ""
    folder = tmp_path / "closed"
    folder.mkdir(mode=0o555)
    open_to_all(tmp_path)
    argv = local.argv(model_out=str(folder))
    result = local.trainers.run(*argv, before=before)
    assert result.code == 2 and "Permission denied" in result.err.splitlines()[-1]
    assert os.listdir(folder) == []


def open_to_all(folder: Path) -> None:
    for path in (folder, *folder.parents):
        if path.stat().st_uid == os.geteuid() and path != Path("/"):
            path.chmod(path.stat().st_mode | 0o055)


def full_disk_at(size: int) -> str:
    """From `size` bytes on, writing a file fails as on a full disk."""
    return f"import resource; resource.setrlimit(resource.RLIMIT_FSIZE, ({size}, {size}))"


def test_a_disk_that_is_full(local: Case) -> None:
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] == resource.RLIM_INFINITY
    assert signal.getsignal(signal.SIGXFSZ) == signal.SIG_IGN
    before = full_disk_at(5_000)  # training.log fits, model.pt does not
    result = local.trainers.run(*local.argv(), before=before)
    assert result.code == 2
    assert result.err.startswith(f"ERROR: cannot write {local.place.uri('run/model.pt')}: ")
    assert local.place.list("run") == ["training.log"]
    assert result.err.removeprefix("ERROR: ").strip() in local.log()


def test_and_a_disk_with_enough_room(local: Case) -> None:
    assert local.trainers.run(*local.argv(), before=full_disk_at(50_000)).code == 0


def test_a_disk_that_is_full_keeps_the_checkpoint_before(local: Case) -> None:
    local.train_well(out="straight", epochs=6)
    options: dict[str, object] = {"checkpoint_dir": local.place.uri("ck"), "checkpoint_every": 1}
    local.train_well(epochs=3, **options)
    argv = local.argv(epochs=6, **options)
    result = local.trainers.run(*argv, before=full_disk_at(5_000))
    assert result.code == 2
    assert result.err.startswith(f"ERROR: cannot write {local.place.uri('ck/checkpoint.pt')}")
    assert local.place.list("run") == ["training.log"]
    assert local.place.list("ck") == ["checkpoint.pt"]
    local.train_well("--resume", epochs=6, **options)
    assert "resumed after epoch 3" in local.log()
    assert local.weights() == local.weights("straight")


# ------------------------------------------------------------------------------ divergence


def test_a_loss_that_becomes_nan_stops_with_exit_code_3(case: Case) -> None:
    data = npz(arrays("train", 300, X_train=(X * 1e30)))
    huge = case.place.write("huge.npz", data)
    options: dict[str, object] = {"train": huge, "learning_rate": 1e18, "epochs": 50}
    result = case.run(**options, checkpoint_dir=case.place.uri("ck"), checkpoint_every=1)
    assert result.code == 3
    assert "epoch" in result.err and "--learning_rate" in result.err
    assert len(result.err.splitlines()) == 1
    assert case.place.list("run") == ["eval_history.csv", "training.log"]
    assert "nan" in case.history()[-1] or "inf" in case.history()[-1]
    assert result.err.removeprefix("ERROR: ").strip() in case.log()


# ------------------------------------------------------------------------------ the cloud says no


class Refusal(BaseHTTPRequestHandler):
    """Answers every request with: you may not."""

    def do_GET(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        body = json.dumps({"error": {"code": 403, "message": "not for you"}}).encode()
        self.send_response(403)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_POST = do_DELETE = do_GET

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def refusing_cloud() -> Iterator[str]:
    with HTTPServer(("127.0.0.1", 0), Refusal) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_no_permission(refusing_cloud: str, cloud_trainers: Trainers, tmp_path: Path) -> None:
    case = Case(LocalPlace(tmp_path), cloud_trainers)
    case.place.env = {"STORAGE_EMULATOR_HOST": refusing_cloud}
    refuse(case, "gs://bucket/object", "no permission", train="gs://bucket/object")
    result = case.run(model_out="gs://bucket/run")
    assert result.code == 2
    assert result.err.startswith("ERROR: cannot write gs://bucket/run/training.log: no permission")
    assert result.out == ""  # before any training


def test_no_credentials(cloud_trainers: Trainers, tmp_path: Path) -> None:
    case = Case(LocalPlace(tmp_path), cloud_trainers)
    case.place.env = {
        "NO_GCE_CHECK": "true",
        "CLOUDSDK_CONFIG": str(tmp_path),
        "HOME": str(tmp_path),
    }
    line = refuse(case, "no credentials", "gcloud auth", train="gs://bucket/object")
    assert "gs://bucket/object" in line


def test_google_cloud_storage_is_not_installed(local: Case) -> None:
    before = "sys.modules['google.cloud'] = None"
    result = local.trainers.run(*local.argv(train="gs://bucket/object"), before=before)
    assert result.code == 2 and "pip install google-cloud-storage" in result.err
