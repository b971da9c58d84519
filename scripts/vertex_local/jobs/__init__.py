"""Jobs: what they may ask for, and the folder, the processes, the log and the end of each.

May import `storage`, `faults`, the modules at the top, and of `training` those that know no
processes: `states`, `names`, `wire` and `records`. Knows no HTTP.
"""
