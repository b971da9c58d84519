"""Cloud Storage on this machine: a small server of our own, whose data are plain files.

`api` knows HTTP; the other modules know only files, and import nothing of `api`. The room may
import the modules at the top of `vertex_local`, and `faults`.
"""

from vertex_local.storage.api.server import Buckets
from vertex_local.storage.names import bucket_name_problem

__all__ = ["Buckets", "bucket_name_problem"]
