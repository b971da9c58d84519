"""Where local mode keeps its files, and the names, limits and settings that all rooms share."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path

PROJECT = "vertex-local"
PROJECT_NUMBER = "100000000000"
DEFAULT_REGION = "us-central1"
HOST = "127.0.0.1"  # loopback only: a server that runs code by design never listens elsewhere

# The SDK sleeps 5 s between two polls of a job, so even a short job would cost 5 s. Instead a GET
# of an active job waits this long for the job's next change before it answers …
GET_WAITS_SECONDS = 7.0
# … unless the same job was asked for just now: then it is not the SDK's loop that asks, but
# somebody who reads `.state`, and the answer comes at once.
GET_ANSWERS_AT_ONCE_WITHIN_SECONDS = 4.0


# gsutil itself always asks https://storage.googleapis.com. This lets it hand its commands to
# `gcloud storage`, which can be pointed elsewhere, and fail rather than do one of them itself.
BOTO = """[GSUtil]
use_gcloud_storage = True
hidden_shim_mode = no_fallback
[Boto]
num_retries = 2
"""


class LocalModeError(Exception):
    """Something the user can put right; the message says what is wrong and what to do."""


@dataclass(frozen=True)
class Root:
    """The folder that holds everything local mode keeps.

    Attributes:
        path: absolute path of the folder; its parts are the properties below.
    """

    path: Path

    @property
    def buckets(self) -> Path:
        """One folder per bucket; objects are plain files in it."""
        return self.path / "buckets"

    @property
    def metadata(self) -> Path:
        """SQLite file with the metadata that the files in `buckets` cannot hold."""
        return self.path / "storage.sqlite3"

    @property
    def uploads(self) -> Path:
        """Unfinished uploads; on the same file system as `buckets`."""
        return self.path / "uploads"

    @property
    def boto(self) -> Path:
        """Settings of gsutil, which has no environment variables for them."""
        return self.path / "boto.cfg"

    @property
    def jobs(self) -> Path:
        """One folder per custom job: `job.log`, `package/` and `work/`."""
        return self.path / "jobs"

    @property
    def images(self) -> Path:
        """Optional JSON file: which Python stands for which container image."""
        return self.path / "images.json"

    @property
    def budget(self) -> Path:
        """JSON file with the limit of what jobs may cost; absent if there is none."""
        return self.path / "budget.json"

    @property
    def faults(self) -> Path:
        """JSON file with what is to go wrong on purpose; absent if nothing is."""
        return self.path / "faults.json"

    @property
    def database(self) -> Path:
        """SQLite file with the job records."""
        return self.path / "jobs.sqlite3"

    @property
    def record(self) -> Path:
        """JSON file that tells clients where the running server listens."""
        return self.path / "server.json"

    @property
    def token(self) -> Path:
        """The running server's token by itself, as the gcloud command reads it."""
        return self.path / "token"

    @property
    def lock(self) -> Path:
        """File that the running server holds locked, so that there is one server per root."""
        return self.path / "server.lock"

    @property
    def log(self) -> Path:
        """Everything the server process prints."""
        return self.path / "server.log"

    def create(self) -> None:
        """Make the folders, private to this user.

        Raises:
            LocalModeError: if the folder cannot be created or written.
        """
        try:
            self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
            for folder in (self.buckets, self.jobs):
                folder.mkdir(exist_ok=True)
            self.lock.touch(mode=0o600)
            self.boto.write_text(BOTO)
        except OSError as err:
            raise LocalModeError(
                f"Local mode cannot write to its folder {self.path} ({err.strerror}). Give "
                "yourself write permission there, or set VERTEX_LOCAL_ROOT to another folder."
            ) from err


def find_root() -> Root:
    """Return the root folder: `VERTEX_LOCAL_ROOT`, else `.vertex-local` in the clone.

    The clone is found from the path of this file. Without a clone, `.vertex-local` is in the
    current folder.
    """
    chosen = os.environ.get("VERTEX_LOCAL_ROOT")
    if chosen:
        return Root(Path(chosen).expanduser().absolute())
    clone = Path(__file__).resolve().parents[2]
    base = clone if (clone / "pyproject.toml").is_file() else Path.cwd()
    return Root(base / ".vertex-local")


def without_account(root: Root) -> dict[str, str]:
    """Return environment variables with which no Google library or tool finds a real account.

    Sources: google.auth.environment_vars, and `gcloud topic configurations`.
    """
    return {
        "GOOGLE_APPLICATION_CREDENTIALS": "",
        "CLOUDSDK_CONFIG": str(root.path / "gcloud"),  # the usual folder may hold a login
        "GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT": "false",  # gcsfs: no gRPC, which is not answered here
        "NO_GCE_CHECK": "true",  # do not ask whether this is a machine of Google's
    }


def past_proxies() -> dict[str, str]:
    """Return environment variables that keep requests to this machine away from a proxy.

    There are two spellings, and not every program reads both.
    """
    listed = os.environ.get("no_proxy") or os.environ.get("NO_PROXY") or ""
    names = [name.strip() for name in listed.split(",") if name.strip()]
    text = ",".join(dict.fromkeys([*names, HOST, "localhost"]))
    return {"NO_PROXY": text, "no_proxy": text}


def shell_tools(root: Root, storage_url: str) -> dict[str, str]:
    """Return environment variables that point gcloud and gsutil at local mode.

    Source: `gcloud topic configurations`; every property has a variable CLOUDSDK_SECTION_NAME.
    """
    return {
        "BOTO_CONFIG": str(root.boto),
        "CLOUDSDK_API_ENDPOINT_OVERRIDES_STORAGE": f"{storage_url}/storage/v1/",
        "CLOUDSDK_AUTH_ACCESS_TOKEN_FILE": str(root.token),
        "CLOUDSDK_COMPONENT_MANAGER_DISABLE_UPDATE_CHECK": "true",
        "CLOUDSDK_CORE_DISABLE_PROMPTS": "true",
        "CLOUDSDK_CORE_DISABLE_USAGE_REPORTING": "true",
        "CLOUDSDK_CORE_PASS_CREDENTIALS_TO_GSUTIL": "1",  # gsutil asks for exactly this value
        "CLOUDSDK_CORE_PROJECT": PROJECT,
        "CLOUDSDK_STORAGE_MAX_RETRIES": "2",  # retrying for minutes does not help here
    }


@dataclass(frozen=True)
class ServerRecord:
    """How to reach the server of one root. Stays when the server ends, for the next one's ports.

    Attributes:
        pid: process id of the server.
        api_url: base URL of the training API, without a trailing slash.
        storage_url: base URL of Cloud Storage, without a trailing slash.
        token: bearer token that the training API asks for.
    """

    pid: int
    api_url: str
    storage_url: str
    token: str

    def write(self, root: Root) -> None:
        """Save the record and the token, readable by this user only, each in one step."""
        for path, text in ((root.token, self.token), (root.record, json.dumps(asdict(self)))):
            partial = path.with_suffix(".partial")
            partial.unlink(missing_ok=True)
            descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(descriptor, "w") as file:
                file.write(text)
            os.replace(partial, path)

    @classmethod
    def read(cls, path: Path) -> ServerRecord | None:
        """Return the saved record, or None if there is none that can be read."""
        try:
            return cls(**json.loads(path.read_text()))
        except (OSError, ValueError, TypeError):
            return None
