"""What the notebooks import: set-up, passengers, runs, costs, choosing a machine, exercises.

Works in a clone, also where local mode is not installed. Prices and the formulas of costs are in
`vertex_local.costs` only, which local mode uses, too. No other module of local mode may be imported
here.
"""

from vertex_local import costs

__all__ = ["costs"]
