"""A Job of a toolchain's image that runs commands, beside what the operator does with it."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from e2e.install import WRITER_SECRET
from e2e.kubectl import Kubectl, Object, conditions
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
class ToolJob:
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
    """What the commands said, and seconds: of the transfers by boto3, and of the whole Job."""

    log: str
    download: float
    upload: float
    whole: float


def run(kubectl: Kubectl, job_pod: Object, store: Store, wanted: ToolJob, timeout: float) -> Ran:
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
    spec = {
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
        "containers": [{**transfers, "name": "upload", "command": ["python", "-c", UPLOAD]}],
    }
    kubectl.apply(
        {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": wanted.files},
        {
            "apiVersion": "batch/v1",
            "kind": "Job",
            "metadata": metadata,
            "spec": {"backoffLimit": 0, "template": {"spec": spec}},
        },
    )

    def ended() -> Object | None:
        job = kubectl.get("job", wanted.name, namespace)
        return job if job and {"Complete", "Failed"} & conditions(job).keys() else None

    job = until(f"Job {wanted.name} ends", ended, timeout=timeout, every=1)

    def said(container: str) -> str:
        return kubectl.logs(namespace, f"job/{wanted.name}", container, lines=-1)

    def took(container: str) -> float:
        return float(said(container).removeprefix(TOOK))

    assert "Complete" in conditions(job), said("tool")
    return Ran(said("tool"), took("download"), took("upload"), seconds_of(job))


def seconds_of(job: Object) -> float:
    """From a finished Job's start to its completion."""
    began, ended = (
        datetime.fromisoformat(job["status"][when]) for when in ("startTime", "completionTime")
    )
    return (ended - began).total_seconds()


def _variables(values: Mapping[str, str]) -> list[Object]:
    return [{"name": name, "value": value} for name, value in values.items()]
