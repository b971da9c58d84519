"""Executes cells in a kernel, and notes inside the kernel what fails. Knows no pytest."""
