"""Faults on purpose: what goes wrong on Google Cloud, injected into local mode when asked for.

`kinds` says which there are, `store` keeps those of one root; `jobs`, `mounted` and the room
`storage` let them happen. Nothing is active unless somebody added a fault. What has no source in
Google's documentation or in seen logs is marked in `kinds`.

`kinds`, `store` and `mounted` import only modules at the top of `vertex_local`, because `storage`
imports them; `jobs` belongs to the room of that name, and `commands` to the command line.
"""
