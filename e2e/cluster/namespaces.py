"""Network and mount namespaces: what keeps a cluster to itself.

Each node has a network namespace, joined by a bridge in one more; none leads outside. Each node has
a mount namespace too, in which the fixed folders of containerd, CNI and the kubelet are folders of
the cluster's: pods' mounts are seen nowhere else and vanish with it.

The namespaces are held by files in the cluster's state folder, not by `ip netns`: that one remounts
/sys for what it runs, which hides the cgroups from the kubelet, and its names are the machine's.
"""

from __future__ import annotations

import ctypes
import os
import re
import socket
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from e2e.cluster.errors import ClusterError
from e2e.cluster.names import NOWHERE, Names, Node

_CLONE_NEWNET = 0x40000000
_DETACH = 2

# Where programs on a node write, whatever they are told -> the folder of the node that is there.
_FOLDERS = {
    "/run/containerd": "run",
    "/var/lib/cni": "cni-results",
    "/var/lib/containerd": "containerd",
    "/var/lib/kubelet": "kubelet",
    "/var/log/containers": "container-logs",
    "/var/log/pods": "pod-logs",
}
_MOUNT = 'mountpoint --quiet "$1" || mount --bind "$0" "$1"'


def create(names: Names, nodes: Sequence[Node]) -> None:
    """Make what is missing of the cluster's namespaces. Raises ClusterError."""
    _prepare(names.namespaces)
    _hold("net", names.switch)
    if not _has_link(names.switch, "bridge0"):
        _ip(names.switch, "link add bridge0 type bridge", f"addr add {NOWHERE}/24 dev bridge0")
    # Whatever would leave the cluster is refused at once instead of timing out.
    _ip(
        names.switch,
        "link set bridge0 up",
        "route replace unreachable default",
        *(f"route replace {node.pods} via {node.address}" for node in nodes),
    )
    _forward(names.switch)
    for node in nodes:
        _connect(names, node, nodes)
        _hold("mount", node.mounts)
        for target, folder in _FOLDERS.items():
            source = node.folder / folder
            for path in (source, Path(target)):
                path.mkdir(parents=True, exist_ok=True)
            _run([*on(node), "sh", "-c", _MOUNT, str(source), target])


def remove(names: Names) -> None:
    """Let go of the cluster's namespaces, and detach what is mounted below its folder."""
    libc = ctypes.CDLL(None, use_errno=True)
    for point in reversed(mounts_below(names.state, _mounts())):
        libc.umount2(os.fsencode(point), _DETACH)


def on_network(network: Path) -> list[str]:
    """The words before a command that run it in a network."""
    return ["nsenter", f"--net={network}", "--"]


def on(node: Node) -> list[str]:
    """The words before a command that run it as a node's own: in its network, with its folders."""
    return ["nsenter", f"--net={node.network}", f"--mount={node.mounts}", "--"]


@contextmanager
def inside(network: Path) -> Iterator[None]:
    """Move the calling thread, and what it starts, into a network until the block ends."""
    libc = ctypes.CDLL(None, use_errno=True)
    home = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
    there = os.open(network, os.O_RDONLY)
    try:
        if libc.setns(there, _CLONE_NEWNET):
            raise ClusterError(f"cannot enter {network}: {os.strerror(ctypes.get_errno())}")
        try:
            yield
        finally:
            if libc.setns(home, _CLONE_NEWNET):
                raise OSError(ctypes.get_errno(), "cannot return to this thread's own network")
    finally:
        os.close(there)
        os.close(home)


def mounts_below(folder: Path, mounts: str) -> list[Path]:
    """Mount points below a folder in the text of /proc/mounts, in the order of mounting."""
    points = [_unescaped(line.split()[1]) for line in mounts.splitlines()]
    return [point for point in points if point.is_relative_to(folder)]


def _connect(names: Names, node: Node, nodes: Sequence[Node]) -> None:
    """Give a node its network, with routes to the other nodes' pods."""
    _hold("net", node.network)
    port = f"port{node.index}"
    if not _has_link(node.network, "eth0"):
        # Both ends are made where they belong, so the machine's own namespace never sees them.
        _ip(names.switch, f"link add {port} type veth peer name eth0 netns {node.network}")
    _ip(names.switch, f"link set {port} master bridge0 up")
    _ip(
        node.network,
        "link set lo up",
        f"addr replace {node.address}/24 dev eth0",
        "link set eth0 up",
        # The kubelet and kube-proxy want a default route.
        f"route replace default via {NOWHERE}",
        *(f"route replace {other.pods} via {other.address}" for other in nodes if other != node),
    )
    _forward(node.network)


def _prepare(folder: Path) -> None:
    """Make the folder that holds the namespaces.

    A file can hold a mount namespace only where mounts are not shared with other namespaces.
    """
    folder.mkdir(parents=True, exist_ok=True)
    # os.path.ismount knows no bind mount within one file system.
    if folder not in mounts_below(folder, _mounts()):
        _run(["mount", "--bind", str(folder), str(folder)])
        _run(["mount", "--make-private", str(folder)])


def _hold(kind: str, file: Path) -> None:
    """Make a namespace that the file holds, unless it does already."""
    if not os.path.ismount(file):
        file.touch()
        _run(["unshare", f"--{kind}={file}", "true"])


def _has_link(network: Path, link: str) -> bool:
    with inside(network):
        return any(name == link for _, name in socket.if_nameindex())


def _forward(network: Path) -> None:
    with inside(network):
        Path("/proc/sys/net/ipv4/ip_forward").write_text("1")


def _ip(network: Path, *commands: str) -> None:
    _run([*on_network(network), "ip", "-batch", "-"], "\n".join(commands))


def _run(command: list[str], text: str = "") -> None:
    done = subprocess.run(command, input=text, capture_output=True, text=True, check=False)
    if done.returncode:
        raise ClusterError(f"{' '.join(command)} failed: {done.stderr.strip()}\n{text}".rstrip())


def _mounts() -> str:
    return Path("/proc/self/mounts").read_text()


def _unescaped(field: str) -> Path:
    """A path of /proc/mounts, where spaces and the like are written in octal."""
    return Path(re.sub(r"\\([0-7]{3})", lambda found: chr(int(found[1], 8)), field))
