"""The page for people: jobs, their logs, curves and files, buckets, faults and the budget.

Server-side HTML that works without JavaScript, except that it then does not update by itself.
Everything that it shows is text: nothing of a job or a bucket is ever interpreted.

May import what the routes of the training API may: `training`, `jobs`, `storage`, `faults`, and of
`server` only `access`.
"""
