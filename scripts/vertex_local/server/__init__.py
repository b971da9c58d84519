"""The server of one root: its process, its sockets, who may ask; starting, finding, stopping it.

May import everything except `kernel`, `testing`, `notebooks` and `cli`.
"""
