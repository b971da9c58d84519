"""The page as a program reads it: what each address shows, what each form changes."""

from __future__ import annotations

import base64
import re
from html import unescape
from pathlib import Path

import pytest
import requests
from google.api_core import exceptions
from google.cloud import aiplatform, storage
from test_job_faults import SPOT, failure
from test_jobs import custom_job, make_job, run, wait_until

from vertex_local.config import Root, ServerRecord
from vertex_local.console import curve, files, logs
from vertex_local.faults.store import Faults
from vertex_local.server import daemon

HEAD = "epoch,train_loss,val_loss,val_accuracy,seconds\n"
SCRIPT = "<script>document.title = 'evil'</script>"


class Page:
    """The page in a browser without JavaScript."""

    def __init__(self, server: ServerRecord) -> None:
        self.client = requests.Session()
        link = daemon.page_link(server)
        self.client.get(link).raise_for_status()
        self.base = link.partition("/enter/")[0]

    def get(self, path: str, status: int = 200, **query: str) -> str:
        answer = self.client.get(f"{self.base}/{path}", params=query)
        assert answer.status_code == status, answer.text
        return answer.text

    def read(self, path: str, **query: str) -> str:
        """Return what a reader sees: no markup, and letters as they are."""
        return unescape(re.sub(r"<[^>]*>", " ", self.get(path, **query)))

    def post(self, path: str, status: int = 200, **fields: str) -> str:
        """Send a form as the page's own, and follow where it leads."""
        origin = self.base.partition("/console")[0]
        answer = self.client.post(f"{self.base}/{path}", data=fields, headers={"Origin": origin})
        assert answer.status_code == status, answer.text
        return answer.text


@pytest.fixture
def page(server: ServerRecord) -> Page:
    return Page(server)


def test_the_list_has_jobs_newest_first_and_filters(page: Page, bucket: storage.Bucket) -> None:
    good, bad = custom_job(bucket, "print('fine')"), custom_job(bucket, "1 / 0")
    good._gca_resource.display_name, good._gca_resource.labels = "doe_good", {"owner": "doe"}
    bad._gca_resource.display_name = "doe_bad"
    good.run()
    failure(bad)
    text = page.read("")
    assert text.index("doe_bad") < text.index("doe_good")
    assert "n1-standard-4" in text and "$0.0" in text
    only = page.read("", state="FAILED")
    assert "doe_bad" in only and "doe_good" not in only
    assert "doe_bad" not in page.read("", owner="doe")
    assert "doe_good" in page.read("", text=good.name) and "doe_bad" not in page.read(
        "", text="GOOD"
    )
    assert "No job matches" in page.read("", text="nobody's")


def test_a_job_shows_its_error_first_and_how_to_see_the_same_elsewhere(
    page: Page, bucket: storage.Bucket
) -> None:
    job = custom_job(bucket, "print('the log'); raise ValueError('wrong data')")
    failure(job)
    text = page.read(f"jobs/{job.name}")
    assert text.index("ValueError: wrong data") < text.index("Traceback") < text.index("Logs")
    assert "PENDING" in text and "FAILED" in text and "the log" in text
    assert "Job is running." in text  # the service's own log
    assert f"gcloud ai custom-jobs describe {job.name} --region=us-central1" in text
    page.get("jobs/123", status=404)


def test_an_error_of_one_line_ends_before_the_way_to_the_logs(
    page: Page, bucket: storage.Bucket, faults: Faults
) -> None:
    faults.add("out-of-memory", {})
    job = custom_job(bucket, "import time; time.sleep(3600)")
    failure(job)
    last = re.findall(r'<p class="last">(.*?)</p>', page.get(f"jobs/{job.name}"))
    assert last[0].endswith("ran out of memory and exited with a non-zero status of 137.")


def test_a_training_pipeline_leads_to_its_job(
    page: Page, bucket: storage.Bucket, tmp_path: Path
) -> None:
    job = make_job(tmp_path / "script.py", bucket, "print('in a pipeline')\n")
    run(job, base_output_dir=f"gs://{bucket.name}/run", args=["--rate=0.5"])
    text = page.read(f"jobs/{job.name}")
    assert "in a pipeline" in text and "--rate=0.5" in text and "a test-custom-job" not in text
    assert f"gs://{bucket.name}/run" in text
    assert f"CustomTrainingJob.get('{job.resource_name}')" in text


def test_a_run_shows_its_curve_and_files(page: Page, bucket: storage.Bucket, root: Root) -> None:
    folder = f"gs://{bucket.name}/run"
    history = (
        "epoch,train_loss,val_loss,val_accuracy,seconds\n1,0.9,0.8,0.5,0.1\n2,0.5,0.4,0.7,0.1\n"
    )
    bucket.blob("run/eval_history.csv").upload_from_string(f"{history}3,0.4,0.")
    job = custom_job(bucket, "print()")
    job._gca_resource.job_spec.base_output_directory.output_uri_prefix = folder
    job.run()
    text = page.get(f"jobs/{job.name}")
    assert "<polyline" in text and "the lowest validation loss is 0.0000" in text
    assert "eval_history.csv" in text and "download" in text
    assert "These are the first" not in text
    for number in range(files.PAGE):
        (root.buckets / bucket.name / "run" / f"{number}.txt").touch()
    assert f"These are the first {files.PAGE}; the folder above" in page.get(f"jobs/{job.name}")


def test_a_curve_of_half_a_file_is_that_of_its_whole_lines() -> None:
    assert curve.draw("") is None and curve.draw(HEAD + "1,1,1,1,1\n") is None
    drawn = curve.draw(HEAD + "1,0.9,0.8,0,0\n2,nan,0.1,0,0\n3,0.5,0.4,0,0\n4,0.3")
    assert drawn is not None
    assert (drawn.first, drawn.last, drawn.low, drawn.high, drawn.best) == (
        1,
        3,
        0.4,
        0.9,
        (3, 0.4),
    )
    drawn = curve.draw(HEAD.replace("\n", "\r") + "1,0.9,0.8,0,0\r2,0.5,0.4,0,0\r")
    assert drawn is not None and drawn.last == 2
    assert curve.draw(HEAD + "1,1,1,1,1\n2,2,2,2,2\n" + "x" * 200_000) is not None
    many = "".join(f"{n},{1 / n},{2 / n},0,0\n" for n in range(1, 5001))
    drawn = curve.draw(HEAD + many)
    assert drawn is not None and len(drawn.lines[0][1].split()) <= curve.MAX_POINTS + 20


def test_a_log_is_shown_in_parts_and_searched(tmp_path: Path) -> None:
    log = tmp_path / "job.log"
    log.write_text("".join(f"line {number}\n" for number in range(100_000)))
    end = logs.part(log)
    assert end.lines[-1][1] == "line 99999" and end.later is None and end.earlier is not None
    seen = [text for _, text in end.lines]
    part = end
    while part.earlier is not None:
        part = logs.part(log, part.earlier)
        seen = [text for start, text in part.lines if start < end.start] + seen
        end = part
    assert seen == [f"line {number}" for number in range(100_000)]
    found = logs.search(log, "line 4242")
    assert [text for _, text in found.lines] == ["line 4242", *(f"line 4242{n}" for n in range(10))]
    start = found.lines[0][0]
    assert logs.part(log, start).lines[0] == (start, "line 4242")
    assert logs.search(log, "no such").lines == [] and logs.search(log, "line").more
    log.write_bytes(b"\x1b[32mgreen\x1b[0m [32m]\n")
    assert logs.part(log).lines == [(0, "green [32m]")]
    log.write_bytes(b"x" * 1_000_000 + b"\n\xff\n")
    assert len(logs.part(log, 0).lines[0][1]) < 3000 and logs.part(log).lines[-1][1] == "\ufffd"
    assert (
        logs.part(tmp_path / "none").lines == [] and logs.search(tmp_path / "none", "x").lines == []
    )


def test_buckets_show_folders_objects_and_previews(page: Page, bucket: storage.Bucket) -> None:
    names = {"a/b/table.csv": "x,y\n1,two words\n", "a/notes.txt": "some text", "top": "\0binary"}
    for name, content in names.items():
        bucket.blob(name).upload_from_string(content)
    assert f"gs://{bucket.name}" in page.read("buckets")
    assert "a/" in page.read("folder", bucket=bucket.name)
    text = page.read("folder", bucket=bucket.name, prefix="a/")
    assert "b/" in text and "notes.txt" in text and "9 B" in text
    assert "two words" in page.get("object", bucket=bucket.name, name="a/b/table.csv")
    assert "some text" in page.read("object", bucket=bucket.name, name="a/notes.txt")
    assert "no text" in page.read("object", bucket=bucket.name, name="top")
    for number, lines in enumerate(("x,y\r1,two words\r", "x\ry,z\n1,two words\n")):
        bucket.blob(f"{number}.csv").upload_from_string(lines)
        assert "two words" in page.get("object", bucket=bucket.name, name=f"{number}.csv")
    bucket.blob("long.csv").upload_from_string('"' + "words " * 50_000)
    assert "only its beginning" in page.read("object", bucket=bucket.name, name="long.csv")
    bucket.blob("empty").upload_from_string("")
    assert "It is empty" in page.read("object", bucket=bucket.name, name="empty")
    untyped = bucket.blob("empty")
    untyped.content_type = None
    untyped.patch()
    assert "not given" in page.read("object", bucket=bucket.name, name="empty")
    page.get("object", status=404, bucket=bucket.name, name="none")
    page.get("folder", status=404, bucket="no-such-bucket")


def test_an_image_is_shown_and_anything_else_is_only_a_file(
    page: Page, bucket: storage.Bucket
) -> None:
    dot = base64.b64decode("R0lGODlhAQABAAAAACw=")
    for name, content in {"dot.gif": dot, "x.svg": b"<svg/>", "x.html": SCRIPT.encode()}.items():
        bucket.blob(name).upload_from_string(content, content_type="text/html")
    for name in ("dot.gif", "x.svg", "x.html"):
        answer = page.client.get(f"{page.base}/raw", params={"bucket": bucket.name, "name": name})
        assert answer.headers["Content-Security-Policy"] == "sandbox; default-src 'none'"
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        shown = answer.headers["Content-Type"] == "image/gif"
        assert shown == (name == "dot.gif")
        assert shown != answer.headers.get("Content-Disposition", "").startswith("attachment")


def test_nothing_shown_is_interpreted(page: Page, bucket: storage.Bucket, faults: Faults) -> None:
    job = custom_job(bucket, f"print({SCRIPT!r}); raise ValueError({SCRIPT!r})")
    job._gca_resource.display_name = SCRIPT
    failure(job)
    faults.add("quota", {"job": SCRIPT})
    for name in ("cells.csv", f"{SCRIPT.replace('/', '')}.png", "drawing.svg"):
        bucket.blob(f"folder/{name}").upload_from_string(f'x,"{SCRIPT}"\n{SCRIPT},1\n')
    bucket.blob(f"folder/{SCRIPT.replace('/', '')}.txt").upload_from_string(SCRIPT)
    name = f"folder/{SCRIPT.replace('/', '')}.txt"
    pages = [page.get(""), page.get(f"jobs/{job.name}"), page.get("", text=SCRIPT)]
    pages += [page.get(f"jobs/{job.name}/log/workerpool0-0", text=SCRIPT)]
    pages += [page.get("folder", bucket=bucket.name, prefix="folder/")]
    pages += [page.get("object", bucket=bucket.name, name=name)]
    pages += [page.get("object", bucket=bucket.name, name="folder/cells.csv")]
    pages += [page.get("object", bucket=bucket.name, name="folder/drawing.svg")]
    pages += [page.get("faults")]
    pages += [page.post("faults/add", 400, kind=SCRIPT)]
    pages += [page.post("faults/add", 400, kind="preemption", after=SCRIPT)]
    pages += [page.get("jobs/" + SCRIPT.replace("/", ""), status=404)]
    for text in pages:
        assert "document.title" in text and "<script>document" not in text


def test_a_fault_is_added_and_cleared_with_forms(page: Page, faults: Faults) -> None:
    assert "There are no faults" in page.read("faults")
    assert "Spot machine" in page.read("faults", kind="preemption")
    assert "preemption --job=doe" in page.post(
        "faults/add", kind="preemption", job="doe", times="3"
    )
    assert [(each.kind, each.left) for each in faults.all()] == [("preemption", 3)]
    assert "--after must be a number" in unescape(
        page.post("faults/add", 400, kind="preemption", after="soon")
    )
    assert "There is no fault" in unescape(page.post("faults/add", 400, kind="flood"))
    page.post("faults/clear", number="1")
    assert faults.all() == []


def test_buttons_cancel_a_job_and_take_its_machine_away(
    page: Page, faults: Faults, bucket: storage.Bucket, root: Root
) -> None:
    job = custom_job(bucket, "import time; print('attempt', flush=True); time.sleep(3600)")
    job.submit(**SPOT)
    log = root.jobs / job.name / "job.log"
    wait_until(lambda: log.exists() and log.read_text() == "attempt\n", "the first attempt")
    page.post(f"jobs/{job.name}/preempt")
    wait_until(lambda: log.read_text() == "attempt\n" * 2, "the second attempt")
    assert "injected: preemption" in page.post(f"jobs/{job.name}/cancel")
    wait_until(lambda: job.state.name == "JOB_STATE_CANCELLED", "the end of the job")


def test_a_budget_refuses_what_does_not_fit_and_says_why(
    page: Page, bucket: storage.Bucket, root: Root
) -> None:
    try:
        page.post("budget", usd="0.000001")
        with pytest.raises(exceptions.BadRequest) as caught:
            custom_job(bucket, "pass").submit()
        assert "Local mode's budget, which Vertex AI does not have" in caught.value.message
        assert "1 × n1-standard-4 for 10 min and 4 min of provisioning" in caught.value.message
        before = aiplatform.CustomJob.list()
        page.post("budget", usd="1000")
        job = custom_job(bucket, "pass")
        job.run()
        assert len(aiplatform.CustomJob.list()) == len(before) + 1
        spent = re.search(r"\$([\d.]+) are spent", page.read("faults"))
        assert spent and float(spent[1]) > 0
        custom_job(bucket, "pass").run(**SPOT)  # with the price on demand: no other is known
        page.post("budget", usd="0.000001")
        with pytest.raises(exceptions.BadRequest, match="of provisioning would cost about"):
            custom_job(bucket, "pass").submit(**SPOT)
        job.delete()
        again = re.search(r"\$([\d.]+) are spent", page.read("faults"))
        assert again and float(again[1]) >= float(spent[1])  # a deleted job gives nothing back
        assert "a number of 0 or more" in page.post("budget", 400, usd="much")
    finally:
        page.post("budget", usd="")
    assert not root.budget.exists()
