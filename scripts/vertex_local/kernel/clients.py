"""Points Google's clients at local mode, through their public settings only."""

from __future__ import annotations

import os
from typing import Any

from vertex_local import config, imports
from vertex_local.config import Root, ServerRecord
from vertex_local.jobs import starter
from vertex_local.storage import mount

SDK = "google.cloud.aiplatform"


def environment(root: Root, record: ServerRecord, kernel: str = "") -> dict[str, str]:
    """Return the environment variables that point clients at local mode.

    Args:
        root: local mode's folder.
        record: its server.
        kernel: the name of the kernel that uses them, see `jobs.starter`; "" for a shell.
    """
    api_url = starter.address(record.api_url, kernel)
    return (
        config.without_account(root)
        | config.past_proxies()
        | config.shell_tools(root, record.storage_url)
        | config.google_clients(root, record.storage_url, kernel)
        | {
            "GOOGLE_CLOUD_PROJECT": config.PROJECT,
            "GOOGLE_CLOUD_REGION": config.DEFAULT_REGION,
            "CLOUDSDK_AI_REGION": config.DEFAULT_REGION,
            "CLOUDSDK_API_ENDPOINT_OVERRIDES_AIPLATFORM": f"{api_url}/",
            "CLOUDSDK_API_ENDPOINT_OVERRIDES_LOGGING": f"{record.api_url}/",
            "CLOUDSDK_API_ENDPOINT_OVERRIDES_CLOUDRESOURCEMANAGER": f"{record.api_url}/",
            # Else the storage client asks for bucket metadata that only Cloud Trace needs.
            "DISABLE_GCS_PYTHON_CLIENT_OTEL_BUCKET_METADATA": "1",
            "VERTEX_LOCAL_API": api_url,
            "VERTEX_LOCAL_TOKEN": record.token,
            mount.BUCKETS: str(root.buckets),
        }
    )


def configure_clients(root: Root, record: ServerRecord, kernel: str = "") -> None:
    """Point this process's Google clients at local mode.

    A later `aiplatform.init(project=…, location=…, staging_bucket=…)` keeps what is set here.
    """
    os.environ.update(environment(root, record, kernel))
    imports.after_import(SDK, init_sdk)


def init_sdk(aiplatform: Any) -> None:
    """Set in the SDK what it does not read from environment variables."""
    from google.oauth2.credentials import Credentials

    aiplatform.init(
        project=config.PROJECT,
        location=config.DEFAULT_REGION,
        api_endpoint=os.environ["VERTEX_LOCAL_API"],
        api_transport="rest",
        credentials=Credentials(token=os.environ["VERTEX_LOCAL_TOKEN"]),
    )
