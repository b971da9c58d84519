"""Names of buckets and objects: what Cloud Storage allows, and what a file tree can hold."""

from __future__ import annotations

import re

MAX_OBJECT_NAME_BYTES = 1024
MAX_FILE_NAME_BYTES = 255  # one part of a path, on every common file system


def bucket_name_problem(name: str) -> str | None:
    """Return why Cloud Storage refuses this bucket name, or None if it is well-formed.

    Source: the bucket naming rules, https://cloud.google.com/storage/docs/buckets#naming.
    """
    if not 3 <= len(name) <= 63 and "." not in name:
        return "it must have 3 to 63 characters"
    if not re.fullmatch(r"[a-z0-9]([a-z0-9._-]*[a-z0-9])?", name):
        return (
            "it may contain only lowercase letters, digits, dashes, underscores and dots, and "
            "must begin and end with a letter or a digit"
        )
    if any(not 1 <= len(part) <= 63 for part in name.split(".")) or len(name) > 222:
        return "each part between dots must have 1 to 63 characters, all together at most 222"
    if re.fullmatch(r"\d+\.\d+\.\d+\.\d+", name):
        return "it must not look like an IP address"
    if name.startswith("goog") or "google" in name or "g00gle" in name:
        return "it must not begin with 'goog' or contain 'google'"
    return None


def object_name_problem(name: str) -> str | None:
    """Return why Cloud Storage refuses this object name, or None.

    Source: the object naming rules, https://cloud.google.com/storage/docs/objects#naming.
    """
    try:
        size = len(name.encode())
    except UnicodeEncodeError:
        return "it must be valid Unicode"
    if not 1 <= size <= MAX_OBJECT_NAME_BYTES:
        return f"it must have 1 to {MAX_OBJECT_NAME_BYTES} bytes in UTF-8"
    if "\r" in name or "\n" in name:
        return "it must not contain line breaks"
    if name in (".", "..") or name.startswith(".well-known/acme-challenge/"):
        return "Cloud Storage reserves this name"
    return None


def object_name_limit(name: str) -> str | None:
    """Return why a file tree cannot hold an object of this name, or None if it can.

    A name that ends with "/" is the placeholder of a folder, so its last part may be empty.
    """
    parts = name.removesuffix("/").split("/")
    if "" in parts:
        return "with an empty part (at its start, or '//')"
    if "." in parts or ".." in parts:
        return "with '.' or '..' as a part"
    if "\0" in name:
        return "with a NUL character"
    if any(len(part.encode()) > MAX_FILE_NAME_BYTES for part in parts):
        return f"with a part between slashes that is longer than {MAX_FILE_NAME_BYTES} bytes"
    return None
