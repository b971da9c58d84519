"""Measure local mode: the time of a job beyond its script's, and the time of answers.

    python scripts/maintainers/benchmark.py local-mode

Everything runs on a root of its own in a temporary folder. A ratio compares two things that run in
turn.
"""

from __future__ import annotations

import argparse
import io
import logging
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import requests

from vertex_local.config import Root, ServerRecord
from vertex_local.kernel import clients
from vertex_local.server import daemon

SCRIPT = Path(__file__).resolve().parents[1] / "train_nn.py"
IMAGE = "us-docker.pkg.dev/vertex-ai/training/pytorch-xla.2-4.py310:latest"
ROWS = {"train": 569, "val": 143}  # as in the lesson
FINISHED_JOBS, AT_ONCE, GETS = 1000, 50, 50
PAUSE: dict[str, Any] = {
    "machineSpec": {"machineType": "n1-standard-4"},
    "replicaCount": "1",
    "containerSpec": {
        "imageUri": IMAGE,
        "command": ["python3", "-c", "import signal; signal.pause()"],
    },
}
PLACE = "/v1/projects/vertex-local/locations/us-central1"


def main(argv: list[str] | None = None) -> int:
    """Print all measures; return 0."""
    parser = argparse.ArgumentParser(prog="benchmark.py local-mode", description=__doc__)
    parser.add_argument("--turns", type=int, default=5, help="turns of a comparison (default: 5)")
    turns = parser.parse_args(argv).turns
    logging.disable(logging.CRITICAL)
    with tempfile.TemporaryDirectory() as folder:
        root = Root(Path(folder) / "root")
        started = seconds(lambda: daemon.start(root))
        record = daemon.find(root)
        assert record is not None  # it has just been started
        try:
            print(f"server start, imports included: {started:.2f} s")
            imports = seconds(
                lambda: run(
                    sys.executable,
                    "-c",
                    "from vertex_local import imports; imports.skip_clients(); "
                    "import vertex_local.server.process",
                )
            )
            print(f"  of which imports about {imports:.2f} s")
            clients.configure_clients(root, record)
            job_against_script(turns)
            many_jobs(record)
            the_page(root, record)
            search_against_scripts(turns)
            many_trials(root, record)
        finally:
            daemon.stop(root)
    return 0


def seconds(work: Callable[[], object]) -> float:
    """Return how long `work` takes."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def run(*command: str) -> None:
    """Run a command that prints nothing of interest."""
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def job_against_script(turns: int) -> None:
    """`job.run()` of the lesson's script, against the same script with the same arguments."""
    from google.cloud import aiplatform, storage

    bucket = storage.Client().create_bucket("benchmark")
    rng = np.random.default_rng(0)
    for part, rows in ROWS.items():
        x = rng.standard_normal((rows, 7)).astype("float32")
        file = io.BytesIO()
        arrays: dict[str, Any] = {f"X_{part}": x, f"y_{part}": (x[:, 0] > 0).astype("float32")}
        np.savez_compressed(file, **arrays)
        bucket.blob(f"{part}.npz").upload_from_string(file.getvalue())
    args = [f"--{part}=gs://benchmark/{part}.npz" for part in ROWS]
    args += ["--epochs=200", "--learning_rate=0.001"]

    def by_hand() -> None:
        run(sys.executable, str(SCRIPT), *args, "--model_out=gs://benchmark/by-hand")

    def as_a_job() -> None:
        job = aiplatform.CustomTrainingJob(
            display_name="benchmark",
            script_path=str(SCRIPT),
            container_uri=IMAGE,
            staging_bucket="gs://benchmark/staging",
        )
        job.run(
            args=[*args, "--model_out=gs://benchmark/as-a-job"],
            machine_type="n1-standard-4",
            replica_count=1,
        )

    for warm_up in (by_hand, as_a_job):
        warm_up()
    times = [(seconds(by_hand), seconds(as_a_job)) for _ in range(turns)]
    hand, job = (statistics.median(column) for column in zip(*times, strict=True))
    ratio = statistics.median(b / a for a, b in times)
    more = statistics.median(b - a for a, b in times)
    print(f"the lesson's script by hand: {hand:.2f} s; as a job: {job:.2f} s (medians of {turns})")
    print(f"  a job takes {more:+.2f} s (target: about 1 s), ratio {ratio:.2f} (target: 1.3)")


def many_jobs(record: ServerRecord) -> None:
    """Lists and single jobs with many finished jobs in the store, and many readers at once."""
    session = requests.Session()
    session.headers["Authorization"] = f"Bearer {record.token}"
    pool: dict[str, Any] = {
        "machineSpec": {"machineType": "n1-standard-4"},
        "replicaCount": "1",
        "pythonPackageSpec": {
            "executorImageUri": IMAGE,
            "packageUris": ["gs://benchmark/none.tar.gz"],  # so that the job ends at once
            "pythonModule": "none",
        },
    }
    body: dict[str, Any] = {"displayName": "benchmark", "jobSpec": {"workerPoolSpecs": [pool]}}
    jobs = f"{record.api_url}{PLACE}/customJobs"
    name = ""
    for _ in range(FINISHED_JOBS):
        name = session.post(jobs, json=body, timeout=60).json()["name"]
    one = f"{record.api_url}/v1/{name}"
    while "endTime" not in session.get(one, timeout=60).json():
        pass
    report("list page of 100", lambda: session.get(jobs, timeout=60))
    report("get of one", lambda: session.get(one, timeout=60))

    running = session.post(jobs, json=body | {"jobSpec": {"workerPoolSpecs": [PAUSE]}}, timeout=60)
    active = f"{record.api_url}/v1/{running.json()['name']}"
    at_once("a finished job", one, session)
    session.get(active, timeout=60)  # the first GET of an active job waits for its next change
    at_once("the running job", active, session)
    session.post(f"{active}:cancel", json={}, timeout=60)
    print(f"memory of the server with {FINISHED_JOBS} jobs: {memory_mb(record.pid)}")


def the_page(root: Root, record: ServerRecord) -> None:
    """The page: its list of many jobs, and a log of 50 MB."""
    session = requests.Session()
    link = daemon.page_link(record)
    session.get(link, timeout=60)
    base = link.partition("/enter/")[0]
    newest = max(root.jobs.iterdir(), key=lambda folder: folder.stat().st_mtime)
    lines = (f"line {number} of a log that is much too long\n" for number in range(1_200_000))
    (newest / "job.log").write_text("".join(lines))
    log = f"{base}/jobs/{newest.name}/log/workerpool0-0"
    pages = {
        "list of jobs": (f"{base}/", 100),
        "end of a log of 50 MB": (log, 300),
        "middle of it": (f"{log}?from=25000000", 300),
        "search in it": (f"{log}?text=line+777+", 300),
    }
    for what, (url, target) in pages.items():
        open_page = partial(_open, session, url)
        first = seconds(open_page)
        again = statistics.median(seconds(open_page) for _ in range(GETS))
        print(
            f"page, {what}: first {first * 1000:.0f} ms, then {again * 1000:.0f} ms "
            f"(target: {target} ms)"
        )
    print(f"memory of the server after these pages: {memory_mb(record.pid)}")


def _open(session: requests.Session, url: str) -> None:
    session.get(url, timeout=60).raise_for_status()


TRIALS = 8
REPORT = """
import hypertune, sys, time
time.sleep(0.5)
hypertune.HyperTune().report_hyperparameter_tuning_metric("loss", float(sys.argv[-1][4:]))
"""
STUDY: dict[str, Any] = {
    "metrics": [{"metric_id": "loss", "goal": 2}],
    "parameters": [
        {"parameter_id": "x", "double_value_spec": {"min_value": 0, "max_value": 1}},
        {"parameter_id": "n", "integer_value_spec": {"min_value": 1, "max_value": 64}},
    ],
}


def search_against_scripts(turns: int) -> None:
    """A search of 8 trials, one after the other, against its script run 8 times by hand."""
    from google.cloud import aiplatform
    from google.cloud.aiplatform import hyperparameter_tuning as hpt

    pool = {
        "machine_spec": {"machine_type": "n1-standard-4"},
        "replica_count": 1,
        "container_spec": {"image_uri": IMAGE, "command": ["python3", "-c", REPORT]},
    }
    job = aiplatform.CustomJob("benchmark", [pool], staging_bucket="gs://benchmark")

    def by_hand() -> None:
        with tempfile.TemporaryDirectory() as folder:
            os.environ["CLOUD_ML_HP_METRIC_FILE"] = f"{folder}/metrics"
            for _ in range(TRIALS):
                run(sys.executable, "-c", REPORT, "--x=0.5")

    def as_a_search() -> None:
        aiplatform.HyperparameterTuningJob(
            display_name="benchmark",
            custom_job=job,
            metric_spec={"loss": "minimize"},
            parameter_spec={"x": hpt.DoubleParameterSpec(min=0, max=1, scale="linear")},
            max_trial_count=TRIALS,
            parallel_trial_count=1,
        ).run()

    as_a_search()  # warms up
    more = statistics.median(seconds(as_a_search) - seconds(by_hand) for _ in range(turns))
    print(f"a search of {TRIALS} trials takes {more / TRIALS:+.2f} s a trial (target: 1 s at most)")


def many_trials(root: Root, record: ServerRecord) -> None:
    """Proposals late in a long search; a search with 200 trials in a list, and by itself."""
    from google.cloud.aiplatform_v1.types import HyperparameterTuningJob, Trial

    from vertex_local.training.names import ResourceName
    from vertex_local.training.records import Records
    from vertex_local.training.states import RUNNING, SUCCEEDED
    from vertex_local.tuning import study

    job = HyperparameterTuningJob(display_name="benchmark", study_spec=STUDY)
    times = []
    for number in range(200):
        start = time.perf_counter()
        point = study.propose(job.study_spec, job.trials, seed=1)
        times.append(time.perf_counter() - start)
        assert point is not None
        job.trials.append(
            Trial(
                id=str(number + 1),
                state=Trial.State.SUCCEEDED,
                parameters=[{"parameter_id": name, "value": each} for name, each in point.items()],
                final_measurement={"metrics": [{"metric_id": "loss", "value": point["x"]}]},
            )
        )
    for after in (10, 50, 199):
        took = statistics.median(times[after - 5 : after + 1])
        print(f"proposal after {after} trials: {took * 1000:.0f} ms (target: 50 ms)")

    name = ResourceName("us-central1").new("hyperparameterTuningJobs")
    job.name = str(name)
    records = Records(root.database)
    records.add(job)
    records.move(job.name, RUNNING)
    records.move(job.name, SUCCEEDED)
    records.close()
    session = requests.Session()
    session.headers["Authorization"] = f"Bearer {record.token}"
    searches = f"{record.api_url}{PLACE}/hyperparameterTuningJobs"
    report("list of searches, one of 200 trials", lambda: session.get(searches, timeout=60))
    one = f"{searches}/{name.id}"
    report("get of a search of 200 trials", lambda: session.get(one, timeout=60))


def at_once(what: str, url: str, session: requests.Session) -> None:
    """Print how long many simultaneous GETs of one job take, while a job runs."""

    def get(_: int) -> Any:
        return requests.get(url, headers=dict(session.headers), timeout=60).status_code

    with ThreadPoolExecutor(AT_ONCE) as threads:
        took = seconds(lambda: list(threads.map(get, range(AT_ONCE))))
    print(f"{AT_ONCE} GETs at once of {what}, while a job runs: {took * 1000:.0f} ms for all")


def report(what: str, work: Callable[[], object]) -> None:
    """Print the median time of `work`."""
    median = statistics.median(seconds(work) for _ in range(GETS))
    print(f"{what}, with {FINISHED_JOBS} finished jobs: {median * 1000:.1f} ms (target: 20 ms)")


def memory_mb(pid: int) -> str:
    """Return the memory of a process as text; it is known on Linux only."""
    path = f"/proc/{pid}/statm"
    if not os.path.exists(path):
        return "not known on this system"
    with open(path) as file:
        pages = int(file.read().split()[1])
    return f"{pages * os.sysconf('SC_PAGE_SIZE') / 1e6:.0f} MB"


if __name__ == "__main__":
    sys.exit(main())
