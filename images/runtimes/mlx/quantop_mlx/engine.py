"""MLX checkpoints, with their tokenizer beside them."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from jinja2 import TemplateError
from mlx_lm.utils import load_config, load_tokenizer
from quantop_serving.batching import BatchingEngine
from quantop_serving.engine import ChatMessage, PromptError

from quantop_mlx.batching import MlxBatch


class MlxEngine(BatchingEngine):
    """One model on MLX's default device: a CPU, which MLX gives one thread."""

    platform = "mlx"

    def __init__(self, model_dir: Path, max_running: int) -> None:
        """Load the folder; `max_running` bounds the batch.

        Raises RuntimeError when mlx-lm cannot load it, OSError or ValueError when config.json or
        the tokenizer's files cannot be read.
        """
        config = load_config(model_dir)
        described = config.get("text_config", config)
        # Some architectures know no bound of their own; the server's settings have one.
        self.context_length: int = described.get("max_position_embeddings", sys.maxsize)
        self.vocabulary_size: int = described["vocab_size"]
        self._tokenizer = load_tokenizer(
            model_dir, {"trust_remote_code": False}, eos_token_ids=config.get("eos_token_id")
        )
        end_tokens = sorted(self._tokenizer.eos_token_ids)
        super().__init__(partial(MlxBatch, model_dir, end_tokens, max_running))

    def encode(self, text: str) -> list[int]:
        return list(self._tokenizer.encode(text))

    def encode_chat(self, messages: Sequence[ChatMessage]) -> list[int]:
        history = [{"role": each.role, "content": each.content} for each in messages]
        try:
            # A chat template writes the special tokens itself.
            return list(self._tokenizer.apply_chat_template(history, add_generation_prompt=True))
        except (TemplateError, ValueError) as error:
            raise PromptError(f"The model's chat template refuses the messages: {error}") from error

    def decode(self, tokens: list[int]) -> str:
        return str(self._tokenizer.decode(tokens, skip_special_tokens=True))
