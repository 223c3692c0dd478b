"""A real API server with real controllers, the operator as a process of its own, a fake node."""

import copy
import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from kubernetes import client, config

from e2e.cluster.audit import Call
from e2e.cluster.controlplane import ControlPlane
from tests.operator import objects
from tests.operator.fake_node import FakeNode

ROOT = Path(__file__).parents[2]
GROUP, VERSION = "quantop.dev", "v1alpha1"
OPERATOR = "system:serviceaccount:quantop-system:quantop"
WAIT_SECONDS = 60.0


@dataclass
class Cluster:
    """A control plane and the few calls that tests make."""

    plane: ControlPlane
    core: client.CoreV1Api
    batch: client.BatchV1Api
    apps: client.AppsV1Api
    custom: client.CustomObjectsApi
    node: FakeNode

    def apply(self, manifest: dict[str, Any]) -> None:
        """Create a QuantizedModel or one of the cluster's kinds."""
        plural = objects.PLURALS[manifest["kind"]]
        if namespace := manifest["metadata"].get("namespace"):
            self.custom.create_namespaced_custom_object(GROUP, VERSION, namespace, plural, manifest)
        else:
            self.custom.create_cluster_custom_object(GROUP, VERSION, plural, manifest)

    def model(self, namespace: str, name: str) -> dict[str, Any]:
        """A QuantizedModel."""
        found: dict[str, Any] = self.custom.get_namespaced_custom_object(
            GROUP, VERSION, namespace, "quantizedmodels", name
        )
        return found

    def patch(self, namespace: str, name: str, spec: dict[str, Any]) -> None:
        """Merge into a QuantizedModel's spec."""
        self.custom.patch_namespaced_custom_object(
            GROUP, VERSION, namespace, "quantizedmodels", name, {"spec": spec}
        )

    def ask_again(self, namespace: str, name: str) -> None:
        """Annotate a QuantizedModel so that what failed is tried again."""
        annotations = {"quantop.dev/requestedAt": str(time.time())}
        self.custom.patch_namespaced_custom_object(
            GROUP,
            VERSION,
            namespace,
            "quantizedmodels",
            name,
            {"metadata": {"annotations": annotations}},
        )

    def delete(self, namespace: str, name: str) -> None:
        """Delete a QuantizedModel."""
        self.custom.delete_namespaced_custom_object(
            GROUP, VERSION, namespace, "quantizedmodels", name
        )

    def wait(self, what: str, check: Callable[[], Any], seconds: float = WAIT_SECONDS) -> Any:
        """Wait until ``check`` gives something true, and give that."""
        end = time.monotonic() + seconds
        while True:
            last = check()
            if last:
                return last
            if time.monotonic() > end:
                pytest.fail(f"not within {seconds:.0f} s: {what}")
            time.sleep(0.1)

    def condition(self, namespace: str, name: str, type_: str) -> dict[str, Any]:
        """A condition of a QuantizedModel; empty when it is not there yet."""
        conditions = self.model(namespace, name).get("status", {}).get("conditions", [])
        return next((c for c in conditions if c["type"] == type_), {})

    def wait_for(
        self,
        namespace: str,
        name: str,
        type_: str,
        status: str = "True",
        reason: str = "",
        seconds: float = WAIT_SECONDS,
    ) -> dict[str, Any]:
        """Wait for a condition, for the object's current generation."""

        def check() -> dict[str, Any] | None:
            generation = self.model(namespace, name)["metadata"]["generation"]
            found = self.condition(namespace, name, type_)
            right = found.get("status") == status and found.get("observedGeneration") == generation
            return found if right and reason in ("", found.get("reason")) else None

        try:
            found: dict[str, Any] = self.wait(f"{name}: {type_}={status} {reason}", check, seconds)
        except BaseException:
            print(yaml.safe_dump(self.model(namespace, name).get("status", {})))
            raise
        return found

    def served_precisions(self, namespace: str) -> set[str]:
        """The precisions of all serving pods that still exist."""
        selector = "app.kubernetes.io/component=server"
        pods = self.core.list_namespaced_pod(namespace, label_selector=selector).items
        return {p.metadata.labels["quantop.dev/precision"] for p in pods}

    def writes(self, since: int, namespace: str = "") -> list[Call]:
        """Writes of the operator since a mark of the audit log, its Lease left out: in one
        namespace, as that of an earlier test may still be going, or in all."""
        return [
            call
            for call in self.plane.audit.writes(since, user=OPERATOR)
            if call.resource != "leases" and namespace in ("", call.namespace)
        ]


@dataclass
class Operator:
    """The operator as a process."""

    plane: ControlPlane
    log: Path
    identity: str = "replica-a"
    ports: tuple[int, int] = (0, 0)
    process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start the process."""
        kubeconfig = self.plane.kubeconfig_for(
            OPERATOR, ["system:serviceaccounts", "system:authenticated"]
        )
        environment = os.environ | {
            "KUBECONFIG": str(kubeconfig),
            "PYTHONPATH": str(ROOT / "operator"),
            "QUANTOP_WORKER_IMAGE": "registry.example/quantop/worker:test",
            "QUANTOP_NAMESPACE": "quantop-system",
            "QUANTOP_POD_NAME": self.identity,
            "QUANTOP_LEASE_SECONDS": "3",
            "QUANTOP_HEALTH_PORT": str(self.ports[0]),
            "QUANTOP_METRICS_PORT": str(self.ports[1]),
        }
        with self.log.open("ab") as out:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "quantop"], env=environment, stdout=out, stderr=out
            )

    def leads(self) -> bool:
        """Whether this process holds the Lease."""
        url = f"http://127.0.0.1:{self.ports[1]}/metrics"
        try:
            with urllib.request.urlopen(url, timeout=5) as answer:
                return "quantop_leader 1.0" in answer.read().decode()
        except OSError:
            return False

    def stop(self) -> int:
        """End the process as a kubelet does, and give its exit code."""
        assert self.process is not None
        self.process.terminate()
        return self.process.wait(20)

    def kill(self) -> None:
        """End the process without a word."""
        assert self.process is not None
        self.process.kill()
        self.process.wait(20)

    @property
    def running(self) -> bool:
        """Whether the process lives."""
        return self.process is not None and self.process.poll() is None

    @property
    def rss_bytes(self) -> int:
        """Resident memory of the process."""
        assert self.process is not None
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        line = next(line for line in status.splitlines() if line.startswith("VmRSS"))
        return int(line.split()[1]) * 1024


@pytest.fixture(scope="session")
def plane() -> Iterator[ControlPlane]:
    """A control plane with the CRDs and the operator's own rights, as the chart grants them."""
    with ControlPlane(controller_manager=True) as plane:
        kubectl = [str(plane.kubectl), "--kubeconfig", str(plane.kubeconfig)]
        subprocess.run([*kubectl, "apply", "--server-side", "-f", ROOT / "crds"], check=True)
        subprocess.run([*kubectl, "create", "namespace", "quantop-system"], check=True)
        rules = subprocess.run(
            [
                plane.kubectl.parent / "helm",
                "template",
                "quantop",
                ROOT / "charts" / "quantop",
                "--namespace",
                "quantop-system",
            ],
            check=True,
            capture_output=True,
            text=True,
        ).stdout
        rbac = [
            m
            for m in yaml.safe_load_all(rules)
            if m and (m["kind"] == "ServiceAccount" or "Role" in m["kind"])
        ]
        subprocess.run(
            [*kubectl, "apply", "-n", "quantop-system", "-f", "-"],
            input=yaml.safe_dump_all(rbac),
            text=True,
            check=True,
        )
        subprocess.run(
            [*kubectl, "wait", "--for=condition=Established", "crd", "--all", "--timeout=30s"],
            check=True,
        )
        yield plane


@pytest.fixture
def cluster(plane: ControlPlane) -> Iterator[Cluster]:
    """The control plane with the cluster's kinds, and a fake node that plays its pods."""
    api = config.new_client_from_config(str(plane.kubeconfig))
    cluster = Cluster(
        plane,
        client.CoreV1Api(api),
        client.BatchV1Api(api),
        client.AppsV1Api(api),
        client.CustomObjectsApi(api),
        FakeNode(client.CoreV1Api(api)),
    )
    for manifest in objects.cluster_kinds():
        cluster.apply(copy.deepcopy(manifest))
    cluster.node.start()
    yield cluster
    cluster.node.stop()
    for kind in ("ModelStore", "Quantizer", "ModelRuntime", "Preset"):
        cluster.custom.delete_collection_cluster_custom_object(
            GROUP, VERSION, objects.PLURALS[kind]
        )


@pytest.fixture(scope="session")
def shared_operator(
    plane: ControlPlane, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Operator]:
    """One operator for all tests: its start takes longer than most of them."""
    log = tmp_path_factory.mktemp("operator") / "operator.log"
    operator = Operator(plane, log, ports=free_ports())
    yield operator
    if operator.running:
        assert operator.stop() == 0


@pytest.fixture
def operator(shared_operator: Operator) -> Iterator[Operator]:
    """A running operator; what it logged meanwhile is shown when the test fails."""
    if not shared_operator.running:
        shared_operator.start()
    mark = shared_operator.log.stat().st_size
    yield shared_operator
    print(shared_operator.log.read_text()[mark:][-6_000:])


@pytest.fixture
def namespace(cluster: Cluster) -> Iterator[str]:
    """A namespace of the test's own."""
    made = cluster.core.create_namespace({"metadata": {"generateName": "test-"}})
    name = made.metadata.name
    yield name
    for item in cluster.custom.list_namespaced_custom_object(
        GROUP, VERSION, name, "quantizedmodels"
    )["items"]:
        cluster.custom.patch_namespaced_custom_object(
            GROUP,
            VERSION,
            name,
            "quantizedmodels",
            item["metadata"]["name"],
            {"metadata": {"finalizers": []}},
        )
    cluster.core.delete_namespace(name)


def free_ports() -> tuple[int, int]:
    """Two ports that are free now."""
    with socket.socket() as one, socket.socket() as two:
        one.bind(("127.0.0.1", 0))
        two.bind(("127.0.0.1", 0))
        return one.getsockname()[1], two.getsockname()[1]
