"""Where local mode keeps its files, and the names, limits and settings that all rooms share."""

from __future__ import annotations

import errno
import json
import os
import shlex
import shutil
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

PROJECT = "vertex-local"
PROJECT_NUMBER = "100000000000"
LOCAL_ACCOUNT = f"local-mode@{PROJECT}.iam.gserviceaccount.com"  # the account of every client
DEFAULT_REGION = "us-central1"
HOST = "127.0.0.1"  # loopback only, because the server runs code by design

# The SDK sleeps 5 s between two polls of a job, so even a short job would take 5 s. Therefore a GET
# of an active job waits up to this time for the job's next change of state, and then answers.
GET_WAITS_SECONDS = 7.0
# But if the previous GET of the same job was answered less than this ago, it is not a poll of the
# SDK: probably somebody reads `.state`, and is answered at once.
GET_ANSWERS_AT_ONCE_WITHIN_SECONDS = 4.0
SECRET = "secret-"  # how every secret of local mode begins
FULL_BYTES = 1_000_000  # a disk with less free space counts as full
NO_ROOM_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)

# The variables that name a file of trusted certificates: of gRPC, Python, curl and TensorFlow,
# httplib2, Node, gcloud.
TRUST = (
    "GRPC_DEFAULT_SSL_ROOTS_FILE_PATH",
    "SSL_CERT_FILE",
    "REQUESTS_CA_BUNDLE",
    "CURL_CA_BUNDLE",
    "HTTPLIB2_CA_CERTS",
    "NODE_EXTRA_CA_CERTS",
    "CLOUDSDK_CORE_CUSTOM_CA_CERTS_FILE",
)
# gsutil itself always uses https://storage.googleapis.com. With these settings it passes its
# commands to `gcloud storage`, which can be pointed elsewhere, and fails where it cannot.
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
        """JSON file with the faults that were added; absent if there are none."""
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
    def key(self) -> Path:
        """The root's key, with which the server proves itself to its clients."""
        return self.path / "key"

    @property
    def account(self) -> Path:
        """Key file of local mode's own account, which Google's libraries find instead of others."""
        return self.path / "account.json"

    @property
    def trusted(self) -> Path:
        """Certificates that clients trust: the usual ones, and the running server's."""
        return self.path / "roots.pem"

    @property
    def token(self) -> Path:
        """File with only the running server's token, in the format that gcloud reads."""
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
        """Make the folders, private to this user whatever the umask.

        Raises:
            LocalModeError: if the folder cannot be used: another user owns it or may write to it,
                or it cannot be created or written.
        """
        if os.pathsep in str(self.path) or "\n" in str(self.path):
            raise LocalModeError(
                f"The folder {str(self.path)!r} cannot be local mode's: jobs find their packages "
                f"through lists of folders, in which {os.pathsep!r} and line breaks separate two. "
                "Set VERTEX_LOCAL_ROOT to a folder without them."
            )
        try:
            for folder in reversed([each for each in self.path.parents if not each.exists()]):
                _make_private(folder)
            if self.path.exists():
                self.check_owner()
            for folder in (self.path, self.jobs):
                _make_private(folder)
            self.buckets.mkdir(mode=0o700, exist_ok=True)
            # Leave it closed to its owner if a server has closed it: see `storage.tree`.
            self.buckets.chmod(self.buckets.stat().st_mode & 0o700)
            os.close(open_private(self.lock, os.O_WRONLY))
            if not self.boto.is_file() or self.boto.read_text(errors="replace") != BOTO:
                write_private(self.boto, BOTO)
        except OSError as err:
            path = err.filename2 or err.filename
            where = f": {path}" if path not in (None, str(self.path)) else ""
            raise LocalModeError(
                f"Local mode cannot write to its folder {self.path} ({err.strerror}{where}). Give "
                "yourself write permission there, or set VERTEX_LOCAL_ROOT to another folder."
            ) from err

    def check_owner(self) -> None:
        """Check that nobody but its owner can have changed what is in the folder.

        Raises:
            LocalModeError: if it belongs to another user, or others may write to it.
            OSError: if there is no such folder.
        """
        found = self.path.stat()
        if found.st_uid != os.geteuid():
            raise LocalModeError(
                f"Local mode's folder {self.path} belongs to another user (number "
                f"{found.st_uid}), who could change what runs here. Set VERTEX_LOCAL_ROOT to a "
                "folder of your own."
            )
        if found.st_mode & 0o022:
            raise LocalModeError(
                f"Others may write to local mode's folder {self.path}, and so change what runs "
                f"here. Look at what is in it, then run `chmod 700 {shlex.quote(str(self.path))}`; "
                "or set VERTEX_LOCAL_ROOT to another folder."
            )


def no_room(error: Exception) -> bool:
    """Return whether an error of the system, or of SQLite, says that the disk is full."""
    return getattr(error, "errno", None) in NO_ROOM_ERRORS or "disk is full" in str(error)


def unusable(path: Path, err: Exception, loss: str) -> LocalModeError:
    """Return the error for a file of a root that cannot be used.

    Args:
        path: the file.
        err: the error of the system or of SQLite.
        loss: sentences that say what is in the file, and what to do.
    """
    with suppress(OSError):
        if shutil.disk_usage(path.parent).free < FULL_BYTES:
            return LocalModeError(
                f"No room is left on the disk of {path.parent}. Delete something there, or set "
                "VERTEX_LOCAL_ROOT to a folder on another disk."
            )
    what = "is not a file" if path.exists() and not path.is_file() else f"is damaged ({err})"
    return LocalModeError(f"{path} {what}. {loss}")


def open_private(path: Path, flags: int) -> int:
    """Open or create a file that only its owner may read, whatever the umask."""
    descriptor = os.open(path, flags | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK, 0o600)
    os.fchmod(descriptor, 0o600)
    return descriptor


def write_private(path: Path, text: str) -> None:
    """Write a file in one step that only its owner may read, whatever the umask."""
    partial = path.with_suffix(".partial")
    partial.unlink(missing_ok=True)
    with os.fdopen(open_private(partial, os.O_WRONLY | os.O_EXCL), "w") as file:
        file.write(text)
    os.replace(partial, path)


def _make_private(folder: Path) -> None:
    folder.mkdir(mode=0o700, exist_ok=True)
    folder.chmod(0o700)


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


def seed() -> int | None:
    """Return `VERTEX_LOCAL_SEED`, the seed of every search, or None if it is not set.

    Raises:
        LocalModeError: if it is not a whole number.
    """
    text = os.environ.get("VERTEX_LOCAL_SEED")
    if text and not text.isdecimal():
        raise LocalModeError(f"VERTEX_LOCAL_SEED must be a whole number, not {text!r}.")
    return int(text) if text else None


def discrete_as_int() -> bool:
    """Return whether the trials of a search get a discrete 128 as "128", not as "128.0".

    Reports about Vertex AI differ, so a script should read both forms. `VERTEX_LOCAL_DISCRETE=int`
    is for scripts that cannot.

    Raises:
        LocalModeError: if the variable has another value than `int` or `float`.
    """
    text = os.environ.get("VERTEX_LOCAL_DISCRETE", "float")
    if text not in ("float", "int"):
        raise LocalModeError(f"VERTEX_LOCAL_DISCRETE must be float or int, not {text!r}.")
    return text == "int"


def proxy() -> str:
    """Return `VERTEX_LOCAL_PROXY` without a slash at its end, or "" if it is not set.

    It is the URL, in the browser, of the Jupyter whose proxy shows the page.

    Raises:
        LocalModeError: if it is no such URL.
    """
    text = os.environ.get("VERTEX_LOCAL_PROXY", "").rstrip("/")
    parts = urlsplit(text)
    rest = parts.query or parts.fragment or parts.username
    if text and (parts.scheme not in ("http", "https") or not parts.netloc or rest):
        raise LocalModeError(
            "VERTEX_LOCAL_PROXY must be the address of Jupyter in the browser, such as "
            f"https://example.org/user/doe/, not {text!r}."
        )
    return text


def without_account(root: Root) -> dict[str, str]:
    """Return environment variables with which no Google library or tool finds a real account.

    Sources: google.auth.environment_vars, google-cloud-cpp's `google_application_default_
    credentials_file.cc`, TensorFlow's `google_auth_provider.cc`, `gcloud topic configurations`.
    """
    return {
        "GOOGLE_APPLICATION_CREDENTIALS": str(root.account),
        "GOOGLE_GCLOUD_ADC_PATH_OVERRIDE": str(root.account),  # C++, in place of the user's login
        "GOOGLE_AUTH_TOKEN_FOR_TESTING": "local-mode-has-no-account",  # TensorFlow, TensorStore
        "CLOUDSDK_CONFIG": str(root.path / "gcloud"),  # gcloud, in place of the user's login
        "GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT": "false",  # gcsfs: no gRPC for storage
        "NO_GCE_CHECK": "true",  # do not check whether this is a machine of Google
    }


def google_clients(root: Root, storage_url: str, kernel: str = "") -> dict[str, str]:
    """Return environment variables that point Google's clients, in any language, at local mode.

    Clients whose address cannot be set come through the tunnel, and trust its certificate. Requests
    to other hosts go through it, too: nearly all programs have a single proxy setting for HTTPS.

    Sources: google.cloud.storage._helpers, google-cloud-cpp's `client.cc`, TensorStore's
    documentation of its driver `gcs`, TensorFlow's `gcs_file_system.cc`, gRPC's
    `environment_variables.md`.

    Args:
        root: its server must be running.
        storage_url: base URL of Cloud Storage, with the secret at its end.
        kernel: the name of the kernel that uses them, or "".
    """
    address, _, secret = storage_url.rpartition("/")
    variables = {
        "STORAGE_EMULATOR_HOST": storage_url,  # Python, Go, Java, Node
        "CLOUD_STORAGE_EMULATOR_ENDPOINT": storage_url,  # C++, and Arrow with it
        "TENSORSTORE_GCS_HTTP_URL": storage_url,
        # Services that local mode does not have: their clients get a refusal that names them.
        "BIGQUERY_EMULATOR_HOST": f"{storage_url}/storage/elsewhere",
        "GOOGLE_GEMINI_BASE_URL": f"{storage_url}/storage/elsewhere",
        "GOOGLE_VERTEX_BASE_URL": f"{storage_url}/storage/elsewhere",
        "GCE_METADATA_HOST": address.rpartition("/")[2],  # no virtual machine's account
        "GCS_RETRY_CONFIG_MAX_RETRIES": "0",  # TensorFlow: fail at once, without retries
    }
    variables |= dict.fromkeys(TRUST, str(root.trusted))
    if own := way_out():
        variables["VERTEX_LOCAL_WAY_OUT"] = own
    if record := ServerRecord.read(root.record):
        proxy = f"http://{kernel or 'nobody'}:{secret}@{record.tunnel}"
        variables |= dict.fromkeys(("grpc_proxy", "https_proxy", "HTTPS_PROXY"), proxy)
    return variables


def way_out() -> str:
    """Return this machine's own proxy for other hosts, or "" if it has none."""
    named = (os.environ.get(name, "") for name in ("https_proxy", "HTTPS_PROXY"))
    others = [proxy for proxy in named if proxy and SECRET not in proxy]
    return os.environ.get("VERTEX_LOCAL_WAY_OUT") or next(iter(others), "")


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
        # A name is enough: the token file comes first. Without one, gsutil would not send it.
        "CLOUDSDK_CORE_ACCOUNT": f"nobody@{PROJECT}.invalid",
        "CLOUDSDK_CORE_DISABLE_FILE_LOGGING": "true",  # logs would contain secrets
        "CLOUDSDK_CORE_DISABLE_PROMPTS": "true",
        "CLOUDSDK_CORE_DISABLE_USAGE_REPORTING": "true",
        "CLOUDSDK_CORE_PASS_CREDENTIALS_TO_GSUTIL": "1",  # gsutil compares with exactly this value
        "CLOUDSDK_CORE_PROJECT": PROJECT,
        "CLOUDSDK_STORAGE_MAX_RETRIES": "2",  # retrying for minutes does not help here
    }


@dataclass(frozen=True)
class ServerRecord:
    """How to reach the server of one root. It stays, so that the next server takes the same ports.

    Attributes:
        pid: process id of the server.
        process: distinguishes that process from others with its id, see `server.identity`.
        api_url: base URL of the training API, without a trailing slash.
        storage_url: base URL of Cloud Storage, without a trailing slash. Its last part is a secret.
        token: bearer token that the training API asks for; Cloud Storage takes it as well.
        tunnel: host and port of the proxy that leads Google's host names here.
    """

    pid: int
    process: str
    api_url: str
    storage_url: str = field(repr=False)
    token: str = field(repr=False)
    tunnel: str

    @property
    def storage_address(self) -> str:
        """`storage_url` without its secret, for people to see."""
        return self.storage_url.rpartition("/")[0]

    def write(self, root: Root) -> None:
        """Save the record and the token, readable by this user only, each in one step."""
        write_private(root.token, self.token)
        write_private(root.record, json.dumps(asdict(self)))

    @classmethod
    def read(cls, path: Path) -> ServerRecord | None:
        """Return the saved record, or None if there is none or it is damaged."""
        try:
            record = cls(**json.loads(path.read_text()))
            urls = (record.api_url, record.storage_url, f"//{record.tunnel}")
            ports = [urlsplit(url).port for url in urls]
        except (OSError, ValueError, TypeError, AttributeError):
            return None
        are_texts = all(isinstance(value, str) for value in list(vars(record).values())[1:])
        return record if are_texts and type(record.pid) is int and all(ports) else None
