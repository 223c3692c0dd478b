"""Builds the cluster's programs from pinned Go modules into the cache.

Each group is one folder in `tools/` with a `go.mod` whose `tool` directives name the programs and a
`go.sum` that fixes their content: one module per upstream, since their requirements conflict. A
marker beside the binaries holds the hash of what they were made from; an unchanged group is not
built again.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import re
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from e2e.cluster.errors import ClusterError
from e2e.cluster.paths import TOOLS, binaries, cache, write


@dataclass(frozen=True)
class Group:
    """Programs built from one module: `rename` maps Go's name of a program to ours."""

    name: str
    tags: str = ""
    rename: Mapping[str, str] = field(default_factory=dict)

    @property
    def folder(self) -> Path:
        return TOOLS / self.name

    @property
    def marker(self) -> Path:
        return binaries() / f".{self.name}.json"

    def flags(self) -> list[str]:
        """The arguments of `go build`, apart from its output."""
        symbols = "-s -w"
        if self.name == "kubernetes":
            symbols += f" {self._kubernetes_version()}"
        flags = ["-mod=readonly", "-trimpath", "-buildvcs=false", "-ldflags", symbols]
        return [*flags, "-tags", self.tags] if self.tags else flags

    def digest(self) -> str:
        """The hash of everything that decides what the binaries are."""
        inputs = [path.read_text() for path in sorted(self.folder.iterdir())]
        return hashlib.sha256(json.dumps([inputs, self.flags()]).encode()).hexdigest()

    def built(self) -> bool:
        """Whether the cache holds what the module says."""
        try:
            marker = json.loads(self.marker.read_text())
        except FileNotFoundError:
            return False
        files = [binaries() / name for name in marker["binaries"]]
        return bool(marker["digest"] == self.digest()) and all(map(Path.exists, files))

    def _kubernetes_version(self) -> str:
        """Linker flags that tell Kubernetes its version, which decides API and feature versions."""
        pinned = re.search(r"k8s\.io/kubernetes v((\d+)\.(\d+)\S+)", self._module())
        if pinned is None:
            raise ClusterError(f"{self.folder}/go.mod does not require k8s.io/kubernetes")
        version, major, minor = pinned.groups()
        values = {
            "gitVersion": f"v{version}",
            "gitMajor": major,
            "gitMinor": minor,
            "gitTreeState": "clean",
            "buildDate": "1970-01-01T00:00:00Z",
        }
        package = "k8s.io/component-base/version"
        return " ".join(f"-X {package}.{name}={value}" for name, value in values.items())

    def _module(self) -> str:
        return (self.folder / "go.mod").read_text()


GROUPS = {
    group.name: group
    for group in [
        Group("kubernetes"),
        Group("etcd", rename={"server": "etcd", "v3": "etcd"}),
        Group("containerd"),
        Group("s3"),
        Group("coredns"),
        Group("registry"),
        Group("metrics-server"),
        # Of Prometheus' two dozen service discoveries only one is needed, which halves the build.
        Group("prometheus", tags="remove_all_sd,enable_kubernetes_sd"),
        Group("pause"),
        Group("helm"),
        Group("kubeconform"),
        Group("s5cmd"),
    ]
}

# What a running cluster and `exec` need; the rest serves chart checks and benchmarks.
CLUSTER_GROUPS = [name for name in GROUPS if name not in ("kubeconform", "s5cmd")]


def binary(name: str) -> Path:
    """The path of a built program. Raises ClusterError when it has not been built."""
    path = binaries() / name
    if not path.exists():
        raise ClusterError(f"{path} is missing; run `python -m e2e.cluster build`")
    return path


def build(names: Sequence[str], say: Callable[[str], None]) -> None:
    """Build groups that are not built yet, one after the other. Raises ClusterError."""
    unknown = set(names) - GROUPS.keys()
    if unknown:
        raise ClusterError(f"no group {sorted(unknown)}; there are: {', '.join(GROUPS)}")
    with _lock():
        for group in (GROUPS[name] for name in names):
            if not group.built():
                say(f"building {group.name} ...")
                start = time.monotonic()
                _build(group)
                say(f"built {group.name} in {time.monotonic() - start:.0f} s")


def _build(group: Group) -> None:
    go = shutil.which("go")
    if go is None:
        raise ClusterError("go is not on PATH; install Go 1.26 or newer from https://go.dev/dl")
    environment = os.environ | {"CGO_ENABLED": "0", "GOWORK": "off"}
    environment.pop("GOFLAGS", None)
    digest = group.digest()
    group.marker.unlink(missing_ok=True)
    with tempfile.TemporaryDirectory(prefix=".build-", dir=binaries()) as draft:
        command = [go, "build", *group.flags(), "-o", f"{draft}/", "tool"]
        done = subprocess.run(
            command, cwd=group.folder, env=environment, capture_output=True, text=True, check=False
        )
        if done.returncode:
            end = "\n".join(done.stderr.splitlines()[-20:])
            raise ClusterError(f"go build of {group.name} failed:\n{end}")
        built = []
        for file in sorted(Path(draft).iterdir()):
            name = group.rename.get(file.name, file.name)
            # A rename: a running program keeps its old file, instead of "text file busy".
            file.replace(binaries() / name)
            built.append(name)
    write(group.marker, json.dumps({"digest": digest, "binaries": built}, indent=1))


@contextmanager
def _lock() -> Iterator[None]:
    """One build at a time in one cache."""
    binaries().mkdir(parents=True, exist_ok=True)
    with (cache() / "build.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
