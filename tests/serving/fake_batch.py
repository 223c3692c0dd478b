"""A fake engine that computes in a process of its own: each token says how many requests run."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from quantop_serving.batching import BatchingEngine, Event, Request
from quantop_serving.engine import ChatMessage, FinishReason

REFUSED, DEADLY = 13, 666
"""Prompts, of one token, that the batch refuses and that end its process."""


@dataclass
class FakeBatch:
    """Makes a token for each request in a step."""

    running: dict[int, int] = field(default_factory=dict)
    """Tokens left, by request."""

    @property
    def idle(self) -> bool:
        return not self.running

    def add(self, request: Request) -> Event | None:
        if list(request.prompt) == [REFUSED]:
            return Event(request.number, error="the fake batch refuses it")
        if list(request.prompt) == [DEADLY]:
            os._exit(7)
        self.running[request.number] = request.sampling.max_tokens
        return None

    def cancel(self, number: int) -> None:
        self.running.pop(number, None)

    def step(self) -> list[Event]:
        time.sleep(0.005)
        events = []
        together = len(self.running)
        for number, left in list(self.running.items()):
            self.running[number] = left - 1
            if left == 1:
                del self.running[number]
            events.append(Event(number, [together], FinishReason.LENGTH if left == 1 else None))
        return events


def no_batch() -> FakeBatch:
    """Stand for a model that cannot be loaded."""
    raise KeyError("lm_head")


class FakeBatchingEngine(BatchingEngine):
    """The engine before it."""

    platform = "fake"
    context_length = 1024
    vocabulary_size = 1000

    def encode(self, text: str) -> list[int]:
        return [int(word) for word in text.split()]

    def encode_chat(self, messages: Sequence[ChatMessage]) -> list[int]:
        return [len(message.content) for message in messages]

    def decode(self, tokens: list[int]) -> str:
        return "".join(f"{token} " for token in tokens)
