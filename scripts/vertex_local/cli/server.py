"""The commands that concern the server, its root and this machine: up, down, status, page, …"""

from __future__ import annotations

import argparse
import shlex
import shutil
from dataclasses import replace

from vertex_local.cli.parsing import Commands, add
from vertex_local.config import LocalModeError, Root
from vertex_local.server import daemon


def add_to(commands: Commands) -> None:
    """Add these commands to those of the parser."""
    starting = add(commands, "up", up)
    starting.add_argument(
        "--foreground", action="store_true", help="do not go into the background; print the log"
    )
    for service in ("api", "storage"):
        starting.add_argument(
            f"--{service}-port", type=int, default=0, help="TCP port (default: any free one)"
        )
    add(commands, "down", down)
    add(commands, "status", status)
    add(commands, "page", page)
    add(commands, "env", env)
    limiting = add(commands, "budget", budget)
    limiting.add_argument("usd", nargs="?", metavar="USD", help="US dollars, or `off`")
    limiting.add_argument(
        "--minutes", help="how long a job without a timeout is assumed to run (default: 10)"
    )
    resetting = add(commands, "reset", reset)
    resetting.add_argument("--yes", action="store_true", help="really delete")
    add(commands, "doctor", doctor)


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
        from vertex_local.cli.report import print_buckets, print_budget, print_jobs, print_searches

        print_buckets(root)
        print_searches(root)
        print_jobs(root)
        if root.budget.is_file():
            print_budget(root)
    return 0 if record else 3


def page(root: Root, _args: argparse.Namespace) -> int:
    """Print a link to the page with jobs and buckets; it works once."""
    record = daemon.find(root)
    if record is None:
        raise LocalModeError("Local mode is not running. Start it with `vertex-local up`.")
    print(daemon.page_link(record))
    return 0


def env(root: Root, _args: argparse.Namespace) -> int:
    """Print exports for a shell, with which its programs use local mode."""
    from vertex_local.kernel.clients import environment

    record = daemon.find(root)
    if record is None:
        raise LocalModeError("Local mode is not running. Start it with `vertex-local up`.")
    for name, value in environment(root, record).items():
        print(f"export {name}={shlex.quote(value)}")
    return 0


def budget(root: Root, args: argparse.Namespace) -> int:
    """Show, set or remove the limit for what all jobs of this root would cost on Vertex AI."""
    from vertex_local.cli.report import print_budget
    from vertex_local.training.budget import Budget

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


def reset(root: Root, args: argparse.Namespace) -> int:
    """Delete all buckets and jobs of this root, its faults, its budget and its secrets."""
    if not args.yes:
        raise LocalModeError(
            f"This deletes all buckets and jobs in {root.path}. Add --yes to do it."
        )
    daemon.stop(root)
    if root.buckets.is_dir():
        root.buckets.chmod(0o700)  # a server that was killed left it without write permission
    names = ("buckets", "uploads", "jobs", "server.json", "token", "key")
    kept = (root.database, root.metadata, root.faults, root.budget)
    patterns = [*names, *(f"{path.name}*" for path in kept)]
    for path in [each for name in patterns for each in root.path.glob(name)]:
        try:
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
        except OSError as err:
            raise LocalModeError(
                f"{err.filename} cannot be deleted ({err.strerror}). Other files may be deleted "
                "already. Correct this, then run this command again."
            ) from err
    print(f"Deleted all buckets and jobs in {root.path}.")
    return 0


def doctor(root: Root, _args: argparse.Namespace) -> int:
    """Check this machine and say what is wrong."""
    from vertex_local.cli.doctor import report

    return report(root)
