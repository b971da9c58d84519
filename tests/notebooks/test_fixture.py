"""The fixture `vertex_local`, as another project uses it that has installed this one."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

TESTS = """
import os

import pytest
from google.cloud import aiplatform, storage
from google.cloud.aiplatform import initializer

SCRIPT = '''
import os
from pathlib import Path

print("trains")
raise SystemExit(int(os.environ["STATUS"]))
'''


@pytest.mark.parametrize("status", [0, 3])
def test_train(vertex_local, tmp_path, status):
    script = tmp_path / "train.py"
    script.write_text(SCRIPT)
    (tmp_path / "address").write_text(vertex_local.api_url)
    job = aiplatform.CustomTrainingJob(
        display_name="test",
        script_path=str(script),
        container_uri="us-docker.pkg.dev/vertex-ai/training/pytorch-cpu.2-4.py310:latest",
    )
    if status:
        with pytest.raises(RuntimeError):
            job.run(environment_variables={"STATUS": str(status)})
    else:
        job.run(environment_variables={"STATUS": str(status)})
    assert [each.name for each in storage.Client().list_buckets()] == [vertex_local.bucket.name]
    assert list(vertex_local.bucket.rglob("*.tar.gz"))
    print("ROOT", vertex_local.buckets.parent)


def test_without():
    assert "STORAGE_EMULATOR_HOST" not in os.environ
    assert initializer.global_config._api_endpoint is None
"""


def test_a_project_tests_its_training_and_nothing_is_left(tmp_path: Path) -> None:
    (tmp_path / "test_train.py").write_text(TESTS)
    (tmp_path / "pytest.ini").write_text("[pytest]\n")
    clean = {key: value for key, value in os.environ.items() if "EMULATOR" not in key}
    finished = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-rP", "-n0", "-pno:cacheprovider"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=200,
        env=clean,
    )
    assert finished.returncode == 0, finished.stdout
    assert "3 passed" in finished.stdout
    roots = {line.split()[1] for line in finished.stdout.splitlines() if line.startswith("ROOT")}
    assert len(roots) == 2  # one for each test
    assert not any(Path(root).exists() for root in roots)
