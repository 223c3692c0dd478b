"""A node: containerd, kubelet and kube-proxy, and their settings.

They run in the node's own namespaces, where /run/containerd, /var/lib/kubelet and the like are the
node's: see namespaces.py. Settings are written as JSON, which is YAML too.
"""

from __future__ import annotations

import json
import os
import subprocess
from functools import partial
from pathlib import Path

from e2e.cluster import namespaces, probes, toolchain
from e2e.cluster.controlplane import Layout
from e2e.cluster.errors import ClusterError
from e2e.cluster.names import DNS_SERVICE, POD_RANGE, REGISTRY, Node
from e2e.cluster.paths import binaries, write
from e2e.cluster.pki import Certificate
from e2e.cluster.processes import Supervisor

PAUSE_IMAGE = f"{REGISTRY}/cluster/pause:1"
_SOCKET = "/run/containerd/containerd.sock"
_PLUGIN_FOLDERS = ("/usr/lib/cni", "/opt/cni/bin", "/usr/libexec/cni")


def containerd_settings(node: Node, registry_hosts: Path, plugins: Path) -> str:
    """containerd's settings, whose `state` holds the pods' network namespaces too."""
    quote = json.dumps  # a JSON string is a TOML string
    return f"""\
version = 3
root = "/var/lib/containerd"
state = "/run/containerd"

[grpc]
address = "{_SOCKET}"

[plugins."io.containerd.internal.v1.opt"]
path = "/var/lib/containerd/opt"

# Plugins of the machine's own have no business here.
[plugins."io.containerd.nri.v1.nri"]
disable = true

[plugins."io.containerd.cri.v1.images"]
# The registry is on this disk already; one copy of each layer besides it is enough.
discard_unpacked_layers = true

[plugins."io.containerd.cri.v1.images".registry]
config_path = {quote(str(registry_hosts))}

[plugins."io.containerd.cri.v1.images".pinned_images]
sandbox = {quote(PAUSE_IMAGE)}

[plugins."io.containerd.cri.v1.runtime"]
# Without CAP_SYS_RESOURCE a score may only be raised.
restrict_oom_score_adj = true
netns_mounts_under_state_dir = true

[plugins."io.containerd.cri.v1.runtime".cni]
bin_dirs = [{quote(str(plugins))}]
conf_dir = {quote(str(node.folder / "cni"))}
use_internal_loopback = true
"""


def registry_hosts() -> str:
    """How containerd reaches the registry, which speaks plain HTTP."""
    url = json.dumps(f"http://{REGISTRY}")
    return f'server = {url}\n\n[host.{url}]\ncapabilities = ["pull", "resolve"]\n'


def pod_network(node: Node) -> str:
    """The CNI settings: a pair of interfaces and a route for each pod.

    Routed rather than bridged, so that an answer between two pods of one node passes kube-proxy's
    translation on its way back whether or not the machine filters bridged traffic.
    """
    addresses = {
        "type": "host-local",
        "dataDir": "/var/lib/cni/addresses",
        "ranges": [[{"subnet": node.pods}]],
        "routes": [{"dst": "0.0.0.0/0"}],
    }
    plugin = {"type": "ptp", "ipMasq": False, "ipam": addresses}
    return json.dumps({"cniVersion": "1.0.0", "name": "pods", "plugins": [plugin]}, indent=1)


def kubelet_settings(node: Node, layout: Layout) -> str:
    """The kubelet's settings; images are never collected, since the machine cannot fetch anew."""
    serving = _certificate(node, layout)
    settings = {
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "authentication": {
            "anonymous": {"enabled": False},
            "webhook": {"enabled": True},
            "x509": {"clientCAFile": str(layout.authority.certificate)},
        },
        "authorization": {"mode": "Webhook"},
        "tlsCertFile": str(serving.certificate),
        "tlsPrivateKeyFile": str(serving.key),
        "cgroupDriver": "cgroupfs",
        "cgroupRoot": node.cgroup,
        "failCgroupV1": False,
        "failSwapOn": False,
        "enforceNodeAllocatable": [],
        "clusterDNS": [DNS_SERVICE],
        "clusterDomain": "cluster.local",
        "resolvConf": str(node.folder / "resolv.conf"),
        "containerRuntimeEndpoint": f"unix://{_SOCKET}",
        "volumePluginDir": "/var/lib/kubelet/volume-plugins",
        "imageGCHighThresholdPercent": 100,
        "evictionHard": {
            "memory.available": "100Mi",
            "nodefs.available": "1%",
            "imagefs.available": "1%",
        },
        "serializeImagePulls": False,
        "registryPullQPS": 0,
        "maxPods": 200,
    }
    return json.dumps(settings, indent=1)


def proxy_settings(node: Node, layout: Layout) -> str:
    """kube-proxy's settings; connection tracking limits are the machine's, so they are left."""
    settings = {
        "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
        "kind": "KubeProxyConfiguration",
        "mode": "nftables",
        "clientConnection": {"kubeconfig": str(layout.kubeconfig("system:kube-proxy"))},
        "clusterCIDR": POD_RANGE,
        "hostnameOverride": node.name,
        "conntrack": {"maxPerCore": 0},
    }
    return json.dumps(settings, indent=1)


def plugin_folder() -> Path:
    """Where the CNI plugins lie. Raises ClusterError."""
    for folder in map(Path, _PLUGIN_FOLDERS):
        if (folder / "ptp").exists() and (folder / "host-local").exists():
            return folder
    raise ClusterError("no CNI plugins; `apt-get install containernetworking-plugins`")


def start_containerd(node: Node, supervisor: Supervisor) -> None:
    """Start a node's containerd and wait for it; containers of an earlier life are removed."""
    part = f"containerd-{node.name}"
    if supervisor.running(part):
        return
    hosts = node.folder / "registries"
    write(hosts / REGISTRY / "hosts.toml", registry_hosts())
    write(node.folder / "cni" / "pods.conflist", pod_network(node))
    settings = write(
        node.folder / "containerd.toml", containerd_settings(node, hosts, plugin_folder())
    )

    def start() -> None:
        supervisor.start(
            part,
            [toolchain.binary("containerd"), "--config", settings],
            within=namespaces.on(node),
            # It looks for its shim and for runc on PATH.
            environment={"PATH": f"{binaries()}:{search_path()}"},
        )
        supervisor.wait(part, partial(_answers, node))

    start()
    # What was killed with a cluster is still listed, and CRI would report it to the kubelet. Where
    # anything lives, only containerd itself had died, and it finds its containers again.
    leftovers = _ctr(node, "containers", "list", "--quiet").split()
    if leftovers and not _ctr(node, "tasks", "list", "--quiet").split():
        _ctr(node, "containers", "delete", *leftovers)
        supervisor.end([part], grace=5)
        start()


def start_kubelet(node: Node, supervisor: Supervisor, layout: Layout) -> None:
    """Start a node's kubelet and kube-proxy, and wait for the kubelet."""
    user = _certificate(node, layout)
    kubeconfig = layout.authority.kubeconfig(node.folder / "kubeconfig", layout.server, user)
    write(node.folder / "resolv.conf", "")
    settings = write(node.folder / "kubelet.json", kubelet_settings(node, layout))
    part = f"kubelet-{node.name}"
    supervisor.start(
        part,
        [
            toolchain.binary("kubelet"),
            f"--config={settings}",
            f"--kubeconfig={kubeconfig}",
            f"--hostname-override={node.name}",
            f"--node-ip={node.address}",
        ],
        within=namespaces.on(node),
        environment={"PATH": search_path()},
    )
    proxy = write(node.folder / "kube-proxy.json", proxy_settings(node, layout))
    supervisor.start(
        f"kube-proxy-{node.name}",
        [toolchain.binary("kube-proxy"), f"--config={proxy}"],
        within=namespaces.on_network(node.network),
        environment={"PATH": search_path()},
    )
    with namespaces.inside(node.network):
        supervisor.wait(part, partial(probes.healthy, "http://127.0.0.1:10248/healthz"))


def search_path() -> str:
    """PATH with the folders of system programs, which a user's may lack."""
    return f"{os.environ.get('PATH', '')}:/usr/local/sbin:/usr/sbin:/sbin:/usr/bin:/bin"


def _certificate(node: Node, layout: Layout) -> Certificate:
    hosts = [f"DNS:{node.name}", f"IP:{node.address}"]
    return layout.authority.issue(
        node.name, f"system:node:{node.name}", groups=["system:nodes"], hosts=hosts
    )


def _answers(node: Node) -> bool:
    return _run_ctr(node, "version").returncode == 0


def _ctr(node: Node, *arguments: str) -> str:
    done = _run_ctr(node, "--namespace", "k8s.io", *arguments)
    if done.returncode:
        raise ClusterError(f"ctr {' '.join(arguments)} on {node.name}: {done.stderr.strip()}")
    return done.stdout


def _run_ctr(node: Node, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*namespaces.on(node), str(toolchain.binary("ctr")), *arguments],
        capture_output=True,
        text=True,
        check=False,
    )
