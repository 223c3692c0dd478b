"""The kernel settings that a kubelet changes for the whole machine, put back when it goes."""

from __future__ import annotations

import json
from pathlib import Path

from e2e.cluster.paths import write

# Of the machine, not of a cache, and gone with a reboot as the settings are.
_REMEMBERED = Path("/run/quantop-kernel-settings.json")
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
    if not _REMEMBERED.exists():
        settings = {name: _setting(name).read_text().strip() for name in _TUNED_BY_KUBELET}
        write(_REMEMBERED, json.dumps(settings, indent=1))


def restore_settings() -> None:
    """Put the kernel's settings back; to be called when no cluster runs any more."""
    if _REMEMBERED.exists():
        for name, value in json.loads(_REMEMBERED.read_text()).items():
            if _setting(name).read_text().strip() != value:
                _setting(name).write_text(value)
        _REMEMBERED.unlink()


def _setting(name: str) -> Path:
    return Path("/proc/sys") / name
