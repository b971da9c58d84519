"""Stored outputs: how they are compared with what is shown, refreshed, and tidied away."""
