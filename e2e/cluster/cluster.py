"""The cluster as a whole: up, down, what runs."""

from __future__ import annotations

import fcntl
import json
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from e2e.cluster import (
    cgroups,
    controlplane,
    host,
    images,
    namespaces,
    prerequisites,
    probes,
    toolchain,
)
from e2e.cluster import node as nodes
from e2e.cluster.errors import ClusterError
from e2e.cluster.names import (
    MAX_NODES,
    REGISTRY,
    S3_ACCESS_KEY,
    S3_ADDRESS,
    S3_REGION,
    S3_SECRET_KEY,
    Names,
    Node,
)
from e2e.cluster.paths import MANIFESTS, cache, write
from e2e.cluster.processes import Supervisor, end

# Deployments that `up` waits for: namespace -> names.
_DEPLOYMENTS = {"kube-system": ["coredns", "metrics-server"], "monitoring": ["prometheus"]}

# What `down` keeps of a cluster's folder: identities, buckets, pulled images and logs.
_KEPT = {"pki", "kubeconfig", "s3", "logs", "lock"}
_KEPT_OF_NODE = {"containerd"}


@dataclass(frozen=True)
class Part:
    """One process of a cluster: `pid` is None when it was started and has ended."""

    name: str
    pid: int | None
    log: Path


class Cluster:
    """One cluster, by name; `say` gets a line for whatever takes a while."""

    def __init__(self, names: Names, say: Callable[[str], None] = print) -> None:
        self.names = names
        self.layout = names.layout
        self.supervisor = Supervisor(names.state)
        self._say = say

    def up(self, count: int | None = None) -> None:
        """Bring up a cluster of `count` nodes (default: as many as it has, or 1), or repair it.

        Returns when every node and every system pod is ready. Raises ClusterError, and leaves what
        came up as it is, for a look; `up` goes on from there and `down` takes it away.
        """
        prerequisites.check()
        toolchain.build(toolchain.CLUSTER_GROUPS, self._say)
        with self._lock():
            if not any(part.pid for part in self.parts()):
                self._clear()
                _empty(self.supervisor.logs, keep=set())
            members = self._members(count)
            started = time.monotonic()
            host.remember_settings()
            namespaces.create(self.names, members)
            cgroups.create(members)
            with namespaces.inside(members[0].network):
                self._start(members)
                self._deploy(len(members))
            self._say(
                f"cluster {self.names.cluster}: {len(members)} node(s) ready "
                f"after {time.monotonic() - started:.0f} s"
            )

    def down(self, *, purge: bool = False) -> None:
        """Take the cluster away, whatever state it is in; nothing to do is no error.

        Kept are its identities, S3 buckets, pulled images and logs, unless `purge`. Raises
        ClusterError when something would not go.
        """
        with self._lock():
            self._clear()
            if purge:
                shutil.rmtree(self.names.state)

    def parts(self) -> list[Part]:
        """Every process that was started."""
        return [
            Part(name, process.pid if process else None, self.supervisor.log(name))
            for name in self.supervisor.parts()
            for process in [self.supervisor.running(name)]
        ]

    def require_running(self) -> None:
        """Raise ClusterError when there is no cluster to work with."""
        if not self.supervisor.running("kube-apiserver"):
            raise ClusterError(
                f"cluster {self.names.cluster} is not up; run `python -m e2e.cluster up`"
            )

    def _members(self, count: int | None) -> list[Node]:
        """The nodes to run; a running cluster may grow."""
        file = self.names.state / "nodes.json"
        have = int(json.loads(file.read_text())) if file.exists() else 0
        count = count or have or 1
        if not 1 <= count <= MAX_NODES:
            raise ClusterError(f"{count} nodes: a cluster has 1 to {MAX_NODES}")
        if count < have:
            raise ClusterError(f"the cluster has {have} nodes; `down` first for fewer")
        write(file, json.dumps(count))
        return [self.names.node(index) for index in range(count)]

    def _start(self, members: Sequence[Node]) -> None:
        """Start every process that does not run, and wait until all are ready."""
        layout, supervisor = self.layout, self.supervisor
        start = partial(supervisor.start, within=namespaces.on_network(members[0].network))
        start("etcd", controlplane.etcd_command(layout))
        advertise = f"--advertise-address={layout.address}"
        start("kube-apiserver", controlplane.apiserver_command(layout, advertise))
        start("registry", self._registry_command(), environment={"OTEL_TRACES_EXPORTER": "none"})
        start(
            "s3",
            self._s3_command(),
            environment={"ROOT_ACCESS_KEY": S3_ACCESS_KEY, "ROOT_SECRET_KEY": S3_SECRET_KEY},
        )
        for node in members:
            nodes.start_containerd(node, supervisor)
        supervisor.wait("registry", partial(probes.healthy, f"http://{REGISTRY}/v2/"))
        for image in images.IMAGES:
            if images.push(image):
                self._say(f"pushed {image.repository}")
        controlplane.wait_for_etcd(supervisor, layout)
        controlplane.wait_for_apiserver(supervisor, layout)
        start("kube-controller-manager", controlplane.controller_manager_command(layout))
        start("kube-scheduler", controlplane.scheduler_command(layout))
        for node in members:
            nodes.start_kubelet(node, supervisor, layout)
        controlplane.wait_for_controller_manager(supervisor, layout)
        healthz = "https://127.0.0.1:10259/healthz"
        supervisor.wait("kube-scheduler", partial(probes.healthy, healthz))
        supervisor.wait("s3", partial(probes.healthy, f"http://{S3_ADDRESS}/health"))

    def _registry_command(self) -> list[str | Path]:
        # The folder is shared by all clusters: blobs are named by their content and moved into
        # place whole, nothing is ever deleted, and no server caches what it has seen.
        settings = {
            "version": "0.1",
            "log": {"level": "warn", "accesslog": {"disabled": True}},
            "storage": {"filesystem": {"rootdirectory": str(cache() / "registry")}},
            "http": {"addr": REGISTRY, "secret": "quantop"},
        }
        file = write(self.names.state / "config" / "registry.json", json.dumps(settings, indent=1))
        return [toolchain.binary("registry"), "serve", file]

    def _s3_command(self) -> list[str | Path]:
        folder = self.names.state / "s3"
        folder.mkdir(parents=True, exist_ok=True)
        return [
            toolchain.binary("versitygw"),
            f"--port={S3_ADDRESS}",
            f"--region={S3_REGION}",
            "--health=/health",
            "--quiet",
            "posix",
            folder,
        ]

    def _deploy(self, count: int) -> None:
        """Apply the system's manifests and wait for nodes and pods."""
        self._kubectl("apply", "--server-side", "--filename", MANIFESTS)
        deadline = time.monotonic() + 180
        while (ready := self._ready_nodes()) < count:
            if time.monotonic() > deadline:
                raise ClusterError(f"{ready} of {count} nodes are ready; {self._nodes_say()}")
            time.sleep(0.3)
        for namespace, deployments in _DEPLOYMENTS.items():
            for name in deployments:
                self._wait_for_deployment(namespace, name)
        metrics = ["apiservice/v1beta1.metrics.k8s.io", "--timeout=120s"]
        self._kubectl("wait", "--for=condition=Available", *metrics)

    def _ready_nodes(self) -> int:
        path = '{.items[*].status.conditions[?(@.type=="Ready")].status}'
        return self._kubectl("get", "nodes", "--output", f"jsonpath={path}").split().count("True")

    def _nodes_say(self) -> str:
        return self._kubectl("describe", "nodes")[-2000:]

    def _wait_for_deployment(self, namespace: str, name: str) -> None:
        inside = ["--namespace", namespace]
        try:
            self._kubectl(*inside, "rollout", "status", f"deployment/{name}", "--timeout=180s")
        except ClusterError as error:
            log = self._kubectl(*inside, "logs", f"deployment/{name}", "--tail=20", check=False)
            events = self._kubectl(*inside, "events", "--types=Warning", check=False)
            raise ClusterError(
                f"{name} did not come up: {error}\n{events[-2000:]}\n{log}"
            ) from error

    def _kubectl(self, *arguments: str | Path, check: bool = True) -> str:
        kubeconfig = self.layout.admin_kubeconfig()
        command = [toolchain.binary("kubectl"), "--kubeconfig", kubeconfig, *arguments]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode and check:
            raise ClusterError(f"kubectl {' '.join(map(str, arguments))}: {done.stderr.strip()}")
        return done.stdout

    def _clear(self) -> None:
        """End the cluster's processes and remove what lives only while it runs."""
        state, supervisor = self.names.state, self.supervisor
        parts = supervisor.parts()
        # etcd goes last: the API server waits a minute for one that is gone.
        supervisor.end([part for part in parts if part != "etcd"], grace=3)
        supervisor.end(["etcd"], grace=3)
        cgroups.kill(self.names)
        # containerd's shims, which outlive it, and whatever a killed `up` had no time to note.
        end(supervisor.strays(), grace=0)
        namespaces.remove(self.names)
        cgroups.remove(self.names)
        members = [self.names.node(index) for index in range(MAX_NODES)]
        for node in members:
            _empty(node.folder, keep=_KEPT_OF_NODE)
        _empty(state, keep=_KEPT | {node.name for node in members})
        if not self._others_run():
            host.restore_settings()

    def _others_run(self) -> bool:
        others = (path for path in (cache() / "clusters").iterdir() if path.is_dir())
        return any(
            supervisor.running(part)
            for supervisor in map(Supervisor, others)
            for part in supervisor.parts()
        )

    @contextmanager
    def _lock(self) -> Iterator[None]:
        """One `up` or `down` of a cluster at a time; a killed one holds nothing."""
        self.names.state.mkdir(parents=True, exist_ok=True, mode=0o700)
        with (self.names.state / "lock").open("w") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                self._say("waiting for another `up` or `down` of this cluster")
                fcntl.flock(file, fcntl.LOCK_EX)
            yield


def _empty(folder: Path, keep: set[str]) -> None:
    """Remove what a folder holds, apart from some."""
    for entry in folder.iterdir() if folder.exists() else ():
        if entry.name not in keep:
            if entry.is_dir() and not entry.is_symlink():
                shutil.rmtree(entry)
            else:
                entry.unlink()
