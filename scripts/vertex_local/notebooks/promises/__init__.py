"""Promised outputs: compares them with the new ones, stores new ones, removes all other outputs."""
