"""Adding a command to the parser: its help is the docstring of the function that it runs."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import TypeAlias

from vertex_local.config import Root

Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"
Command: TypeAlias = Callable[[Root, argparse.Namespace], int]  # returns the exit status


def add(commands: Commands, name: str, command: Command) -> argparse.ArgumentParser:
    """Add a command and return its parser."""
    parser = commands.add_parser(name, help=command.__doc__, description=command.__doc__)
    parser.set_defaults(command=command)
    return parser
