"""What the suite saw of each row, kept in the repository for the support matrix."""

import fcntl
import json
from dataclasses import asdict, dataclass, field
from pathlib import Path

FILE = Path(__file__).with_name("seen.json")


@dataclass(frozen=True, kw_only=True)
class Seen:
    """One row's figures, on the test model. ``quantize_seconds`` and ``peak_memory_bytes`` are of
    the toolchain's stage; ``answered`` says that an engine served it, and ``also`` which others."""

    size_ratio: str
    bits_per_weight: str
    # Of models that generate text.
    increase_percent: str | None = None
    top_token_agreement_percent: str | None = None
    # Of encoders.
    mean_cosine_similarity: str | None = None
    p1_cosine_similarity: str | None = None
    quantize_seconds: int
    peak_memory_bytes: int
    answered: bool
    also: list[str] = field(default_factory=list)
    """Other runtimes that answered."""


def load() -> dict[str, Seen]:
    """By row."""
    text = FILE.read_text() if FILE.is_file() else ""
    return {row: Seen(**figures) for row, figures in json.loads(text or "{}").items()}


def record(row: str, seen: Seen) -> None:
    """Replace one row's figures, whatever other rows are run at the same time."""
    with FILE.open("a") as locked:
        fcntl.flock(locked, fcntl.LOCK_EX)
        known = {**load(), row: seen}
        ordered = {
            name: {key: value for key, value in asdict(known[name]).items() if value or value == 0}
            for name in sorted(known)
        }
        FILE.write_text(json.dumps(ordered, indent=1) + "\n")
