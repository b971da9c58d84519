"""What the lesson's notebooks import: costs, choosing a machine, checks of the exercises.

Works from the clone alone, also where local mode is not installed. Prices and the formulas of
costs have one owner, which local mode uses for its own account, too.
"""

from vertex_local import costs

__all__ = ["costs"]
