"""Records of what jobs make: models with their versions, and TensorBoard instances.

They point to files in buckets. Nothing is deployed and nothing is predicted here.
May import the records and filters of `training`.
"""
