"""A pod of a toolchain's image that runs commands, beside what the operator does with it."""

import json
from collections.abc import Mapping
from dataclasses import dataclass

from e2e.install import WRITER_SECRET
from e2e.kubectl import Kubectl, Object
from e2e.scenarios.waiting import until
from e2e.store import Store

SOURCE_DIR = "/work/source"
FILES_DIR = "/files"
DOWNLOAD = f"""
import json, os, boto3
s3 = boto3.client("s3", endpoint_url=os.environ["ENDPOINT"])
for bucket, prefix in json.loads(os.environ["DOWNLOADS"]):
    for each in s3.list_objects_v2(Bucket=bucket, Prefix=prefix)["Contents"]:
        target = os.path.join("{SOURCE_DIR}", each["Key"])
        os.makedirs(os.path.dirname(target), exist_ok=True)
        s3.download_file(bucket, each["Key"], target)
"""


@dataclass(frozen=True)
class ToolPod:
    """What runs: `commands` by bash, after `downloads` (bucket, prefix) came to
    ``SOURCE_DIR/KEY`` and with `files` in ``FILES_DIR``."""

    name: str
    commands: str
    downloads: tuple[tuple[str, str], ...]
    files: Mapping[str, str]
    environment: Mapping[str, str]


def run(kubectl: Kubectl, job_pod: Object, store: Store, wanted: ToolPod, timeout: float) -> str:
    """Run the commands in the images and within the limits of a conversion Job's pod; their log.

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
    downloading = {
        "ENDPOINT": store.endpoint_in_cluster or "",
        "DOWNLOADS": json.dumps(wanted.downloads),
        "AWS_DEFAULT_REGION": store.region,
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
                    {
                        **common,
                        "name": "download",
                        "image": fetch["image"],
                        "command": ["python", "-c", DOWNLOAD],
                        "env": _variables(downloading),
                        "envFrom": [{"secretRef": {"name": WRITER_SECRET}}],
                    }
                ],
                "containers": [
                    {
                        **common,
                        "name": "tool",
                        "image": quantize["image"],
                        "command": ["bash", "-ec", wanted.commands],
                        "env": [*threads, *_variables(wanted.environment)],
                    }
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
    return log


def _variables(values: Mapping[str, str]) -> list[Object]:
    return [{"name": name, "value": value} for name, value in values.items()]
