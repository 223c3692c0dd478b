"""A pod of a toolchain's image that runs commands, beside what the operator does with it."""

import json
from collections.abc import Mapping
from dataclasses import dataclass

from e2e.install import WRITER_SECRET
from e2e.kubectl import Kubectl, Object
from e2e.scenarios.waiting import until
from e2e.store import SOURCES_BUCKET, Store

SOURCE_DIR = "/work/source"
FILES_DIR = "/files"
OUTPUT_DIR = "/work/out"
UPLOADED = "benchmarks/by-hand/"
TOOK = "took: "
"""Begins the line of a transfer's log that says its seconds."""
DOWNLOAD = f"""
import json, os, time, boto3
began = time.monotonic()
s3 = boto3.client("s3", endpoint_url=os.environ["ENDPOINT"])
for bucket, prefix in json.loads(os.environ["DOWNLOADS"]):
    for each in s3.list_objects_v2(Bucket=bucket, Prefix=prefix)["Contents"]:
        target = os.path.join("{SOURCE_DIR}", each["Key"])
        os.makedirs(os.path.dirname(target), exist_ok=True)
        s3.download_file(bucket, each["Key"], target)
print("{TOOK}", time.monotonic() - began)
"""
UPLOAD = f"""
import os, time, boto3
began = time.monotonic()
s3 = boto3.client("s3", endpoint_url=os.environ["ENDPOINT"])
for folder, _, names in os.walk("{OUTPUT_DIR}"):
    for name in names:
        path = os.path.join(folder, name)
        key = os.environ["PREFIX"] + os.path.relpath(path, "{OUTPUT_DIR}")
        s3.upload_file(path, os.environ["BUCKET"], key)
print("{TOOK}", time.monotonic() - began)
"""


@dataclass(frozen=True)
class ToolPod:
    """What runs: `commands` by bash, after `downloads` (bucket, prefix) came to
    ``SOURCE_DIR/KEY`` and with `files` in ``FILES_DIR``; afterwards what they left in
    ``OUTPUT_DIR`` goes to ``UPLOADED`` in the bucket of sources."""

    name: str
    commands: str
    downloads: tuple[tuple[str, str], ...]
    files: Mapping[str, str]
    environment: Mapping[str, str]


@dataclass(frozen=True)
class Ran:
    """What the commands said, and the seconds that the transfers took by boto3."""

    log: str
    download: float
    upload: float


def run(kubectl: Kubectl, job_pod: Object, store: Store, wanted: ToolPod, timeout: float) -> Ran:
    """Run the commands in the images and within the limits of a conversion Job's pod.

    Raises:
        AssertionError: they failed; the message is the log.
        TimeoutError: they took longer than ``timeout`` seconds.
    """
    namespace = job_pod["metadata"]["namespace"]
    containers = {each["name"]: each for each in job_pod["spec"]["initContainers"]}
    quantize, fetch = containers["quantize"], containers["fetch"]
    common = {
        "securityContext": quantize["securityContext"],
        "resources": quantize["resources"],
        "volumeMounts": [
            {"name": "work", "mountPath": "/work"},
            {"name": "tmp", "mountPath": "/tmp"},
            {"name": "files", "mountPath": FILES_DIR},
        ],
    }
    transfers = {
        **common,
        "image": fetch["image"],
        "env": _variables(
            {
                "ENDPOINT": store.endpoint_in_cluster or "",
                "DOWNLOADS": json.dumps(wanted.downloads),
                "BUCKET": SOURCES_BUCKET,
                "PREFIX": UPLOADED,
                "AWS_DEFAULT_REGION": store.region,
            }
        ),
        "envFrom": [{"secretRef": {"name": WRITER_SECRET}}],
    }
    threads = [each for each in quantize["env"] if each["name"] == "OMP_NUM_THREADS"]
    metadata = {"name": wanted.name, "namespace": namespace}
    kubectl.apply(
        {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": wanted.files},
        {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": metadata,
            "spec": {
                "restartPolicy": "Never",
                "automountServiceAccountToken": False,
                "securityContext": job_pod["spec"]["securityContext"],
                "volumes": [
                    {"name": "work", "emptyDir": {}},
                    {"name": "tmp", "emptyDir": {}},
                    {"name": "files", "configMap": {"name": wanted.name}},
                ],
                "initContainers": [
                    {**transfers, "name": "download", "command": ["python", "-c", DOWNLOAD]},
                    {
                        **common,
                        "name": "tool",
                        "image": quantize["image"],
                        "command": ["bash", "-ec", wanted.commands],
                        "env": [*threads, *_variables(wanted.environment)],
                    },
                ],
                "containers": [
                    {**transfers, "name": "upload", "command": ["python", "-c", UPLOAD]}
                ],
            },
        },
    )

    def ended() -> str | None:
        pod = kubectl.get("pod", wanted.name, namespace)
        phase = pod["status"].get("phase") if pod else None
        return phase if phase in ("Succeeded", "Failed") else None

    phase = until(f"pod {wanted.name} ends", ended, timeout=timeout, every=1)
    log = kubectl.logs(namespace, wanted.name, "tool", lines=-1)
    assert phase == "Succeeded", log

    def took(container: str) -> float:
        return float(kubectl.logs(namespace, wanted.name, container).removeprefix(TOOK))

    return Ran(log, took("download"), took("upload"))


def _variables(values: Mapping[str, str]) -> list[Object]:
    return [{"name": name, "value": value} for name, value in values.items()]
