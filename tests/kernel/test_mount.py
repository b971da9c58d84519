"""`/gcs`: jobs and cells find the buckets there as folders, and nobody else notices."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import nbformat
import pytest
from google.cloud import storage
from google.cloud.aiplatform_v1.types import ContainerSpec, PythonPackageSpec, WorkerPoolSpec
from nbclient import NotebookClient
from test_containers import MACHINE, container_job

from vertex_local.cli import doctor
from vertex_local.config import Root, ServerRecord
from vertex_local.jobs import command
from vertex_local.kernel import spec
from vertex_local.storage import mount
from vertex_local.storage.conditions import ANY
from vertex_local.storage.objects import Objects

NOBODY = 65534
JOB = """
import os, sys
folder = f"/gcs/{sys.argv[1]}"
text = open(f"{folder}/in.txt").read()
os.remove(f"{folder}/old.txt")
os.makedirs(f"{folder}/new/folder")
with open(f"{folder}/new/folder/out.txt.part", "w") as file:
    print(text, *sorted(os.listdir(folder)), os.environ["VERTEX_LOCAL_BUCKETS"], file=file)
    print(os.path.exists(f"{folder}/missing.txt"), file=file)
os.replace(f"{folder}/new/folder/out.txt.part", f"{folder}/new/folder/out.txt")
"""


@pytest.fixture
def gcs(server: ServerRecord, root: Root) -> None:
    """Skip where this machine does not allow `/gcs`."""
    if reason := mount.obstacle(root.buckets):
        pytest.skip(f"no {mount.MOUNT} here: {reason}")


def test_a_job_and_the_clients_share_files(gcs: None, bucket: storage.Bucket, root: Root) -> None:
    for name in ("in.txt", "old.txt"):
        bucket.blob(name).upload_from_string("42")
    container_job(bucket, "python3", "-c", JOB).run(args=[bucket.name], **MACHINE)
    text = bucket.get_blob("new/folder/out.txt").download_as_text()
    assert text == f"42 in.txt new {root.buckets}\nFalse\n"
    assert [blob.name for blob in bucket.list_blobs()] == ["in.txt", "new/folder/out.txt"]


def test_what_is_being_uploaded_is_no_file_yet(bucket: storage.Bucket, root: Root) -> None:
    with bucket.blob("big").open("wb", chunk_size=256 * 1024) as upload:
        upload.write(bytes(600_000))
        assert os.listdir(root.buckets / bucket.name) == []
    assert (root.buckets / bucket.name / "big").stat().st_size == 600_000


def test_cells_and_the_clients_share_files(gcs: None, bucket: storage.Bucket) -> None:
    bucket.blob("in.txt").upload_from_string("from a client")
    cells = [
        f"print(open('/gcs/{bucket.name}/in.txt').read())",
        f"!echo from a cell > /gcs/{bucket.name}/out.txt; ls -d /gcs/*{bucket.name}",
        "import os, signal; os.kill(os.getpid(), signal.SIGINT); import time; time.sleep(60)",
        "print('goes on')",
    ]
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(text) for text in cells])
    NotebookClient(notebook, kernel_name=spec.NAME, allow_errors=True, timeout=100).execute()
    outputs = [cell.outputs[0] for cell in notebook.cells]
    assert outputs[0].text == "from a client\n"
    assert outputs[1].text.strip() == f"/gcs/{bucket.name}"
    assert outputs[2].ename == "KeyboardInterrupt"
    assert outputs[3].text == "goes on\n"
    assert bucket.blob("out.txt").download_as_bytes() == b"from a cell\n"


TYPING_ERRORS = """
import os, shutil, sys
bucket = sys.argv[1]
os.chdir("/gcs")
for attempt in (
    lambda: os.mkdir("typed-wrong"),
    lambda: os.makedirs("/gcs/typed-wrong/models"),
    lambda: open("/gcs/model.pt", "w"),
    lambda: os.symlink(bucket, "/gcs/link"),
    lambda: os.rename(bucket, "renamed"),
    lambda: os.rename(f"{bucket}/a.txt", "a.txt"),
    lambda: os.rmdir(f"{bucket}-empty"),
):
    try:
        attempt()
        sys.exit("nothing stopped it")
    except PermissionError as err:
        print(err)
from google.cloud import storage
storage.Client().create_bucket(f"{bucket}-later")
os.makedirs(f"/gcs/{bucket}-later/models")
os.rename(f"/gcs/{bucket}/a.txt", f"/gcs/{bucket}-later/models/b.txt")
os.rename(f"/gcs/{bucket}-later/models", f"/gcs/{bucket}/models")
print(sorted(os.listdir(bucket)), os.listdir(f"{bucket}-later"))
shutil.rmtree(f"/gcs/{bucket}/models")
storage.Client().bucket(f"{bucket}-later").delete()
print(os.path.exists(f"/gcs/{bucket}-later"))
"""


def test_a_mistyped_bucket_fails_in_jobs_and_cells(
    gcs: None, bucket: storage.Bucket, root: Root
) -> None:
    """Nobody can write directly in `/gcs`, in buckets everybody; one made later is one, too."""
    storage.Client().create_bucket(f"{bucket.name}-empty")
    cell = f"import sys; sys.argv = ['', {bucket.name!r}]\n{TYPING_ERRORS}"
    notebook = nbformat.v4.new_notebook(
        cells=[
            nbformat.v4.new_code_cell(cell),
            nbformat.v4.new_code_cell("!mkdir /gcs/typed-wrong; touch /gcs/x"),
        ]
    )
    for started in ("a job", "a notebook"):
        bucket.blob("a.txt").upload_from_string("x")
        if started == "a job":
            container_job(bucket, "python3", "-c", TYPING_ERRORS).run(args=[bucket.name], **MACHINE)
            (log,) = (path for path in root.jobs.glob("*/job.log") if "typed-wrong" in _text(path))
            said = _text(log)
        else:
            NotebookClient(notebook, kernel_name=spec.NAME, timeout=100).execute()
            said, shell = ("".join(each.text for each in cell.outputs) for cell in notebook.cells)
            assert shell.count("Permission denied") == 2
        assert said.count("Permission denied") == 7, said
        assert said.splitlines()[-2:] == ["['models'] []", "False"]
    assert "typed-wrong" not in os.listdir(root.buckets)


def _text(path: Path) -> str:
    """Return the text of a log; nothing for a folder that another test's script put there."""
    return path.read_text(errors="replace") if path.is_file() else ""


def test_the_server_of_an_ordinary_user_closes_the_folder_of_the_buckets(anywhere: Path) -> None:
    """Also without a mount, as on macOS: it does not depend on `/gcs`."""
    if os.geteuid() == 0:
        os.chown(anywhere, NOBODY, -1)
        os.seteuid(NOBODY)
    try:
        root = Root(anywhere / "root")
        root.create()
        objects = Objects(root)
        root.create()  # as a kernel does that starts
        objects.create_bucket("bucket", dict)
        (root.buckets / "bucket" / "folder").mkdir()
        with pytest.raises(PermissionError):
            (root.buckets / "typed-wrong").mkdir()
        objects.delete_bucket("bucket", ANY)
        with pytest.raises(PermissionError):
            (root.buckets / "typed-wrong").mkdir()
        objects.close()
        (root.buckets / "no-server-runs").mkdir()
    finally:
        if os.getuid() == 0:
            os.seteuid(0)


@pytest.fixture
def anywhere() -> Iterator[Path]:
    """A folder that every user may enter and write, with a copy of the program."""
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o777)
    shutil.copy(mount.__file__, folder / "mount.py")
    yield folder
    shutil.rmtree(folder)


def launch(folder: Path, *line: str) -> subprocess.CompletedProcess[str]:
    """Run a command as an ordinary user, in a `/` whose `/gcs` is `folder`."""
    python = (
        "/usr/bin/python3"  # one that any user can read, which a virtual environment may not be
    )
    if not Path(python).exists():
        pytest.skip(f"there is no {python} here")
    user = {"user": NOBODY, "group": NOBODY, "extra_groups": []} if os.geteuid() == 0 else {}
    done = subprocess.run(
        [python, "-I", "-S", folder / "mount.py", folder, *line],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=60,
        **user,  # type: ignore[call-overload]
    )
    if "cannot be made" in done.stderr:
        pytest.skip(f"not for ordinary users here: {done.stderr.strip()}")
    return done


def test_an_ordinary_user_has_it_too(anywhere: Path) -> None:
    (anywhere / "in.txt").write_text("42")
    outside = sorted(os.listdir("/")), Path("/proc/self/mountinfo").read_text()
    done = launch(
        anywhere,
        *("sh", "-c", "cat /gcs/in.txt && id -u && pwd && echo x > /gcs/out.txt && exit 7"),
    )
    user = NOBODY if os.geteuid() == 0 else os.geteuid()
    assert (done.returncode, done.stderr) == (7, "")
    assert done.stdout.split() == [f"42{user}", str(anywhere)]
    assert (anywhere / "out.txt").stat().st_uid == user
    # Nobody else sees anything of it.
    assert outside == (sorted(os.listdir("/")), Path("/proc/self/mountinfo").read_text())


def test_its_root_has_what_the_real_one_has_and_keeps_nothing(anywhere: Path) -> None:
    script = "ls -A /; mkdir /lost"
    done = launch(anywhere, "sh", "-c", script)
    assert set(done.stdout.split()) == {*os.listdir("/"), "gcs"}
    assert done.returncode != 0 and "Read-only file system" in done.stderr


def test_a_process_in_it_can_be_killed_and_fails_as_any(anywhere: Path) -> None:
    done = launch(anywhere, "sh", "-c", "kill -TERM $$; sleep 60")
    assert done.returncode == -signal.SIGTERM
    done = launch(anywhere, "/no-such-program")
    assert (done.returncode, done.stderr) == (
        127,
        "/no-such-program cannot be run (No such file or directory)\n",
    )


def test_without_it_the_words_of_a_command_are_changed(
    own_root: Root, monkeypatch: pytest.MonkeyPatch
) -> None:
    if os.path.lexists(mount.MOUNT):
        pytest.skip(f"{mount.MOUNT} exists on this machine")
    monkeypatch.setenv(mount.SWITCH, "off")
    own_root.create()
    (finding,) = doctor.gcs(own_root)
    assert finding.startswith(f"no /gcs in cells and jobs ({mount.SWITCH} is off)")
    assert f"sudo ln -s {own_root.buckets} /gcs" in finding or sys.platform == "darwin"

    given = ["--in=/gcs/b/x", "/gcs/b", "gs://b/gcs/x", "/data/gcs/x", "/gcs-like", "a:/gcs"]
    here = str(own_root.buckets)
    expected = [f"--in={here}/b/x", f"{here}/b", *given[2:5], f"a:{here}"]
    package = PythonPackageSpec(python_module="task", args=given)
    pool = WorkerPoolSpec(python_package_spec=package)
    assert command.argv_of(pool, "python", own_root.buckets)[3:] == expected
    container = ContainerSpec(command=["sh", "-c"], args=given)
    pool = WorkerPoolSpec(container_spec=container)
    assert command.argv_of(pool, "python", own_root.buckets) == ["sh", "-c", *expected]

    (own_root.buckets / "b").mkdir()
    (own_root.buckets / "b" / "in.txt").write_text("42")
    for path, content in (("/gcs/b/in.txt", "42"), ("/data/gcs/b/in.txt", "")):
        pool.container_spec = ContainerSpec(command=["sh", "-c", f"cat {path}"])
        line = command.argv_of(pool, "python", own_root.buckets)
        done = subprocess.run(line, capture_output=True, text=True, timeout=60)
        assert done.stdout == content


def test_a_link_by_hand_is_enough(anywhere: Path) -> None:
    """In a `/` that has the link, nothing more is needed: as with one that root made."""
    done = launch(
        anywhere,
        *("/usr/bin/python3", "-I", "-S", "-c"),
        f"import sys; sys.path.insert(0, {str(anywhere)!r}); import mount; "
        f"from pathlib import Path; print(mount.prefix(Path({str(anywhere)!r})), "
        f"mount.prefix(Path('/usr')) == [], mount.obstacle(Path({str(anywhere)!r})))",
    )
    assert done.stdout == "[] False None\n", done.stderr
