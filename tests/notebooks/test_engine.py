"""The kernel of a notebook under check: how it starts, and which jobs are its own."""

from __future__ import annotations

import json
import sys
from datetime import datetime, timezone
from pathlib import Path

import pytest
from nbformat.v4 import new_code_cell, new_notebook

from vertex_local.config import LocalModeError, Root, ServerRecord
from vertex_local.jobs import starter
from vertex_local.notebooks.engine.session import Session
from vertex_local.notebooks.local_jobs import LocalJobs

FAILING_JOB = """
from google.cloud import aiplatform, storage

bucket = storage.Client().create_bucket("own-jobs")
aiplatform.init(staging_bucket="gs://own-jobs")
image = "us-docker.pkg.dev/vertex-ai/training/pytorch-cpu.2-4.py310:latest"
pool = {
    "machine_spec": {"machine_type": "n1-standard-4"},
    "replica_count": 1,
    "container_spec": {"image_uri": image, "command": ["sh", "-c", "echo last words; exit 3"]},
}
aiplatform.CustomJob(display_name="fails", worker_pool_specs=[pool]).submit()
bucket.delete(force=True)
"""


def test_a_job_that_fails_is_a_failure_of_its_own_notebook_alone(
    root: Root, server: ServerRecord, tmp_path: Path
) -> None:
    session = Session(new_notebook(cells=[new_code_cell(FAILING_JOB)]), tmp_path)
    own, others = LocalJobs(root, session.kernel), LocalJobs(root, starter.new_kernel())
    session.start()
    started = datetime.now(timezone.utc)
    seen = session.run(0)
    session.stop()
    assert seen.raised is None, seen.raised
    assert own.wait(60) == []
    assert [job.display_name for job in own.unaccounted()] == ["fails"]
    assert [log.split("\n")[1] for log in own.failed_logs(started)] == ["last words"]
    assert own.seconds(started) > 0
    ended = datetime.now(timezone.utc)
    assert (own.failed_logs(ended), own.seconds(ended)) == ([], 0)
    assert (others.failed(), others.failed_logs(started), others.seconds(started)) == ([], [], 0)


@pytest.mark.parametrize("deaths", [1, 2])
def test_a_kernel_that_dies_while_it_starts_is_started_once_more(
    deaths: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kernel = f"{sys.executable} -m ipykernel_launcher -f {{connection_file}}"
    count = f"echo >> {tmp_path}/starts; test $(wc -l < {tmp_path}/starts) -le {deaths} && exit 1"
    argv = ["sh", "-c", f"{count}; exec {kernel}"]
    spec = {"argv": argv, "display_name": "dies", "language": "python"}
    (tmp_path / "kernels" / "dies").mkdir(parents=True)
    (tmp_path / "kernels" / "dies" / "kernel.json").write_text(json.dumps(spec))
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path))
    session = Session(new_notebook(cells=[new_code_cell("print(1)")]), tmp_path, "dies")
    if deaths == 2:
        with pytest.raises(LocalModeError, match="does not start"):
            session.start()
    else:
        session.start()
        assert session.run(0).outputs[0].text == "1\n"
    session.stop()
    assert (tmp_path / "starts").read_text().count("\n") == 2
