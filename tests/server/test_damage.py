"""A root whose files are damaged, are something else, or have no room: a sentence each."""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import requests

from vertex_local import cli
from vertex_local.cli import doctor
from vertex_local.config import LocalModeError, Root, ServerRecord, find_root
from vertex_local.server import daemon, process

JOBS = "/v1/projects/vertex-local/locations/us-central1/customJobs"
GARBAGE = b"not what it was, and longer than a header of a database is " * 9


@pytest.fixture
def say(capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Run a command that must fail, and return its one sentence."""

    def say(*arguments: str) -> str:
        capsys.readouterr()
        assert cli.main(list(arguments)) == 1
        lines = capsys.readouterr().err.strip().splitlines()
        assert len(lines) == 1 and lines[0].startswith("vertex-local: "), lines
        assert lines[0].count("vertex-local: ") == 1 and "Error(" not in lines[0], lines
        return lines[0]

    return say


@pytest.fixture
def refused(own_root: Root, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], str]]:
    """Start a server that must end at once, in this process, and return its one sentence."""
    monkeypatch.setattr(process.reaper, "adopt_orphans", lambda: None)
    before = os.umask(0o077)

    def refused() -> str:
        with pytest.raises(LocalModeError) as found:
            process.serve(own_root, 0, 0)
        return str(found.value)

    yield refused
    os.umask(before)


def own_files(root: Root) -> str:
    """Return what the doctor finds wrong with local mode's own files."""
    with pytest.raises(LocalModeError) as found:
        list(doctor.own_files(root))
    return str(found.value)


def as_folder(path: Path) -> None:
    path.unlink(missing_ok=True)
    path.mkdir()
    (path / "inside").touch()


def as_garbage(path: Path) -> None:
    path.write_bytes(GARBAGE)


def cut(path: Path) -> None:
    """Damage the middle of a database, whose first page stays good."""
    with sqlite3.connect(path) as database:
        database.execute("PRAGMA journal_mode=DELETE")
        database.execute("CREATE TABLE IF NOT EXISTS filling (text)")
        database.executemany("INSERT INTO filling VALUES (?)", [("x" * 900,)] * 100)
    database.close()
    content = bytearray(path.read_bytes())
    content[8192:40000] = b"y" * (40000 - 8192)
    path.write_bytes(content)


def test_damaged_records_of_jobs(
    own_root: Root, say: Callable[..., str], refused: Callable[[], str]
) -> None:
    own_root.create()
    for damage in (as_garbage, as_folder, cut):
        damage(own_root.database)
        for words in (refused(), say("status"), own_files(own_root)):
            assert f"{own_root.database} is" in words and "Move it away" in words, damage
        shutil.move(own_root.database, own_root.path / damage.__name__)  # the advice
        for path in own_root.path.glob(f"{own_root.database.name}-*"):
            path.unlink()
    assert cli.main(["up"]) == 0  # was good


def test_one_damaged_record(own_root: Root, say: Callable[..., str]) -> None:
    record = daemon.start(own_root)
    with sqlite3.connect(own_root.database) as database:
        name = JOBS.removeprefix("/v1/").replace("vertex-local", "100000000000") + "/7"
        row = (name, name.removesuffix("/7"), 0, None, b"\xff\xff not a message")
        columns = "(name, parent, active, pipeline, message)"
        database.execute(f"INSERT INTO resources {columns} VALUES (?, ?, ?, ?, ?)", row)
    database.close()
    headers = {"Authorization": f"Bearer {record.token}"}
    listed = requests.get(record.api_url + JOBS, headers=headers, timeout=30)
    assert listed.status_code == 500
    assert "customJobs/7 in jobs.sqlite3 is damaged" in listed.json()["error"]["message"]
    for words in (say("status"), own_files(own_root)):
        assert "customJobs/7 in jobs.sqlite3 is damaged" in words and "Move it away" in words


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "null",
        "7",
        '{"pid": "1"}',
        '{"pid": 1, "process": 2, "api_url": 3, "storage_url": 4, "token": 5}',
        '{"pid": 1, "process": "", "api_url": "http://127.0.0.1:70000", '
        '"storage_url": "http://127.0.0.1:1/x", "token": ""}',
        '{"pid": 1, "process": "", "api_url": "http://[", "storage_url": "", "token": ""}',
    ],
)
def test_a_damaged_record_of_the_server_counts_as_none(own_root: Root, text: str) -> None:
    own_root.create()
    own_root.record.write_text(text)
    assert ServerRecord.read(own_root.record) is None
    assert cli.main(["status"]) == 3


def test_a_damaged_record_of_the_server_is_found_and_replaced(
    own_root: Root, capsys: pytest.CaptureFixture[str]
) -> None:
    own_root.create()
    own_root.record.write_text('{"pid": 1}')
    cli.main(["doctor"])
    lines = capsys.readouterr().out.splitlines()
    (wrong,) = (line for line in lines if line.startswith("[FAIL]"))
    assert f"{own_root.record} is damaged" in wrong
    assert any("training API answers" in line for line in lines)  # nothing in it was needed


def test_a_record_damaged_while_the_server_runs(
    root: Root, server: ServerRecord, say: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(daemon, "OTHER_SECONDS", 0.2)
    told = root.record.read_text()
    try:
        root.record.write_text("{")
        for command in ("up", "down"):
            words = say(command)
            assert f"kill -9 {server.pid}" in words and "is damaged" in words
    finally:
        root.record.write_text(told)
    assert daemon.find(root) == server


@pytest.mark.parametrize("name", ["server.log", "server.lock", "boto.cfg"])
def test_a_folder_in_place_of_a_file_is_named(
    own_root: Root, say: Callable[..., str], name: str
) -> None:
    own_root.create()
    as_folder(own_root.path / name)
    assert name in say("up")


def test_reset_mends_what_is_in_place_of_a_file_and_makes_old_secrets_worthless(
    own_root: Root, refused: Callable[[], str]
) -> None:
    before = daemon.start(own_root)
    assert cli.main(["reset", "--yes"]) == 0
    for name in ("server.json", "token", "key", "buckets"):
        own_root.create()
        path = own_root.path / name
        if name == "buckets":
            path.rmdir()
            path.touch()
        else:
            as_folder(path)
        assert name in refused()
        assert cli.main(["reset", "--yes"]) == 0
        assert not path.exists()
    after = daemon.start(own_root)
    secret = before.storage_url.rpartition("/")[2]
    assert secret not in after.storage_url
    old = f"{after.storage_address}/{secret}/storage/v1/b"
    assert requests.get(old, timeout=30).status_code == 404


def test_reset_deletes_whatever_stands_there(own_root: Root) -> None:
    own_root.create()
    own_root.jobs.rmdir()
    own_root.jobs.write_text("a file")
    for path in (own_root.database, own_root.metadata, own_root.record):
        as_folder(path)
    own_root.buckets.rmdir()
    own_root.buckets.symlink_to("/etc")
    assert cli.main(["reset", "--yes"]) == 0
    left = {path.name for path in own_root.path.iterdir()}
    assert left == {"boto.cfg", "server.lock"} and Path("/etc/passwd").exists()


@pytest.fixture
def small_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Root]:
    """A root on a disk that has hardly any room."""
    place = tmp_path / "disk"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=200k", "tmpfs", str(place)]
    if os.geteuid() != 0 or not shutil.which("mount") or subprocess.call(mount) != 0:
        pytest.skip("only root can make a small disk, and not everywhere")
    monkeypatch.setenv("VERTEX_LOCAL_ROOT", str(place / "root"))
    yield find_root()
    daemon.stop(find_root())
    subprocess.check_call(["umount", str(place)])


@pytest.mark.parametrize("free", [0, 30_000, 80_000])
def test_a_full_disk_at_the_start_is_named(
    small_disk: Root, say: Callable[..., str], free: int
) -> None:
    small_disk.create()
    filling = small_disk.path / "filling"
    with open(filling, "wb") as file:
        room = shutil.disk_usage(small_disk.path).free
        file.write(b"x" * max(0, room - free))
    words = say("up")
    assert "No room is left on the disk of" in words, words
