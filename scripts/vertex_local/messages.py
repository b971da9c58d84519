"""Import this in a process of `vertex-local` itself, before the types of jobs: it saves 1.5 s.

`google.cloud.aiplatform_v1.types` lies in a package that imports all clients of Vertex AI, some
fifty. Here an empty package takes its place, which finds the types and knows no clients. So this
is nothing for a process in which the SDK may be used: a kernel, a job, a test.
"""

from __future__ import annotations

import importlib.util
import sys

PACKAGE = "google.cloud.aiplatform_v1"

spec = importlib.util.find_spec(PACKAGE)
if spec is not None:
    sys.modules.setdefault(PACKAGE, importlib.util.module_from_spec(spec))
