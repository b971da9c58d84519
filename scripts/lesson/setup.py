"""Set-up of the notebooks: packages, the two names, the clients, and whom they talk to.

An error about a name begins with that name.
"""

from __future__ import annotations

import ipaddress
import re
import sys
import textwrap
import unicodedata
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

PACKAGES = ["google-cloud-aiplatform", "google-cloud-storage", "torch", "numpy", "pandas"]
PACKAGES += ["scikit-learn", "matplotlib", "setuptools"]
PASSENGERS = Path(__file__).resolve().parents[2] / "data" / "titanic_train.csv"
LONGEST_LABEL = 63
WIDTH = 68  # characters; JupyterLab at 1000 pixels breaks longer lines in the middle of words


class SetupError(Exception):
    """Something that the reader of a notebook can correct."""

    def _render_traceback_(self) -> list[str]:
        """Return the message without a traceback; IPython calls this method."""
        lines = f"{type(self).__name__}: {self}".splitlines()
        fill = textwrap.TextWrapper(WIDTH, break_on_hyphens=False).fill
        return [line if line.startswith(" ") else fill(line) for line in lines]


def check_packages() -> None:
    """Print the versions that are installed.

    Raises:
        SetupError: if a package is missing; says how to install it.
    """
    found = {"Python": sys.version.split()[0]}
    missing = []
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            missing.append(package)
    if missing:
        raise SetupError(
            f"{', '.join(missing)} missing. In a terminal run:\n"
            f"  {sys.executable} -m pip install {' '.join(missing)}\n"
            "Then restart the kernel (menu Kernel → Restart Kernel)."
        )
    for name, number in found.items():
        print(f"[OK] {name} {number}")


# ------------------------------------------------------------------------------ names


def check_names(bucket_name: Any, last_name: Any) -> str:
    """Check the two names that a learner edits; return the label that marks the jobs.

    Raises:
        SetupError: names the variable, the rule, and a name that is allowed.
    """
    if problem := bucket_problem(bucket_name):
        raise SetupError(f"BUCKET_NAME = {bucket_name!r}: {problem}")
    if not isinstance(last_name, str) or not label(last_name):
        raise SetupError(
            f'LAST_NAME = {last_name!r}: write your name between quotation marks, such as "DOE". '
            "At least one letter or digit is needed."
        )
    if len(last_name) > LONGEST_LABEL:
        raise SetupError(
            f"LAST_NAME = {last_name!r}: {len(last_name)} characters are too many for the name "
            f"of a job; use at most {LONGEST_LABEL}."
        )
    return label(last_name)


def label(name: str) -> str:
    """Return a name as the value of a label: `van der Berg` becomes `van-der-berg`.

    At most 63 lowercase letters, digits and dashes. Google's rules for labels
    (https://cloud.google.com/resource-manager/docs/labels-overview) also allow underscores and
    accents, but without accents a label is easier to type.
    """
    plain = unicodedata.normalize("NFKD", name)
    letters = "".join(c for c in plain if not unicodedata.combining(c)).lower()
    return re.sub(r"[\W_]+", "-", letters)[:LONGEST_LABEL].strip("-")


def bucket_problem(name: Any) -> str:
    """Return what is wrong with the name of a bucket, in one sentence; "" if nothing is.

    Source: the bucket naming rules, https://cloud.google.com/storage/docs/buckets#naming. Names
    with dots are refused, too: they must be a domain that belongs to you.
    """
    if not isinstance(name, str) or not name.strip():
        return 'write the name of your bucket between quotation marks, such as "doe-titanic".'
    scheme, _, rest = name.strip().rpartition("://")
    plain = label(rest.partition("/")[0])
    suggestion = re.sub("[^a-z0-9-]", "", plain).strip("-")
    usable = len(suggestion) >= 3 and "goog" not in suggestion
    such_as = f"such as {suggestion if usable else 'doe-titanic'!r}."
    if scheme:
        return f"leave out {scheme}:// and what follows the name, {such_as}"
    if "/" in name:
        return f"a bucket's name has no slash, and no folder, {such_as}"
    if re.search(r"\s", name):
        return f"a bucket's name has no spaces, {such_as}"
    if re.search(r"[^a-z0-9_-]", name):
        return f"use lowercase letters (a to z), digits and dashes only, {such_as}"
    if not 3 <= len(name) <= 63:
        return f"a bucket's name has 3 to 63 characters, and this one has {len(name)}."
    if not (name[0] + name[-1]).isalnum():
        return f"a bucket's name begins and ends with a letter or a digit, {such_as}"
    if name.startswith("goog") or re.search("g[o0][o0]gle", name):
        return "a bucket's name must not begin with goog, nor contain google."
    return ""


# ------------------------------------------------------------------------------ clients


def storage_client() -> Any:
    """Return a client of Cloud Storage with this machine's account and project.

    Raises:
        SetupError: if there is no account or no project; says what to do.
    """
    import google.auth.exceptions
    from google.cloud import storage

    try:
        return storage.Client()
    except (google.auth.exceptions.DefaultCredentialsError, OSError) as error:
        raise SetupError(
            "No Google account or no project was found. On a laptop, run in a terminal:\n"
            "  gcloud auth application-default login\n"
            "  gcloud auth application-default set-quota-project YOUR-PROJECT\n"
            "Set the environment variable GOOGLE_CLOUD_PROJECT to YOUR-PROJECT, and restart the "
            "kernel. Or practise without an account:\n"
            "  python3 scripts/workshop.py lab"
        ) from error


def where(client: Any = None) -> str:
    """Return whom the clients of this kernel talk to, and whether that costs money.

    It is read from the endpoint of `aiplatform`, and from that of the storage client if one is
    given.
    """
    from google.cloud.aiplatform import initializer

    endpoints = {"training jobs": initializer.global_config.api_endpoint}
    if client is not None:
        endpoints["storage"] = client.api_endpoint
    local = {name for name, endpoint in endpoints.items() if is_here(endpoint)}
    if local == set(endpoints):
        return "*** THIS MACHINE. Free: nothing here costs money. ***"
    project = f", project {client.project}" if client is not None else ""
    if not local:
        return f"*** GOOGLE CLOUD{project}. Storage and training jobs cost money. ***"
    away = " and ".join(sorted(set(endpoints) - local))
    return (
        f"*** MIXED: {' and '.join(sorted(local))} on THIS MACHINE, but {away} on GOOGLE CLOUD"
        f"{project}, which costs money. Restart the kernel before you go on. ***"
    )


def is_here(endpoint: str | None) -> bool:
    """Return whether an endpoint, such as `http://127.0.0.1:8080`, is on this machine."""
    address = endpoint or ""
    host = urlsplit(address if "//" in address else f"//{address}").hostname or ""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def open_bucket(client: Any, name: str, region: str, passengers: Path = PASSENGERS) -> Any:
    """Return the bucket, made if it is not there yet, with the table of passengers in it.

    Args:
        client: a client of Cloud Storage.
        name: the bucket's name.
        region: where the bucket is made.
        passengers: the table to upload if the bucket has no object of this name.

    Raises:
        SetupError: if the login has expired, or the bucket belongs to somebody else or may not be
            used; says what to do.
    """
    from google.api_core.exceptions import Conflict, Forbidden
    from google.auth.exceptions import GoogleAuthError

    try:
        bucket = client.lookup_bucket(name)
        if bucket is None:
            bucket = client.create_bucket(name, location=region)
            print("Created", f"gs://{name}")
        if not bucket.blob(passengers.name).exists():
            bucket.blob(passengers.name).upload_from_filename(passengers)
            print("Uploaded", f"gs://{name}/{passengers.name}")
    except (Conflict, Forbidden) as error:
        raise SetupError(
            f"BUCKET_NAME = {name!r}: this bucket cannot be used ({error.message}). Either "
            "somebody else in the world has a bucket of this name: choose another. Or your account "
            f"lacks the role Storage Admin in the project {client.project}: ask its owner."
        ) from error
    except GoogleAuthError as error:
        raise SetupError(
            f"The Google login cannot be used ({error}). Run in a terminal:\n"
            "  gcloud auth application-default login\n"
            "Then restart the kernel."
        ) from error
    except FileNotFoundError as error:
        raise SetupError(f"{passengers} is not there. Clone the lesson again.") from error
    return bucket
