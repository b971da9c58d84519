"""The `vertex-local` command as a user types it, above all when something is wrong."""

from __future__ import annotations

import io
import os
import socket
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import nbformat
import pytest
import requests
from google.cloud import storage

from vertex_local import cli
from vertex_local.cli import doctor
from vertex_local.config import LocalModeError, Root, ServerRecord
from vertex_local.kernel import clients
from vertex_local.kernel.spec import DISPLAY_NAME
from vertex_local.server import daemon


def vertex_local(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the command to its end, in this process: what it imports is imported once."""
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        status = cli.main(list(arguments))
    return subprocess.CompletedProcess(arguments, status, out.getvalue(), err.getvalue())


def in_a_shell(command: str) -> subprocess.CompletedProcess[str]:
    """Run the command as a user types it."""
    line = f'vertex-local() {{ "{sys.executable}" -m vertex_local "$@"; }}\n{command}'
    return subprocess.run(["bash", "-c", line], capture_output=True, text=True, timeout=300)


def one_sentence(finished: subprocess.CompletedProcess[str]) -> str:
    """Return what a failed command said; it must be one line that names the program."""
    assert finished.returncode not in (0, None)
    lines = finished.stderr.strip().splitlines()
    assert len(lines) == 1, finished.stderr
    assert lines[0].startswith("vertex-local: ")
    return lines[0]


def test_up_status_env_down(own_root: Root) -> None:
    assert vertex_local("status").returncode == 3
    assert "is not running" in one_sentence(vertex_local("env"))

    up = in_a_shell("vertex-local up")
    assert up.returncode == 0, up.stderr
    record = daemon.find(own_root)
    assert record is not None and record.api_url in up.stdout
    assert own_root.record.stat().st_mode & 0o077 == 0  # the token is for this user only

    assert vertex_local("status").returncode == 0
    command = 'eval "$(vertex-local env)"; echo "$STORAGE_EMULATOR_HOST $GOOGLE_CLOUD_PROJECT"'
    assert in_a_shell(command).stdout == f"{record.storage_url} vertex-local\n"

    second = one_sentence(vertex_local("up"))
    assert "already running" in second and str(record.pid) in second
    assert daemon.find(own_root) == record  # and the first is none the worse

    assert in_a_shell("vertex-local down").returncode == 0
    assert daemon.find(own_root) is None
    assert "was not running" in vertex_local("down").stdout


@pytest.mark.parametrize("service", ["api", "storage"])
def test_a_port_in_use_is_named(own_root: Root, service: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        message = one_sentence(vertex_local("up", f"--{service}-port={port}"))
    assert f"Port {port} on 127.0.0.1 is in use" in message
    assert daemon.find(own_root) is None


def test_a_port_out_of_range_is_refused(own_root: Root) -> None:
    assert "There is no port 70000" in one_sentence(vertex_local("up", "--api-port=70000"))


def test_a_root_that_cannot_be_written_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("VERTEX_LOCAL_ROOT", str(tmp_path / "file" / "root"))
    message = one_sentence(vertex_local("up"))
    assert f"cannot write to its folder {tmp_path / 'file' / 'root'}" in message
    assert "VERTEX_LOCAL_ROOT" in message


def test_damaged_storage_metadata_is_reported_and_kept(own_root: Root) -> None:
    own_root.create()
    own_root.metadata.write_text("not a database, and longer than the header of one " * 9)
    message = one_sentence(vertex_local("up"))
    assert f"{own_root.metadata} is damaged" in message and "Delete it" in message
    assert own_root.metadata.read_text().startswith("not a database")


def test_reset_asks_first(own_root: Root) -> None:
    own_root.create()
    kept = own_root.buckets / "some-bucket" / "file"
    kept.parent.mkdir()
    kept.touch()
    assert "Add --yes" in one_sentence(vertex_local("reset"))
    assert kept.exists()
    assert vertex_local("reset", "--yes").returncode == 0
    assert not kept.exists()


def write_notebook(path: Path, *cells: str) -> Path:
    """Write a notebook with these code cells."""
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(text) for text in cells])
    nbformat.write(notebook, path)
    return path


def test_run_executes_a_notebook_and_keeps_what_it_shows(
    server: ServerRecord, root: Root, tmp_path: Path
) -> None:
    path = write_notebook(tmp_path / "good.ipynb", "x = 20", "print(x + 1)")
    finished = vertex_local("run", str(path), "--output", str(tmp_path / "out"))
    assert finished.returncode == 0, finished.stderr
    assert "[1/2] ok" in finished.stdout and "[2/2] ok" in finished.stdout
    executed = nbformat.read(tmp_path / "out" / "good.ipynb", as_version=4)
    assert executed.cells[1].outputs[0].text == "21\n"
    assert ">21\n" in (tmp_path / "out" / "good.html").read_text()
    assert "outputs" not in path.read_text() or '"outputs": []' in path.read_text()
    assert daemon.find(root) == server  # it ran before, so it still does


def test_run_explains_the_first_cell_that_fails(own_root: Root, tmp_path: Path) -> None:
    path = write_notebook(tmp_path / "bad.ipynb", "print('so far')\n1 / 0", "print('never')")
    finished = vertex_local("run", str(path), "--output", str(tmp_path / "out"))
    assert finished.returncode == 1
    assert "[1/2] FAILED" in finished.stdout and "[2/2]" not in finished.stdout
    account = finished.stderr
    assert "bad.ipynb: code cell 1 of 2 failed: ZeroDivisionError: division by zero" in account
    assert "    1 / 0" in account and "    so far" in account
    assert (tmp_path / "out" / "bad.html").exists()
    assert daemon.find(own_root) is None  # started for the run, so stopped after it


@pytest.mark.parametrize(
    ("content", "words"),
    [(None, "cannot be read"), ("not JSON", "is not a notebook"), ("{}", "is not a notebook")],
)
def test_run_refuses_what_is_not_a_notebook(
    own_root: Root, tmp_path: Path, content: str | None, words: str
) -> None:
    path = tmp_path / "x.ipynb"
    if content is not None:
        path.write_text(content)
    assert words in one_sentence(vertex_local("run", str(path)))


def test_without_local_mode_every_cell_says_why(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    path = write_notebook(tmp_path / "x.ipynb", "print('reached the cloud')")
    code = (
        "import nbformat, sys; from nbclient import NotebookClient; "
        f"nb = nbformat.read({str(path)!r}, 4); "
        "NotebookClient(nb, kernel_name='vertex-local', timeout=60).execute()"
    )
    finished = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "VERTEX_LOCAL_ROOT": str(tmp_path / "file" / "root")},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert "Local mode is not available. Local mode cannot write" in finished.stderr
    assert "reached the cloud\n" not in finished.stdout


def test_a_running_notebook_outlives_its_server(own_root: Root, tmp_path: Path) -> None:
    kill = (
        "import json, os, pathlib, signal\n"
        f"record = json.loads(pathlib.Path({str(own_root.record)!r}).read_text())\n"
        "os.kill(record['pid'], signal.SIGKILL)"
    )
    path = write_notebook(
        tmp_path / "x.ipynb",
        "from google.cloud import storage\nclient = storage.Client()\n"
        "client.create_bucket('kept-bucket')",
        kill,
        "print([bucket.name for bucket in client.list_buckets()])",
    )
    finished = vertex_local("run", str(path), "--output", str(tmp_path))
    assert finished.returncode == 0, finished.stderr
    printed = nbformat.read(path, as_version=4).cells[2].outputs[0].text
    assert "was started again" in printed and "['kept-bucket']" in printed


def test_output_that_nobody_wants_is_no_error(server: ServerRecord) -> None:
    finished = in_a_shell("vertex-local status | :; echo ${PIPESTATUS[0]}")
    assert (finished.stdout, finished.stderr) == ("141\n", "")
    assert in_a_shell("vertex-local status | grep -c 'running (process'").stdout == "1\n"


def test_a_proxy_is_not_asked_for_this_machine(
    root: Root, bucket: storage.Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HTTP_PROXY", "http_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")  # nobody answers there
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.setenv(name, "example.org")
    record = daemon.find(root)
    assert record is not None
    url = f"{record.storage_url}/storage/v1/b"
    with pytest.raises(requests.exceptions.ProxyError):
        requests.get(url, timeout=30)
    settings = clients.environment(root, record)
    assert settings["no_proxy"] == settings["NO_PROXY"] == "example.org,127.0.0.1,localhost"
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.setenv(name, settings[name])
    assert requests.get(url, timeout=30).status_code == 200
    assert bucket.exists()


def test_kernel_install_writes_a_kernel_for_this_python(tmp_path: Path) -> None:
    finished = vertex_local("kernel", "install", "--prefix", str(tmp_path))
    assert finished.returncode == 0, finished.stderr
    spec = tmp_path / "share" / "jupyter" / "kernels" / "vertex-local" / "kernel.json"
    assert f'"{sys.executable}"' in spec.read_text()
    assert DISPLAY_NAME in spec.read_text()

    (tmp_path / "file").touch()
    bad = vertex_local("kernel", "install", "--prefix", str(tmp_path / "file"))
    assert "cannot be installed" in one_sentence(bad)


def test_doctor_finds_nothing_wrong_here(own_root: Root) -> None:
    finished = vertex_local("doctor")
    assert finished.returncode == 0, finished.stdout
    assert "FAIL" not in finished.stdout
    for words in ("Python 3.", "torch 2.13.0", "setuptools", "free ports", "GB free", "kernel"):
        assert words in finished.stdout
    assert "training API answers" in finished.stdout
    assert "Cloud Storage answers" in finished.stdout
    assert "/gcs" in finished.stdout.splitlines()[-1]  # whether there is one or not
    assert daemon.find(own_root) is None


@pytest.mark.parametrize(
    ("made", "words"),
    [
        ("My_Bucket/", "only lowercase letters"),
        ("model.pt", "a bucket is a folder"),
        ("link@", "a bucket is a folder"),
    ],
)
def test_doctor_names_what_no_client_sees_among_the_buckets(
    own_root: Root, tmp_path: Path, made: str, words: str
) -> None:
    own_root.create()
    (own_root.buckets / "typed-wrong").mkdir()  # a bucket nevertheless
    assert list(doctor.buckets(own_root)) == [f"buckets in {own_root.buckets}: 1"]
    path = own_root.buckets / made.rstrip("/@")
    if made.endswith("/"):
        path.mkdir()
    elif made.endswith("@"):
        path.symlink_to(tmp_path)
    else:
        path.touch()
    with pytest.raises(LocalModeError, match=f"{path.name} is no bucket.*{words}"):
        list(doctor.buckets(own_root))


def test_doctor_says_what_is_wrong(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("VERTEX_LOCAL_ROOT", str(tmp_path / "file" / "root"))
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path / "nothing"))
    finished = vertex_local("doctor")
    assert finished.returncode == 1
    assert "[FAIL] Local mode cannot write to its folder" in finished.stdout
