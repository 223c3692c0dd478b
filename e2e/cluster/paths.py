"""Where things live: the repository, and the cache folder that survives between runs."""

from __future__ import annotations

import os
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
TOOLS = Path(__file__).resolve().parent / "tools"
MANIFESTS = Path(__file__).resolve().parent / "manifests"


def cache() -> Path:
    """The cache folder: `QUANTOP_CACHE`, else `quantop` in the user's cache directory."""
    chosen = os.environ.get("QUANTOP_CACHE")
    if not chosen:
        chosen = f"{os.environ.get('XDG_CACHE_HOME') or Path.home() / '.cache'}/quantop"
    # Resolved, since the kernel names mounts below it by their real path.
    return Path(chosen).resolve()


def binaries() -> Path:
    """Where built programs lie."""
    return cache() / "bin"


def write(path: Path, text: str, mode: int = 0o644) -> Path:
    """Write `text` so that a reader, or a kill in between, never sees half of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(path.name + ".new")
    draft.write_text(text)
    draft.chmod(mode)
    draft.replace(path)
    return path
