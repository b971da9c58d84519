"""Fault injection: failures of Google Cloud that somebody asks local mode for.

- `kinds`: which faults there are, with the source of each in Google's documentation or in logs
- `store`: the faults that were added to one root; without any, nothing goes wrong on purpose
- `jobs`: applies them to training jobs
- `mounted` and `gcs`: apply them below `/gcs`; `storage.api.faults` does so to requests

All but `jobs` may import only modules at the top of `vertex_local`, because `storage` imports
them. `jobs` may import what the room `jobs` may.
"""
