"""Commands on notebooks: run, promise, tidy, and the kernel in which Jupyter runs them."""

from __future__ import annotations

import argparse
import sys
from datetime import date
from pathlib import Path

from vertex_local import config
from vertex_local.cli.parsing import Commands, add
from vertex_local.config import Root
from vertex_local.server import daemon


def add_to(commands: Commands) -> None:
    """Add these commands to those of the parser."""
    running = add(commands, "run", run)
    running.add_argument(
        "--output",
        type=Path,
        default=config.find_root().path / "executed",
        help="folder for the executed notebook and its HTML copy (default: %(default)s)",
    )
    running.add_argument(
        "--stamp",
        action="store_true",
        help="if every cell works, write that into the notebook itself, with date and versions",
    )
    promising = add(commands, "promise", promise)
    promising.add_argument("--yes", action="store_true", help="store the new outputs")
    tidying = add(commands, "tidy", tidy)
    tidying.add_argument(
        "--check", action="store_true", help="change nothing, only tell which are not tidy"
    )
    for each in (running, promising, tidying):
        each.add_argument("notebooks", nargs="+", type=Path, metavar="NOTEBOOK")
    kernels = commands.add_parser("kernel", help="the Jupyter kernel").add_subparsers(
        metavar="COMMAND", required=True
    )
    installing = add(kernels, "install", kernel_install)
    installing.add_argument(
        "--prefix", default=sys.prefix, help="folder of a Python environment (default: %(default)s)"
    )


def run(root: Root, args: argparse.Namespace) -> int:
    """Execute notebooks in local mode."""
    from vertex_local.notebooks import checking, files
    from vertex_local.notebooks.promises import stamp

    notebooks = [(files.read(path), path) for path in args.notebooks]
    with daemon.running(root):
        for content, path in notebooks:
            print(f"Executed copy: {checking.execute(content, path, args.output)}")
            if args.stamp:
                stamp.write(path, date.today())
    return 0


def promise(_root: Root, args: argparse.Namespace) -> int:
    """Execute notebooks, and compare the promised outputs with the new ones."""
    from vertex_local.notebooks.promises.refresh import refresh

    return 0 if all([refresh(path.absolute(), args.yes) for path in args.notebooks]) else 1


def tidy(_root: Root, args: argparse.Namespace) -> int:
    """Prepare notebooks for a commit: remove outputs, except promised ones, and run times."""
    from vertex_local.notebooks.promises.tidy import tidy

    return 0 if all([tidy(path, not args.check) for path in args.notebooks]) else 1


def kernel_install(_root: Root, args: argparse.Namespace) -> int:
    """Install the Jupyter kernel."""
    from vertex_local.kernel.spec import install

    print(f"Installed the kernel in {install(args.prefix)}")
    return 0
