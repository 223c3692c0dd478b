"""A fake engine: it counts instead of thinking, and does what a test tells it."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from quantop_serving.engine import ChatMessage, FinishReason, Output, PromptError, Sampling


@dataclass
class FakeEngine:
    """Answers with `0 1 2 ...`: one word per token, `length` words at most."""

    length: int = 10_000
    pause: float = 0.0
    """Seconds before each token."""
    fail_after: int | None = None
    """Tokens after which generating fails."""
    gate: threading.Event = field(default_factory=threading.Event)
    """No token comes before it is set."""
    context_length: int = 64
    vocabulary_size: int = 1000
    platform: str = "fake"
    seen: list[tuple[list[int], Sampling]] = field(default_factory=list)
    cancelled: int = 0

    def __post_init__(self) -> None:
        self.gate.set()

    def encode(self, text: str) -> list[int]:
        return [len(word) for word in text.split()]

    def encode_chat(self, messages: Sequence[ChatMessage]) -> list[int]:
        if messages[0].role == "assistant":
            raise PromptError("The model's chat template refuses the messages: no user.")
        return [len(message.content) for message in messages]

    def generate(self, prompt: Sequence[int], sampling: Sampling, output: Output) -> FinishReason:
        self.seen.append((list(prompt), sampling))
        for number in range(sampling.max_tokens):
            while not self.gate.wait(0.01):
                if output.cancelled:
                    break
            if output.cancelled:
                self.cancelled += 1
                return FinishReason.STOP
            time.sleep(self.pause)
            if number == self.fail_after:
                raise RuntimeError("the fake engine was told to fail")
            if number == self.length and not sampling.ignore_eos:
                return FinishReason.STOP
            output.token(f"{number} ")
        return FinishReason.LENGTH
