"""What `serve` saw, kept in the repository for the support matrix."""

import json
from dataclasses import dataclass
from pathlib import Path

FILE = Path(__file__).with_name("seen.json")


@dataclass(frozen=True)
class Seen:
    """On which device which engine served what."""

    device: str
    engine: str
    served: frozenset[tuple[str, str]]
    """(Quantizer, precision) whose artifact was served without options, and measured there."""


def load() -> Seen:
    """What is in the repository."""
    found = json.loads(FILE.read_text())
    return Seen(
        found["device"],
        found["engine"],
        frozenset(
            (quantizer, precision)
            for case in found["cases"].values()
            if not case.get("engine") and "perplexity" in case
            for quantizer, precision, _ in [case["row"].split("/")]
        ),
    )
