"""What is called what, and where it is reached: everything that follows from a cluster's name."""

from __future__ import annotations

import hashlib
import os
import re
from dataclasses import dataclass
from pathlib import Path

from e2e.cluster.controlplane import Layout
from e2e.cluster.errors import ClusterError
from e2e.cluster.paths import cache

DEFAULT_NAME = "quantop"
MAX_NODES = 3

# Every cluster has the same addresses: each lives in network namespaces of its own.
NODE_PREFIX = "10.200.0"
NOWHERE = f"{NODE_PREFIX}.254"  # the default route's next hop; it answers "unreachable"
DNS_SERVICE = "10.96.0.10"
POD_RANGE = "10.244.0.0/16"
CONTROL_PLANE = f"{NODE_PREFIX}.10"
REGISTRY = f"{CONTROL_PLANE}:5000"
S3_ADDRESS = f"{CONTROL_PLANE}:7070"

# The S3 server is reachable from inside the cluster only, so its key is no secret.
S3_ACCESS_KEY = "quantop"
S3_SECRET_KEY = "quantop-secret"
S3_REGION = "us-east-1"


@dataclass(frozen=True)
class Node:
    """One node of a cluster; `index` counts from 0, which is the control plane too."""

    index: int
    state: Path
    cgroup: str

    @property
    def name(self) -> str:
        return f"node{self.index}"

    @property
    def address(self) -> str:
        return f"{NODE_PREFIX}.{10 + self.index}"

    @property
    def pods(self) -> str:
        """The node's range of pod addresses."""
        return f"10.244.{self.index}.0/24"

    @property
    def folder(self) -> Path:
        return self.state / self.name

    @property
    def network(self) -> Path:
        """The file that holds the node's network namespace."""
        return self.state / "namespaces" / f"{self.name}.net"

    @property
    def mounts(self) -> Path:
        """The file that holds the node's mount namespace."""
        return self.state / "namespaces" / f"{self.name}.mnt"


@dataclass(frozen=True)
class Names:
    """A cluster's names. `cluster` is lower case letters, digits and dashes, 20 at most."""

    cluster: str
    state: Path

    @classmethod
    def of(cls, cluster: str | None = None) -> Names:
        """The names of a cluster, by default the one of `QUANTOP_CLUSTER`. Raises ClusterError."""
        cluster = cluster or os.environ.get("QUANTOP_CLUSTER") or DEFAULT_NAME
        if not re.fullmatch(r"[a-z][a-z0-9-]{0,19}", cluster):
            raise ClusterError(
                f"cluster name {cluster!r}: use 1 to 20 lower case letters, digits and dashes, "
                "a letter first"
            )
        return cls(cluster, cache() / "clusters" / cluster)

    @property
    def unique(self) -> str:
        """A name no other cluster on the machine has, whichever cache it lives in."""
        return f"{self.cluster}-{hashlib.sha256(str(self.state).encode()).hexdigest()[:6]}"

    @property
    def namespaces(self) -> Path:
        """The folder with the files that hold its namespaces."""
        return self.state / "namespaces"

    @property
    def switch(self) -> Path:
        """The file that holds the network namespace between the nodes."""
        return self.namespaces / "switch.net"

    def node(self, index: int) -> Node:
        return Node(index, self.state, f"/{self.unique}/node{index}")

    @property
    def layout(self) -> Layout:
        """Where the control plane listens, in node 0's network."""
        return Layout(
            state=self.state,
            address=CONTROL_PLANE,
            api_port=6443,
            etcd_port=2379,
            etcd_peer_port=2380,
            manager_port=10257,
        )
