"""Jobs: what they may ask for, the folder and the processes of each, its log, its end.

May import `storage`, and of `training` the modules that know no processes: `states`, `wire` and
`records`. Knows no HTTP.
"""
