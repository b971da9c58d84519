"""The Jupyter kernel of local mode: its process, its specification, and the set-up of clients.

May import everything except `notebooks` and `cli`.
"""
