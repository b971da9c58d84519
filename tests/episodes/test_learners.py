"""The episode in the hands of learners: exercises before and after, and the common mistakes.

One execution, by `workshop.py run`, serves all tests here. The notebook is the project's own, with
cells added where a learner would type: each exercise's solution and its check once more, the ways
around a refused image, and mistakes.
"""

from __future__ import annotations

import json
import platform
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import nbformat
import pytest
from clones import make_clone, run_lesson

from vertex_local.config import Root
from vertex_local.server import daemon

NAME = "06-Training-models-in-VertexAI-GPUs.ipynb"
CODE = re.compile(r"```python\n(.*?)```", re.DOTALL)
FOLDED = re.compile(r"<details><summary>(.*?)</summary>(.*?)</details>", re.DOTALL)

# Nothing below depends on these cells, and nbval executes them.
LEFT_OUT = ("second =", "history =", "runs.plot_times")

# Nothing in the episode depends on these cells, so what they show is checked here.
SHOWN = {
    "import io": rf"^\[OK\] Python {platform.python_version()}\n(\[OK\] \S+ \d\S*\n)+$",
    "BUCKET_NAME": r"'owner': 'doe'",
    "import matplotlib": r"^\*\*\* THIS MACHINE\. Free",
    "bucket = setup": r"^Created gs://doe-titanic\nUploaded .*\nProject: .* bucket: doe-titanic$",
    "for path in": r"eval_history.csv\n.*metrics.json\n.*model.pt\n.*training.log\ndevice +cpu",
    "print(costs.estimate": r"^About \$.* for 2\.0 min of 1 × n1-standard-4\n  and \$(.|\n)*"
    r"About \$.* for 2\.0 min of 1 × n1-standard-8 with 1 × NVIDIA_TESLA_T4\n  and \$",
    "IMAGE =": r"This run's folder: gs://doe-titanic/artifacts/pytorch/\d+-\d+\n"
    r"(.|\n)*About \$.* min of 1 × n1-standard-4\n",
    "runs.show(": r"eval_history.csv\n.*metrics.json\n.*model.pt\n.*training.log\n"
    r"Total: 0\.\d+ MB in 4 objects(.|\n)*epochs_run +1\d\d\n",
    "GPU_IMAGE =": r"(.|\n)*About \$.* min of 1 × n1-standard-8 with 1 × NVIDIA_TESLA_T4\n",
    "colleague_job =": r"exited with a non-zero status of 2\.\n",
    "archives =": r"^Deleted [1-9]\d* archives; the bucket now holds:\n(?!(.|\n)*vertex_staging)"
    r"(.|\n)*Total: \d\.\d+ MB",
}

UPLOAD = 'for name in ["train_data.npz"'

FOUR = ["eval_history.csv", "metrics.json", "model.pt", "training.log"]

Cells = list[nbformat.NotebookNode]

# Name of a mistake -> (text of the cell that it is made before, what is typed, what is shown).
SCRIPT = 'str(REPO / "scripts" / "train_nn.py")'
JOB = f"""aiplatform.CustomTrainingJob(
    display_name="mistake", script_path={SCRIPT}, container_uri={{image}}
)"""
FINE = "us-docker.pkg.dev/vertex-ai/training/pytorch-xla.2-4.py310:latest"
TYPED_WRONG = "us-docker.pkg.dev/vertex-ai/training/pytorch-xla.2-4:latest"
RUN = 'args=[*ARGS, f"--model_out={ARTIFACT_DIR}-mistake"], machine_type="n1-standard-8"'
MISTAKES = {
    "no staging bucket": (
        "import matplotlib",
        f"from google.cloud import aiplatform\n{JOB.format(image=repr(FINE))}",
        "staging_bucket should be set in TrainingJob constructor or set using aiplatform.init",
    ),
    "a bucket name that breaks the rules": (
        "csv =",
        'client.create_bucket("Doe Titanic")',
        "Invalid bucket name",
    ),
    "a bucket name that breaks the rules, where it is edited": (
        "BUCKET_NAME =",
        'setup.check_names("Doe_Titanic", "DOE")',
        "BUCKET_NAME = 'Doe_Titanic': use lowercase letters",
    ),
    "no last name": (
        "BUCKET_NAME =",
        'setup.check_names("doe-titanic", "")',
        "LAST_NAME = '': write your name",
    ),
    "a job object that runs twice": (
        "archives =",
        f"job.run({RUN})",
        "Custom Training has already run",
    ),
    "a bucket that does not exist": (
        "GPU_IMAGE =",
        'client.bucket("doe-titanik").blob("x").upload_from_string("x")',
        "The specified bucket does not exist",
    ),
    "a staging bucket that does not exist": (
        "GPU_IMAGE =",
        f"{JOB.format(image='IMAGE')[:-1]}, staging_bucket='gs://doe-titanik').run({RUN})",
        "The specified bucket does not exist",
    ),
    "an accelerator that does not fit": (
        "GPU_IMAGE =",
        f"{JOB.format(image='IMAGE')}.run("
        f"{RUN}, accelerator_type='NVIDIA_L4', accelerator_count=1)",
        'Accelerator "NVIDIA_L4" is not supported for machine type "n1-standard-8"',
    ),
    "an accelerator that does not exist": (
        "GPU_IMAGE =",
        f"{JOB.format(image='IMAGE')}.run("
        f"{RUN}, accelerator_type='NVIDIA_A100_40GB', accelerator_count=1)",
        "Given accelerator_type `NVIDIA_A100_40GB` invalid. Choose one of",
    ),
}


def starters(cells: Cells) -> Iterator[tuple[int, int, str]]:
    """Yield the places of each exercise's starter and check cell, and its solution."""
    for index, cell in enumerate(cells):
        if "exercise" in cell.metadata.get("tags", []):
            check = next(
                i for i in range(index, len(cells)) if "check" in cells[i].metadata.get("tags", [])
            )
            folded = [text for title, text in FOLDED.findall(cells[index - 1].source)]
            assert len(folded) == 1, f"no solution before {cell.source}"
            yield index, check, CODE.findall(folded[0])[0]


def code_cell(source: str, name: str, *tags: str) -> nbformat.NotebookNode:
    return nbformat.v4.new_code_cell(source, metadata={"tags": list(tags), "learner": name})


def with_learners(notebook: nbformat.NotebookNode, own_images: list[str]) -> nbformat.NotebookNode:
    """Return the notebook with cells for the solutions, the other images and the mistakes."""
    before: dict[int, Cells] = {}
    for number, (_, check, solution) in enumerate(starters(notebook.cells), start=1):
        notebook.cells[check].metadata["learner"] = f"starter {number}"
        before[check + 1] = [
            code_cell(solution, f"solution {number}"),
            code_cell(notebook.cells[check].source, f"solved {number}"),
        ]
    for index, cell in enumerate(notebook.cells):
        if cell.source.startswith("archives ="):
            before[index] = [code_cell(source, "own image") for source in own_images]
        for name, (place, source, _) in MISTAKES.items():
            if cell.cell_type == "code" and cell.source.startswith(place):
                mistake = code_cell(source, name, "raises-exception")
                before.setdefault(index, []).append(mistake)
    before[len(notebook.cells)] = [
        code_cell(
            "Path('hello.py').write_text('print(1)')\n"
            f"{JOB.format(image=repr(TYPED_WRONG)).replace(SCRIPT, repr('hello.py'))}.run()",
            "a typing error in the image",
        )
    ]
    cells: Cells = []
    for index in range(len(notebook.cells) + 1):
        cells += before.get(index, [])
        cells += notebook.cells[index : index + 1]
    cells = [cell for cell in cells if not cell.source.startswith(LEFT_OUT)]
    for cell in cells:
        for start in ("folder =", UPLOAD, *SHOWN):
            if cell.source.startswith(start):
                cell.metadata["learner"] = start
    return nbformat.v4.new_notebook(cells=cells, metadata=notebook.metadata)


@pytest.fixture(scope="module")
def episode(repo: Path) -> nbformat.NotebookNode:
    return nbformat.read(repo / "notebooks" / NAME, as_version=4)


@dataclass(frozen=True)
class Run:
    """`workshop.py run`: its root, the file that was in the way, and what it printed."""

    root: Root
    precious: Path
    printed: str


@pytest.fixture(scope="module")
def run(repo: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = tmp_path_factory.mktemp("learners")
    clone, root = make_clone(repo, folder / "clone"), Root(folder / "root")
    path = clone / "notebooks" / NAME
    notes = (repo / "notebooks" / "README.md").read_text()
    own_images = CODE.findall(notes.partition("## If the image is refused")[2])
    assert len(own_images) == 2
    nbformat.write(with_learners(nbformat.read(path, as_version=4), own_images), path)
    precious = root.buckets / "mine" / "thesis.txt"
    precious.parent.mkdir(parents=True)
    precious.write_text("precious")
    finished = run_lesson(clone, root.path)
    assert finished.returncode == 0, finished.stdout + finished.stderr
    return Run(root, precious, finished.stdout)


@pytest.fixture(scope="module")
def executed(run: Run) -> dict[str, str]:
    """What each learner's cell showed: its printed text, or its error's name and message."""
    notebook = nbformat.read(run.root.path / "executed" / NAME, as_version=4)
    return {
        cell.metadata["learner"]: "".join(shown(output) for output in cell.outputs)
        for cell in notebook.cells
        if "learner" in cell.metadata
    }


def shown(output: nbformat.NotebookNode) -> str:
    if output.output_type == "error":
        return f"{output.ename}: {output.evalue}\n"
    return str(output.get("text", ""))


def files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_the_run_shows_both_folders_and_leaves_no_server(run: Run) -> None:
    folders = sorted(run.root.buckets.glob("doe-titanic/artifacts/pytorch/*"))
    for folder, name in zip(folders, ("CPU", "GPU"), strict=True):
        assert files(folder) == FOUR
        metrics = json.loads((folder / "metrics.json").read_text())
        line = f"{name} job: validation accuracy {metrics['final_val_accuracy']:.4f}, ran on: "
        assert line + metrics["device"] in run.printed
        assert metrics["processes"] == 1  # the lesson rents one machine for each
        assert str(folder) in run.printed
    assert re.search(r"^Elapsed: \d+ s$", run.printed, re.MULTILINE)
    assert files(run.root.path / "executed") == [NAME.replace(".ipynb", ".html"), NAME]
    assert daemon.find(run.root) is None


def test_the_run_sets_aside_what_was_there(run: Run) -> None:
    kept = re.search(r"earlier sessions are kept in (\S+)", run.printed)
    assert kept is not None and not run.precious.exists()
    precious = Path(kept[1]) / run.precious.relative_to(run.root.path)
    assert precious.read_text() == "precious"


def test_there_are_six_exercises(episode: nbformat.NotebookNode) -> None:
    text = "\n".join(cell.source for cell in episode.cells if cell.cell_type == "markdown")
    numbers = re.findall(r"^### Exercise (\d): .* \(\d minutes?\)$", text, re.MULTILINE)
    assert [int(number) for number in numbers] == [1, 2, 3, 4, 5, 6]
    assert len(list(starters(episode.cells))) == 6


def test_a_starter_never_holds_its_solution(episode: nbformat.NotebookNode) -> None:
    for index, _, solution in starters(episode.cells):
        assert episode.cells[index].source.strip() != solution.strip()


def test_each_check_is_red_for_the_starter_and_green_for_the_solution(
    executed: dict[str, str], episode: nbformat.NotebookNode
) -> None:
    for number, _ in enumerate(starters(episode.cells), start=1):
        assert executed[f"starter {number}"].startswith("Not yet: "), number
        assert executed[f"solved {number}"].startswith("Correct: "), executed[f"solved {number}"]


@pytest.mark.parametrize("folder", ["own-image", "own-container"])
def test_both_ways_around_a_refused_image_leave_the_four_files(run: Run, folder: str) -> None:
    assert files(run.root.buckets / "doe-titanic" / "artifacts" / folder) == FOUR


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_meets_a_message_that_helps(executed: dict[str, str], mistake: str) -> None:
    assert MISTAKES[mistake][2] in executed[mistake]


def test_the_missing_file_is_named_in_the_log_and_not_before(executed: dict[str, str]) -> None:
    assert "data/validation_data.npz: no such bucket or object" in executed["folder ="]
    assert "validation" not in executed["colleague_job ="]


@pytest.mark.parametrize("cell", SHOWN)
def test_a_cell_on_which_nothing_depends_shows_what_it_should(
    executed: dict[str, str], cell: str
) -> None:
    assert re.search(SHOWN[cell], executed[cell]), executed[cell]


def test_the_list_of_the_bucket_adds_up(executed: dict[str, str]) -> None:
    *lines, total = executed[UPLOAD].splitlines()
    sizes = [int(line.split()[0].replace(",", "")) for line in lines]
    assert len(sizes) == 4  # the passengers, two files of arrays, the preprocessing
    assert total == f"Total: {sum(sizes) / 1e6:.3f} MB in {len(sizes)} objects"


def test_a_typing_error_in_the_image_is_shown_below_the_cell(executed: dict[str, str]) -> None:
    text = executed["a typing error in the image"]
    assert "warning of local mode: the image" in text
    assert "not on Google's list" in text
    assert "Did you mean pytorch-xla.2-4.py310:latest?" in text
