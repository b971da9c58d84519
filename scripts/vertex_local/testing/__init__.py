"""A pytest plugin: every test session gets a local mode of its own, for notebooks and tests alike.

Load it with `-p vertex_local.testing`. The session's root is a temporary folder, so tests never
touch the buckets that somebody works with. Jupyter finds the kernel without its installation. At
the end, the server that tests or kernels of notebooks have started is stopped.

May import everything except `notebooks` and `cli`. Its functions do so only when they are called,
because pytest loads `fixtures` wherever local mode is installed.
"""

from __future__ import annotations

from contextlib import ExitStack

import pytest


def pytest_configure(config: pytest.Config) -> None:
    """Give this process, and every kernel that it starts, a root of its own."""
    from vertex_local.testing.sandbox import sandbox

    stack = ExitStack()
    stack.enter_context(sandbox())
    config.add_cleanup(stack.close)
