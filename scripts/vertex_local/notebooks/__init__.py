"""Executing notebooks, and holding them to what they promise to show.

`engine` runs the cells, `rules` judges what was seen, `promises` compares outputs, and `checks` is
the pytest plugin; `checking` joins the first three for whoever asks. May import everything except
the command line.
"""

from vertex_local import imports

imports.skip_address_parser()  # before any module here imports nbformat
