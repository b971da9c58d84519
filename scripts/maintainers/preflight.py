"""Checks, before a rehearsal on Google Cloud, whether it can work. Costs and changes nothing.

Each check prints lines that begin with `[OK]`, `[FAIL]` or `[not checked]`. The authors have never
run this against Google Cloud: it follows the published documentation of the APIs. The check of the
bucket is tested against local mode, the others with answers as documented. An API that answers
otherwise is reported as not checked, never as right.

Sources: Service Usage API, methods services.list (v1) and consumerQuotaMetrics.get (v1beta1); OCI
Distribution Specification, "Pulling manifests"; Cloud Storage JSON API, testIamPermissions.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote

import requests
from google.api_core.exceptions import Forbidden, GoogleAPIError
from google.auth.exceptions import GoogleAuthError
from google.cloud import storage

from vertex_local import costs

SERVICES = ("aiplatform.googleapis.com", "storage.googleapis.com")
PERMISSIONS = [f"storage.objects.{verb}" for verb in ("create", "delete", "get", "list")]
USAGE = "https://serviceusage.googleapis.com"
MANIFESTS = "application/vnd.oci.image.index.v1+json, application/vnd.docker.distribution.manifest."
MANIFESTS += "list.v2+json, application/vnd.docker.distribution.manifest.v2+json"
SECONDS = 20.0  # for one request
JOB_MINUTES = 5.0  # for the estimate: the lesson's jobs take less, even with the work of pip


class Wrong(Exception):
    """A rehearsal would fail; the message says what to do."""


class NotChecked(Exception):
    """The check could not be made; the message says why."""


@dataclass(frozen=True)
class Plan:
    """What a rehearsal would use.

    Attributes:
        project, bucket, region: their names.
        jobs: for each job its machine type, accelerator type or None, and image.
        credentials: of google.auth; None if there are none.
        http: a session of `requests` that sends the credentials.
    """

    project: str
    bucket: str
    region: str
    jobs: list[tuple[str, str | None, str]]
    credentials: Any
    http: Any = field(repr=False)


def report(plan: Plan) -> bool:
    """Print one line per finding; return whether nothing is wrong."""
    right = True
    checks: tuple[Callable[[Plan], Iterator[str]], ...]
    checks = (credentials, services, bucket, quota, images, price)
    for check in checks:
        try:
            for finding in check(plan):
                print(f"[OK]          {finding}", flush=True)
        except Wrong as err:
            right = False
            print(f"[FAIL]        {err}", flush=True)
        except NotChecked as err:
            print(f"[not checked] {check.__name__}: {err}", flush=True)
    return right


def jobs(sources: list[str]) -> list[tuple[str, str | None, str]]:
    """Return the jobs of a notebook, from the variables MACHINE, IMAGE and so on in its cells.

    A `replica_count=` in the notebook is taken for all its jobs, and each replica counts as a job,
    because it needs a machine of its own.

    Args:
        sources: the code cells; lines for IPython (`!`, `%`) are left out.
    """
    names: dict[str, Any] = {}
    replicas = 1
    for source in sources:
        plain = [line for line in source.splitlines() if not line.lstrip().startswith(("!", "%"))]
        for node in ast.walk(ast.parse("\n".join(plain))):
            if isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant):
                for target in node.targets:
                    names[ast.unparse(target)] = node.value.value
            if isinstance(node, ast.keyword) and node.arg == "replica_count":
                is_number = isinstance(node.value, ast.Constant)
                replicas = int(ast.unparse(node.value)) if is_number else replicas
    found: list[tuple[str, str | None, str]] = []
    for prefix, accelerator in (("", None), ("GPU_", names.get("ACCELERATOR"))):
        if f"{prefix}MACHINE" in names and f"{prefix}IMAGE" in names:
            found.append((names[f"{prefix}MACHINE"], accelerator, names[f"{prefix}IMAGE"]))
    return found * replicas


def credentials(plan: Plan) -> Iterator[str]:
    """Check that there are credentials, and that they can be used."""
    if plan.credentials is None:
        raise Wrong(
            "No Google account was found. Run `gcloud auth application-default login`, then "
            f"`gcloud auth application-default set-quota-project {plan.project}`."
        )
    try:
        if not plan.credentials.valid:
            from google.auth.transport.requests import Request

            plan.credentials.refresh(Request())
    except GoogleAuthError as err:
        raise Wrong(
            f"The Google account cannot be used ({err}). Run `gcloud auth application-default "
            "login` again."
        ) from err
    yield f"credentials for the project {plan.project}"


def services(plan: Plan) -> Iterator[str]:
    """Check that the APIs are enabled in the project."""
    for service in SERVICES:
        answer = _get(plan, f"{USAGE}/v1/projects/{plan.project}/services/{service}")
        if answer.get("state") != "ENABLED":
            raise Wrong(
                f"The API {service} is not enabled. Run `gcloud services enable {service} "
                f"--project {plan.project}`."
            )
        yield f"API {service} is enabled"


def bucket(plan: Plan) -> Iterator[str]:
    """Check that the bucket can be used, or does not exist yet."""
    _need_account(plan)
    client = storage.Client(project=plan.project, credentials=plan.credentials)
    try:
        found = client.lookup_bucket(plan.bucket)
        if found is None:
            yield f"gs://{plan.bucket} does not exist; the notebook would make it"
            return
        if found.location_type == "region" and found.location.lower() != plan.region:
            raise Wrong(
                f"gs://{plan.bucket} is in {found.location.lower()}, and the jobs would run in "
                f"{plan.region}. Choose another bucket or region."
            )
        if any(client.list_blobs(plan.bucket, max_results=1)):
            raise Wrong(
                f"gs://{plan.bucket} is not empty. The rehearsal would overwrite and delete what "
                "is in it: choose a name that does not exist yet, or an empty bucket."
            )
        yield f"gs://{plan.bucket} exists, in {found.location.lower()}, and is empty"
        granted = found.test_iam_permissions(PERMISSIONS)
    except Forbidden as err:
        raise Wrong(
            f"This account may not use gs://{plan.bucket}, or its name belongs to somebody else. "
            "Choose another bucket."
        ) from err
    except (GoogleAPIError, GoogleAuthError, OSError) as err:
        raise NotChecked(_first_line(err)) from err
    missing = sorted(set(PERMISSIONS) - set(granted))
    if missing:
        raise Wrong(f"This account lacks {', '.join(missing)} on gs://{plan.bucket}.")
    yield f"this account may read, write and delete in gs://{plan.bucket}"


def quota(plan: Plan) -> Iterator[str]:
    """Check that the project may use one of each accelerator in the region."""
    for accelerator in sorted({job[1] for job in plan.jobs if job[1]}):
        short = accelerator.lower().replace("tesla_", "")
        metric = f"aiplatform.googleapis.com/custom_model_training_{short}_gpus"
        answer = _get(
            plan,
            f"{USAGE}/v1beta1/projects/{plan.project}/services/aiplatform.googleapis.com/"
            f"consumerQuotaMetrics/{quote(metric, safe='')}?view=FULL",
        )
        limit = _limit(answer, plan.region)
        if limit is None:
            raise NotChecked(f"the answer about {metric} names no limit for {plan.region}")
        if limit == 0:
            raise Wrong(
                f"The quota for {accelerator} in {plan.region} is 0. Ask for 1 some days before "
                f"the workshop: IAM & Admin → Quotas, metric {metric}."
            )
        yield f"quota for {accelerator} in {plan.region}: {limit if limit > 0 else 'no limit'}"


def _limit(answer: dict[str, Any], region: str) -> int | None:
    """Return the effective limit of a quota metric: that of the region, else the general one."""
    general = None
    for limit in answer.get("consumerQuotaLimits", []):
        for one in limit.get("quotaBuckets", []):
            if one.get("dimensions", {}).get("region") == region:
                return int(one.get("effectiveLimit", 0))
            if not one.get("dimensions"):
                general = int(one.get("effectiveLimit", 0))
    return general


def images(plan: Plan) -> Iterator[str]:
    """Check that the jobs' images can still be pulled."""
    _need_account(plan)
    for image in sorted({job[2] for job in plan.jobs}):
        host, _, rest = image.partition("/")
        name, _, tag = rest.partition(":")
        url = f"https://{host}/v2/{name}/manifests/{tag or 'latest'}"
        try:
            answer = plan.http.get(url, headers={"Accept": MANIFESTS}, timeout=SECONDS)
        except (requests.RequestException, GoogleAuthError) as err:
            raise NotChecked(f"{host} does not answer ({_first_line(err)})") from err
        if answer.status_code == 404:
            raise Wrong(f"The image {image} is not there any more. Choose one from Google's list.")
        if answer.status_code != 200:
            raise NotChecked(f"{host} answers with status {answer.status_code} for {image}")
        yield f"image {image} is there"


def price(plan: Plan) -> Iterator[str]:
    """Estimate what the jobs cost."""
    estimates = [
        costs.estimate(machine, accelerator, minutes=JOB_MINUTES, region=plan.region)
        for machine, accelerator, _ in plan.jobs
    ]
    for estimate in estimates:
        if estimate.usd is None:
            raise NotChecked(estimate.problem)
        yield f"price: {estimate}"
    yield f"price: {costs.total(estimates)} of {JOB_MINUTES:g} minutes each"


def _get(plan: Plan, url: str) -> dict[str, Any]:
    """Return the answer of a Google API; raise NotChecked if there is none with status 200."""
    _need_account(plan)
    try:
        answer = plan.http.get(url, timeout=SECONDS)
    except (requests.RequestException, GoogleAuthError) as err:
        raise NotChecked(_first_line(err)) from err
    if answer.status_code != 200:
        raise NotChecked(f"the API answers with status {answer.status_code}")
    found: dict[str, Any] = answer.json()
    return found


def _need_account(plan: Plan) -> None:
    if plan.credentials is None:
        raise NotChecked("it needs an account")


def _first_line(err: Exception) -> str:
    return (str(err) or type(err).__name__).splitlines()[0][:200]
