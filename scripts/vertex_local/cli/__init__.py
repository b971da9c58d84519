"""The `vertex-local` command, and what a person reads in the terminal.

May import everything. Each module with an `add_to` has some of the commands.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys

from vertex_local import config, imports
from vertex_local.cli import faults, notebooks, server
from vertex_local.cli.parsing import Command
from vertex_local.config import LocalModeError
from vertex_local.server import daemon
from vertex_local.server.lock import AlreadyServed

WRITING = (server.up, notebooks.run)  # only the owner may read the files that these write


def main(argv: list[str] | None = None) -> int:
    """Run the command; return its exit status.

    Args:
        argv: the arguments. None takes those of this process, which must then run nothing else.
    """
    if argv is None:
        imports.skip_clients()
    args = parser().parse_args(argv)
    if argv is None and args.command in WRITING:
        os.umask(0o077)
    command: Command = args.command
    try:
        status = command(config.find_root(), args)
        sys.stdout.flush()
        return status
    except BrokenPipeError:  # the reader of the output has closed it, as `head` does
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())  # discard the remaining output
        return 128 + signal.SIGPIPE
    except LocalModeError as err:
        print(f"vertex-local: {err}", file=sys.stderr)
        return daemon.ALREADY_SERVED if isinstance(err, AlreadyServed) else 1
    except KeyboardInterrupt:
        return 130


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    command = argparse.ArgumentParser(
        prog="vertex-local",
        description="Vertex AI training jobs and Cloud Storage on this machine. Everything is "
        "kept in one folder: VERTEX_LOCAL_ROOT, else .vertex-local in the clone.",
    )
    commands = command.add_subparsers(metavar="COMMAND", required=True)
    for module in (server, notebooks, faults):
        module.add_to(commands)
    return command
