"""Prints a link to a job's page, just below the SDK's own link to Google's console."""

from __future__ import annotations

import logging
import re
import sys
from contextlib import suppress

from vertex_local.config import LocalModeError, Root
from vertex_local.server import daemon

LOGGER = "google.cloud.aiplatform"
# Seen in SDK 2.7.0: `training_jobs.py` and `jobs.py`.
LINK = re.compile(r"View (?P<kind>[\w ]+):\s+https://\S+/training/(?P<id>\d+)\?")
PAGES = {"Training": "jobs", "Custom Job": "jobs", "HyperparameterTuningJob": "searches"}


class PageLinks(logging.Handler):
    """Prints a link whenever the SDK logs that it has created a job.

    The link works once, so a notebook that keeps it gives no secret away. It goes to stderr,
    because promised outputs are never compared with stderr.
    """

    def __init__(self, root: Root) -> None:
        super().__init__(logging.INFO)
        self._root = root

    def emit(self, record: logging.LogRecord) -> None:
        """Print the link if this log record is about a new job."""
        match = LINK.search(record.getMessage())
        part = PAGES.get(match["kind"]) if match else None
        with suppress(LocalModeError):  # a job must not fail because of a link
            server = daemon.find(self._root) if part else None
            if match is None or server is None:
                return
            link = daemon.page_link(server, f"{part}/{match['id']}")
            print(
                f"In local mode, this job's page is (the link works once):\n{link}", file=sys.stderr
            )


def install(root: Root) -> None:
    """Print links from now on, to the pages of this root's server."""
    logger = logging.getLogger(LOGGER)
    if not any(isinstance(each, PageLinks) for each in logger.handlers):
        logger.addHandler(PageLinks(root))
