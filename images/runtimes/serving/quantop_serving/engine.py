"""What the server asks of an inference engine, and nothing more."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol


class FinishReason(StrEnum):
    """Why a generation ended, in OpenAI's words."""

    STOP = "stop"
    LENGTH = "length"


class PromptError(ValueError):
    """The engine cannot make a prompt of what it was given; the message is for the client."""


@dataclass(frozen=True, slots=True)
class ChatMessage:
    """One turn of a conversation."""

    role: str
    content: str


@dataclass(frozen=True, slots=True)
class Sampling:
    """How to choose tokens, and how many."""

    max_tokens: int
    temperature: float = 1.0
    """0 chooses the likeliest token each time."""
    top_p: float = 1.0
    seed: int | None = None
    ignore_eos: bool = False
    """Go on to `max_tokens`, whatever the model says."""


class Output(Protocol):
    """Where a generation goes. Any thread may use it."""

    @property
    def cancelled(self) -> bool:
        """Whether nobody wants the rest; an engine looks after each token and piece of prompt."""

    def token(self, text: str) -> None:
        """Take the text that one token added; it may be empty, where a character is not whole."""


class Engine(Protocol):
    """A loaded model. Methods block, and several threads call them at once."""

    @property
    def platform(self) -> str:
        """Name of the engine, as the Open Inference Protocol's `platform`."""

    @property
    def context_length(self) -> int:
        """Tokens that the model can read and write together."""

    @property
    def vocabulary_size(self) -> int:
        """Number of tokens; they are counted from 0."""

    def encode(self, text: str) -> list[int]:
        """Turn a prompt into tokens, with the special tokens that the model expects first."""

    def encode_chat(self, messages: Sequence[ChatMessage]) -> list[int]:
        """Turn a conversation into the tokens after which the model answers.

        Raises PromptError when the model has no chat template or its template refuses the messages.
        """

    def generate(self, prompt: Sequence[int], sampling: Sampling, output: Output) -> FinishReason:
        """Generate until the model ends, `max_tokens` are made or the output is cancelled.

        The token that ends the text is not given to `output`.
        """
