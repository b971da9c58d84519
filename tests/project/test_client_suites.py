"""What the run of the clients' own tests calls a fault, on a suite as small as can be."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import client_suites
import pytest
from client_suites import Edit, Outcome

TESTS = """
import pytest

class TestPaths:
    def test_passes(self): pass

@pytest.mark.parametrize("name", ["a/b.c", "d"])
def test_refused(name): raise OSError("not in local mode: Autoclass")

@pytest.fixture
def broken():
    yield
    raise OSError("after the test")

def test_teardown(broken): pass

def test_left_out(): pytest.skip("not here")
"""
LIST = """
## small

### Autoclass

Refused, see `not in local mode: Autoclass` and `other words`.

- `test_small.py::test_refused[a/b.c]`
- `test_small.py::test_refused[d]`
"""
REFUSED = "test_small.py::test_refused[d]"


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Outcome]:
    """What pytest itself writes about the small suite."""
    folder = tmp_path_factory.mktemp("small")
    (folder / "test_small.py").write_text(TESTS)
    report = folder / "report.xml"
    command = [sys.executable, "-m", "pytest", "-ojunit_family=xunit1", f"--junit-xml={report}"]
    quick = {**os.environ, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    subprocess.run(command, cwd=folder, env=quick, stdout=subprocess.DEVNULL, timeout=120)
    return client_suites.read_report(report)


def problems(outcomes: dict[str, Outcome], text: str = LIST, passes: int = 1) -> list[str]:
    return client_suites.compare(outcomes, client_suites.read_expected(text)["small"], passes)


def test_tests_have_the_names_that_pytest_gives_them(outcomes: dict[str, Outcome]) -> None:
    assert {test: outcome.state for test, outcome in outcomes.items()} == {
        "test_small.py::TestPaths::test_passes": "passed",
        "test_small.py::test_refused[a/b.c]": "failed",
        REFUSED: "failed",
        "test_small.py::test_teardown": "failed",
        "test_small.py::test_left_out": "skipped",
    }


def test_a_failure_that_is_not_on_the_list_is_a_fault(outcomes: dict[str, Outcome]) -> None:
    (problem,) = problems(outcomes)
    assert "test_teardown` fails, and is not on the list" in problem


def test_a_failure_for_another_reason_is_a_fault(outcomes: dict[str, Outcome]) -> None:
    found = problems(outcomes, LIST.replace("local mode: Autoclass", "local mode: Pub/Sub"))
    assert (
        sum("fails without the words 'not in local mode: Pub/Sub'" in each for each in found) == 2
    )


@pytest.mark.parametrize("state", ["passed", "skipped"])
def test_what_is_on_the_list_and_does_not_fail_is_a_fault(
    outcomes: dict[str, Outcome], state: str
) -> None:
    found = problems({**outcomes, REFUSED: Outcome(state)})
    assert f"`{REFUSED}` is on the list, but it is {state}." in found


def test_tests_that_did_not_run_are_a_fault(outcomes: dict[str, Outcome]) -> None:
    few = {test: outcome for test, outcome in outcomes.items() if "refused[d]" not in test}
    assert f"`{REFUSED}` is on the list, but it is not there." in problems(few)
    assert "Only 1 tests passed, where 2 did before." in problems(outcomes, passes=2)


def test_a_list_without_words_and_an_edit_without_its_text_end_in_a_sentence(
    tmp_path: Path,
) -> None:
    with pytest.raises(SystemExit, match="no words"):
        client_suites.read_expected("## small\n\n### Autoclass\n\n- `test_small.py::test`\n")
    (tmp_path / "conftest.py").write_text("one two two")
    client_suites.make(Edit("conftest.py", "two", "three"), tmp_path)
    assert (tmp_path / "conftest.py").read_text() == "one three three"
    with pytest.raises(SystemExit, match="has no 'two'"):
        client_suites.make(Edit("conftest.py", "two", "three"), tmp_path)


def test_every_suite_has_a_list() -> None:
    expected = client_suites.read_expected(client_suites.EXPECTED.read_text())
    assert expected.keys() == {suite.name for suite in client_suites.SUITES}
    assert all(expected.values())
