"""The kernel's process, and what it does before the first cell and around each.

Choosing this kernel is the only switch between Google Cloud and local mode.
"""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

from vertex_local import config, secret
from vertex_local.config import LocalModeError, Root
from vertex_local.jobs import log, starter
from vertex_local.kernel import pages
from vertex_local.kernel.clients import configure_clients
from vertex_local.server import daemon
from vertex_local.storage import mount


def main() -> None:
    """Run the kernel: start local mode if it is not running, set up the clients, then serve."""
    root = config.find_root()
    start_again_with_gcs(root)
    kernel = starter.this_kernel()
    from ipykernel.kernelapp import IPKernelApp

    app = IPKernelApp.instance()
    app.initialize()  # before the SDK is imported: its logger keeps the stdout that it finds
    keep_secrets(app.session)
    # Shell cells: `python` is the Python of this kernel, as it is on Workbench.
    os.environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    try:
        configure_clients(root, daemon.ensure(root), kernel)
    except LocalModeError as err:
        refuse_cells(app.shell, str(err))
    else:
        app.shell.events.register("pre_run_cell", lambda _info: revive(root, kernel))
        pages.install(root)
        warnings = JobWarnings(root, kernel)
        app.shell.events.register("post_run_cell", lambda _result: warnings.show())
    app.start()


def start_again_with_gcs(root: Root) -> None:
    """Replace this process by the same kernel with `/gcs`, if it has none and can have one.

    Call this first: threads and open files of this process end here.
    """
    with suppress(LocalModeError):  # each cell reports it later
        root.create()
        if launcher := mount.prefix(root.buckets):
            kernel = [sys.executable, "-m", "vertex_local.kernel", *sys.argv[1:]]
            os.execv(launcher[0], [*launcher, *kernel])


def keep_secrets(session: Any) -> None:
    """Hide secrets in every message of the kernel: errors of Google's clients contain URLs."""
    pack = session.pack
    session.pack = lambda message: secret.hide_in(pack(message))


def revive(root: Root, kernel: str) -> None:
    """Start the server again if it was stopped or killed since the last cell, and say so."""
    if daemon.find(root) is None:
        configure_clients(root, daemon.ensure(root), kernel)
        print("Local mode's server had stopped and was started again. Buckets and jobs are kept.")


class JobWarnings:
    """Shows a job's warnings, such as that of an old image, in the notebook that started it.

    Args:
        root: local mode's folder.
        kernel: the name of this notebook's kernel, see `jobs.starter`.
    """

    def __init__(self, root: Root, kernel: str) -> None:
        self._root, self._kernel = root, kernel
        self._others = set(self._folders())  # not of this notebook, or with no more warnings
        self._shown: dict[Path, int] = {}  # how many warnings of a job were shown

    def _folders(self) -> list[Path]:
        return sorted(self._root.jobs.iterdir()) if self._root.jobs.is_dir() else []

    def show(self) -> None:
        """Print the warnings that came since the last call.

        The trials of a search all have the same, which is printed once.
        """
        texts: dict[str, None] = {}
        for folder in [each for each in self._folders() if each not in self._others]:
            lines = [line.text for line in log.service_lines(folder)]
            if starter.of(folder) != self._kernel:
                if lines:  # a job's kernel is noted before its first line
                    self._others.add(folder)
                continue
            warnings = [text for text in lines if text.startswith(log.WARNING)]
            texts |= dict.fromkeys(warnings[self._shown.get(folder, 0) :])
            self._shown[folder] = len(warnings)
            if log.RUNNING in lines:  # a job warns before that
                self._others.add(folder)
        for text in texts:
            print(text)


def refuse_cells(shell: Any, reason: str) -> None:
    """Make every cell fail with `reason`: without local mode, none may reach a real account."""
    statement = f"raise RuntimeError({f'Local mode is not available. {reason}'!r})\n"
    shell.input_transformers_cleanup.append(lambda _lines: [statement])


if __name__ == "__main__":
    main()
