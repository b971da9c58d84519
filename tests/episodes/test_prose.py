"""What the texts name exists: files, options, functions, images, machines and links.

The texts are the notebooks' prose and the READMEs. A name in code style is looked up where it
would have to exist: in the clone, in the programs' own help, in the Google clients, or in local
mode's tables, which carry the facts about Vertex AI with their sources.
"""

from __future__ import annotations

import argparse
import importlib
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import nbformat
import pytest
from google.cloud.aiplatform_v1.types import AcceleratorType

from vertex_local import cli
from vertex_local.jobs import images, machines

CODE = re.compile(r"(?<!`)`([^`\n]+)`(?!`)")
FENCE = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\(([^)\s]+)\)|(?:src|href)=\"([^\"]+)\"|^\[\w+\]: (\S+)$", re.MULTILINE)
OPTION = re.compile(r"(?<![\w-])--[a-z][\w-]*")
MACHINE = re.compile(r"\b(?:n1|n2|n4|e2|c2|g2|g4|a2|a3|a4x?|m1)-[a-z]+-\w+\b")
ACCELERATOR = re.compile(r"\bNVIDIA_\w+\b")
IMAGE = re.compile(r"\bpytorch-(?:xla|gpu|cpu|tpu)\.[\w.-]+\w")
FUNCTION = re.compile(
    r"^((?:aiplatform|storage|np|torch|costs|exercises|passengers|runs|setup)"
    r"\.(?!py|sqlite3)[\w.]+)"
)
FILE = re.compile(r"^[\w./-]+\.(?:py|ipynb|csv|md|yml|toml|txt|svg)$")

MODULES = {"aiplatform": "google.cloud.aiplatform", "storage": "google.cloud.storage"}
MODULES |= {
    "np": "numpy",
    "torch": "torch",
    "costs": "vertex_local.costs",
    "exercises": "lesson.exercises",
    "passengers": "lesson.passengers",
    "runs": "lesson.runs",
    "setup": "lesson.setup",
}
# A machine for a Workbench instance; no training job may have it.
FOR_NOTEBOOKS = {"e2-standard-2"}
# Names that a text calls wrong, or that belong to somebody else's program.
WRONG = {"NVIDIA_A100_40GB"}
FOREIGN = re.compile(
    r"(%%\w+|gcloud|gsutil|pytest|pip|git|conda|sha256sum|tensorboard|torchrun|python3? -m) "
)
# Options of pytest with its plugins, and of Jupyter's magics.
OF_OTHERS = re.compile(r"--(nbval|reruns|lf|ff|junitxml|numprocesses|dist|no-raise-error|bg)")
# What runs write, described in data/README.md.
WRITTEN = {"eval_history.csv", "task.py"}


def prose(path: Path) -> str:
    if path.suffix != ".ipynb":
        return path.read_text()
    notebook = nbformat.read(path, as_version=4)
    return "\n\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")


@pytest.fixture(scope="module")
def texts(repo: Path) -> dict[Path, str]:
    """Every text of the project, by its file."""
    listed = subprocess.run(
        ["git", "ls-files", "*.md", "*.ipynb"], cwd=repo, capture_output=True, text=True, check=True
    )
    paths = [repo / line for line in listed.stdout.splitlines() if "tests/" not in line]
    return {path: prose(path) for path in paths}


def named(texts: dict[Path, str], pattern: re.Pattern[str]) -> set[str]:
    return {name for text in texts.values() for name in pattern.findall(text)}


def code_names(texts: dict[Path, str]) -> Iterator[tuple[Path, str]]:
    for path, text in texts.items():
        for name in CODE.findall(FENCE.sub("", text)):
            yield path, name


def test_machine_types_exist(texts: dict[Path, str]) -> None:
    unknown = {name for name in named(texts, MACHINE) if machines._allowed(name) is None}
    assert unknown <= FOR_NOTEBOOKS
    assert machines._allowed("n1-standard-5") is None


def test_accelerators_exist(texts: dict[Path, str]) -> None:
    known = {kind.name for kind in AcceleratorType}
    assert named(texts, ACCELERATOR) - WRONG - known == set()
    assert WRONG.isdisjoint(known)


def test_the_table_of_accelerators_is_what_vertex_accepts(texts: dict[Path, str]) -> None:
    text = next(text for path, text in texts.items() if path.name.startswith("06-"))
    rows = re.findall(r"^\| `(NVIDIA_\w+)` \|[^|]+\|([^|]+)\|([^|]+)\|$", text, re.MULTILINE)
    assert len(rows) == 5
    for gpu, types, counts in rows:
        numbers = tuple(int(number) for number in re.findall(r"\d+", counts))
        for machine in MACHINE.findall(types):
            allowed = machines._allowed(machine)
            assert allowed is not None and allowed[gpu] == numbers, (gpu, machine)


def test_images_are_on_the_list(texts: dict[Path, str]) -> None:
    names = {name.removesuffix(":latest") for name in named(texts, IMAGE)}
    assert names - set(images.AVAILABLE_UNTIL) == set()


def test_dates_of_the_image_list_agree(texts: dict[Path, str]) -> None:
    text = next(text for path, text in texts.items() if path.name.startswith("06-"))
    assert f"On Google's list of {images.LISTED}, PyTorch 2.4 is the newest" in text
    until = images.AVAILABLE_UNTIL["pytorch-gpu.2-4.py310"]
    assert f"its listed *end of availability* was {until}" in text


def test_functions_exist(texts: dict[Path, str]) -> None:
    for path, name in code_names(texts):
        if found := FUNCTION.match(name):
            first, *rest = found[1].rstrip(".").split(".")
            value: object = importlib.import_module(MODULES[first])
            for part in rest:
                assert hasattr(value, part), f"{path.name}: {name}"
                value = getattr(value, part)


def test_files_exist(texts: dict[Path, str], repo: Path) -> None:
    written = WRITTEN | {
        name for name in re.findall(r"`([\w.]+)`", (repo / "data/README.md").read_text())
    }
    tracked = {
        Path(line).name
        for line in subprocess.run(
            ["git", "ls-files"], cwd=repo, capture_output=True, text=True, check=True
        ).stdout.splitlines()
    }
    for path, name in code_names(texts):
        if FILE.match(name):
            near = (path.parent / name).exists() or (repo / name).exists()
            known = Path(name).name in written | tracked
            assert near or ("/" not in name and known) or known, f"{path.name}: {name}"


def options_of(repo: Path) -> set[str]:
    """Every option that the project's own programs define."""
    source = "".join(path.read_text() for path in (repo / "scripts").rglob("*.py"))
    defined = set(re.findall(r"[\"'](--[a-z][\w-]*)[\"'=]", source))
    trainer = [sys.executable, str(repo / "scripts" / "train_nn.py"), "--help"]  # composes some
    shown = subprocess.run(trainer, capture_output=True, text=True).stdout
    return defined | set(OPTION.findall(shown)) | set(options_below(cli.parser()))


def options_below(parser: argparse.ArgumentParser) -> Iterator[str]:
    """Yield the options of a parser and of its commands."""
    for action in parser._actions:
        yield from action.option_strings
        if isinstance(action, argparse._SubParsersAction):
            for command in action.choices.values():
                yield from options_below(command)


def test_options_exist(texts: dict[Path, str], repo: Path) -> None:
    known = options_of(repo)
    assert "--model_out" in known and "--no-such-option" not in known
    for path, name in code_names(texts):
        for option in [] if FOREIGN.match(name) else OPTION.findall(name):
            plain = option.replace("--no_", "--").replace("--no-", "--")
            found = {option, plain} & known or OF_OTHERS.match(option)
            assert found, f"{path.name}: {name}"


def anchors(text: str) -> set[str]:
    return {
        re.sub(r"\s", "-", title.strip())
        for title in re.findall(r"^#+ (.+)$", FENCE.sub("", text), re.MULTILINE)
    }


def test_links_lead_somewhere(texts: dict[Path, str]) -> None:
    for path, text in texts.items():
        for target in map("".join, LINK.findall(text)):
            if target.startswith("#"):
                github = {name.lower() for name in anchors(text)}
                assert target[1:] in anchors(text) | github, f"{path.name}: {target}"
            elif "://" in target:
                assert re.fullmatch(r"https://[\w.-]+\.[a-z]+(/[\w./%?=&:#~+-]*)?", target), target
            else:
                assert (path.parent / target.partition("#")[0]).exists(), f"{path.name}: {target}"


def test_pictures_have_a_text_for_those_who_do_not_see_them(texts: dict[Path, str]) -> None:
    for path, text in texts.items():
        for picture in re.findall(r"<img [^>]*>", text):
            assert re.search(r'alt="[^"]{40,}"', picture), f"{path.name}: {picture}"
        assert "![](" not in text, path.name


def test_no_address_is_a_placeholder(texts: dict[Path, str]) -> None:
    for path, text in texts.items():
        assert "OWNER/REPO" not in text, path.name  # such a link or command leads nowhere
