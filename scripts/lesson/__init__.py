"""What the notebooks import: set-up, passengers, runs, costs, choosing a machine, exercises.

Works from the clone alone, also where local mode is not installed. Prices and the formulas of
costs have one owner, `vertex_local.costs`, which local mode uses for its own account, too. No other
module of local mode may be imported here.
"""

from vertex_local import costs

__all__ = ["costs"]
