"""How the kernel points the SDK at local mode: when it is imported, and every time it is."""

from __future__ import annotations

import subprocess
import sys

import nbformat
import pytest
from nbclient import NotebookClient

from vertex_local.config import Root, ServerRecord
from vertex_local.jobs import log, starter
from vertex_local.kernel import spec
from vertex_local.kernel.__main__ import JobWarnings

BEGIN = """
import sys
from vertex_local import config
from vertex_local.server import daemon
from vertex_local.kernel import clients, spec

root = config.find_root()
record = daemon.find(root)

def where():
    from google.cloud import aiplatform
    return aiplatform.initializer.global_config.api_endpoint
"""
POINT = "clients.configure_clients(root, record)\n"
# An import that ends in an error stands for one that is interrupted.
INTERRUPTED = """
part = "google.cloud.aiplatform.metadata"
sys.modules[part] = None
try:
    import google.cloud.aiplatform
    sys.exit("it was imported")
except ImportError:
    del sys.modules[part]
"""


def python(code: str) -> list[str]:
    finished = subprocess.run(
        [sys.executable, "-c", BEGIN + code], capture_output=True, text=True, timeout=120
    )
    assert finished.returncode == 0, finished.stderr
    return finished.stdout.splitlines()


HAS_CLIENTS = "print(any('aiplatform_v1.services' in m for m in sys.modules))\n"


def test_the_kernel_does_not_wait_for_the_sdk_and_points_it_here(server: ServerRecord) -> None:
    """Importing it takes seconds, and so do the types that the server takes from it."""
    imported = "print([m for m in sys.modules if 'aiplatform' in m])\n"
    use = f"import vertexai\nprint(where())\n{HAS_CLIENTS}"
    assert python(POINT + imported + INTERRUPTED + use) == ["[]", server.api_url, "True"]


def test_nor_does_a_command_or_the_server_wait_for_the_clients(server: ServerRecord) -> None:
    command = "from vertex_local import cli\nsys.argv[1:] = ['status']\ncli.main()\n"
    shown = python(command + HAS_CLIENTS)
    assert shown[0].startswith("Local mode for") and shown[-1] == "False"


def test_and_also_if_it_was_imported_before(server: ServerRecord) -> None:
    before, after = python(f"print(where())\n{POINT}print(where())")
    assert before == "None"  # that is Google's own
    assert after == server.api_url


def test_what_all_trials_of_a_search_warn_of_is_shown_once(
    own_root: Root, capsys: pytest.CaptureFixture[str]
) -> None:
    own_root.create()
    kernel = starter.new_kernel()
    warnings = JobWarnings(own_root, kernel)
    texts = {"1": "the image is old", "2": "the image is old", "3": "the image is unknown"}
    for number, text in texts.items():
        folder = own_root.jobs / number
        folder.mkdir()
        starter.current.set(kernel)
        starter.note(folder)
        write = log.ServiceLog(folder)
        write(f"{log.WARNING} {text}")
        write(log.RUNNING)
        write.close()
    warnings.show()
    shown = capsys.readouterr().out.splitlines()
    assert shown == [f"{log.WARNING} the image is old", f"{log.WARNING} the image is unknown"]
    warnings.show()
    assert capsys.readouterr().out == ""


BY_SDK = """
from google.cloud import aiplatform
pool = {
    "machine_spec": {"machine_type": "n1-standard-4"},
    "replica_count": 1,
    "container_spec": {"image_uri": "image/by-sdk", "command": ["python3", "-c", "pass"]},
}
aiplatform.CustomJob("x", worker_pool_specs=[pool], staging_bucket="gs://abc").run()
"""
BY_HAND = """
client = aiplatform.gapic.JobServiceClient(
    client_options={"api_endpoint": "us-central1-aiplatform.googleapis.com"}
)
pool["container_spec"]["image_uri"] = "image/by-hand"
job = {"display_name": "x", "job_spec": {"worker_pool_specs": [pool]}}
place = "projects/vertex-local/locations/us-central1"
job = client.create_custom_job(parent=place, custom_job=job)
while client.get_custom_job(name=job.name).state < 4:
    pass
"""
AS_GCLOUD = """
import os, requests
pool["container_spec"]["image_uri"] = "image/as-gcloud"
url = os.environ["CLOUDSDK_API_ENDPOINT_OVERRIDES_AIPLATFORM"] + f"v1/{place}/customJobs"
token = {"Authorization": "Bearer " + open(os.environ["CLOUDSDK_AUTH_ACCESS_TOKEN_FILE"]).read()}
job = {"displayName": "x", "jobSpec": {"workerPoolSpecs": [pool]}}
name = requests.post(url, json=job, headers=token).json()["name"]
while client.get_custom_job(name=name).state < 4:
    pass
"""


def executed(client: NotebookClient, *cells: str) -> list[str]:
    """Execute cells; return what each of them printed."""
    nodes = [nbformat.v4.new_code_cell(text) for text in cells]
    client.nb.cells += nodes
    for node in nodes:
        client.execute_cell(node, client.nb.cells.index(node))
    return ["".join(each.text for each in node.outputs if each.name == "stdout") for node in nodes]


def test_a_warning_appears_in_the_notebook_that_started_the_job(server: ServerRecord) -> None:
    """Whichever client started it there; and in no other notebook that is open meanwhile."""
    one, other = (
        NotebookClient(nbformat.v4.new_notebook(), kernel_name=spec.NAME, timeout=100)
        for _ in range(2)
    )
    with one.setup_kernel(), other.setup_kernel():
        executed(other, "print(1)")
        shown = executed(one, BY_SDK, BY_HAND, AS_GCLOUD)
        assert executed(other, "print(2)") == ["2\n"]
    for image, text in zip(("by-sdk", "by-hand", "as-gcloud"), shown, strict=True):
        assert text.count(log.WARNING) == 1 and f"the image image/{image} is not" in text, text
