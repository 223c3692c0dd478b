"""What `serve` saw, kept in the repository for the support matrix."""

import json
from collections.abc import Mapping
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
    refused: Mapping[tuple[str, str], str]
    """(Quantizer, precision) whose artifact was not, and what the engine said."""


def load() -> Seen:
    """What is in the repository."""
    found = json.loads(FILE.read_text())
    plain = [
        ((quantizer, precision), case)
        for case in found["cases"].values()
        if not case.get("engine")
        for quantizer, precision, _ in [case["row"].split("/")]
    ]
    return Seen(
        device=found["device"],
        engine=found["engine"],
        served=frozenset(which for which, case in plain if "perplexity" in case),
        refused={which: case["failed"] for which, case in plain if "failed" in case},
    )
