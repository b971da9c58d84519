"""The order of the cells: those of a notebook stay together, in one process, from top to bottom."""

from __future__ import annotations

from typing import Any

import pytest

from vertex_local.notebooks.checks.items import NotebookCell


def by_notebook(items: list[pytest.Item]) -> list[pytest.Item]:
    """Return the tests with all cells of a notebook where its first one stood.

    Sets `is_last` of the last cell of each notebook.
    """
    notebooks: dict[Any, list[NotebookCell]] = {}
    for item in items:
        if isinstance(item, NotebookCell):
            notebooks.setdefault(item.parent, []).append(item)
    ordered: list[pytest.Item] = []
    for item in items:
        if not isinstance(item, NotebookCell):
            ordered.append(item)
        elif cells := notebooks.pop(item.parent, None):
            cells.sort(key=lambda cell: cell.index)
            cells[-1].is_last = True
            ordered += cells
    return ordered


def scheduler(config: pytest.Config, log: Any) -> Any:
    """Return a scheduler of pytest-xdist that keeps the cells of a notebook in one worker."""
    from xdist.scheduler import LoadScopeScheduling

    class ByNotebook(LoadScopeScheduling):  # type: ignore[misc]
        def _split_scope(self, nodeid: str) -> str:
            path, _, _ = nodeid.partition("::")
            return path if path.endswith(".ipynb") else nodeid

    return ByNotebook(config, log)
