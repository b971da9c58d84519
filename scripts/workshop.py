"""The workshop from one command: run | test | lab | doctor | rehearse.

Needs nothing but Python 3.10 or newer with pip. The first call makes a virtual environment in
`.venv` and installs the versions that the lesson was tested with; later calls find it ready.

    python3 scripts/workshop.py run      execute the episode in local mode, show what it made
    python3 scripts/workshop.py test     run every test, the notebooks included
    python3 scripts/workshop.py lab      open the episode in JupyterLab, in local mode
    python3 scripts/workshop.py doctor   check this machine
    python3 scripts/workshop.py rehearse --project P --bucket B --region R
                                         check whether the lesson would run on Google Cloud; with
                                         --yes also run it there, which costs money
"""

import sys

if sys.version_info < (3, 10):  # before any syntax that an older Python does not know
    sys.exit(
        "workshop.py: Python 3.10 or newer is needed, and this is Python %d.%d. Install a newer "
        "one, then run `python3.11 scripts/workshop.py …`, for example." % sys.version_info[:2]
    )

import argparse
import hashlib
import html
import json
import os
import shutil
import signal
import subprocess
import tempfile
import time
import urllib.request
import webbrowser
from datetime import datetime
from pathlib import Path

REPO = Path(__file__).resolve().parents[1]
VENV = REPO / ".venv"
PYTHON = str(VENV / "bin" / "python")
STAMP = VENV / "installed-for"
# pip with only those of the user's settings by which it reaches packages
PIP = REPO / "scripts" / "vertex_local" / "jobs" / "packages" / "pip_settings.py"
PINS = REPO / "scripts" / "tested-versions.txt"
EPISODE = REPO / "notebooks" / "06-Training-models-in-VertexAI-GPUs.ipynb"
ROOT = Path(os.environ.get("VERTEX_LOCAL_ROOT") or REPO / ".vertex-local").absolute()
ARTIFACTS = ["eval_history.csv", "metrics.json", "model.pt", "training.log"]
JUPYTER_SECONDS = 60
LAB_SETTINGS = VENV / "share" / "jupyter" / "lab" / "settings" / "overrides.json"
# Kernels for the Jupyter of `lab` only, in which `python3` is the kernel of local mode.
LAB_PATH = VENV / "share" / "workshop-lab"
# Else JupyterLab asks about news on top of the lesson, and looks for updates on the internet.
NOTICES = "@jupyterlab/apputils-extension:notification"
QUIET_LAB = {NOTICES: {"fetchNews": "false", "checkForUpdates": False}}


class WorkshopError(Exception):
    """Something the user can correct; the message says what is wrong and what to do."""


def main(argv: list[str] | None = None) -> int:
    """Run one command; return its exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    commands.add_parser("run", help="execute the episode in local mode")
    commands.add_parser("test", help="run every test; further arguments go to pytest")
    lab_parser = commands.add_parser("lab", help="open the episode in JupyterLab, in local mode")
    lab_parser.add_argument("--no-browser", action="store_true", help="print the address only")
    commands.add_parser("doctor", help="check this machine")
    commands.add_parser("rehearse", add_help=False, help="try the lesson on Google Cloud")
    args, rest = parser.parse_known_args(argv)
    if rest and args.command not in ("test", "rehearse"):
        parser.error(f"unknown arguments: {' '.join(rest)}")
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # clean up as for Ctrl-C
    try:
        if os.name != "posix":
            raise WorkshopError("local mode needs Linux or macOS. On Windows, use WSL.")
        if args.command == "run":
            return run()
        if args.command == "test":
            return test(rest)
        if args.command == "lab":
            return lab(browser=not args.no_browser)
        if args.command == "rehearse":
            return rehearse(rest)
        return doctor()
    except WorkshopError as err:
        print(f"workshop.py: {err}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


def run() -> int:
    """Execute the episode in local mode on a clean root, then show the runs' folders."""
    started = time.monotonic()
    install()
    set_root_aside()
    print(f"Executing {EPISODE.name} in local mode:", flush=True)
    if vertex_local("run", str(EPISODE)) != 0:
        return 1
    show_runs()
    print(f"\nElapsed: {time.monotonic() - started:.0f} s")
    return 0


def test(pytest_arguments: list[str]) -> int:
    """Run every test, the notebooks under nbval included."""
    install()
    return subprocess.call([PYTHON, "-m", "pytest", *pytest_arguments], cwd=REPO)


def lab(browser: bool) -> int:
    """Open the episode in JupyterLab, in which every notebook runs in local mode."""
    install()
    was_running = is_running()
    # If the kernel started the server, a Ctrl-C at that moment would leave it running.
    if not was_running and vertex_local("up"):
        return 1
    LAB_SETTINGS.parent.mkdir(parents=True, exist_ok=True)
    LAB_SETTINGS.write_text(json.dumps(QUIET_LAB))
    install_lab_kernel()
    paths = [str(LAB_PATH), *filter(None, [os.environ.get("JUPYTER_PATH")])]
    runtime = Path(tempfile.mkdtemp(prefix="jupyter-", dir=ROOT))  # only this user can read it
    jupyter = subprocess.Popen(
        [PYTHON, "-m", "jupyterlab", "--no-browser", "--ServerApp.log_level=ERROR"]
        + ["--ServerApp.port=0", "--ServerApp.no_browser_open_file=True"]
        + [f"--ServerApp.root_dir={REPO}"]
        + (["--allow-root"] if os.geteuid() == 0 else []),
        env={
            **os.environ,
            "JUPYTER_PATH": os.pathsep.join(paths),
            "JUPYTER_RUNTIME_DIR": str(runtime),
        },
    )
    try:
        path = str(EPISODE.relative_to(REPO))
        address, token = jupyter_address(runtime, jupyter)
        open_session(address, token, path, jupyter)
        page = f"{address}/lab/tree/{path}?token={token}"
        print(f"JupyterLab: {page}\nJobs and buckets, a link that works once:", flush=True)
        vertex_local("page")
        print("Stop it with Ctrl-C.", flush=True)
        if browser:
            webbrowser.open(redirect_file(runtime, page).as_uri())
        return jupyter.wait()
    except KeyboardInterrupt:
        return 0
    finally:
        jupyter.terminate()
        jupyter.wait()
        shutil.rmtree(runtime, ignore_errors=True)
        if not was_running:
            vertex_local("down")


def rehearse(arguments: list[str]) -> int:
    """Check whether the lesson would run on Google Cloud; with `--yes`, also run it there."""
    install()
    return subprocess.call(
        [PYTHON, str(REPO / "scripts" / "maintainers" / "rehearse.py"), *arguments], cwd=REPO
    )


def doctor() -> int:
    """Check this machine, one line per finding."""
    if not is_installed():
        print(f"[FAIL] {VENV} is not ready. Run `python3 scripts/workshop.py run`.")
        return 1
    print(f"[OK]   virtual environment {VENV}", flush=True)
    return vertex_local("doctor")


# --- Installation -------------------------------------------------------------------------------


def install() -> None:
    """Make `.venv` with the tested versions and the kernel, unless that is done already."""
    if is_installed():
        return
    print(f"Installing the lesson's packages in {VENV} (some minutes, once) …", flush=True)
    STAMP.unlink(missing_ok=True)
    step(
        [sys.executable, "-m", "venv", "--clear", str(VENV)],
        "the virtual environment cannot be made. On Debian and Ubuntu, `sudo apt install "
        "python3-venv` may be missing",
    )
    pip = [PYTHON, str(PIP), "install", "--quiet"]
    step(
        [*pip, "--constraint", str(PINS), "--editable", f"{REPO}[test]"],
        "pip could not install the packages; its last lines above say why. Check the network "
        "and the free disk space, then run this command again",
    )
    step([PYTHON, "-m", "vertex_local", "kernel", "install"], "the kernel cannot be installed")
    STAMP.write_text(fingerprint())


def is_installed() -> bool:
    """Return whether `.venv` is complete and was made from the present lists of packages."""
    return Path(PYTHON).exists() and STAMP.is_file() and STAMP.read_text() == fingerprint()


def fingerprint() -> str:
    """Return a checksum of everything that the content of `.venv` depends on."""
    parts = [(REPO / "pyproject.toml").read_bytes(), PINS.read_bytes(), str(REPO).encode()]
    return hashlib.sha256(b"\0".join(parts)).hexdigest()


def step(command: "list[str]", problem: str) -> None:
    """Run one command of the installation; raise WorkshopError with `problem` if it fails."""
    if subprocess.call(command, cwd=REPO) != 0:
        raise WorkshopError(f"{problem}.")


# --- Local mode ---------------------------------------------------------------------------------


def vertex_local(*arguments: str) -> int:
    """Run the `vertex-local` command of the virtual environment; return its exit status."""
    return subprocess.call([PYTHON, "-m", "vertex_local", *arguments], cwd=REPO)


def is_running() -> bool:
    """Return whether a local-mode server answers for this root."""
    command = [PYTHON, "-m", "vertex_local", "status"]
    return subprocess.call(command, cwd=REPO, stdout=subprocess.DEVNULL) == 0


def set_root_aside() -> None:
    """Rename an existing root, so that the run starts with an empty one."""
    if not ROOT.exists():
        return
    if is_running():
        raise WorkshopError(
            f"local mode is running for {ROOT}; a notebook may be using it. Stop it with "
            f"`{VENV / 'bin' / 'vertex-local'} down`, then run this command again."
        )
    kept = ROOT.with_name(f"{ROOT.name}-until-{datetime.now():%Y%m%d-%H%M%S}")
    try:
        ROOT.rename(kept)
    except OSError as err:
        raise WorkshopError(f"{ROOT} cannot be set aside as {kept.name} ({err.strerror}).") from err
    print(f"The buckets and jobs of earlier sessions are kept in {kept}")


def show_runs() -> None:
    """Print the folders and files of the CPU run and the GPU run.

    Raises:
        WorkshopError: if there are other folders or files than these two runs should have.
    """
    folders = sorted(ROOT.glob("buckets/*/artifacts/pytorch/*"))
    if len(folders) != 2:
        raise WorkshopError(f"expected two run folders below {ROOT / 'buckets'}, found {folders}.")
    for name, folder in zip(("CPU", "GPU"), folders, strict=True):
        files = sorted(path for path in folder.rglob("*") if path.is_file())
        if [str(path.relative_to(folder)) for path in files] != ARTIFACTS:
            raise WorkshopError(f"expected {ARTIFACTS} in {folder}, found {files}.")
        metrics = json.loads((folder / "metrics.json").read_text())
        accuracy, device = metrics["final_val_accuracy"], metrics["device"]
        print(f"\n{name} job: validation accuracy {accuracy:.4f}, ran on: {device}")
        print(f"  gs://{folder.relative_to(ROOT / 'buckets')}/  =  {folder}")
        for path in files:
            print(f"  {path.stat().st_size:>8,} bytes  {path.name}")


# --- JupyterLab ---------------------------------------------------------------------------------


def install_lab_kernel() -> None:
    """Make local mode's kernel the kernel `python3`, for the Jupyter of `lab` alone.

    The notebooks name `python3`, as in Workbench, and keep that name when they are saved.
    """
    installed = VENV / "share" / "jupyter" / "kernels" / "vertex-local"
    shutil.copytree(installed, LAB_PATH / "kernels" / "python3", dirs_exist_ok=True)


def jupyter_address(runtime: Path, jupyter: "subprocess.Popen[bytes]") -> "tuple[str, str]":
    """Return JupyterLab's address, and the token that it has chosen.

    It writes both into a file that only its owner may read. If we passed it a token on the command
    line, every user of the machine could read that, and open a terminal with it.
    """
    file = runtime / f"jpserver-{jupyter.pid}.json"
    deadline = time.monotonic() + JUPYTER_SECONDS
    while True:
        try:
            server = json.loads(file.read_text())
            return f"http://127.0.0.1:{server['port']}", str(server["token"])
        except (OSError, ValueError) as err:  # not yet there, or not yet complete
            if jupyter.poll() is not None or time.monotonic() > deadline:
                raise WorkshopError("JupyterLab does not start; its own lines say why.") from err
            time.sleep(0.1)


def redirect_file(folder: Path, page: str) -> Path:
    """Write a file that opens `page`, and return its path.

    The browser gets this path, because other users can read its command line.
    """
    path = folder / "open.html"
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(f'<meta http-equiv="refresh" content="0; url={html.escape(page)}">\n')
    return path


def open_session(address: str, token: str, path: str, jupyter: "subprocess.Popen[bytes]") -> None:
    """Start the kernel of a notebook, so that its first cell need not wait."""
    session = {"path": path, "name": path, "type": "notebook", "kernel": {"name": "python3"}}
    request = urllib.request.Request(
        f"{address}/api/sessions",
        data=json.dumps(session).encode(),
        headers={"Authorization": f"token {token}", "Content-Type": "application/json"},
    )
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # without a proxy
    deadline = time.monotonic() + JUPYTER_SECONDS
    while True:
        try:
            direct.open(f"{address}/api", timeout=JUPYTER_SECONDS).close()  # send no token yet
            if jupyter.poll() is not None:  # another program answers on its port
                raise WorkshopError("JupyterLab does not start; its own lines say why.")
            with direct.open(request, timeout=JUPYTER_SECONDS):
                return
        except OSError as err:
            if jupyter.poll() is not None or time.monotonic() > deadline:
                raise WorkshopError(f"JupyterLab does not start ({err}).") from err
            time.sleep(0.2)


if __name__ == "__main__":
    sys.exit(main())
