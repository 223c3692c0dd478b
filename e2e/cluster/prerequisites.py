"""The machine's own programs that a cluster needs, and their installation by apt."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable

from e2e.cluster.errors import ClusterError
from e2e.cluster.node import plugin_folder, search_path

# Program -> the Debian and Ubuntu package that has it.
_CLUSTER = {
    "runc": "runc",
    "nft": "nftables",
    "conntrack": "conntrack",
    "ip": "iproute2",
    "openssl": "openssl",
    "nsenter": "util-linux",
    "unshare": "util-linux",
    "mount": "mount",
}
_IMAGES = {
    "buildah": "buildah",
    "mmdebstrap": "mmdebstrap",
    "fuse-overlayfs": "fuse-overlayfs",
    "gcc": "build-essential",
    "g++": "build-essential",
    "make": "build-essential",
    "cmake": "cmake",
    "git": "git",
}
_PLUGINS = "containernetworking-plugins"


def missing(*, images: bool = True) -> list[str]:
    """The packages that are not there: for the cluster, and for building images unless told not."""
    programs = _CLUSTER | _IMAGES if images else _CLUSTER
    path = search_path()
    packages = {package for name, package in programs.items() if not shutil.which(name, path=path)}
    try:
        plugin_folder()
    except ClusterError:
        packages.add(_PLUGINS)
    return sorted(packages)


def check() -> None:
    """Raise ClusterError with what to do when a cluster cannot run here."""
    if os.geteuid() != 0:
        raise ClusterError(
            "the cluster needs root: it makes network namespaces, mounts and cgroups"
        )
    if packages := missing(images=False):
        raise ClusterError(
            f"missing: {' '.join(packages)}; run `python -m e2e.cluster prerequisites`"
        )


def install(say: Callable[[str], None]) -> None:
    """Install what is missing. Raises ClusterError where that takes a person."""
    if not shutil.which("go"):
        raise ClusterError("go is not on PATH; install Go 1.26 or newer from https://go.dev/dl")
    packages = missing()
    if not packages:
        say("everything needed is installed")
        return
    wanted = " ".join(packages)
    apt = shutil.which("apt-get")
    if apt is None:
        raise ClusterError(f"no apt-get here; install what these Debian packages hold: {wanted}")
    if os.geteuid() != 0:
        raise ClusterError(f"not root; run: apt-get install --no-install-recommends {wanted}")
    say(f"installing {wanted}")
    environment = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
    for command in (["update"], ["install", "-y", "--no-install-recommends", *packages]):
        if subprocess.run([apt, "-q", *command], env=environment, check=False).returncode:
            raise ClusterError(f"apt-get {command[0]} failed; see above")
    if left := missing():
        raise ClusterError(f"still missing after the installation: {' '.join(left)}")
