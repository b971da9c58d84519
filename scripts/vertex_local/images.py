"""Google's prebuilt PyTorch training images, and until when they are listed as available.

Source: the list of prebuilt containers for training, as of 2026-08-22
(machine-learning/training/pre-built-containers). After its date an image may still work; the
policy only says that it might not. So local mode warns, and runs the job.
"""

from __future__ import annotations

import re
from datetime import date

LISTED = "2026-08-22"
REPOSITORY = re.compile(r"(us|europe|asia)-docker\.pkg\.dev/vertex-ai/training/([\w.-]+):latest")

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
    if until is None:
        return (
            f"the image {uri} is not on Google's list of PyTorch training images of {LISTED}; "
            "Vertex AI may refuse it"
        )
    if until < today:
        return (
            f"the image {uri} is listed as available until {until} only (list of {LISTED}); "
            "Vertex AI may refuse it"
        )
    return None
