"""What all pods of quantop share: Pod Security ``restricted``, a read-only root, no token."""

from typing import Any

from quantop.api.base import ResourceRequirements
from quantop.builders.meta import Manifest
from quantop.contract import (
    NODE_VARIABLE,
    PVC_DIR,
    SOURCE_PREFIX,
    STORE_PREFIX,
    TASK_VARIABLE,
    Message,
)
from quantop.quantities import parse

USER_ID = 10001
"""Every image of quantop runs as this user and group."""

CONTAINER_SECURITY: Manifest = {
    "allowPrivilegeEscalation": False,
    "readOnlyRootFilesystem": True,
    "capabilities": {"drop": ["ALL"]},
}

POD_SECURITY: Manifest = {
    "runAsNonRoot": True,
    "runAsUser": USER_ID,
    "runAsGroup": USER_ID,
    "fsGroup": USER_ID,
    "fsGroupChangePolicy": "OnRootMismatch",
    "seccompProfile": {"type": "RuntimeDefault"},
}

WORKER_RESOURCES: Manifest = {
    "requests": {"cpu": "100m", "memory": "256Mi"},
    "limits": {"cpu": "2", "memory": "1Gi"},
}
"""The worker streams: its memory is its buffers, whatever the size of the model."""


def pod_spec(service_account: str, **rest: Any) -> Manifest:
    """A pod's spec with the security floor; ``rest`` adds containers, volumes and so on."""
    return {
        "serviceAccountName": service_account,
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "securityContext": POD_SECURITY,
        **rest,
    }


def container(name: str, image: str, **rest: Any) -> Manifest:
    """A container with the security floor; falsy values of ``rest`` are left out."""
    return {
        "name": name,
        "image": image,
        "securityContext": CONTAINER_SECURITY,
        **{key: value for key, value in rest.items() if value},
    }


def worker(
    stage: str,
    image: str,
    task: Message,
    mounts: list[Manifest],
    *,
    store_secret: str | None,
    source_secret: str | None = None,
    name: str = "",
) -> Manifest:
    """A container of the worker image that does one stage with the credentials it needs, named as
    the stage by default.

    Secrets come as variables: a missing one shows at once, with its name, in the pod's status.
    """
    secrets = [(STORE_PREFIX, store_secret), (SOURCE_PREFIX, source_secret)]
    return container(
        name or stage,
        image,
        command=["python", "-m", "quantop_worker", stage],
        env=[env(TASK_VARIABLE, task.to_json())],
        envFrom=[
            {"prefix": prefix, "secretRef": {"name": secret}}
            for prefix, secret in secrets
            if secret
        ],
        resources=WORKER_RESOURCES,
        volumeMounts=[*mounts, mount("tmp", "/tmp")],
    )


def env(name: str, value: str) -> Manifest:
    """A variable; an empty value is left out, as the API server does."""
    return {"name": name, "value": value} if value else {"name": name}


def node() -> Manifest:
    """A variable that names the pod's node."""
    return {"name": NODE_VARIABLE, "valueFrom": {"fieldRef": {"fieldPath": "spec.nodeName"}}}


def mount(name: str, path: str, *, read_only: bool = False) -> Manifest:
    """A volume mount."""
    return {"name": name, "mountPath": path, **({"readOnly": True} if read_only else {})}


def scratch(name: str, size_limit: str | None = None, medium: str | None = None) -> Manifest:
    """An emptyDir volume."""
    empty: Manifest = {}
    if medium:
        empty["medium"] = medium
    if size_limit:
        empty["sizeLimit"] = size_limit
    return {"name": name, "emptyDir": empty}


def claims(*uris: str | None) -> list[str]:
    """Names of the persistent volume claims that ``pvc://`` uris name, each once."""
    found = [
        uri.removeprefix("pvc://").split("/")[0] for uri in uris if uri and uri.startswith("pvc://")
    ]
    return sorted(set(found))


def claim_volumes(names: list[str]) -> list[Manifest]:
    """Read-only volumes of persistent volume claims."""
    return [
        {"name": f"pvc-{i}", "persistentVolumeClaim": {"claimName": name, "readOnly": True}}
        for i, name in enumerate(names)
    ]


def claim_mounts(names: list[str]) -> list[Manifest]:
    """Where the worker finds those volumes."""
    return [mount(f"pvc-{i}", str(PVC_DIR / name), read_only=True) for i, name in enumerate(names)]


def resources(given: ResourceRequirements, default: Manifest) -> Manifest:
    """``given`` over ``default``, resource by resource. A default request that a given limit is
    below follows the limit, as the API server refuses requests above limits."""
    requests = {**default.get("requests", {}), **given.requests}
    limits = {**default.get("limits", {}), **given.limits}
    for name, limit in limits.items():
        if name not in given.requests and parse(requests.get(name, "0")) > parse(limit):
            requests[name] = limit
    return {key: value for key, value in (("requests", requests), ("limits", limits)) if value}
