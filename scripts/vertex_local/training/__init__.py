"""The training API: its routes, what each operation does, and the records of jobs.

`states`, `names`, `wire` and `records` know neither processes nor HTTP, and may import only the
modules at the top; `jobs` imports them. `handlers` start jobs and searches, so they may import
`jobs`, `tuning` and `registry`. Only `routes` know HTTP; they import `handlers`.
"""
