"""The kernel that executes cells, and what is noted inside it. Knows no pytest."""
