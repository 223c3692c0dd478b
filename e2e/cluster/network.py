"""Network namespaces: one per node, and one with a bridge between them. None leads outside.

The namespaces are held by files in the cluster's state folder, not by `ip netns`: that one remounts
/sys for what it runs, which hides the cgroups from the kubelet, and its names are the machine's.
"""

from __future__ import annotations

import ctypes
import os
import socket
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from e2e.cluster.errors import ClusterError
from e2e.cluster.names import NOWHERE, Names, Node

_CLONE_NEWNET = 0x40000000


def create(names: Names, nodes: Sequence[Node]) -> None:
    """Make what is missing of the cluster's networks. Raises ClusterError."""
    _hold(names.switch)
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
        _hold(node.network)
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
            *(f"route replace {n.pods} via {n.address}" for n in nodes if n != node),
        )
        _forward(node.network)


def within(network: Path) -> list[str]:
    """The words before a command that run it in a network."""
    return ["nsenter", f"--net={network}"]


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


def exists(network: Path) -> bool:
    """Whether the file holds a namespace; after a reboot it is a plain file."""
    return os.path.ismount(network)


def _hold(network: Path) -> None:
    if exists(network):
        return
    network.parent.mkdir(parents=True, exist_ok=True)
    network.touch()
    _run(["unshare", f"--net={network}", "true"])


def _has_link(network: Path, link: str) -> bool:
    with inside(network):
        return any(name == link for _, name in socket.if_nameindex())


def _forward(network: Path) -> None:
    with inside(network):
        Path("/proc/sys/net/ipv4/ip_forward").write_text("1")


def _ip(network: Path, *commands: str) -> None:
    _run([*within(network), "ip", "-batch", "-"], "\n".join(commands))


def _run(command: list[str], text: str = "") -> None:
    done = subprocess.run(command, input=text, capture_output=True, text=True, check=False)
    if done.returncode:
        raise ClusterError(f"{' '.join(command)} failed: {done.stderr.strip()}\n{text}".rstrip())
