"""The training API: its routes, what each operation does, and the records of jobs.

`states`, `wire` and `records` know neither processes nor HTTP and may be used by `jobs`; `handlers`
start jobs; `routes` know HTTP.
"""
