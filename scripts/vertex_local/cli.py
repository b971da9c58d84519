"""The `vertex-local` command."""

from __future__ import annotations

import argparse
import os
import shlex
import shutil
import signal
import sys
from collections.abc import Callable
from dataclasses import replace
from datetime import date
from pathlib import Path

from vertex_local import config, imports
from vertex_local.config import LocalModeError, Root
from vertex_local.faults import commands as fault_commands
from vertex_local.server import daemon
from vertex_local.server.lock import AlreadyServed


def main(argv: list[str] | None = None) -> int:
    """Run the command; return its exit status.

    Args:
        argv: the arguments; None if this process is the command, and no other program's.
    """
    if argv is None:
        imports.skip_clients()
    args = _parser().parse_args(argv)
    if argv is None and args.command in (up, run):
        os.umask(0o077)  # what these write into the root is for its owner only
    command: Callable[[Root, argparse.Namespace], int] = args.command
    try:
        status = command(config.find_root(), args)
        sys.stdout.flush()
        return status
    except BrokenPipeError:  # whoever reads the output has seen enough, as `head` does
        os.dup2(
            os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno()
        )  # discard the remaining output
        return 128 + signal.SIGPIPE
    except LocalModeError as err:
        print(f"vertex-local: {err}", file=sys.stderr)
        return daemon.ALREADY_SERVED if isinstance(err, AlreadyServed) else 1
    except KeyboardInterrupt:
        return 130


def up(root: Root, args: argparse.Namespace) -> int:
    """Start the server."""
    if args.foreground:
        from vertex_local.server.process import serve

        serve(root, args.api_port, args.storage_port)
        return 0
    record = daemon.start(root, args.api_port, args.storage_port)
    print(f"Local mode is running (process {record.pid}).")
    print(f"  training API   {record.api_url}")
    print(f"  Cloud Storage  {record.storage_address}")
    print(f"  files          {root.path}")
    print(f"  page           {daemon.page_link(record)} (works once)")
    return 0


def down(root: Root, _args: argparse.Namespace) -> int:
    """Stop the server."""
    print("Local mode has stopped." if daemon.stop(root) else "Local mode was not running.")
    return 0


def status(root: Root, _args: argparse.Namespace) -> int:
    """Show the server, the buckets, the searches and the jobs."""
    record = daemon.find(root)
    where = f"running (process {record.pid}, {record.api_url})" if record else "not running"
    print(f"Local mode for {root.path}: {where}")
    if record:
        print(f"Page (the link works once): {daemon.page_link(record)}")
    if root.database.exists():
        from vertex_local.report import print_buckets, print_budget, print_jobs, print_searches

        print_buckets(root)
        print_searches(root)
        print_jobs(root)
        if root.budget.is_file():
            print_budget(root)
    return 0 if record else 3


def budget(root: Root, args: argparse.Namespace) -> int:
    """Show, set or remove the limit for what all jobs of this root would cost on Vertex AI."""
    from vertex_local.budget import Budget
    from vertex_local.report import print_budget

    if args.usd == "off":
        root.budget.unlink(missing_ok=True)
    elif args.usd is not None or args.minutes is not None:
        now = Budget.read(root)
        if now is None and args.usd is None:
            raise LocalModeError("There is no budget yet: `vertex-local budget AMOUNT` sets one.")
        now = now or Budget(0)
        usd = now.usd if args.usd is None else Budget.amount(args.usd)
        minutes = now.minutes if args.minutes is None else Budget.amount(args.minutes)
        replace(now, usd=usd, minutes=minutes).write(root)
    print_budget(root)
    return 0


def page(root: Root, _args: argparse.Namespace) -> int:
    """Print a link to the page with jobs and buckets; it works once."""
    record = daemon.find(root)
    if record is None:
        raise LocalModeError("Local mode is not running. Start it with `vertex-local up`.")
    print(daemon.page_link(record))
    return 0


def env(root: Root, _args: argparse.Namespace) -> int:
    """Print the exports that point a shell's programs at local mode."""
    from vertex_local.kernel.clients import environment

    record = daemon.find(root)
    if record is None:
        raise LocalModeError("Local mode is not running. Start it with `vertex-local up`.")
    for name, value in environment(root, record).items():
        print(f"export {name}={shlex.quote(value)}")
    return 0


def run(root: Root, args: argparse.Namespace) -> int:
    """Execute notebooks in local mode."""
    from vertex_local.notebooks import checking, files, stamp

    notebooks = [(files.read(path), path) for path in args.notebooks]
    with daemon.running(root):
        for content, path in notebooks:
            print(f"Executed copy: {checking.execute(content, path, args.output)}")
            if args.stamp:
                stamp.write(path, date.today())
    return 0


def promise(_root: Root, args: argparse.Namespace) -> int:
    """Compare what notebooks promise with what they show; with --yes, store that."""
    from vertex_local.notebooks.refresh import refresh

    return 0 if all([refresh(path.absolute(), args.yes) for path in args.notebooks]) else 1


def tidy(_root: Root, args: argparse.Namespace) -> int:
    """Take out of notebooks what is not to be committed: outputs, but for promised ones."""
    from vertex_local.notebooks.tidy import tidy

    return 0 if all([tidy(path, not args.check) for path in args.notebooks]) else 1


def kernel_install(_root: Root, args: argparse.Namespace) -> int:
    """Install the Jupyter kernel."""
    from vertex_local.kernel.spec import install

    print(f"Installed the kernel in {install(args.prefix)}")
    return 0


def reset(root: Root, args: argparse.Namespace) -> int:
    """Delete all buckets and jobs of this root, and make its secrets worthless."""
    if not args.yes:
        raise LocalModeError(
            f"This deletes all buckets and jobs in {root.path}. Add --yes to do it."
        )
    daemon.stop(root)
    names = ("buckets", "uploads", "jobs", "server.json", "token", "key")
    kept = (root.database, root.metadata, root.faults, root.budget)
    patterns = [*names, *(f"{path.name}*" for path in kept)]
    for path in [each for name in patterns for each in root.path.glob(name)]:
        try:  # whatever stands there
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
        except OSError as err:
            raise LocalModeError(
                f"{err.filename} cannot be deleted ({err.strerror}). What is there is perhaps "
                "deleted by half: put that right, then run this command again."
            ) from err
    print(f"Deleted all buckets and jobs in {root.path}.")
    return 0


def doctor(root: Root, _args: argparse.Namespace) -> int:
    """Check this machine and say what is wrong."""
    from vertex_local.doctor import report

    return report(root)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="vertex-local",
        description="Vertex AI training jobs and Cloud Storage on this machine. Everything is "
        "kept in one folder: VERTEX_LOCAL_ROOT, else .vertex-local in the clone.",
    )
    commands = parser.add_subparsers(metavar="COMMAND", required=True)

    def add(
        name: str, command: Callable[[Root, argparse.Namespace], int]
    ) -> argparse.ArgumentParser:
        added = commands.add_parser(name, help=command.__doc__, description=command.__doc__)
        added.set_defaults(command=command)
        return added

    starting = add("up", up)
    starting.add_argument("--foreground", action="store_true", help="stay, and print the log")
    for service in ("api", "storage"):
        starting.add_argument(
            f"--{service}-port", type=int, default=0, help="TCP port (default: any free one)"
        )
    add("down", down)
    add("status", status)
    add("page", page)
    add("env", env)
    running = add("run", run)
    running.add_argument("notebooks", nargs="+", type=Path, metavar="NOTEBOOK")
    running.add_argument(
        "--output",
        type=Path,
        default=config.find_root().path / "executed",
        help="folder for the executed notebook and its HTML copy (default: %(default)s)",
    )
    running.add_argument(
        "--stamp",
        action="store_true",
        help="if every cell works, say so in the notebook itself, with date and versions",
    )
    promising = add("promise", promise)
    promising.add_argument("notebooks", nargs="+", type=Path, metavar="NOTEBOOK")
    promising.add_argument("--yes", action="store_true", help="store what differs")
    tidying = add("tidy", tidy)
    tidying.add_argument("notebooks", nargs="+", type=Path, metavar="NOTEBOOK")
    tidying.add_argument("--check", action="store_true", help="only look; change nothing")
    kernels = commands.add_parser("kernel", help="the Jupyter kernel").add_subparsers(
        metavar="COMMAND", required=True
    )
    installing = kernels.add_parser("install", help=kernel_install.__doc__)
    installing.add_argument(
        "--prefix", default=sys.prefix, help="where Jupyter looks (default: %(default)s)"
    )
    installing.set_defaults(command=kernel_install)
    fault_commands.add_parser(commands)
    limiting = add("budget", budget)
    limiting.add_argument("usd", nargs="?", metavar="USD", help="US dollars, or `off`")
    limiting.add_argument(
        "--minutes", help="how long a job without a timeout is assumed to run (default: 10)"
    )
    resetting = add("reset", reset)
    resetting.add_argument("--yes", action="store_true", help="really delete")
    add("doctor", doctor)
    return parser
