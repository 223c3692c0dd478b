"""A fake encoder or classifier, whose numbers are easy to foretell."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field

from quantop_serving.reader import Reading


@dataclass
class FakeReader:
    """Embeds a text as its number of words and characters; as a classifier it tells which is more
    likely by them."""

    labels: tuple[str, ...] = ()
    gate: threading.Event = field(default_factory=threading.Event)
    """No text is read before it is set."""
    failure: Exception | None = None
    platform: str = "fake"
    context_length: int = 64
    size: int = 2

    def __post_init__(self) -> None:
        self.gate.set()

    def read(self, text: str) -> Reading:
        self.gate.wait(10)
        if self.failure:
            raise self.failure
        words = text.split()
        numbers = [float(len(words)), float(len(text))]
        if self.labels:
            numbers = [each / sum(numbers) for each in numbers]
        return Reading(numbers, len(words))
