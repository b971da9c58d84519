"""What local mode leaves to Google Cloud: each feature by Google's name, and what to do instead.

Whoever reads a refusal knows Vertex AI, but not the URLs of its API.
"""

from __future__ import annotations

import functools
import re
from importlib import metadata

NUMBERS_IN_A_FILE = "Let the script write its numbers into a file beside the model"
PREDICT = "Load the model's artifacts in a cell or in a job, and predict there"
IN_CELLS = "Do the steps in cells or in jobs, one after the other"

# Collections in the paths of the API (google.cloud.aiplatform_v1, all services).
COLLECTIONS = {
    "batchPredictionJobs": ("batch prediction", PREDICT),
    "cachedContents": ("Gemini models", ""),
    "customJobs": ("this operation on custom jobs", ""),
    "dataLabelingJobs": ("data labeling", ""),
    "datasets": ("managed datasets", "Pass the gs:// address of the data in args"),
    "deploymentResourcePools": ("online prediction with endpoints", PREDICT),
    "endpoints": ("online prediction with endpoints (deploy, predict)", PREDICT),
    "evaluations": ("model evaluation in the Model Registry", NUMBERS_IN_A_FILE),
    "featureGroups": ("Feature Store", "Keep features in a file in a bucket"),
    "featureOnlineStores": ("Feature Store", "Keep features in a file in a bucket"),
    "featurestores": ("Feature Store", "Keep features in a file in a bucket"),
    "hyperparameterTuningJobs": ("this operation on hyperparameter tuning jobs", ""),
    "indexEndpoints": ("Vector Search", ""),
    "indexes": ("Vector Search", ""),
    "metadataStores": ("Vertex AI Experiments and ML Metadata", NUMBERS_IN_A_FILE),
    "modelDeploymentMonitoringJobs": ("model monitoring", ""),
    "modelMonitors": ("model monitoring", ""),
    "models": ("this operation of the Model Registry", ""),
    "nasJobs": ("neural architecture search", ""),
    "notebookExecutionJobs": ("notebook executions", "Run the notebook with `vertex-local run`"),
    "notebookRuntimes": ("Colab Enterprise", ""),
    "notebookRuntimeTemplates": ("Colab Enterprise", ""),
    "persistentResources": ("persistent resources", "Leave persistent_resource_id out"),
    "pipelineJobs": ("Vertex AI Pipelines", IN_CELLS),
    "publishers": ("Gemini and other models of Model Garden", ""),
    "ragCorpora": ("RAG Engine", ""),
    "reasoningEngines": ("Agent Engine", ""),
    "schedules": ("schedules", IN_CELLS),
    "specialistPools": ("data labeling", ""),
    "studies": ("Vertex AI Vizier", "Use a hyperparameter tuning job"),
    "tensorboards": (
        "this operation of Vertex AI TensorBoard",
        "Run `tensorboard --logdir FOLDER`",
    ),
    "trainingPipelines": ("this operation on training pipelines", ""),
    "tuningJobs": ("tuning of Gemini models", ""),
}
# Services other than Vertex AI, by a part of their gRPC package or host name.
SERVICES = {
    "bigquery": "BigQuery",
    "firestore": "Firestore",
    "logging": "Cloud Logging",
    "oauth2": "signing in with an account",
    "pubsub": "Pub/Sub",
    "resourcemanager": "Resource Manager",
    "spanner": "Spanner",
    "storage": "the gRPC API of Cloud Storage",
}
# These belong neither to Vertex AI nor to Cloud Storage's API, whichever is asked for them.
OUTSIDE = frozenset({*SERVICES.values(), "Gemini models", "this service of Google's"})
# Fields of jobs, by their names in the API.
FIELDS = {
    "enable_dashboard_access": ("the dashboard of a running job", ""),
    "enable_web_access": ("the interactive shell of a running job", "Open a terminal"),
    "encryption_spec": ("encryption keys of your own", ""),
    "experiment": ("Vertex AI Experiments", NUMBERS_IN_A_FILE),
    "experiment_run": ("Vertex AI Experiments", NUMBERS_IN_A_FILE),
    "input_data_config": ("managed datasets", "Pass the gs:// address of the data in args"),
    "lustre_mounts": ("Managed Lustre", "Read from a bucket"),
    "machine_spec.gpu_partition_size": ("partitions of a GPU", ""),
    "machine_spec.tpu_topology": ("TPUs", ""),
    "models": ("models of Model Garden", ""),
    "model_to_upload.encryption_spec": ("encryption keys of your own", ""),
    "network": ("VPC networks", ""),
    "nfs_mounts": ("NFS", "Read from a bucket"),
    "persistent_resource_id": ("persistent resources", ""),
    "protected_artifact_location_id": ("protected artifacts", ""),
    "psc_interface_config": ("Private Service Connect", ""),
    "reserved_ip_ranges": ("VPC networks", ""),
}


def of_path(method: str, path: str) -> tuple[str, str]:
    """Return the feature that a URL of the training API belongs to, and what to do instead.

    Args:
        method: of the HTTP request.
        path: such as `/v1/projects/P/locations/L/endpoints/1:predict`.
    """
    parts = re.split("[/:]", path)
    if parts[1] in ("v1beta1", "v1alpha1"):
        return f"the version {parts[1]} of the API", "Use version v1"
    found = [part for part in parts if part in COLLECTIONS]
    if not found:
        return f"{method} {path}", ""
    feature, instead = COLLECTIONS[found[-1]]
    verb = parts[-1] if ":" in path else {"GET": "get or list", "POST": "create"}.get(method)
    return f"{feature} ({found[-1]}: {verb or method.lower()})", instead


def of_fields(names: list[str]) -> tuple[str, str]:
    """Return the features that fields of a job ask for, and what to do instead."""
    known = [(name, *FIELDS.get(name.rpartition("] ")[2], ("", ""))) for name in names]
    features = [f"{feature} ({name})" if feature else name for name, feature, _ in known]
    instead = dict.fromkeys(each for _, _, each in known if each)
    return ", ".join(features), "; ".join(instead)


def of_method(service: str, call: str) -> tuple[str, str]:
    """Return the feature that a gRPC method belongs to, and what to do instead."""
    for part in service.split("."):
        if part in SERVICES and "aiplatform" not in service:
            return SERVICES[part], ""
    if ".aiplatform.v1" in service and not service.startswith("google.cloud.aiplatform.v1."):
        return f"the version {service.split('.')[3]} of the API", "Use version v1"
    return f"{service.rpartition('.')[2]}.{call}", ""


def of_host(host: str) -> str:
    """Return the name of Google's service at a host."""
    parts = host.removesuffix(".googleapis.com").split("-")
    return SERVICES.get(parts[-1], f"the service {host}")


@functools.cache
def version() -> str:
    """Return local mode's version."""
    return metadata.version("vertex-ai-workshop")


def sentence(service: str, feature: str, instead: str) -> str:
    """Return the refusal of a feature.

    Args:
        service: whose feature it is: `Vertex AI` or `Cloud Storage`.
        feature: in Google's terms.
        instead: what to do instead; "" if the only way is to use Google Cloud.
    """
    if feature in OUTSIDE:
        service = "Google Cloud"
    advice = instead or "Use Google Cloud for this part"
    return (
        f"works on {service}, not in local mode: {feature} (as of version {version()}). {advice}."
    )
