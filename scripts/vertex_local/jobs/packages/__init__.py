"""Packages of a job: the unpacked script, and what pip installs for this job alone."""
