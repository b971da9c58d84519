"""Hyperparameter tuning: searches, whose trials are custom jobs like any other.

- `options`: what a search may ask for
- `study`: which parameters the next trial gets
- `trials`: the custom job of a trial
- `measurements`: what a trial reported, and which of it counts
- `search`: one search from its start to its end
- `tuner`: all searches of a server

May import `jobs` and what that may import; nothing here knows HTTP.
"""
