"""`python -m vertex_local` is the `vertex-local` command."""

import sys

from vertex_local.cli import main

if __name__ == "__main__":
    sys.exit(main())
