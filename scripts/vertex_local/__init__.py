"""Local mode: Vertex AI training jobs and Cloud Storage on this machine, for the real clients."""

__version__ = "0.1.0"
