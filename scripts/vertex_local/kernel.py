"""The Jupyter kernel `vertex-local`, and what it does before the first cell: set up the clients.

Choosing this kernel is the only switch between Google Cloud and local mode. It uses the clients'
public doors only; no code of Google's is changed.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from contextlib import suppress
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from types import ModuleType
from typing import Any

from vertex_local import config, daemon, mount
from vertex_local.config import LocalModeError, Root, ServerRecord
from vertex_local.jobs import joblog

NAME = "vertex-local"
SDK = "google.cloud.aiplatform"
DISPLAY_NAME = "Python 3 (Vertex AI local mode)"


def environment(root: Root, record: ServerRecord) -> dict[str, str]:
    """Return the environment variables that point clients at local mode."""
    return (
        config.without_account(root)
        | config.past_proxies()
        | config.shell_tools(root, record.storage_url)
        | {
            "STORAGE_EMULATOR_HOST": record.storage_url,
            "GOOGLE_CLOUD_PROJECT": config.PROJECT,
            "GOOGLE_CLOUD_REGION": config.DEFAULT_REGION,
            "CLOUDSDK_AI_REGION": config.DEFAULT_REGION,
            "CLOUDSDK_API_ENDPOINT_OVERRIDES_AIPLATFORM": f"{record.api_url}/",
            "CLOUDSDK_API_ENDPOINT_OVERRIDES_LOGGING": f"{record.api_url}/",
            # The storage client would ask for bucket metadata that only Cloud Trace needs.
            "DISABLE_GCS_PYTHON_CLIENT_OTEL_BUCKET_METADATA": "1",
            "VERTEX_LOCAL_API": record.api_url,
            "VERTEX_LOCAL_TOKEN": record.token,
            mount.BUCKETS: str(root.buckets),
        }
    )


def configure_clients(root: Root, record: ServerRecord) -> None:
    """Point this process's Google clients at local mode.

    A later `aiplatform.init(project=…, location=…, staging_bucket=…)` keeps what is set here.
    """
    os.environ.update(environment(root, record))
    if SDK in sys.modules:
        init_sdk(sys.modules[SDK])
    elif not any(isinstance(finder, SdkFinder) for finder in sys.meta_path):
        sys.meta_path.insert(0, SdkFinder())


def init_sdk(aiplatform: Any) -> None:
    """Tell the SDK what it does not read from the environment."""
    from google.oauth2.credentials import Credentials

    aiplatform.init(
        project=config.PROJECT,
        location=config.DEFAULT_REGION,
        api_endpoint=os.environ["VERTEX_LOCAL_API"],
        api_transport="rest",
        credentials=Credentials(token=os.environ["VERTEX_LOCAL_TOKEN"]),
    )


class SdkFinder(MetaPathFinder):
    """Finds the SDK where it is, and has it set up as the last step of its import.

    To import it takes seconds, and a notebook that does without it need not wait for them. It
    stays in `sys.meta_path`: an import that was interrupted is done again.
    """

    def find_spec(self, name: str, path: Any, target: Any = None) -> ModuleSpec | None:
        spec = PathFinder.find_spec(name, path, target) if name == SDK else None
        if spec and spec.loader:
            execute = spec.loader.exec_module

            def execute_and_init(module: ModuleType) -> None:
                execute(module)
                init_sdk(module)

            spec.loader.exec_module = execute_and_init  # type: ignore[method-assign]
        return spec


def spec() -> dict[str, Any]:
    """Return the kernel specification for this Python."""
    return {
        "argv": [sys.executable, "-m", "vertex_local.kernel", "-f", "{connection_file}"],
        "display_name": DISPLAY_NAME,
        "language": "python",
        "metadata": {"debugger": True},
    }


def write_spec(folder: Path) -> None:
    """Write `kernel.json` into `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "kernel.json").write_text(json.dumps(spec(), indent=1) + "\n")


def install(prefix: str) -> str:
    """Install the kernel specification below `prefix`; return the folder.

    Raises:
        LocalModeError: if that folder cannot be written.
    """
    from jupyter_client.kernelspec import KernelSpecManager

    with tempfile.TemporaryDirectory() as folder:
        write_spec(Path(folder))
        try:
            path: str = KernelSpecManager().install_kernel_spec(folder, NAME, prefix=prefix)
        except OSError as err:
            raise LocalModeError(
                f"The kernel cannot be installed below {prefix} ({err.strerror}). Use a virtual "
                "environment of your own, or `vertex-local kernel install --prefix FOLDER`."
            ) from err
    return path


def main() -> None:
    """Run the kernel: start local mode if it is not running, set up the clients, then serve."""
    root = config.find_root()
    start_again_with_gcs(root)
    from ipykernel.kernelapp import IPKernelApp

    app = IPKernelApp.instance()
    app.initialize()  # before the SDK is imported: its logger takes hold of the stdout of then
    # Shell cells: `python` is the Python of this kernel, as it is on Workbench.
    os.environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    try:
        configure_clients(root, daemon.ensure(root))
    except LocalModeError as err:
        refuse_cells(app.shell, str(err))
    else:
        app.shell.events.register("pre_run_cell", lambda _info: revive(root))
        warnings = JobWarnings(root)
        app.shell.events.register("post_run_cell", lambda _result: warnings.show())
    app.start()


def start_again_with_gcs(root: Root) -> None:
    """Become the same kernel in a `/` that has `/gcs`, if there is none and the machine allows it.

    Before anything else: later, threads and open files of the old `/` would be in the way.
    """
    with suppress(LocalModeError):  # said in each cell later
        root.create()
        if words := mount.prefix(root.buckets):
            kernel = [sys.executable, "-m", "vertex_local.kernel", *sys.argv[1:]]
            os.execv(words[0], [*words, *kernel])


def revive(root: Root) -> None:
    """Start the server again if it was stopped or killed since the last cell, and say so."""
    if daemon.find(root) is None:
        configure_clients(root, daemon.ensure(root))
        print("Local mode's server had stopped and was started again. Buckets and jobs are kept.")


class JobWarnings:
    """Shows what local mode warns of, such as an old image, below the cell that started the job."""

    def __init__(self, root: Root) -> None:
        self._jobs = root.jobs
        self._seen = set(self._folders())

    def _folders(self) -> list[Path]:
        return sorted(self._jobs.iterdir()) if self._jobs.is_dir() else []

    def show(self) -> None:
        """Print the warnings of jobs that were started since the last call."""
        for folder in self._folders():
            said = [] if folder in self._seen else [line.text for line in joblog.said(folder)]
            if joblog.RUNNING in said:  # warnings come before that
                self._seen.add(folder)
                for text in said:
                    if text.startswith(joblog.WARNING):
                        print(text)


def refuse_cells(shell: Any, reason: str) -> None:
    """Let every cell fail with `reason`: without local mode, none may reach a real account."""
    statement = f"raise RuntimeError({f'Local mode is not available. {reason}'!r})\n"
    shell.input_transformers_cleanup.append(lambda _lines: [statement])


if __name__ == "__main__":
    main()
