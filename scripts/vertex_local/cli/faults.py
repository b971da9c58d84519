"""The command `vertex-local fault`: add, list and clear faults of a root."""

from __future__ import annotations

import argparse

from vertex_local.cli import parsing
from vertex_local.cli.parsing import Commands
from vertex_local.config import Root
from vertex_local.faults.kinds import KINDS
from vertex_local.faults.store import Fault, Faults


def add(root: Root, args: argparse.Namespace) -> int:
    """Add a fault: it happens until it is cleared, or as often or as long as its options say."""
    names = [option.name for option in KINDS[args.kind].options]
    given = {name: value for name in names if (value := getattr(args, name)) is not None}
    print(f"Added fault {describe(Faults(root).add(args.kind, given))}")
    return 0


def list_faults(root: Root, _args: argparse.Namespace) -> int:
    """Show the faults of this root, and how often each has happened."""
    faults = Faults(root).all()
    print("\n".join(map(describe, faults)) or "There are no faults.")
    return 0


def clear(root: Root, args: argparse.Namespace) -> int:
    """Remove one fault, or all of them."""
    removed = Faults(root).clear(args.number)
    print(f"Cleared {removed} fault{'' if removed == 1 else 's'}.")
    return 0 if removed or args.number is None else 1


def describe(fault: Fault) -> str:
    """Return a fault as one line."""
    if not fault.is_active:
        remaining = "over"
    elif fault.until is not None:
        remaining = "for a while"
    else:
        remaining = "until it is cleared" if fault.left is None else f"{fault.left} more"
    return f"{fault.number}: {fault} ({remaining}; happened {fault.happened} times)"


def add_to(commands: Commands) -> None:
    """Add the command to those of the parser."""
    help_text = "let something go wrong on purpose, as on Google Cloud"
    faults = commands.add_parser("fault", help=help_text, description=help_text)
    actions = faults.add_subparsers(metavar="ACTION", required=True)
    adding = actions.add_parser("add", help=add.__doc__, description=add.__doc__)
    kinds = adding.add_subparsers(metavar="KIND", dest="kind", required=True)
    for kind in KINDS.values():
        text = f"{kind.summary} Source: {kind.source}."
        parser = kinds.add_parser(kind.name, help=kind.summary, description=text)
        parser.set_defaults(command=add)
        for option in kind.options:
            parser.add_argument(f"--{option.name}", help=option.help, metavar=option.name.upper())
    parsing.add(actions, "list", list_faults)
    clearing = parsing.add(actions, "clear", clear)
    clearing.add_argument("number", nargs="?", type=int, help="which one (default: all)")
