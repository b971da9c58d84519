"""Where the link to the page is told: in the terminal, and in the cell that starts a job."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from dataclasses import replace

import pytest
import requests
from google.cloud import storage
from test_jobs import custom_job

from vertex_local import cli
from vertex_local.config import Root, ServerRecord
from vertex_local.kernel import pages

LINK = re.compile(r"http://127\.0\.0\.1:\d+/console/[\w-]+/enter/[\w-]+/\S*")


@pytest.fixture
def links(root: Root, server: ServerRecord) -> Iterator[None]:
    """Links as the kernel prints them; the test's own logging is as before afterwards."""
    logger = logging.getLogger(pages.LOGGER)
    before = list(logger.handlers)
    pages.install(root)
    pages.install(root)  # once is enough
    yield
    logger.handlers = before


def test_a_job_tells_its_page_below_the_sdks_own_link(
    links: None, bucket: storage.Bucket, capsys: pytest.CaptureFixture[str]
) -> None:
    job = custom_job(bucket, "print('the log')")
    logging.getLogger("google.cloud.aiplatform.jobs").setLevel(logging.INFO)
    job.run()
    printed = capsys.readouterr()
    found = LINK.findall(printed.err)
    assert len(found) == 1 and found[0].endswith(f"/jobs/{job.name}")
    assert LINK.findall(printed.out) == []  # notebooks promise what they print there
    session = requests.Session()
    text = session.get(found[0]).text
    target = re.findall(r'url=(/[^"]*)"', text)[0]
    assert "the log" in session.get(found[0].partition("/console")[0] + target).text


def test_a_search_tells_its_own_page(
    links: None, root: Root, capsys: pytest.CaptureFixture[str]
) -> None:
    for kind in ("HyperparameterTuningJob", "Batch Prediction Job", "backing custom job"):
        message = f"View {kind}:\nhttps://console.cloud.google.com/a/training/12?project=1"
        record = logging.LogRecord("a", logging.INFO, "a", 1, message, (), None)
        pages.PageLinks(root).emit(record)
    assert [
        link.rpartition("/enter/")[2].partition("/")[2]
        for link in LINK.findall(capsys.readouterr().err)
    ] == ["searches/12"]


def test_without_a_server_a_job_says_nothing_and_goes_on(
    own_root: Root, server: ServerRecord, capsys: pytest.CaptureFixture[str]
) -> None:
    own_root.create()
    message = "View Custom Job:\nhttps://console.cloud.google.com/a/training/12?project=1"
    record = logging.LogRecord("a", logging.INFO, "a", 1, message, (), None)
    pages.PageLinks(own_root).emit(record)
    replace(server, api_url="http://127.0.0.1:1").write(own_root)  # as a killed server leaves it
    pages.PageLinks(own_root).emit(record)
    assert capsys.readouterr().err == ""


def test_the_terminal_tells_a_link_each_time(
    own_root: Root, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["page"]) == 1
    assert "vertex-local up" in capsys.readouterr().err
    assert cli.main(["up"]) == 0
    assert cli.main(["status"]) == 0
    assert cli.main(["page"]) == 0
    found = LINK.findall(capsys.readouterr().out)
    assert len(set(found)) == 3
    for link in found:
        assert "Set-Cookie" in requests.get(link).headers


def test_a_budget_is_set_shown_and_removed(
    own_root: Root, capsys: pytest.CaptureFixture[str]
) -> None:
    def command(*words: str) -> tuple[int, str]:
        status = cli.main(["budget", *words])
        printed = capsys.readouterr()
        return status, printed.out + printed.err

    assert "Budget: none" in command()[1]
    assert command("--minutes=5")[0] == 1
    assert "$5.00 left of $5.00" in command("5")[1]
    assert "counts 20 min" in command("--minutes=20")[1]
    for wrong in ("much", "nan", "inf"):
        status, text = command(wrong)
        assert status == 1 and "a number of 0 or more" in text
    assert "$5.00 left" in command()[1]
    own_root.budget.write_text("{")
    status, text = command()
    assert status == 1 and "is damaged" in text and "Set the budget again" in text
    assert "Budget: none" in command("off")[1]
    assert "$0.00 left of $0.00" in command("0")[1]
    assert cli.main(["reset", "--yes"]) == 0
    assert "Budget: none" in command()[1]
