"""Runs the own tests of two storage clients against local mode.

    python scripts/maintainers/client_suites.py            both
    python scripts/maintainers/client_suites.py gcsfs      one

The tests come from the clients' source distributions. `client_suites.md` lists the tests that must
fail, by the feature that local mode refuses. It is a fault if any other test fails, or if one on
the list fails for another reason or does not fail. Pytest's own output goes to stderr.
"""

from __future__ import annotations

import argparse
import collections
import os
import re
import subprocess
import sys
import tarfile
import tempfile
import time
import venv
import xml.etree.ElementTree as ET
from dataclasses import dataclass, field
from pathlib import Path

REPO = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(REPO / "scripts"))

from vertex_local.kernel.clients import environment  # noqa: E402
from vertex_local.server import daemon  # noqa: E402
from vertex_local.testing.sandbox import sandbox  # noqa: E402

EXPECTED = Path(__file__).with_suffix(".md")
TEST_SECONDS = 120
TOOLS = ["pytest==9.2.0", "pytest-asyncio==1.5.0", "pytest-timeout==2.4.0"]


@dataclass(frozen=True)
class Edit:
    """A change of a suite's file, without which many tests would test nothing."""

    file: str
    before: str
    after: str


@dataclass(frozen=True)
class Suite:
    """The tests of one client.

    Attributes:
        name: of the client's distribution.
        version: the newest one whose source distribution contains the tests.
        tests: files and folders in it.
        requirements: packages that the tests import, beside the client.
        passes: how many passed when this was last changed; if fewer pass, some did not run.
        edits: changes before the run.
        variables: environment variables for the run.
    """

    name: str
    version: str
    tests: list[str]
    requirements: list[str]
    passes: int
    edits: list[Edit] = field(default_factory=list)
    variables: dict[str, str] = field(default_factory=dict)


CONFTEST = "tests/system/conftest.py"
UTILS = "tests/resumable_media/system/utils.py"
SUITES = [
    Suite(
        "gcsfs",
        "2026.3.0",
        [f"gcsfs/tests/{each}" for each in ("derived", "test_core.py", "test_core_versioned.py")]
        + [f"gcsfs/tests/{each}.py" for each in ("test_caching", "test_manyopens", "test_mapping")],
        ["fsspec==2026.3.0"],
        286,
        [
            # gcsfs skips these tests for emulators, because other ones fail them.
            Edit("gcsfs/tests/test_core.py", "not gcs.on_google", "False"),
            # In local mode, no object may be called "test" beside "test/accounts.1.json".
            Edit(
                "gcsfs/tests/test_core.py", 'fn = TEST_BUCKET + "/test"', 'fn = f"{TEST_BUCKET}/x"'
            ),
        ],
    ),
    Suite(
        "google-cloud-storage",
        "3.17.1",
        ["tests/system", "tests/resumable_media/system"],
        [
            *("google-cloud-testutils==1.10.1", "google-cloud-iam==2.27.0"),
            *("google-cloud-kms==3.18.0", "google-cloud-pubsub==2.44.0"),
            *("opentelemetry-sdk==1.45.2", "mock==5.2.0", "brotli==1.2.1"),
        ],
        168,
        [
            # Most tests share one bucket, and few of them use old versions of objects.
            Edit(CONFTEST, "bucket.versioning_enabled = True", "pass"),
            # The client of an emulator has no service account, but few tests need one.
            Edit(CONFTEST, 'pytest.skip("These tests require a service account', 'str("'),
            # In local mode, the object "parent/" must be empty.
            Edit(
                CONFTEST,
                "blob.upload_from_filename(simple_path, ",
                'blob.upload_from_filename("/dev/null" if filename[-1] == "/" else simple_path, ',
            ),
            # These URLs are Google's, whatever the environment variables say.
            Edit(UTILS, "import hashlib", "import hashlib\nimport os"),
            Edit(UTILS, '"https://www.googleapis.com/', 'os.environ["STORAGE_EMULATOR_HOST"] + "/'),
            Edit(
                UTILS,
                '"https://{bucket}.storage.googleapis.com/',
                'os.environ["STORAGE_EMULATOR_HOST"] + "/{bucket}/',
            ),
        ],
        {"GOOGLE_CLOUD_TESTS_USER_PROJECT": "vertex-local"},
    ),
]


@dataclass
class Outcome:
    """The outcome of a test: "passed", "failed" or "skipped", and why."""

    state: str = "passed"
    why: str = ""


def main(arguments: list[str] | None = None) -> int:
    """Run the suites and print the faults; return 1 if there are any, else 0."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("names", nargs="*", metavar="SUITE", help="gcsfs or google-cloud-storage")
    args = parser.parse_args(arguments)
    if unknown := set(args.names) - {suite.name for suite in SUITES}:
        parser.error(f"There is no suite {', '.join(sorted(unknown))}.")
    expected = read_expected(EXPECTED.read_text())
    faults = 0
    for suite in SUITES:
        if args.names and suite.name not in args.names:
            continue
        started = time.monotonic()
        outcomes = run(suite)
        problems = compare(outcomes, expected[suite.name], suite.passes)
        counts = collections.Counter(outcome.state for outcome in outcomes.values())
        print(
            f"{suite.name} {suite.version}: {counts['passed']} tests passed, "
            f"{counts['failed']} failed, {counts['skipped']} were left out; "
            f"{len(problems)} faults; {time.monotonic() - started:.0f} s"
        )
        for problem in problems:
            print(f"- {problem}")
        faults += len(problems)
    return 1 if faults else 0


def read_expected(text: str) -> dict[str, dict[str, str]]:
    """Return, by suite, the tests that must fail, each with a text that its failure must contain.

    Args:
        text: Markdown with `## SUITE`, `### FEATURE`, a sentence whose first code span is that
            text, and the tests as items of a list.

    Raises:
        SystemExit: if there is no such text above a test.
    """
    expected: dict[str, dict[str, str]] = {}
    suite, words = "", ""
    for line in text.splitlines():
        if line.startswith("## "):
            suite = line[3:]
            expected[suite] = {}
        elif line.startswith("### "):
            words = ""
        elif found := re.fullmatch("- `(.*)`", line):
            if not words:
                raise SystemExit(f"{EXPECTED.name}: no words that the failure of {line[2:]} has.")
            expected[suite][found[1]] = words
        elif not words and (found := re.search("`(.+?)`", line)):
            words = found[1]
    return expected


def compare(outcomes: dict[str, Outcome], expected: dict[str, str], passes: int) -> list[str]:
    """Return a sentence for each fault."""
    problems = []
    for test, outcome in outcomes.items():
        last = outcome.why.strip().splitlines()[-1:] or [""]
        if outcome.state == "failed" and test not in expected:
            problems.append(f"`{test}` fails, and is not on the list: {last[0]}")
        elif outcome.state == "failed" and expected[test] not in outcome.why:
            problems.append(f"`{test}` fails without the words {expected[test]!r}: {last[0]}")
    for test in expected:
        state = outcomes[test].state if test in outcomes else "not there"
        if state != "failed":
            problems.append(f"`{test}` is on the list, but it is {state}.")
    passed = sum(outcome.state == "passed" for outcome in outcomes.values())
    if passed < passes:
        problems.append(f"Only {passed} tests passed, where {passes} did before.")
    return problems


def run(suite: Suite) -> dict[str, Outcome]:
    """Run a suite against a local mode of its own."""
    with tempfile.TemporaryDirectory(prefix="suite-") as name:
        folder = Path(name)
        source = unpack(suite, folder)
        python = install(suite, source, folder / "venv")
        report = folder / "report.xml"
        command = [python, "-m", "pytest", *suite.tests, "-vv", "--tb=short", "--color=no"]
        command += ["-pno:cacheprovider", f"--timeout={TEST_SECONDS}", "-ojunit_family=xunit1"]
        with sandbox() as root, daemon.running(root) as record:
            variables = {**os.environ, **environment(root, record), **suite.variables}
            # Some tests check the requests that this variable prevents.
            variables.pop("DISABLE_GCS_PYTHON_CLIENT_OTEL_BUCKET_METADATA")
            finished = subprocess.run(
                [*command, f"--junit-xml={report}"], cwd=source, env=variables, stdout=sys.stderr
            )
        if finished.returncode not in (0, 1):  # else a test that did not run would not be noticed
            raise SystemExit(f"The tests of {suite.name} did not run.")
        return read_report(report)


def unpack(suite: Suite, folder: Path) -> Path:
    """Download and unpack a client's source distribution, and edit it; return its folder."""
    client = f"{suite.name}=={suite.version}"
    pip(sys.executable, "download", "--no-deps", "--no-binary=:all:", f"--dest={folder}", client)
    (archive,) = folder.glob("*.tar.gz")
    with tarfile.open(archive) as tar:
        tar.extractall(folder, filter="data")
    source = folder / archive.name.removesuffix(".tar.gz")
    for edit in suite.edits:
        make(edit, source)
    return source


def install(suite: Suite, source: Path, folder: Path) -> str:
    """Make an environment with a client and its tests' requirements; return its Python."""
    venv.create(folder, with_pip=True)
    python = str(folder / "bin" / "python")
    pip(python, "install", str(source), *suite.requirements, *TOOLS)
    return python


def pip(python: str, *arguments: str) -> None:
    """Run pip with its output on stderr."""
    subprocess.run([python, "-m", "pip", "-q", *arguments], check=True, stdout=sys.stderr)


def make(edit: Edit, source: Path) -> None:
    """Replace the text of an edit everywhere in its file.

    Raises:
        SystemExit: if the text is not there.
    """
    path = source / edit.file
    text = path.read_text()
    if edit.before not in text:
        raise SystemExit(f"{edit.file} has no {edit.before!r} (any more).")
    path.write_text(text.replace(edit.before, edit.after))


def read_report(report: Path) -> dict[str, Outcome]:
    """Return the outcome of each test in a JUnit file, by pytest's node id."""
    outcomes: dict[str, Outcome] = collections.defaultdict(Outcome)
    for case in ET.parse(report).iter("testcase"):
        file = case.get("file", "")
        module = file.removesuffix(".py").replace("/", ".")
        inside = case.get("classname", "").removeprefix(module).strip(".").split(".")
        outcome = outcomes["::".join([file, *filter(None, inside), case.get("name", "")])]
        for each in case:  # its call and its teardown may both have failed
            if each.tag in ("failure", "error"):
                outcome.state = "failed"
                outcome.why += f"{each.get('message')}\n{each.text}\n"
            elif each.tag == "skipped" and outcome.state == "passed":
                outcome.state = "skipped"
    return dict(outcomes)


if __name__ == "__main__":
    raise SystemExit(main())
