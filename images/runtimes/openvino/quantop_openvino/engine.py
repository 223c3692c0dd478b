"""OpenVINO GenAI: models in OpenVINO's IR, with their tokenizer beside them."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import openvino_genai
from quantop_serving.batching import BatchingEngine
from quantop_serving.engine import ChatMessage, PromptError

from quantop_openvino.batching import OpenVinoBatch


class OpenVinoEngine(BatchingEngine):
    """One model on the CPU."""

    platform = "openvino"

    def __init__(self, model_dir: Path, threads: int, max_running: int) -> None:
        """Load the folder; `threads` is the CPU limit, `max_running` bounds the batch.

        Raises RuntimeError when OpenVINO cannot load it, OSError when config.json cannot be read.
        """
        described = json.loads((model_dir / "config.json").read_text())
        # Some architectures know no bound of their own; the server's settings have one.
        self.context_length: int = described.get("max_position_embeddings", sys.maxsize)
        self.vocabulary_size: int = described["vocab_size"]
        self._tokenizer = openvino_genai.Tokenizer(str(model_dir))
        super().__init__(partial(OpenVinoBatch, model_dir, threads, max_running))

    def encode(self, text: str) -> list[int]:
        return self._encode(text, special=True)

    def encode_chat(self, messages: Sequence[ChatMessage]) -> list[int]:
        history = [{"role": each.role, "content": each.content} for each in messages]
        try:
            prompt = self._tokenizer.apply_chat_template(history, add_generation_prompt=True)
        except RuntimeError as error:
            raise PromptError(f"The model's chat template refuses the messages: {error}") from error
        # A chat template writes the special tokens itself.
        return self._encode(prompt, special=False)

    def decode(self, tokens: list[int]) -> str:
        return str(self._tokenizer.decode(tokens))

    def _encode(self, text: str, *, special: bool) -> list[int]:
        tokens = self._tokenizer.encode(text, add_special_tokens=special).input_ids
        return [int(token) for token in tokens.data[0]]
