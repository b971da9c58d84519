"""Cloud Storage through the programs that lesson cells call: gcloud, gsutil, and pandas."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import requests
from google.cloud import storage

from vertex_local.config import Root, ServerRecord
from vertex_local.kernel import clients

Shell = Callable[[str], subprocess.CompletedProcess[str]]

needs_tools = pytest.mark.skipif(
    not (shutil.which("gcloud") and shutil.which("gsutil")), reason="gcloud is not installed"
)


@pytest.fixture
def shell(server: ServerRecord, root: Root, tmp_path: Path) -> Shell:
    """Run a line as a shell does that has the exports of `vertex-local env`."""

    def run(line: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["bash", "-ec", line],
            env={**os.environ, **clients.environment(root, server)},
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=120,
        )

    return run


@needs_tools
def test_gcloud_storage(shell: Shell, bucket: storage.Bucket, tmp_path: Path) -> None:
    """Reference: `gcloud storage` makes buckets, copies, lists, measures and deletes."""
    (tmp_path / "dir" / "sub").mkdir(parents=True)
    (tmp_path / "dir" / "sub" / "2.txt").write_text("two")
    (tmp_path / "big.bin").write_bytes(os.urandom(9_000_000))  # large enough to be resumable
    url = f"gs://{bucket.name}"
    done = shell(
        f"gcloud storage buckets create {url}-new\n"
        f"gcloud storage cp -r dir big.bin {url}/\n"
        f"gcloud storage ls {url}/**\n"
        f"gcloud storage du -s {url}\n"
        f"gcloud storage rm -r {url}/dir {url}-new\n"
    )
    assert done.returncode == 0, done.stderr
    assert {f"{url}/big.bin", f"{url}/dir/sub/2.txt", "9000003"} <= {*done.stdout.split()}
    assert [blob.name for blob in bucket.list_blobs()] == ["big.bin"]
    assert bucket.client.lookup_bucket(f"{bucket.name}-new") is None

    half = shell(f"mkdir back; gcloud storage cp {url}/big.bin {url}/none back/")
    assert half.returncode != 0 and "matched no objects" in half.stderr
    assert (tmp_path / "back" / "big.bin").read_bytes() == (tmp_path / "big.bin").read_bytes()


@needs_tools
def test_gsutil(shell: Shell, bucket: storage.Bucket, tmp_path: Path) -> None:
    """Reference: `gsutil` works if it is the one of the Google Cloud CLI, which hands its
    work to `gcloud storage`.
    """
    (tmp_path / "dir" / "sub").mkdir(parents=True)
    (tmp_path / "dir" / "sub" / "2.txt").write_text("two")
    url = f"gs://{bucket.name}"
    half = shell(f"gsutil -m cp -r dir none {url}")
    assert half.returncode != 0 and "matched no objects" in half.stderr
    assert [(blob.name, blob.size) for blob in bucket.list_blobs()] == [("dir/sub/2.txt", 3)]


@pytest.mark.skipif(not importlib.util.find_spec("gcsfs"), reason="gcsfs is not installed")
def test_pandas_and_gcsfs(shell: Shell, bucket: storage.Bucket) -> None:
    """Reference: pandas and gcsfs read and write `gs://` addresses."""
    bucket.blob("folder/in.csv").upload_from_string("a,b\n1,2\n")
    code = (
        "import gcsfs, pandas\n"
        f"table = pandas.read_csv('gs://{bucket.name}/folder/in.csv')\n"
        f"table.to_csv('gs://{bucket.name}/folder/out.csv', index=False)\n"
        "fs = gcsfs.GCSFileSystem(token='anon')\n"
        f"fs.pipe('{bucket.name}/big', b'x' * 12_000_000)\n"
        f"fs.copy('{bucket.name}/big', '{bucket.name}/copy')\n"
        f"fs.rm('{bucket.name}/copy')\n"
        f"print(sorted(fs.find('{bucket.name}')), fs.info('{bucket.name}/big')['size'])\n"
        f"print(fs.exists('{bucket.name}/none'), fs.cat('{bucket.name}/big', start=5, end=8))\n"
        f"pandas.read_csv('gs://{bucket.name}/none.csv')\n"
    )
    done = shell(f'"{sys.executable}" -c "{code}"')
    assert done.returncode != 0 and "FileNotFoundError" in done.stderr, done.stderr  # its last line
    names = [f"{bucket.name}/{name}" for name in ("big", "folder/in.csv", "folder/out.csv")]
    assert done.stdout == f"{names} 12000000\nFalse b'xxx'\n"
    assert bucket.blob("folder/out.csv").download_as_text() == "a,b\n1,2\n"


@pytest.mark.skipif(not importlib.util.find_spec("gcsfs"), reason="gcsfs is not installed")
def test_gcsfs_moves_and_is_told_of_names_that_cannot_be(
    shell: Shell, bucket: storage.Bucket
) -> None:
    """Reference: gcsfs moves objects, and says why a name cannot be."""
    code = (
        "import gcsfs\n"
        "fs = gcsfs.GCSFileSystem()\n"
        f"fs.pipe('{bucket.name}/a', b'x')\n"
        f"fs.mv('{bucket.name}/a', '{bucket.name}/b')\n"
        f"fs.mkdir('{bucket.name}/folder')\n"
        f"print(fs.ls('{bucket.name}'))\n"
        f"fs.pipe('{bucket.name}/b/c', b'x' * 12_000_000)\n"
    )
    done = shell(f'"{sys.executable}" -c "{code}"')
    assert done.stdout == f"['{bucket.name}/b']\n"
    assert done.returncode == 1 and "one name cannot be a file and a folder" in done.stderr


ARROW = """
import sys, pandas
path = f"gs://{sys.argv[1]}/table.parquet"
pandas.DataFrame({"a": [1, 2]}).to_parquet(path)
print(pandas.read_parquet(path)["a"].tolist())
pandas.read_parquet(path.replace("table", "none"))
"""


@pytest.mark.skipif(not importlib.util.find_spec("pyarrow"), reason="pyarrow is not installed")
def test_arrow(shell: Shell, bucket: storage.Bucket) -> None:
    """Reference: Arrow, and so `DataFrame.to_parquet("gs://…")` with pyarrow, writes and reads
    objects.
    """
    done = shell(f"\"{sys.executable}\" -c '{ARROW}' {bucket.name}")
    assert done.stdout == "[1, 2]\n" and "FileNotFoundError" in done.stderr, done.stderr
    assert bucket.get_blob("table.parquet").size > 100


def test_obstore_is_told_what_is_missing(server: ServerRecord, bucket: storage.Bucket) -> None:
    """Reference: `obstore` is not supported: of the XML API there is reading an object, and uploads
    in parts.
    """
    bucket.blob("a").upload_from_string("x")
    url = f"{server.storage_url}/{bucket.name}"
    assert requests.get(f"{url}/a", timeout=30).content == b"x"
    for answer in (requests.put(f"{url}/b", b"x", timeout=30), requests.get(url, timeout=30)):
        assert answer.status_code == 405 and "not in local mode" in answer.text
