"""How text becomes the JSON of the two OpenAI completion APIs."""

from __future__ import annotations

import time
import uuid
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import Any, ClassVar


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens read and made."""

    prompt_tokens: int
    completion_tokens: int

    def body(self) -> dict[str, int]:
        """Return OpenAI's usage object."""
        return {
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": self.completion_tokens,
            "total_tokens": self.prompt_tokens + self.completion_tokens,
        }


@dataclass(frozen=True)
class Dialect(ABC):
    """The JSON of one answer; `include_usage` adds the usage to a stream."""

    model: str
    include_usage: bool = False
    created: int = field(default_factory=lambda: int(time.time()))
    id: str = field(default_factory=lambda: uuid.uuid4().hex)

    whole_object: ClassVar[str]
    chunk_object: ClassVar[str]
    id_prefix: ClassVar[str]

    @abstractmethod
    def whole_choice(self, text: str) -> dict[str, Any]:
        """Return the text of a whole answer as a choice."""

    @abstractmethod
    def chunk_choice(self, text: str | None) -> dict[str, Any]:
        """Return a stream's next text as a choice; None for the chunk that ends it."""

    def opening(self) -> list[dict[str, Any]]:
        """Return the chunks before the first text."""
        return []

    def piece(self, text: str) -> dict[str, Any]:
        """Return a chunk with text."""
        return self._chunk([self._choice(self.chunk_choice(text), None)])

    def closing(self, finish_reason: str, usage: Usage) -> list[dict[str, Any]]:
        """Return the chunks after the last text."""
        chunks = [self._chunk([self._choice(self.chunk_choice(None), finish_reason)])]
        if self.include_usage:
            chunks.append({**self._chunk([]), "usage": usage.body()})
        return chunks

    def whole(self, text: str, finish_reason: str, usage: Usage) -> dict[str, Any]:
        """Return the answer to a request without a stream."""
        choice = self._choice(self.whole_choice(text), finish_reason)
        return {**self._envelope(self.whole_object, [choice]), "usage": usage.body()}

    def _chunk(self, choices: list[dict[str, Any]]) -> dict[str, Any]:
        chunk = self._envelope(self.chunk_object, choices)
        return {**chunk, "usage": None} if self.include_usage else chunk

    def _envelope(self, kind: str, choices: list[dict[str, Any]]) -> dict[str, Any]:
        return {
            "id": self.id_prefix + self.id,
            "object": kind,
            "created": self.created,
            "model": self.model,
            "choices": choices,
        }

    @staticmethod
    def _choice(content: dict[str, Any], finish_reason: str | None) -> dict[str, Any]:
        return {"index": 0, **content, "logprobs": None, "finish_reason": finish_reason}


class TextDialect(Dialect):
    """`/v1/completions`."""

    whole_object = "text_completion"
    chunk_object = "text_completion"
    id_prefix = "cmpl-"

    def whole_choice(self, text: str) -> dict[str, Any]:
        return {"text": text}

    def chunk_choice(self, text: str | None) -> dict[str, Any]:
        return {"text": text or ""}


class ChatDialect(Dialect):
    """`/v1/chat/completions`."""

    whole_object = "chat.completion"
    chunk_object = "chat.completion.chunk"
    id_prefix = "chatcmpl-"

    def whole_choice(self, text: str) -> dict[str, Any]:
        return {"message": {"role": "assistant", "content": text, "refusal": None}}

    def chunk_choice(self, text: str | None) -> dict[str, Any]:
        return {"delta": {} if text is None else {"content": text}}

    def opening(self) -> list[dict[str, Any]]:
        delta = {"delta": {"role": "assistant", "content": ""}}
        return [self._chunk([self._choice(delta, None)])]
