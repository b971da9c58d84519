"""The page in a real browser: driven through a job, in both colour schemes and a narrow window.

Screenshots are kept in the folder that VERTEX_LOCAL_SCREENSHOTS names, if it names one.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import browser
import pytest
from browser import Browser
from google.cloud import storage
from test_job_faults import SPOT, failure
from test_jobs import custom_job
from test_searches import LOSS
from test_searches import search as small_search

from vertex_local.config import Root, ServerRecord
from vertex_local.faults.store import Faults
from vertex_local.server import daemon

SCRIPT = "<script>document.title = 'evil'</script><img src=x onerror=\"document.title='evil'\">"
AXE = os.environ.get("VERTEX_LOCAL_AXE", "")  # accessibility checker, from npm: axe-core
HISTORY = "epoch,train_loss,val_loss,val_accuracy,seconds\n1,0.9,0.8,0.5,0.1\n2,0.5,0.4,0.7,0.1\n"
# Contrast as WCAG 2.1 defines it, of every text with the ground behind it.
LOW_CONTRAST = """
function light(colour) {
  const [r, g, b] = colour.map((c) => c / 255).map((c) => c <= 0.03928 ? c / 12.92 :
    ((c + 0.055) / 1.055) ** 2.4);
  return 0.2126 * r + 0.7152 * g + 0.0722 * b;
}
function numbers(text) { return (text.match(/[\\d.]+/g) || []).map(Number); }
function ground(element) {
  for (let each = element; each; each = each.parentElement) {
    const found = numbers(getComputedStyle(each).backgroundColor);
    if (found.length === 3 || found[3] > 0) return found.slice(0, 3);
  }
  return [255, 255, 255];
}
const low = [];
for (const each of document.querySelectorAll("main *, header *, footer")) {
  const own = [...each.childNodes].some((n) => n.nodeType === 3 && n.textContent.trim());
  if (!own || each.closest(".skip, svg")) continue;
  const style = getComputedStyle(each);
  const [one, other] = [light(numbers(style.color)), light(ground(each))];
  const ratio = (Math.max(one, other) + 0.05) / (Math.min(one, other) + 0.05);
  if (ratio < 4.5) low.push(`${each.tagName} ${ratio.toFixed(1)} ${each.textContent.slice(0, 40)}`);
}
return low;
"""
CURVES = "return document.querySelectorAll('polyline').length"
UNNAMED = """
return [...document.querySelectorAll("a, button, input:not([type=hidden]), select, img")].filter(
  (each) => !(each.innerText || each.ariaLabel || each.alt || (each.labels || []).length)
).map((each) => each.outerHTML);
"""


@pytest.fixture(scope="module")
def window(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    """A window that all tests here share."""
    with browser.started(tmp_path_factory.mktemp("profile")) as made:
        yield made


@pytest.fixture
def base(server: ServerRecord, window: Browser) -> str:
    """The address of the page, which this window may see."""
    link = daemon.page_link(server)
    window.size(1300, 900)
    window.open(link)
    base = link.partition("/enter/")[0]
    window.wait(lambda: window.address == f"{base}/", "the way in")
    return base


def test_a_job_is_followed_while_it_runs(
    window: Browser, base: str, bucket: storage.Bucket, root: Root, faults: Faults
) -> None:
    step = root.path / "step"
    folder = root.buckets / bucket.name / "run"
    code = f"""
import os, time
print("first words", flush=True)
while not os.path.exists({str(step)!r}): time.sleep(0.05)
print("second words", flush=True)
time.sleep(3600)
"""
    job = custom_job(bucket, code)
    job._gca_resource.display_name = "doe_followed"
    job._gca_resource.job_spec.base_output_directory.output_uri_prefix = f"gs://{bucket.name}/run"
    job.submit(**SPOT)
    window.wait(lambda: "doe_followed" in " ".join(window.texts("tbody th")), "the job in the list")
    window.open(f"{base}/jobs/{job.name}")
    window.wait(lambda: "first words" in window.texts("pre.log")[0], "the first words")
    assert window.texts("svg") == []
    folder.mkdir()
    (folder / "eval_history.csv").write_text(HISTORY)
    window.wait(lambda: window.run(CURVES) == 2, "the curve")
    window.wait(lambda: "eval_history.csv" in " ".join(window.texts("#files")), "the file")
    window.run("document.querySelector('form[action$=cancel] button').focus()")
    step.touch()
    window.wait(lambda: "second words" in window.texts("pre.log")[0], "more words")
    before = window.texts("#states")
    window.wait(lambda: window.texts("#states") != before, "the time it runs, to go on")
    assert window.run("return document.activeElement.innerText") == "Cancel the job"
    window.click("form[action$=preempt] button")
    window.wait(lambda: "injected: preemption" in window.texts(".tag"), "the machine taken away")
    window.wait(lambda: window.texts("pre.log")[0].count("first words") == 2, "the restart")
    window.click("form[action$=cancel] button")
    window.wait(lambda: "CANCELLED" in " ".join(window.texts(".steps")), "the end")
    assert window.texts("form[action$=cancel]") == []
    step.unlink()


def test_a_fault_and_a_filter_are_chosen_by_hand(
    window: Browser, base: str, faults: Faults
) -> None:
    window.open(f"{base}/faults?kind=quota")
    window.type("input[name=machine]", "NVIDIA_TESLA_T4")
    window.click(".options button")
    window.wait(lambda: "--machine=NVIDIA_TESLA_T4" in " ".join(window.texts("tbody th")), "it")
    assert [each.kind for each in faults.all()] == ["quota"]
    window.click("td button")
    window.wait(lambda: faults.all() == [], "it to be cleared")
    window.open(f"{base}/")
    window.type("input[name=text]", "nobody")
    window.click(".filters button")
    window.wait(lambda: "text=nobody" in window.address, "an address with the filter")


@pytest.fixture(scope="module")
def tuned(server: ServerRecord) -> str:
    """The address of a search that has ended."""
    search = small_search(storage.Client().create_bucket("tuned-for-the-page"), LOSS)
    search.run()
    return f"searches/{search.name}"


def views_of(job: str, bucket: str, name: str, tuned: str) -> dict[str, str]:
    """Return the address of each view: of a job, a bucket, one object in it, and a search."""
    where = f"bucket={bucket}"
    return {
        "jobs": "",
        "job": f"jobs/{job}",
        "log": f"jobs/{job}/log/workerpool0-0",
        "found": f"jobs/{job}/log/workerpool0-0?text=Error",
        "search": tuned,
        "buckets": "buckets",
        "folder": f"folder?{where}&prefix=folder/",
        "svg": f"object?{where}&name={name}",
        "table": f"object?{where}&name=folder/t.csv",
        "faults": "faults?kind=preemption",
        "problem": "jobs/1",
    }


def test_every_view_is_readable_in_both_themes_and_when_narrow(
    window: Browser, base: str, bucket: storage.Bucket, faults: Faults, tuned: str
) -> None:
    job = custom_job(bucket, f"print({SCRIPT!r}); raise ValueError('x' * 300)")
    job._gca_resource.display_name = SCRIPT
    failure(job)
    name = "folder/<img src=x onerror=alert(1)>.svg"
    bucket.blob(name).upload_from_string(f"<svg xmlns='http://www.w3.org/2000/svg'>{SCRIPT}</svg>")
    bucket.blob("folder/t.csv").upload_from_string("a,b\n1,2\n")
    views = views_of(job.name, bucket.name, name, tuned)
    for width, theme in ((1300, "light"), (700, "dark")):
        window.size(width, 900)
        window.theme(theme)
        for view, path in views.items():
            window.open(f"{base}/{path}")
            if folder := os.environ.get("VERTEX_LOCAL_SCREENSHOTS"):
                window.screenshot(Path(folder) / f"{view}-{theme}-{width}.png")
            assert window.title != "evil"
            assert window.run(LOW_CONTRAST) == [], (view, theme)
            assert window.run(UNNAMED) == [], view
            wide = "return document.documentElement.scrollWidth - innerWidth"
            assert window.run(wide) <= 0, f"{view} is wider than {width} pixels"
    refused = [each for each in window.messages() if "404" not in each]  # the last view is one
    assert refused == []


@pytest.mark.skipif(not AXE, reason="VERTEX_LOCAL_AXE does not name a copy of axe.min.js")
def test_axe_finds_nothing(
    window: Browser, base: str, bucket: storage.Bucket, faults: Faults, tuned: str
) -> None:
    job = custom_job(bucket, "raise ValueError('wrong data')")
    job._gca_resource.job_spec.base_output_directory.output_uri_prefix = f"gs://{bucket.name}/run"
    bucket.blob("run/eval_history.csv").upload_from_string(HISTORY)
    bucket.blob("folder/t.csv").upload_from_string("a,b\n1,2\n")
    failure(job)
    faults.add("quota", {})
    script = Path(AXE).read_text()
    for theme in ("light", "dark"):
        window.theme(theme)
        for view, path in views_of(job.name, bucket.name, "folder/t.csv", tuned).items():
            window.open(f"{base}/{path}")
            window.run(script)
            found = window.run("return axe.run()")
            assert len(found["passes"]) > 10  # it did look
            bad = [(each["id"], each["nodes"][0]["html"]) for each in found["violations"]]
            assert bad == [], (view, theme)


def test_and_the_measure_of_contrast_sees_a_bad_one(window: Browser, base: str) -> None:
    window.open(f"{base}/")
    window.theme("light")
    window.run("document.querySelector('h1').style.color = '#999'")
    assert any(each.startswith("H1") for each in window.run(LOW_CONTRAST))


def test_a_page_that_somebody_opens_without_its_link_says_how(
    window: Browser, base: str, server: ServerRecord
) -> None:
    window.open(base.rpartition("/")[0] + "/another/")
    assert "vertex-local page" in window.texts("main")[0]


def test_a_page_says_when_local_mode_has_stopped(window: Browser, own_root: Root) -> None:
    told = "const it = document.getElementById('stale'); return it.hidden ? '' : it.innerText"
    window.open(daemon.page_link(daemon.ensure(own_root)))
    window.wait(lambda: window.title.startswith("Jobs"), "the page")
    assert window.run(told) == ""
    daemon.stop(own_root)
    window.wait(lambda: "local mode has stopped" in window.run(told), "the sentence")
