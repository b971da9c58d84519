"""What local mode leaves to Cloud Storage: each feature by its name in the documentation."""

from __future__ import annotations

from vertex_local.storage.errors import NotEmulated

KEYS = "encryption keys of your own"
RETENTION = "retention policies and holds"
FEATURES = {  # parts of paths, fields of resources, parameters and headers
    "acl": "access control lists",
    "anywhereCaches": "Anywhere Cache",
    "autoclass": "Autoclass",
    "billing": "Requester Pays",
    "bulkRestore": "soft delete",
    "contexts": "object contexts",
    "cors": "cross-origin resource sharing",
    "customPlacementConfig": "buckets in two regions of one's choice",
    "defaultEventBasedHold": RETENTION,
    "defaultObjectAcl": "access control lists",
    "destinationKmsKeyName": KEYS,
    "enableObjectRetention": RETENTION,
    "encryption": KEYS,
    "eventBasedHold": RETENTION,
    "filter": "object contexts",
    "folders": "folders of hierarchical namespaces",
    "hierarchicalNamespace": "hierarchical namespaces",
    "hmacKeys": "HMAC keys",
    "iam": "IAM policies",
    "ifGenerationMatch": "preconditions of the XML API",
    "ipFilter": "IP filtering of buckets",
    "kmsKeyName": KEYS,
    "lifecycle": "Object Lifecycle Management",
    "lockRetentionPolicy": RETENTION,
    "logging": "usage logs",
    "managedFolders": "managed folders",
    "notificationConfigs": "Pub/Sub notifications",
    "objectRetention": RETENTION,
    "restore": "soft delete",
    "retention": RETENTION,
    "retentionPolicy": RETENTION,
    "serviceAccount": "the project's service account",
    "softDeletePolicy": "soft delete",
    "softDeleted": "soft delete",
    "temporaryHold": RETENTION,
    "versioning": "Object Versioning",
    "watch": "Pub/Sub notifications",
    "website": "static websites",
}


def refusal(key: str, request: str) -> NotEmulated:
    """Return the error for something that local mode leaves to Cloud Storage.

    Args:
        key: the part of a path, the field or the parameter that asks for it.
        request: the request, in words for somebody who knows the API.
    """
    return NotEmulated(f"{FEATURES[key]} ({request})" if key in FEATURES else request)
