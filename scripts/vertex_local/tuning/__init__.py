"""Hyperparameter tuning. A search is a tuning job; each of its trials is a custom job.

- `options`: what a search may ask for
- `study`: which parameters the next trial gets
- `trials`: the custom job of a trial
- `measurements`: the metrics that a trial reported, and which of them count
- `search`: one search from its start to its end
- `tuner`: all searches of a server

May import `jobs` and what that may import. Knows no HTTP.
"""
