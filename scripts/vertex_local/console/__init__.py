"""The page for people: jobs, their logs, curves and files, buckets, faults and the budget.

The server renders HTML. JavaScript only refreshes it: without, reload the page yourself.
Everything from a job or a bucket is shown as text, never interpreted as HTML or script.

May import what `training.routes` may: `training`, `tuning`, `registry`, `jobs`, `storage`,
`faults` and the modules at the top; nothing of `server`, which imports this room.
"""
