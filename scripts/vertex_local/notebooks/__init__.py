"""Executes notebooks, and checks that they show what they promise.

`engine` runs the cells, `rules` decides which of them failed, `promises` compares outputs, and
`checks` is the pytest plugin. `checking` joins the first three, for the plugin and the command.

May import everything except `cli`.
"""

from vertex_local import imports

imports.skip_address_parser()  # before any module here imports nbformat
