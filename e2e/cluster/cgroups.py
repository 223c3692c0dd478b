"""The cgroups below which a cluster's pods live: `/<cluster>/node<i>` in every hierarchy."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from e2e.cluster.errors import ClusterError
from e2e.cluster.names import Names, Node
from e2e.cluster.processes import Identity, end, identify

_CONTROLLERS = ("cpuset", "cpu", "io", "memory", "pids")


@dataclass(frozen=True)
class Hierarchy:
    """One mounted cgroup tree; `unified` says that it is version 2."""

    root: Path
    unified: bool


def hierarchies(mounts: str) -> list[Hierarchy]:
    """The cgroup trees in the text of /proc/mounts, each once."""
    found: dict[str, Hierarchy] = {}
    for line in mounts.splitlines():
        _, point, kind, *_ = line.split()
        if kind in ("cgroup", "cgroup2"):
            found[point] = Hierarchy(Path(point), kind == "cgroup2")
    return list(found.values())


def create(nodes: Sequence[Node]) -> None:
    """Make each node's cgroup; the kubelet wants it to exist in every hierarchy beforehand."""
    for hierarchy in _mounted():
        for node in nodes:
            folder = hierarchy.root
            for part in Path(node.cgroup).parts[1:]:
                if hierarchy.unified:
                    _delegate(folder)
                folder /= part
                folder.mkdir(exist_ok=True)
                _inherit_cpus(folder)


def kill(names: Names) -> None:
    """End every process in the cluster's cgroups: they are its containers. Raises ClusterError."""
    deadline = time.monotonic() + 20
    while members := _members(names):
        if time.monotonic() > deadline:
            raise ClusterError(f"containers do not die: {[member.pid for member in members]}")
        end(members, grace=0)


def remove(names: Names) -> None:
    """Remove the cluster's cgroups, which must be empty of processes. Raises ClusterError."""
    deadline = time.monotonic() + 10
    for folder in _folders(names):
        while True:
            try:
                folder.rmdir()
            except FileNotFoundError:
                break
            except OSError as error:
                # The kernel takes a moment to let go of processes that have just died.
                if time.monotonic() > deadline:
                    raise ClusterError(f"cannot remove the cgroup {folder}: {error}") from error
                time.sleep(0.05)
            else:
                break


def _mounted() -> list[Hierarchy]:
    return hierarchies(Path("/proc/mounts").read_text())


def _folders(names: Names) -> Iterator[Path]:
    """The cluster's cgroups, the deepest first."""
    for hierarchy in _mounted():
        top = hierarchy.root / names.unique
        if top.is_dir():
            below = [path for path in top.rglob("*") if path.is_dir()]
            yield from sorted(below, key=lambda path: len(path.parts), reverse=True)
            yield top


def _members(names: Names) -> list[Identity]:
    pids: set[int] = set()
    for folder in _folders(names):
        with contextlib.suppress(OSError):
            pids.update(map(int, (folder / "cgroup.procs").read_text().split()))
    return [process for process in map(identify, pids) if process]


def _delegate(folder: Path) -> None:
    """Version 2: let children use the controllers that the folder itself has."""
    available = (folder / "cgroup.controllers").read_text().split()
    for controller in set(available).intersection(_CONTROLLERS):
        (folder / "cgroup.subtree_control").write_text(f"+{controller}")


def _inherit_cpus(folder: Path) -> None:
    """Version 1: a cpuset starts empty, and an empty one takes no process."""
    for file in ("cpuset.cpus", "cpuset.mems"):
        if (folder / file).exists() and not (folder / file).read_text().strip():
            (folder / file).write_text((folder.parent / file).read_text())
