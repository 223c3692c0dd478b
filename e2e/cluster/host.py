"""What a cluster leaves on the machine outside its own folder, put back when it goes."""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import re
from pathlib import Path

from e2e.cluster.names import Names
from e2e.cluster.paths import cache, write

# The kubelet sets these to values of its own, for the whole machine.
_TUNED_BY_KUBELET = [
    "vm/overcommit_memory",
    "vm/panic_on_oom",
    "kernel/panic",
    "kernel/panic_on_oops",
    "kernel/keys/root_maxkeys",
    "kernel/keys/root_maxbytes",
]


def remember_settings() -> None:
    """Note the kernel's settings as they were before the first cluster ran."""
    if not _remembered().exists():
        settings = {name: _setting(name).read_text().strip() for name in _TUNED_BY_KUBELET}
        write(_remembered(), json.dumps(settings, indent=1))


def restore_settings() -> None:
    """Put the kernel's settings back; to be called when no cluster runs any more."""
    if _remembered().exists():
        for name, value in json.loads(_remembered().read_text()).items():
            if _setting(name).read_text().strip() != value:
                _setting(name).write_text(value)
        _remembered().unlink()


def unmount(folder: Path) -> None:
    """Detach everything mounted below a folder."""
    libc = ctypes.CDLL(None, use_errno=True)
    detach = 2
    for point in reversed(mounts_below(folder, Path("/proc/self/mounts").read_text())):
        libc.umount2(os.fsencode(point), detach)


def mounts_below(folder: Path, mounts: str) -> list[Path]:
    """Mount points below a folder in the text of /proc/mounts, in the order of mounting."""
    points = [_unescaped(line.split()[1]) for line in mounts.splitlines()]
    return [point for point in points if point.is_relative_to(folder)]


def remove_strays(names: Names) -> None:
    """Remove the files that containerd, CNI and the kubelet put into shared folders."""
    for shim in names.state.glob("node*/run/containerd/io.containerd.runtime.v2.task/*/*"):
        with contextlib.suppress(OSError):
            text = (shim / "bootstrap.json").read_text()
            for socket in re.findall(r"unix://(/run/containerd/s/\w+)", text):
                Path(socket).unlink(missing_ok=True)
    for link in Path("/var/log/containers").glob("*"):
        with contextlib.suppress(OSError):
            if link.readlink().is_relative_to(names.state):
                link.unlink()
    for result in Path("/var/lib/cni/results").glob(f"{names.unique}-*"):
        result.unlink(missing_ok=True)


def _remembered() -> Path:
    return cache() / "clusters" / "kernel-settings.json"


def _setting(name: str) -> Path:
    return Path("/proc/sys") / name


def _unescaped(field: str) -> Path:
    """A path of /proc/mounts, where spaces and the like are written in octal."""
    return Path(re.sub(r"\\([0-7]{3})", lambda found: chr(int(found[1], 8)), field))
