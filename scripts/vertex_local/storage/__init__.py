"""Cloud Storage on this machine: a small server of our own, in which the file tree is the truth.

`api` knows HTTP; the other modules know files only, and import nothing of it. The room may import
the modules at the top of `vertex_local` and `faults`; nothing of `training` and `jobs`.
"""

from vertex_local.storage.api.server import Buckets
from vertex_local.storage.names import bucket_name_problem

__all__ = ["Buckets", "bucket_name_problem"]
