"""`workshop.py` as a newcomer types it, and what it says when something is in the way.

`run`, when all goes well, is tested in test_learners.py.
"""

from __future__ import annotations

import json
import os
import re
import runpy
import signal
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import nbformat
import psutil
import pytest
from clones import LIMIT_SECONDS, make_clone, run_lesson
from jupyter_client.kernelspec import KernelSpecManager

from vertex_local.config import Root, ServerRecord
from vertex_local.server import daemon


@pytest.fixture(scope="module")
def script(repo: Path) -> Path:
    return repo / "scripts" / "workshop.py"


@pytest.fixture(scope="module")
def installed(repo: Path, script: Path) -> None:
    """These tests use the environment that `workshop.py` made; making one takes minutes."""
    up_to_date = runpy.run_path(str(script))["is_installed"]()
    if Path(sys.prefix) != repo / ".venv" or not up_to_date:
        pytest.skip("needs the environment that `workshop.py test` makes")


def workshop(script: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(script), *arguments],
        capture_output=True,
        text=True,
        timeout=LIMIT_SECONDS,
    )


def test_an_older_python_gets_one_sentence(script: Path) -> None:
    code = (
        "import sys, runpy; sys.version_info = (3, 9, 18, 'final', 0); "
        f"runpy.run_path({str(script)!r}, run_name='__main__')"
    )
    finished = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert finished.returncode == 1
    assert len(finished.stderr.strip().splitlines()) == 1
    assert "Python 3.10 or newer is needed, and this is Python 3.9" in finished.stderr


def test_run_leaves_a_running_local_mode_alone(
    installed: None, script: Path, root: Root, server: ServerRecord
) -> None:
    finished = workshop(script, "run")
    assert finished.returncode == 1
    assert finished.stderr.startswith("workshop.py: local mode is running")
    assert daemon.find(root) == server


def test_run_fails_when_a_cell_fails(repo: Path, tmp_path: Path, own_root: Root) -> None:
    clone = make_clone(repo, tmp_path / "clone")
    path = next((clone / "notebooks").glob("06-*.ipynb"))
    notebook = nbformat.read(path, as_version=4)
    notebook.cells = [nbformat.v4.new_code_cell(code) for code in ("1", "gone", "2")]
    nbformat.write(notebook, path)
    finished = run_lesson(clone, own_root.path)
    assert finished.returncode == 1
    assert "failed: NameError: name 'gone' is not defined" in finished.stderr
    assert "CPU job" not in finished.stdout


def test_what_is_installed_is_not_installed_again(
    installed: None, script: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    workshop_module = runpy.run_path(str(script))
    workshop_module["install"]()
    assert capfd.readouterr().out == ""  # it would have said so, and taken minutes
    workshop_module["is_installed"].__globals__["STAMP"] = script.parent / "no such file"
    assert not workshop_module["is_installed"]()


def test_doctor_passes(installed: None, script: Path, own_root: Root) -> None:
    finished = workshop(script, "doctor")
    assert finished.returncode == 0, finished.stdout
    assert finished.stdout.startswith("[OK]   virtual environment")
    assert "[FAIL]" not in finished.stdout


def test_doctor_says_that_nothing_is_installed(script: Path, tmp_path: Path) -> None:
    copy = tmp_path / "scripts" / "workshop.py"
    copy.parent.mkdir()
    copy.write_bytes(script.read_bytes())
    (tmp_path / "pyproject.toml").touch()
    (copy.parent / "tested-versions.txt").touch()
    finished = workshop(copy, "doctor")
    assert finished.returncode == 1
    assert finished.stdout.startswith("[FAIL]") and "workshop.py run" in finished.stdout


QUIET = {"fetchNews": "false", "checkForUpdates": False}


def test_in_lab_every_notebook_runs_in_local_mode_and_elsewhere_none_does(
    installed: None, script: Path, own_root: Root, tmp_path: Path
) -> None:
    browser, opened = tmp_path / "browser", tmp_path / "opened"
    browser.write_text(f'#!/bin/sh\necho "$@" >{opened}.new; mv {opened}.new {opened}\n')
    browser.chmod(0o755)
    lab = subprocess.Popen(
        [sys.executable, "-u", str(script), "lab"],
        env={**os.environ, "BROWSER": str(browser)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        assert lab.stdout is not None
        address = next(
            match for line in lab.stdout if (match := re.search(r"(http://\S+)/lab/(\S+)", line))
        )
        token = address[2].partition("?token=")[2]

        def get(path: str) -> Any:
            url = f"{address[1]}/{path}?token={token}"
            with urllib.request.urlopen(url, timeout=60) as answer:
                return json.load(answer)

        words = str([process.info for process in psutil.process_iter(["cmdline"])])
        assert "jupyterlab" in words and token not in words
        deadline = time.monotonic() + LIMIT_SECONDS
        while not opened.exists():
            assert time.monotonic() < deadline, "no browser was opened"
            time.sleep(0.01)
        page = Path(unquote(urlsplit(opened.read_text().strip()).path))
        assert token not in str(page) and address[0] in page.read_text()
        assert page.stat().st_mode & 0o077 == page.parent.stat().st_mode & 0o077 == 0
        sessions = get("api/sessions")
        (kernel,) = (session["kernel"] for session in sessions)
        assert kernel["name"] == "python3"  # what all notebooks name, also after they are saved
        specs = {
            name: found["spec"] for name, found in get("api/kernelspecs")["kernelspecs"].items()
        }
        assert "vertex_local.kernel" in specs["python3"]["argv"]
        assert sessions[0]["path"] == address[2].removeprefix("tree/").partition("?")[0]
        notices = get("lab/api/settings/@jupyterlab/apputils-extension:notification")["schema"]
        asked = {name: notices["properties"][name]["default"] for name in QUIET}
        assert asked == QUIET  # no question about news in front of the lesson
    finally:
        os.kill(lab.pid, signal.SIGTERM)
        lab.communicate(timeout=LIMIT_SECONDS)
    assert daemon.find(own_root) is None  # started for the lab, so stopped after it
    assert not page.exists()
    plain = KernelSpecManager().get_kernel_spec("python3").argv
    assert "vertex_local.kernel" not in plain and "ipykernel_launcher" in plain


def test_an_unknown_argument_is_refused(script: Path) -> None:
    finished = workshop(script, "run", "--fast")
    assert finished.returncode == 2
    assert "unknown arguments: --fast" in finished.stderr
