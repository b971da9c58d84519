"""What the tests of the trainer share: data, places to keep it, and a quick command line.

Starting Python and importing torch takes seconds, so most tests use `Trainers`: one process imports
everything once, and every command runs in a fork of it, with arguments, environment, folder and
output of its own. It can be killed like any other process. `command_line` starts the real thing.

The trainer also runs where these tests cannot, such as on Python 3.10 with PyTorch 2.4. If
`TRAINER_PYTHON` names the Python of such an environment, it runs there, and the tests here.
"""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from google.cloud import storage

PYTHON = os.environ.get("TRAINER_PYTHON", sys.executable)
SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "train_nn.py"
NAMES = ["pclass", "sex", "age", "sibsp", "parch", "fare", "embarked"]
RESULTS = ["eval_history.csv", "metrics.json", "model.pt", "training.log"]

FORKING_SERVER = """
import importlib, json, os, sys
import train_nn
for module in sys.argv[1:]:
    importlib.import_module(module)
for line in sys.stdin:
    order = json.loads(line)
    child = os.fork()
    if child == 0:
        code = 99
        try:
            for number in (1, 2):
                flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOCTTY
                os.dup2(os.open(order["output"][number - 1], flags), number)
            os.environ.clear()
            os.environ.update(order["env"])
            os.chdir(order["cwd"])
            sys.path[1:1] = order["env"].get("PYTHONPATH", "").split(os.pathsep)
            if order["before"]:
                exec(order["before"])
            code = train_nn.main(order["argv"])
        except SystemExit as error:
            code = error.code
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code or 0)
    print(child, flush=True)
    os.waitid(os.P_PID, child, os.WEXITED | os.WNOWAIT)  # its number stays taken until it is read
    print("ended", flush=True)
    sys.stdin.readline()
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
os._exit(0)  # without taking apart all that was imported
"""


@dataclass
class Result:
    """How a command ended, and what it printed."""

    code: int
    out: str
    err: str


class Running:
    """A command that may still run."""

    def __init__(self, process: subprocess.Popen[str], output: list[Path]) -> None:
        assert process.stdin and process.stdout
        self.orders, self.answers, self.output = process.stdin, process.stdout, output
        self.pid = int(self.answers.readline())
        self.result: Result | None = None
        assert self.pid > 1

    def wait(self) -> Result:
        if self.result is None:
            assert self.answers.readline() == "ended\n"
            print(file=self.orders, flush=True)
            code = int(self.answers.readline())
            printed = (path.read_text() if path.exists() else "" for path in self.output)
            self.result = Result(code, *printed)
        return self.result

    def kill(self, number: int = signal.SIGKILL) -> None:
        if self.result is None:
            os.kill(self.pid, number)

    def ended(self) -> bool:
        return Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"

    def wait_for(self, text: str) -> None:
        """Wait until it has printed `text`."""
        while not self.output[0].exists() or text not in self.output[0].read_text():
            assert not self.ended(), f"it ended before: {self.wait()}"
            time.sleep(0.005)


class Trainers:
    """Runs `train_nn.py ARGUMENTS`, each time in a new process."""

    def __init__(self, folder: Path, *imported: str) -> None:
        self.folder, self.env, self.count = folder, clean_environment(), 0
        command = [PYTHON, "-c", FORKING_SERVER, *imported]
        pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        self.process = subprocess.Popen(command, env=self.env, **pipes)
        self.running: Running | None = None

    def start(
        self,
        *argv: object,
        cwd: Path | None = None,
        before: str = "",
        terminal: str | None = None,
        **env: str,
    ) -> Running:
        """`before` is code that runs first, `terminal` a device to print to instead of files."""
        self.count += 1
        output = [self.folder / f"{self.count}-{name}" for name in ("out", "err")]
        order = {
            "before": before,
            "argv": [str(arg) for arg in argv],
            "cwd": str(cwd or self.folder),
            "env": {**self.env, **env},
            "output": [terminal or str(path) for path in output],
        }
        self.stop()
        print(json.dumps(order), file=self.process.stdin, flush=True)
        self.running = Running(self.process, output)
        return self.running

    def stop(self) -> None:
        """End what a failed test has left running."""
        if self.running:
            self.running.kill()
            self.running.wait()

    def run(self, *argv: object, **how: Any) -> Result:
        return self.start(*argv, **how).wait()

    def close(self) -> None:
        self.stop()
        assert self.process.stdin and self.process.stdout
        self.process.stdin.close()
        self.process.wait(timeout=30)
        self.process.stdout.close()


def clean_environment() -> dict[str, str]:
    """The environment without what would change a run."""
    others = ("AIP_", "CLOUD_ML", "CLUSTER_SPEC", "GOOGLE_", "STORAGE_EMULATOR", "JPY_", "OMP_")
    others += ("MASTER_", "RANK", "WORLD_SIZE", "LOCAL_RANK")
    ours = {name: text for name, text in os.environ.items() if not name.startswith(others)}
    folders = [str(SCRIPT.parent), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {**ours, "PYTHONPATH": os.pathsep.join(folders), "GOOGLE_CLOUD_PROJECT": "test-project"}


def command_line(*argv: object, cwd: Path, **env: str) -> Result:
    """Run the script as a user does."""
    command = [PYTHON, str(SCRIPT), *(str(arg) for arg in argv)]
    done = subprocess.run(
        command, cwd=cwd, env={**clean_environment(), **env}, capture_output=True, text=True
    )
    return Result(done.returncode, done.stdout, done.stderr)


# ------------------------------------------------------------------------------ places


class LocalPlace:
    """A folder on this machine."""

    env: dict[str, str] = {}  # noqa: RUF012

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def uri(self, name: str) -> str:
        return str(self.folder / name)

    def write(self, name: str, data: bytes) -> str:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        return str(path)

    def read(self, name: str) -> bytes:
        return (self.folder / name).read_bytes()

    def delete(self, name: str) -> None:
        (self.folder / name).unlink()

    def list(self, folder: str) -> list[str]:
        return sorted(path.name for path in (self.folder / folder).glob("*"))


class BucketPlace:
    """A bucket of local mode's storage."""

    def __init__(self, bucket: storage.Bucket, endpoint: str) -> None:
        self.bucket, self.env = bucket, {"STORAGE_EMULATOR_HOST": endpoint}

    def uri(self, name: str) -> str:
        return f"gs://{self.bucket.name}/{name}"

    def write(self, name: str, data: bytes) -> str:
        self.bucket.blob(name).upload_from_string(data, "application/octet-stream")
        return self.uri(name)

    def read(self, name: str) -> bytes:
        data: bytes = self.bucket.blob(name).download_as_bytes()
        return data

    def delete(self, name: str) -> None:
        self.bucket.blob(name).delete()

    def list(self, folder: str) -> list[str]:
        prefix = folder.rstrip("/") + "/"
        blobs = self.bucket.client.list_blobs(self.bucket, prefix=prefix)
        return sorted(blob.name[len(prefix) :] for blob in blobs)


Place = LocalPlace | BucketPlace


# ------------------------------------------------------------------------------ data


def npz(arrays: dict[str, Any]) -> bytes:
    """The bytes of an .npz file."""
    file = io.BytesIO()
    np.savez_compressed(file, **arrays)
    return file.getvalue()


def rows(count: int, seed: int = 0, features: int = 7) -> tuple[Any, Any]:
    """Made-up passengers: the label depends on the features, with some noise."""
    random = np.random.default_rng(seed)
    x = random.normal(size=(count, features)).astype(np.float32)
    score = x @ np.linspace(-1, 1, features) + random.normal(size=count)
    return x, (score > 0).astype(np.float32)


def arrays(part: str, count: int, features: int = 7, **changes: Any) -> dict[str, Any]:
    """The content of a data file; a change with the value None leaves a key out."""
    x, y = rows(count, seed=len(part), features=features)
    names = np.array((NAMES * features)[:features])
    content = {f"X_{part}": x, f"y_{part}": y, "feature_names": names, **changes}
    return {key: value for key, value in content.items() if value is not None}


@dataclass
class Case:
    """A place with training and validation data, and the command line to use it."""

    place: Place
    trainers: Trainers

    def __post_init__(self) -> None:
        self.train = self.place.write("data/train.npz", npz(arrays("train", 300)))
        self.val = self.place.write("data/val.npz", npz(arrays("val", 100)))

    def argv(self, *extra: object, out: str = "run", **options: object) -> list[object]:
        """Options for a short run: --train and so on; a keyword replaces or adds one."""
        given: dict[str, object] = {
            "train": self.train,
            "val": self.val,
            "epochs": 6,
            "patience": 0,
        }
        given |= {"model_out": self.place.uri(out), **options}
        return [*(f"--{name}={value}" for name, value in given.items()), *extra]

    def start(self, *extra: object, out: str = "run", **options: object) -> Running:
        argv = self.argv(*extra, out=out, **options)
        return self.trainers.start(*argv, **self.place.env)

    def run(self, *extra: object, out: str = "run", **options: object) -> Result:
        return self.start(*extra, out=out, **options).wait()

    def train_well(self, *extra: object, out: str = "run", **options: object) -> dict[str, Any]:
        """Run, insist on success, and return metrics.json."""
        result = self.run(*extra, out=out, **options)
        assert (result.code, result.err) == (0, "")
        metrics: dict[str, Any] = json.loads(self.place.read(f"{out}/metrics.json"))
        return metrics

    def weights(self, out: str = "run") -> bytes:
        return self.place.read(f"{out}/model.pt")

    def history(self, out: str = "run") -> list[str]:
        """eval_history.csv without the column of seconds, which no two runs share."""
        lines = self.place.read(f"{out}/eval_history.csv").decode().splitlines()
        return [line.rpartition(",")[0] for line in lines]

    def log(self, out: str = "run") -> str:
        return self.place.read(f"{out}/training.log").decode()
