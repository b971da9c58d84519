"""Clients that know nothing of local mode: plain scripts, clients built by hand, other languages.

Each runs in a process of its own, with the variables of `vertex-local env`, a fake account in its
home folder, and a listener to which that account leads: anything that arrives there is a leak.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from google.cloud import storage
from test_jobs import IMAGE

from vertex_local.config import Root, ServerRecord
from vertex_local.kernel import clients

LIMIT_SECONDS = 60  # far below the minutes for which clients repeat what does not work
REGION = "us-central1-aiplatform.googleapis.com"
PARENT = "projects/vertex-local/locations/us-central1"
POOL = {
    "machine_spec": {"machine_type": "n1-standard-4"},
    "replica_count": 1,
    "container_spec": {"image_uri": IMAGE, "command": ["python3", "-c", "print('ran')"]},
}
JOB = {"display_name": "by hand", "job_spec": {"worker_pool_specs": [POOL]}}
NO_MACHINE = POOL | {"machine_spec": {"machine_type": "n1-standard-5"}}
WRONG = JOB | {"job_spec": {"worker_pool_specs": [NO_MACHINE]}}


@dataclass
class Elsewhere:
    """A home folder with an account in it, and what came to the address that the account names."""

    home: Path
    variables: dict[str, str]
    arrived: list[bytes] = field(default_factory=list)

    def python(
        self, code: str, *words: str, seconds: float = LIMIT_SECONDS
    ) -> subprocess.CompletedProcess[str]:
        """Run a script as a user would, who has only asked for `vertex-local env`."""
        script = self.home / "plain.py"
        script.write_text(code)
        return subprocess.run(
            [sys.executable, "-W", "ignore", str(script), *words],
            env=self.variables,
            cwd=self.home,
            capture_output=True,
            text=True,
            timeout=seconds,
        )

    def works(self, code: str, *words: str, seconds: float = LIMIT_SECONDS) -> str:
        """Run a script that must work; return what it printed."""
        finished = self.python(code, *words, seconds=seconds)
        assert finished.returncode == 0, finished.stderr
        assert self.arrived == []
        return finished.stdout

    def refused(self, code: str, *words: str) -> str:
        """Run a script that must end in an error; return its last line."""
        finished = self.python(code, *words)
        assert finished.returncode == 1, finished.stdout
        assert self.arrived == []
        assert "gcloud auth" not in finished.stderr  # no invitation to log in
        return finished.stderr.strip()


@pytest.fixture(scope="module")
def elsewhere(
    server: ServerRecord, root: Root, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Elsewhere]:
    home = tmp_path_factory.mktemp("home")
    with socket.create_server(("127.0.0.1", 0)) as listener:
        address = f"http://127.0.0.1:{listener.getsockname()[1]}/token"
        account = {
            "type": "authorized_user",
            "client_id": "me",
            "client_secret": "mine",
            "refresh_token": "a-real-token",
            "token_uri": address,
        }
        known = home / ".config" / "gcloud" / "application_default_credentials.json"
        known.parent.mkdir(parents=True)
        known.write_text(json.dumps(account))
        kept = ("PATH", "LANG", "TMPDIR")
        variables = {key: os.environ[key] for key in kept if key in os.environ}
        variables |= {"HOME": str(home)} | clients.environment(root, server)
        made = Elsewhere(home, variables)
        threading.Thread(target=note, args=(listener, made.arrived), daemon=True).start()
        yield made


def note(listener: socket.socket, arrived: list[bytes]) -> None:
    while True:
        try:
            client, _ = listener.accept()
        except OSError:
            return
        with client:
            arrived.append(client.recv(4096))


def test_the_listener_would_see_the_account(elsewhere: Elsewhere) -> None:
    """What the other tests say: without local mode's variables, it is found and used."""
    code = """
import json, pathlib, requests
home = pathlib.Path.home() / ".config/gcloud/application_default_credentials.json"
account = json.loads(home.read_text())
requests.post(account["token_uri"], data=account, timeout=5)
"""
    assert elsewhere.python(code).returncode == 1
    assert b"POST /token" in elsewhere.arrived[0]
    elsewhere.arrived.clear()


def test_a_plain_script_trains_without_a_word_about_local_mode(
    elsewhere: Elsewhere, bucket: storage.Bucket
) -> None:
    """Reference: A plain `python script.py` trains after `eval "$(vertex-local env)"`."""
    code = f"""
import sys
from google.cloud import aiplatform
aiplatform.init(project="vertex-local", location="us-central1", staging_bucket=sys.argv[1])
open("task.py", "w").write("print('trained')")
job = aiplatform.CustomTrainingJob("plain", script_path="task.py", container_uri={IMAGE!r})
job.run(replica_count=1, machine_type="n1-standard-4")
print(job.state.name)
"""
    assert elsewhere.works(code, f"gs://{bucket.name}").endswith("PIPELINE_STATE_SUCCEEDED\n")


BY_HAND = f"""
import asyncio
from google.api_core import exceptions
from google.cloud import aiplatform, aiplatform_v1

options = {{"api_endpoint": {REGION!r}}}

def work(**transport):
    client = aiplatform.gapic.JobServiceClient(client_options=options, **transport)
    job = client.create_custom_job(parent={PARENT!r}, custom_job={JOB!r})
    while client.get_custom_job(name=job.name).state < 4:
        pass
    print(client.get_custom_job(name=job.name).state.name)
    print([each.display_name for each in client.list_custom_jobs(parent={PARENT!r})][0])
    client.delete_custom_job(name=job.name).result()
    for call, request in (
        (client.get_custom_job, {{"name": job.name}}),
        (client.create_custom_job, {{"parent": {PARENT!r}, "custom_job": {WRONG!r}}}),
    ):
        try:
            call(**request)
        except (exceptions.NotFound, exceptions.InvalidArgument, exceptions.BadRequest) as err:
            print(err)

async def work_async():
    client = aiplatform_v1.PipelineServiceAsyncClient(client_options=options)
    pager = await client.list_training_pipelines(parent={PARENT!r})
    print([each.name async for each in pager][:0])

work()
work(transport="rest")
asyncio.run(work_async())
"""


@pytest.fixture(scope="module")
def by_hand(elsewhere: Elsewhere) -> list[str]:
    """What one script printed that builds clients of three kinds: importing the SDK is slow."""
    return elsewhere.works(BY_HAND).splitlines()


def works_and_is_refused(state: str, name: str, missing: str, wrong: str) -> None:
    assert (state, name) == ("JOB_STATE_SUCCEEDED", "by hand")
    assert missing.startswith("404 ") and "The resource projects/" in missing
    assert wrong.startswith("400 ") and "Machine type n1-standard-5 is not supported" in wrong


def test_a_client_built_by_hand_works_and_is_refused_as_over_rest(by_hand: list[str]) -> None:
    """Reference: `aiplatform.gapic.JobServiceClient`, built by hand with Google's host name,
    works as it is over gRPC.
    """
    works_and_is_refused(*by_hand[:4])


def test_so_does_an_async_one(by_hand: list[str]) -> None:
    """Reference: So does an async client."""
    assert by_hand[8:] == ["[]"]


def test_a_rest_client_built_by_hand_works(by_hand: list[str]) -> None:
    """Reference: So does a REST client, with `transport="rest"`."""
    works_and_is_refused(*by_hand[4:8])


HOST_NAMES = """
import subprocess, sys, urllib.request
import google.auth, requests
from google.auth.transport.requests import AuthorizedSession
_, region, parent, bucket = sys.argv
credentials, _ = google.auth.default(scopes=["https://www.googleapis.com/auth/cloud-platform"])
session = AuthorizedSession(credentials)
print(session.get(f"https://{region}/v1/{parent}/customJobs").status_code)
upload = f"https://www.googleapis.com/upload/storage/v1/b/{bucket}/o?uploadType=resumable&name=a"
as_tensorflow = ["-X", "POST", "-H", "Content-Length: 0", "-H", "Transfer-Encoding: identity"]
answer = subprocess.check_output(["curl", "-sSi", *as_tensorflow, upload], text=True)
place = answer.partition("\\nLocation: ")[2].split()[0]  # it looks for a capital
print(place.startswith("https://www.googleapis.com/upload/"), session.put(place, b"abc").ok)
print(urllib.request.urlopen(f"https://storage.googleapis.com/{bucket}/a").read())
url = f"https://www.googleapis.com/storage/v1/b/{bucket}/o/a?alt=media"
print(subprocess.check_output(["curl", "-sS", url]))
"""


def test_the_host_names_of_google_lead_here(elsewhere: Elsewhere, bucket: storage.Bucket) -> None:
    """Reference: `requests`, `AuthorizedSession`, `urllib`, `curl`, and TensorFlow's own
    `gs://` file system, which is curl, find local mode at Google's host names.

    For all that honours the proxy and the trusted certificates, such as curl in TensorFlow.
    """
    shown = elsewhere.works(HOST_NAMES, REGION, PARENT, bucket.name).splitlines()
    assert shown == ["200", "True True", "b'abc'", "b'abc'"]


def test_other_hosts_are_asked_as_without_local_mode(elsewhere: Elsewhere) -> None:
    """Reference: Other hosts are asked through the same proxy (`https_proxy`), and what it
    cannot reach it names.

    Through the way out of this machine, a proxy if there is one; what it says is passed on.
    """
    code = "import requests; requests.get('https://example.invalid/', timeout=20)"
    assert "Tunnel connection failed: 502" in elsewhere.refused(code)


def test_nobody_comes_in_under_the_name_of_google_without_the_secret(
    elsewhere: Elsewhere, server: ServerRecord
) -> None:
    proxy = elsewhere.variables["https_proxy"]
    secret = proxy.rpartition("@")[0].rpartition(":")[2]
    code = f"""
import requests
requests.get("https://{REGION}/v1/{PARENT}/customJobs")
"""
    for wrong in (proxy.replace(secret, secret[:-1]), f"http://{server.tunnel}"):
        variables = {**elsewhere.variables, "https_proxy": wrong, "HTTPS_PROXY": wrong}
        other = Elsewhere(elsewhere.home, variables)
        assert "407 Proxy Authentication Required" in other.refused(code)


NOT_EMULATED = {
    "bigquery": "from google.cloud import bigquery; list(bigquery.Client().query('SELECT 1'))",
    "another service": "from google.cloud import aiplatform_v1 as v; v.FeaturestoreServiceClient()"
    f".list_featurestores(parent={PARENT!r})",
    "another version": "from google.cloud import aiplatform_v1beta1 as v; v.JobServiceClient()"
    f".list_custom_jobs(parent={PARENT!r})",
    "gemini": "from google import genai\n"
    "client = genai.Client(vertexai=True, project='vertex-local', location='us-central1')\n"
    "client.models.generate_content(model='gemini-2.5-pro', contents='x')",
    "drive": "import google.auth, google.auth.transport.requests as r\nc, _ = google.auth.default("
    "scopes=['https://www.googleapis.com/auth/drive'])\nc.refresh(r.Request())",
    "the account of a virtual machine": "import google.auth.compute_engine as c, "
    "google.auth.transport.requests as r\nc.Credentials().refresh(r.Request())",
    "an account of one's own": "import google.oauth2.credentials as c, "
    "google.auth.transport.requests as r\n"
    "c.Credentials(None, refresh_token='mine', client_id='me', client_secret='mine', "
    "token_uri='https://oauth2.googleapis.com/token').refresh(r.Request())",
    "a service over REST": "import requests\n"
    "r = requests.get('https://compute.googleapis.com/compute/v1/projects')\nassert r.ok, r.text",
}
ONE_BY_ONE = """
import json, sys, time, traceback
for code in json.loads(sys.argv[1]):
    began = time.monotonic()
    try:
        exec(code, {})
        said = "nothing refused it"
    except Exception:
        said = traceback.format_exc()
    print(json.dumps([time.monotonic() - began, said]))
"""


def test_what_is_not_emulated_ends_in_a_sentence(elsewhere: Elsewhere) -> None:
    """Reference: BigQuery, Gemini, Drive, an account of your own and every other service of
    Google's end in a sentence that names local mode.
    """
    codes = json.dumps(list(NOT_EMULATED.values()))
    printed = elsewhere.works(ONE_BY_ONE, codes, seconds=LIMIT_SECONDS * len(NOT_EMULATED))
    for name, line in zip(NOT_EMULATED, printed.splitlines(), strict=True):
        seconds, said = json.loads(line)
        assert "local mode" in said.lower(), f"{name}: {said}"
        assert "gcloud auth" not in said, name  # no invitation to log in
        assert seconds < LIMIT_SECONDS, name
