"""The project's own files agree with each other, and its code passes the checks it sets itself."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


@pytest.fixture(scope="module")
def project(repo: Path) -> dict:  # type: ignore[type-arg]
    return tomllib.loads((repo / "pyproject.toml").read_text())["project"]


@pytest.fixture(scope="module")
def requirements(project: dict) -> list[Requirement]:  # type: ignore[type-arg]
    extras = project["optional-dependencies"]
    texts = [*project["dependencies"], *extras["test"], *extras["tuning"]]
    return [Requirement(text) for text in texts]


@pytest.fixture(scope="module")
def pins(repo: Path) -> list[Requirement]:
    lines = (repo / "scripts" / "tested-versions.txt").read_text().splitlines()
    return [Requirement(line) for line in lines if line and not line.startswith("#")]


def test_environment_yml_takes_its_packages_from_pyproject(repo: Path, project: dict) -> None:  # type: ignore[type-arg]
    environment = yaml.safe_load((repo / "environment.yml").read_text())
    *conda, pip = environment["dependencies"]
    assert [text.split("=")[0] for text in conda] == ["python", "pip"]
    assert conda[0].split("=")[1] + ".0" in SpecifierSet(project["requires-python"])
    assert pip == {"pip": ["--constraint scripts/tested-versions.txt", "--editable .[test]"]}
    assert environment["name"] == project["name"]


def test_pip_understands_the_lines_that_conda_gives_it(repo: Path) -> None:
    pip = yaml.safe_load((repo / "environment.yml").read_text())["dependencies"][-1]["pip"]
    file = repo / ".vertex-local-requirements.txt"  # conda, too, writes it beside environment.yml
    file.write_text("\n".join(pip))
    options = ["--dry-run", "--no-deps", "--no-build-isolation", "--no-index", "--requirement"]
    try:
        finished = subprocess.run(
            [sys.executable, "-m", "pip", "install", *options, str(file)],
            cwd=repo,
            capture_output=True,
            text=True,
        )
    finally:
        file.unlink()
    assert finished.returncode == 0, finished.stderr
    assert "Would install vertex-ai-workshop" in finished.stdout


def test_every_requirement_has_one_tested_version_that_suits(
    requirements: list[Requirement], pins: list[Requirement]
) -> None:
    for requirement in requirements:
        if requirement.marker and not requirement.marker.evaluate():
            continue
        if requirement.name == "vertex-ai-workshop":  # one of its own extras
            continue
        tested = [
            str(pin.specifier).removeprefix("==")
            for pin in pins
            if pin.name == requirement.name and (not pin.marker or pin.marker.evaluate())
        ]
        assert len(tested) == 1, requirement
        assert tested[0] in requirement.specifier, requirement


def test_the_build_backend_is_the_tested_one(repo: Path) -> None:
    required = tomllib.loads((repo / "pyproject.toml").read_text())["build-system"]["requires"]
    tested = (repo / "scripts" / "tested-versions.txt").read_text().splitlines()
    assert [each for each in required if each not in tested] == [] and len(required) == 1


def test_one_version_stands_everywhere(repo: Path, project: dict) -> None:  # type: ignore[type-arg]
    headings = re.findall(r"^## (\S+)$", (repo / ".github/CHANGELOG.md").read_text(), re.MULTILINE)
    released = [heading for heading in headings if heading != "Unreleased"]
    assert released[0] == project["version"]
    citation = yaml.safe_load((repo / "CITATION.cff").read_text())
    assert citation["version"] == project["version"]


def test_only_the_agreed_entries_stand_at_the_top(repo: Path) -> None:
    listed = subprocess.run(
        ["git", "ls-files"], cwd=repo, capture_output=True, text=True, check=True
    ).stdout.splitlines()
    visible = {name.split("/")[0] for name in listed if not name.startswith(".")}
    assert visible == {
        "CITATION.cff",
        "LICENSE",
        "README.md",
        "data",
        "environment.yml",
        "notebooks",
        "pyproject.toml",
        "scripts",
        "tests",
    }


def test_the_readme_is_short(repo: Path) -> None:
    assert len((repo / "README.md").read_bytes()) <= 7 * 1024


def test_the_readme_starts_with_the_two_readers_and_the_two_commands(repo: Path) -> None:
    text = (repo / "README.md").read_text()
    headings = re.findall(r"^## (.+)$", text, re.MULTILINE)
    assert headings[:2] == ["If you attend the workshop", "If you teach the workshop"]
    for command in ("run", "test", "lab", "doctor"):
        assert f"python3 scripts/workshop.py {command}" in text
    assert "workshop.py test" in (repo / ".ci" / "run").read_text()


@pytest.mark.parametrize(
    "command",
    [["ruff", "check", "."], ["ruff", "format", "--check", "."], ["mypy"]],
    ids=["ruff", "format", "mypy"],
)
def test_the_code_passes_its_checks(repo: Path, command: list[str]) -> None:
    finished = subprocess.run(
        [sys.executable, "-m", *command], cwd=repo, capture_output=True, text=True
    )
    assert finished.returncode == 0, finished.stdout + finished.stderr


SAID = re.compile(r'"""Reference: (.*?)\s*(?:\n\n.*?)?"""', re.S)


def test_every_sentence_about_clients_is_the_heading_of_a_test(repo: Path) -> None:
    """And every test that says so has its sentence in the reference."""
    text = (repo / "scripts" / "vertex_local" / "README.md").read_text()
    section = text.partition("### Clients")[2].partition("\n### ")[0]
    sentences = re.findall("^- (.*)$", section, re.MULTILINE)
    files = [path for path in (repo / "tests").rglob("test_*.py") if path != Path(__file__)]
    headings = [" ".join(each.split()) for path in files for each in SAID.findall(path.read_text())]
    assert len(sentences) > 10 and sorted(sentences) == sorted(headings)
