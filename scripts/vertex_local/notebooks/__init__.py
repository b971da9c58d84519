"""Executing notebooks, and holding them to what they promise to show.

All of it imports nbformat, which imports jsonschema, which builds a parser for international web
addresses if the package `rfc3987_syntax` is installed (JupyterLab brings it). That takes 2 to 4
seconds, and no notebook has such an address to check. jsonschema goes on without the package, as if
it were not installed.
"""

from __future__ import annotations

import sys

sys.modules.setdefault("rfc3987_syntax", None)  # type: ignore[arg-type]  # None: "not installed"
