"""The training API: its routes, what each operation does, and the records of jobs.

`states`, `wire` and `records` know neither processes nor HTTP, and `jobs` imports them; `handlers`
start jobs, so they import `jobs`; `routes` know HTTP, and import `handlers`.
"""
