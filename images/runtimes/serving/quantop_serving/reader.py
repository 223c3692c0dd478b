"""What the server asks of an engine that reads texts whole, and nothing more."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Reading:
    """What became of one text."""

    numbers: Sequence[float]
    """Its embedding, or the probability of each label."""
    tokens: int
    """How many were read of it; a text beyond the model's length is cut."""


class Reader(Protocol):
    """A loaded encoder or classifier. Methods block, and several threads call them at once."""

    @property
    def platform(self) -> str:
        """Name of the engine, as the Open Inference Protocol's `platform`."""

    @property
    def context_length(self) -> int:
        """Tokens that it reads of a text."""

    @property
    def size(self) -> int:
        """How many numbers it makes of a text."""

    @property
    def labels(self) -> Sequence[str]:
        """What its numbers are the probabilities of; none when they are an embedding."""

    def read(self, text: str) -> Reading:
        """Make numbers of one text; others that are read beside it change nothing."""
