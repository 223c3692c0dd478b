"""Names, labels and owner references that every child carries."""

from collections.abc import Mapping
from typing import Any

from quantop.api.base import API_VERSION

Manifest = dict[str, Any]
"""A Kubernetes object as JSON."""

MANAGER = "quantop"
"""Value of the managed-by label, and the field manager of every write."""

MANAGED_BY_LABEL = "app.kubernetes.io/managed-by"
COMPONENT_LABEL = "app.kubernetes.io/component"
MODEL_LABEL = "quantop.dev/model"
KEY_LABEL = "quantop.dev/artifact-key"
PRECISION_LABEL = "quantop.dev/precision"
KEY_ANNOTATION = "quantop.dev/artifact-key"
HASH_ANNOTATION = "quantop.dev/applied-hash"
REQUESTED_AT_ANNOTATION = "quantop.dev/requestedAt"
"""Set on an object, with any new value, asks for its source to be resolved again."""
FINALIZER = "quantop.dev/artifact"

SERVER = "server"
RESOLVE = "resolve"
CONVERT = "convert"
DELETE = "delete"
TRIAL = "trial"
REPORT = "report"


def short_key(key: str) -> str:
    """The part of an artifact key that fits a label: 16 hex digits."""
    return key[:16]


def job_name(model_name: str, component: str, hash_: str) -> str:
    """Name of a Job: the same inputs give the same name, so that making it twice is harmless."""
    return f"{model_name}-{component}-{hash_[:8]}"


def labels(model_name: str, component: str, extra: Mapping[str, str] | None = None) -> Manifest:
    """Labels of a child."""
    return {
        MANAGED_BY_LABEL: MANAGER,
        COMPONENT_LABEL: component,
        MODEL_LABEL: model_name,
        **(extra or {}),
    }


def child(
    api_version: str,
    kind: str,
    model: Manifest,
    component: str,
    *,
    name: str | None = None,
    extra_labels: Mapping[str, str] | None = None,
    annotations: Mapping[str, str] | None = None,
) -> Manifest:
    """A child without its spec: owned by ``model`` as its controller, named as it by default."""
    metadata = model["metadata"]
    return {
        "apiVersion": api_version,
        "kind": kind,
        "metadata": {
            "name": name or metadata["name"],
            "namespace": metadata["namespace"],
            "labels": labels(metadata["name"], component, extra_labels),
            "annotations": dict(annotations or {}),
            "ownerReferences": [
                {
                    "apiVersion": API_VERSION,
                    "kind": "QuantizedModel",
                    "name": metadata["name"],
                    "uid": metadata["uid"],
                    "controller": True,
                    "blockOwnerDeletion": True,
                }
            ],
        },
    }
