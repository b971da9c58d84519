"""What GitHub would run: least rights, pinned actions, and commands that exist here."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

REPO = Path(__file__).resolve().parents[1]
WORKFLOWS = sorted((REPO / ".github" / "workflows").glob("*.yml"))


@pytest.fixture(params=WORKFLOWS, ids=lambda path: path.stem)
def workflow(request: pytest.FixtureRequest) -> dict[Any, Any]:
    return yaml.safe_load(request.param.read_text())


def steps(workflow: dict[Any, Any]) -> list[dict[str, Any]]:
    return [step for job in workflow["jobs"].values() for step in job["steps"]]


def commands(workflow: dict[Any, Any]) -> str:
    return "\n".join(step.get("run", "") for step in steps(workflow))


def test_there_is_one_for_changes_and_one_for_every_night() -> None:
    assert [path.stem for path in WORKFLOWS] == ["ci", "nightly"]


def test_it_may_read_and_nothing_else(workflow: dict[Any, Any]) -> None:
    assert workflow["permissions"] == {"contents": "read"}
    assert all(job.get("permissions", {}) == {} for job in workflow["jobs"].values())
    for step in steps(workflow):
        if "checkout" in step.get("uses", ""):
            assert step["with"]["persist-credentials"] is False


def test_actions_are_pinned_to_a_commit_with_its_version_beside_it(
    workflow: dict[Any, Any],
) -> None:
    assert all(
        re.fullmatch(r"actions/[\w-]+@[0-9a-f]{40}", s["uses"])
        for s in steps(workflow)
        if "uses" in s
    )
    for path in WORKFLOWS:
        lines = [line for line in path.read_text().splitlines() if "uses:" in line]
        assert lines and all(re.search(r"@[0-9a-f]{40} # v\d+\.\d+\.\d+$", line) for line in lines)


def test_every_job_ends_in_time_and_on_a_named_system(workflow: dict[Any, Any]) -> None:
    for job in workflow["jobs"].values():
        assert 0 < job["timeout-minutes"] <= 60
        assert "latest" not in job["runs-on"]


def test_no_command_is_put_together_from_what_others_wrote(workflow: dict[Any, Any]) -> None:
    assert "${{" not in commands(workflow)


def test_ci_covers_the_pythons_the_systems_and_the_notebooks() -> None:
    ci = yaml.safe_load(WORKFLOWS[0].read_text())
    assert ci["jobs"]["tests"]["strategy"]["matrix"] == {
        "os": ["ubuntu-24.04"],
        "python": ["3.10", "3.11", "3.12", "3.13"],
        "include": [{"os": "macos-15", "python": "3.12"}],
    }
    assert set(ci["jobs"]["all-green"]["needs"]) == ci["jobs"].keys() - {"all-green"}
    assert "workshop.py test notebooks" in commands(ci) and "workshop.py test tests" in commands(ci)


def test_the_executed_notebooks_are_kept(workflow: dict[Any, Any]) -> None:
    kept = [step for step in steps(workflow) if "upload-artifact" in step.get("uses", "")]
    assert len(kept) == 1
    assert kept[0]["if"] == "always()"
    assert kept[0]["with"]["path"] == ".vertex-local/evidence"
    assert kept[0]["with"]["include-hidden-files"] is True  # else the artifact would be empty


def test_the_nightly_run_takes_the_newest_versions_and_says_what_broke() -> None:
    nightly = yaml.safe_load(WORKFLOWS[1].read_text())
    assert nightly[True]["schedule"]  # YAML reads the key `on` as true
    assert "--constraint" not in commands(nightly) and "--upgrade" in commands(nightly)
    assert commands(nightly).count("GITHUB_STEP_SUMMARY") == 2


def test_pre_commit_uses_the_tested_versions() -> None:
    config = yaml.safe_load((REPO / ".pre-commit-config.yaml").read_text())
    hooks = [hook for repo in config["repos"] for hook in repo["hooks"]]
    tested = (REPO / "scripts" / "tested-versions.txt").read_text().splitlines()
    pinned = [text for hook in hooks for text in hook.get("additional_dependencies", [])]
    assert pinned and set(pinned) <= set(tested)
    assert {hook["id"] for hook in hooks} >= {"ruff-check", "ruff-format", "notebooks-tidy"}
