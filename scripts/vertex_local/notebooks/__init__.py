"""Executing notebooks, and holding them to what they promise to show.

May import everything except the reports and the command line.
"""

from vertex_local import imports

imports.skip_address_parser()  # before any module here imports nbformat
