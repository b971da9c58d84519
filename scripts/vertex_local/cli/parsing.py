"""How a command is added to the parser: the function that it runs says what it does."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import TypeAlias

from vertex_local.config import Root

Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"
Command: TypeAlias = Callable[[Root, argparse.Namespace], int]  # returns the exit status


def add(commands: Commands, name: str, command: Command) -> argparse.ArgumentParser:
    """Add a command, whose help is the docstring of its function; return its parser."""
    added = commands.add_parser(name, help=command.__doc__, description=command.__doc__)
    added.set_defaults(command=command)
    return added
