"""A pytest plugin: every test session gets a local mode of its own, for notebooks and tests alike.

It is loaded with `-p vertex_local.testing`. The session's root is a temporary folder, so tests
never touch the buckets that somebody works with; the kernel is offered to Jupyter without being
installed; and whatever server the tests or the notebooks' kernels started is stopped at the end.

May import everything except `notebooks` and the command line, and only when it is used: pytest
loads `fixtures` wherever local mode is installed.
"""

from __future__ import annotations

from contextlib import ExitStack

import pytest


def pytest_configure(config: pytest.Config) -> None:
    """Give this process, and with it every kernel that it starts, a root of its own."""
    from vertex_local.testing.sandbox import sandbox

    stack = ExitStack()
    stack.enter_context(sandbox())
    config.add_cleanup(stack.close)
