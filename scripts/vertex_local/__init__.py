"""Local mode: Vertex AI training jobs and Cloud Storage on this machine, for the real clients."""
