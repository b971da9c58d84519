"""Rehearses the lesson on Google Cloud: the same notebooks, with the plain kernel. It costs money.

    python3 scripts/workshop.py rehearse --project P --bucket B --region us-central1
    python3 scripts/workshop.py rehearse --project P --bucket B --region us-central1 --yes

The first form only checks (see preflight.py). With `--yes`, and if nothing is wrong, each notebook
is copied, the names that an attendee edits are set in the copy, and the copy is executed with the
kernel `python3`. The bucket must not exist yet, or be empty. At the end, also after a failure, the
rehearsal cancels those of its jobs that still run, and deletes all objects in the bucket, and the
bucket if it made it.

The authors have run this against local mode only, never on Google Cloud.
"""

from __future__ import annotations

import argparse
import os
import re
import signal
import sys
import time
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import google.auth
import preflight
from google.api_core.exceptions import GoogleAPIError
from google.auth.transport.requests import AuthorizedSession
from google.cloud import aiplatform, storage
from preflight import Plan

from vertex_local.config import LocalModeError, find_root
from vertex_local.notebooks import checking, evidence, files

REPO = Path(__file__).resolve().parents[2]
NOTEBOOKS = [  # those that start jobs
    REPO / "notebooks" / "06-Training-models-in-VertexAI-GPUs.ipynb",
    REPO / "notebooks" / "06c-Distributed-training.ipynb",
    REPO / "notebooks" / "06d-After-the-run.ipynb",  # only if 06 left no run
]
KERNEL = "python3"
RUNNING = re.compile("QUEUED|PENDING|RUNNING|CANCELLING")
CANCEL_SECONDS = 600.0


def main(argv: list[str] | None = None) -> int:
    """Check, and with `--yes` rehearse; return the exit status."""
    parser = argparse.ArgumentParser(prog="workshop.py rehearse")
    for name in ("project", "bucket", "region"):
        parser.add_argument(f"--{name}", required=True)
    parser.add_argument("--yes", action="store_true", help="run the notebooks; this costs money")
    parser.add_argument("--notebooks", nargs="+", type=Path, default=NOTEBOOKS, metavar="NOTEBOOK")
    args = parser.parse_args(argv)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # clean up as for Ctrl-C
    if "VERTEX_LOCAL_API" in os.environ:
        print(
            "workshop.py: this shell is set up for local mode, from which nothing reaches Google "
            "Cloud. Rehearse in a new shell.",
            file=sys.stderr,
        )
        return 1
    try:
        credentials, _ = google.auth.default(
            scopes=["https://www.googleapis.com/auth/cloud-platform"]
        )
    except google.auth.exceptions.GoogleAuthError:
        credentials = None
    try:
        jobs = [job for path in args.notebooks for job in preflight.jobs(_code(path))]
        http = AuthorizedSession(credentials)
        plan = Plan(args.project, args.bucket, args.region, jobs, credentials, http)
        return rehearse(plan, args.notebooks, args.yes)
    except LocalModeError as err:
        print(f"workshop.py: {err}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


def rehearse(plan: Plan, paths: list[Path], yes: bool) -> int:
    """Check, and with `yes` run the notebooks and clean up; return the exit status.

    Args:
        plan: project, bucket, region and account.
        paths: the notebooks.
        yes: whether to run the notebooks.
    """
    if not preflight.report(plan):
        print("\nNothing was started. Correct what is marked [FAIL], then try again.")
        return 1
    if not yes:
        print("\nNothing was started. Add --yes to run the notebooks; this costs money.")
        return 0
    os.environ["GOOGLE_CLOUD_PROJECT"] = plan.project
    owner = f"rehearsal-{datetime.now():%Y%m%d-%H%M%S}"
    existed = _client(plan).lookup_bucket(plan.bucket) is not None
    failed = False
    try:
        for path in paths:
            print(f"\nExecuting {path.name} as {owner}:", flush=True)
            failed = not _execute(plan, path, owner) or failed
    finally:
        clean = clean_up(plan, owner, existed)
    return 0 if clean and not failed else 1


def _execute(plan: Plan, path: Path, owner: str) -> bool:
    """Execute a copy of a notebook, keep it, and return whether every cell worked."""
    copied = files.read(path)
    set_names(copied, {"BUCKET_NAME": plan.bucket, "LAST_NAME": owner, "REGION": plan.region})
    try:
        checking.run(copied, path, KERNEL)
    except checking.NotebookFailed as err:
        print(f"\n{err}", flush=True)
        return False
    finally:
        kept = evidence.save(copied, find_root().path / "rehearsal" / path.name, path.parent)
        print(f"Executed copy: {kept}", flush=True)
    return True


def set_names(copied: Any, names: dict[str, str]) -> None:
    """Set the names that an attendee edits, in a copy of the notebook.

    Raises:
        LocalModeError: unless each is set in exactly one line of the notebook.
    """
    for name, value in names.items():
        line = re.compile(rf"^{name} = .*$", re.MULTILINE)
        cells = [cell for cell in copied.cells if cell.cell_type == "code"]
        count = sum(len(line.findall(cell.source)) for cell in cells)
        if count != 1:
            raise LocalModeError(f"{name} is set in {count} lines of the notebook, not in one.")
        for cell in cells:
            cell.source = line.sub(f"{name} = {value!r}", cell.source)


def _client(plan: Plan) -> storage.Client:
    return storage.Client(project=plan.project, credentials=plan.credentials)


def clean_up(plan: Plan, owner: str, existed: bool) -> bool:
    """Remove what the rehearsal made; print what was removed and what is left.

    Args:
        plan: project, bucket, region and account.
        owner: the label of the rehearsal's jobs.
        existed: whether the bucket was there before; it was empty then, and stays.

    Returns:
        Whether everything could be removed.
    """
    print("\nCleaning up:", flush=True)
    steps: list[Callable[[], None]] = [
        lambda: _end_jobs(plan, owner),
        lambda: _delete_objects(plan, existed),
    ]
    clean = True
    for step in steps:
        try:
            step()
        except (GoogleAPIError, OSError) as err:
            clean = False
            print(f"  NOT REMOVED: {err}")
            print(
                "  Look at the bucket and at the training jobs in the console, and end them there."
            )
    return clean


def _end_jobs(plan: Plan, owner: str) -> None:
    """Cancel the jobs that still run, and wait until they end and can write no more objects."""
    where = {"project": plan.project, "location": plan.region, "credentials": plan.credentials}
    records = 0
    # Pipelines first: the custom jobs behind them end with them.
    for kind in (aiplatform.CustomTrainingJob, aiplatform.CustomJob):
        found = kind.list(filter=f"labels.owner={owner}", **where)
        running = [job for job in found if _runs(job)]
        for job in running:
            job.cancel()
            print(f"  cancelled the job {job.display_name}", flush=True)
        deadline = time.monotonic() + CANCEL_SECONDS
        while any(map(_runs, running)):
            if time.monotonic() > deadline:
                raise OSError("a cancelled job does not end")
            time.sleep(1)
        records += len(found)
    print(f"  left: {records} records of jobs, which cost nothing")


def _runs(job: Any) -> bool:
    return RUNNING.search(job.state.name) is not None


def _delete_objects(plan: Plan, existed: bool) -> None:
    bucket = _client(plan).lookup_bucket(plan.bucket)
    if bucket is None:
        print(f"  left: nothing in Cloud Storage; gs://{plan.bucket} was not made")
        return
    for blob in list(bucket.list_blobs()):
        blob.delete()
        print(f"  deleted gs://{plan.bucket}/{blob.name}")
    if existed:
        print(f"  left: the bucket gs://{plan.bucket}, empty as before")
    else:
        bucket.delete()
        print(f"  deleted the bucket gs://{plan.bucket}; nothing is left in Cloud Storage")


def _code(path: Path) -> list[str]:
    return [cell.source for cell in files.read(path).cells if cell.cell_type == "code"]


if __name__ == "__main__":
    sys.exit(main())
