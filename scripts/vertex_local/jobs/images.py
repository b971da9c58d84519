"""Google's prebuilt PyTorch training images: until when they are listed, and what runs them here.

Source: the list of prebuilt containers for training, as of 2026-08-22
(machine-learning/training/pre-built-containers). After its date an image may still work; the
policy only says that it may not. So local mode warns, and runs the job.
"""

from __future__ import annotations

import difflib
import json
import re
import sys
from datetime import date
from fnmatch import fnmatchcase

from google.cloud.aiplatform_v1.types import WorkerPoolSpec

from vertex_local.config import LocalModeError, Root

LISTED = "2026-08-22"
REPOSITORY = re.compile(r"(us|europe|asia)-docker\.pkg\.dev/vertex-ai/training/([\w.-]+):latest")

# By the first word of an image's name.
FRAMEWORKS = {
    "scikit": "scikit-learn",
    "sklearn": "scikit-learn",
    "tf": "TensorFlow",
    "xgboost": "XGBoost",
}
AVAILABLE_UNTIL = {
    "pytorch-xla.2-4.py310": date(2026, 7, 24),
    "pytorch-gpu.2-4.py310": date(2026, 7, 24),
    "pytorch-xla.2-3.py310": date(2026, 4, 24),
    "pytorch-gpu.2-3.py310": date(2026, 4, 24),
    "pytorch-xla.2-2.py310": date(2026, 10, 23),
    "pytorch-gpu.2-2.py310": date(2026, 1, 30),
    "pytorch-xla.2-1.py310": date(2025, 10, 4),
    "pytorch-gpu.2-1.py310": date(2025, 10, 4),
    "pytorch-xla.2-0.py310": date(2025, 3, 15),
    "pytorch-gpu.2-0.py310": date(2025, 3, 15),
    "pytorch-gpu.1-13.py310": date(2025, 5, 15),
    "pytorch-gpu.1-12.py310": date(2025, 5, 15),
}


def warning(uri: str, today: date) -> str | None:
    """Return what the owner of a job with this image should know, or None.

    Args:
        uri: the image's full name, with its tag.
        today: the date to compare with.
    """
    match = REPOSITORY.fullmatch(uri)
    until = AVAILABLE_UNTIL.get(match[2]) if match else None
    if match and (framework := FRAMEWORKS.get(match[2].partition("-")[0])):
        return (
            f"the image {uri} is one for {framework}; local mode knows the dates of PyTorch images "
            "only, and runs the job with the packages of your environment"
        )
    if until is None:
        name = match[2] if match else uri.rpartition("/")[2].partition(":")[0]
        near = difflib.get_close_matches(name, AVAILABLE_UNTIL, n=1)
        return (
            f"the image {uri} is not on Google's list of training images for PyTorch of {LISTED}; "
            "Vertex AI may refuse it" + (f". Did you mean {near[0]}:latest?" if near else "")
        )
    if until < today:
        return (
            f"the image {uri} is listed as available until {until} only (list of {LISTED}); "
            "Vertex AI may refuse it"
        )
    return None


def can_use_gpu(uri: str) -> bool:
    """Return whether an image can use a GPU: Google's images for the CPU, named `xla`, cannot.

    Other images are unknown, so they are taken to be made for a GPU.
    """
    match = REPOSITORY.fullmatch(uri)
    return match is None or "-gpu." in match[2]


def image_of(pool: WorkerPoolSpec) -> str:
    """Return the image that the replicas of a worker pool run in."""
    return str(pool.container_spec.image_uri or pool.python_package_spec.executor_image_uri)


def interpreter(root: Root, uri: str) -> str:
    """Return the Python that stands for an image: by default, the one that runs local mode.

    An instructor who has an environment made like an image can say so in the root's `images.json`,
    which maps patterns to interpreters: `{"*/pytorch-*.2-4.py310:*": "/path/to/bin/python"}`.

    Raises:
        LocalModeError: if that file is not such a map.
    """
    try:
        pythons = json.loads(root.images.read_text()) if root.images.is_file() else {}
        patterns = [pattern for pattern in pythons if fnmatchcase(uri, pattern)]
        return str(pythons[patterns[0]]) if patterns else sys.executable
    except (ValueError, TypeError) as err:
        raise LocalModeError(
            f"{root.images} must map image patterns to Python interpreters, as JSON: {err}"
        ) from err
