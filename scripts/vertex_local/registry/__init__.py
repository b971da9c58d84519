"""Records of what jobs make: models with their versions, and TensorBoard instances.

They point to files in buckets. Nothing is deployed and nothing is predicted.

May import `names`, `wire`, `records` and `filters` of `training`, and the modules at the top.
"""
