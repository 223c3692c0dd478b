"""What a toolchain measured itself: the ways that it tried, and which of them the artifact is."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from quantop_adapters import stage

VERSION = 1
MOST_OF_A_MESSAGE = 1024
"""Characters, by the contract."""


class State(StrEnum):
    """What became of a candidate; the words are the contract's."""

    BASELINE = "Baseline"
    CHOSEN = "Chosen"
    PASSED = "Passed"
    REJECTED = "Rejected"
    FAILED = "Failed"


@dataclass(frozen=True)
class Candidate:
    """A way to make the artifact, and what was measured of it. A figure's name says its unit."""

    name: str
    state: State
    figures: Mapping[str, float]
    message: str = ""
    workflow: str = ""
    """What `spec.quantization.workflow` must say to have this one alone."""


def write(task: stage.Task, candidates: Sequence[Candidate]) -> None:
    """Leave the file that publish puts into the store."""
    document = {
        "version": VERSION,
        "threads": task.threads,
        "candidates": [
            {
                "name": each.name,
                "state": each.state,
                "figures": {n: v for n, v in each.figures.items() if math.isfinite(v)},
                **({"message": each.message[:MOST_OF_A_MESSAGE]} if each.message else {}),
                **({"workflow": each.workflow} if each.workflow else {}),
            }
            for each in candidates
        ],
    }
    stage.write_last(task.benchmark, json.dumps(document, indent=1) + "\n")
