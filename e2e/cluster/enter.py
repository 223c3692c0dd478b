"""Runs a command inside a cluster's network, as if it were on node 0."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from typing import NoReturn

from e2e.cluster import namespaces
from e2e.cluster.cluster import Cluster
from e2e.cluster.errors import ClusterError
from e2e.cluster.names import (
    DNS_SERVICE,
    S3_ACCESS_KEY,
    S3_ADDRESS,
    S3_REGION,
    S3_SECRET_KEY,
    Names,
)
from e2e.cluster.paths import REPOSITORY, binaries, write

# Tells a command that it runs inside: mounts it made would vanish with it.
INSIDE = "QUANTOP_INSIDE_CLUSTER"

# The cluster's DNS serves every name and cluster names in short, as pods have them.
RESOLVER = f"""\
nameserver {DNS_SERVICE}
search default.svc.cluster.local svc.cluster.local cluster.local
options ndots:5
"""


def environment(names: Names, inherited: Mapping[str, str]) -> dict[str, str]:
    """A command's environment: the caller's, with the cluster's settings and without proxies."""
    hidden = {"AWS_PROFILE", "AWS_SESSION_TOKEN", "AWS_CONFIG_FILE"}
    kept = {
        name: value
        for name, value in inherited.items()
        if name not in hidden and not name.lower().endswith("_proxy")
    }
    path = inherited.get("PATH", os.defpath)
    return kept | {
        "PATH": f"{REPOSITORY / '.venv' / 'bin'}:{binaries()}:{path}",
        "QUANTOP_CLUSTER": names.cluster,
        INSIDE: names.cluster,
        "KUBECONFIG": str(names.layout.admin_kubeconfig()),
        "AWS_ENDPOINT_URL": f"http://{S3_ADDRESS}",
        "S3_ENDPOINT_URL": f"http://{S3_ADDRESS}",  # what s5cmd calls it
        "AWS_ACCESS_KEY_ID": S3_ACCESS_KEY,
        "AWS_SECRET_ACCESS_KEY": S3_SECRET_KEY,
        "AWS_REGION": S3_REGION,
        "AWS_DEFAULT_REGION": S3_REGION,
        "AWS_EC2_METADATA_DISABLED": "true",
    }


def run(names: Names, command: Sequence[str]) -> NoReturn:
    """Replace this process by the command. Raises ClusterError when there is no cluster."""
    if not command:
        raise ClusterError("which command? e.g. `e2e/cluster/exec kubectl get pods -A`")
    if os.geteuid() != 0:
        raise ClusterError("entering the cluster's network needs root")
    Cluster(names).require_running()
    resolver = write(names.state / "config" / "resolv.conf", RESOLVER)
    # The resolver's file is replaced in a mount namespace of the command's own.
    mounted = 'mount --bind "$0" /etc/resolv.conf && exec "$@"'
    words = [
        *namespaces.on_network(names.node(0).network),
        *("unshare", "--mount", "--propagation", "slave"),
        *("sh", "-c", mounted, str(resolver), *command),
    ]
    os.execvpe(words[0], words, environment(names, os.environ))


def main() -> int:
    """`e2e/cluster/exec CMD...`"""
    try:
        run(Names.of(), sys.argv[1:])
    except ClusterError as error:
        print(error, file=sys.stderr)
        return 1
