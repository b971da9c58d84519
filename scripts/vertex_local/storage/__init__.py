"""Cloud Storage on this machine: a small server of our own, in which the file tree is the truth."""

from vertex_local.storage.names import bucket_name_problem
from vertex_local.storage.server import Buckets

__all__ = ["Buckets", "bucket_name_problem"]
