"""Executing notebooks, and holding them to what they promise to show."""
