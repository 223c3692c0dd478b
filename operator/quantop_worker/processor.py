"""The processor of the node that a stage runs on."""

import platform
from pathlib import Path

PROC = Path("/proc")


def processor() -> str:
    """The processor's name, where the kernel tells it, or its architecture."""
    try:
        lines = (PROC / "cpuinfo").read_text(errors="replace").splitlines()
    except OSError:
        lines = []
    names = (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.machine())
