"""onnxruntime-genai: ONNX models written by its model builder."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import onnxruntime_genai as og
from quantop_serving.engine import ChatMessage, FinishReason, Output, PromptError, Sampling

from quantop_onnxruntime.genai_library import Generator, Model

PROMPT_STEP = 256
"""Prompt tokens read at once: between two steps a client that left is noticed."""


class OnnxRuntimeGenAiEngine:
    """One model on the CPU; each generation is a generator of its own over the shared weights."""

    platform = "onnxruntime_genai"

    def __init__(self, model_dir: Path, threads: int) -> None:
        """Load the folder that the model builder wrote; `threads` is the CPU limit.

        Raises RuntimeError (onnxruntime-genai's only kind) when the model cannot be loaded and
        OSError when genai_config.json cannot be read.
        """
        described = json.loads((model_dir / "genai_config.json").read_text())["model"]
        self.context_length: int = described["context_length"]
        self.vocabulary_size: int = described["vocab_size"]
        # ONNX Runtime counts the machine's cores, not the container's share of them.
        session = {"intra_op_num_threads": threads, "inter_op_num_threads": 1}
        overlay = {"model": {"decoder": {"session_options": session}}}
        self._model = Model(model_dir, json.dumps(overlay))
        # A chat template writes the special tokens itself; before plain text the tokenizer does.
        self._tokenizer = og.Tokenizer(str(model_dir))
        self._text_tokenizer = og.Tokenizer(str(model_dir))
        self._text_tokenizer.update_options(add_special_tokens="true")
        self._end_tokens = frozenset(int(token) for token in self._tokenizer.eos_token_ids)

    def encode(self, text: str) -> list[int]:
        return [int(token) for token in self._text_tokenizer.encode(text)]

    def encode_chat(self, messages: Sequence[ChatMessage]) -> list[int]:
        body = json.dumps([{"role": m.role, "content": m.content} for m in messages])
        try:
            prompt = self._tokenizer.apply_chat_template(body, add_generation_prompt=True)
        except RuntimeError as error:
            raise PromptError(f"The model's chat template refuses the messages: {error}") from error
        return [int(token) for token in self._tokenizer.encode(prompt)]

    def generate(self, prompt: Sequence[int], sampling: Sampling, output: Output) -> FinishReason:
        greedy = sampling.temperature == 0
        length = len(prompt) + sampling.max_tokens
        numbers = {
            "max_length": length,
            "min_length": length if sampling.ignore_eos else 0,
            "temperature": 1.0 if greedy else sampling.temperature,
            "top_p": sampling.top_p,
            "top_k": 1 if greedy else 0,
            "random_seed": -1 if sampling.seed is None else sampling.seed,
        }
        with Generator(self._model, numbers, {"do_sample": not greedy}) as generator:
            for begin in range(0, len(prompt), PROMPT_STEP):
                if output.cancelled:
                    return FinishReason.STOP
                generator.append(prompt[begin : begin + PROMPT_STEP])
            text = self._tokenizer.create_stream()
            for _ in range(sampling.max_tokens):
                token = generator.next()
                if token in self._end_tokens and not sampling.ignore_eos:
                    return FinishReason.STOP
                output.token(text.decode(token))
                if output.cancelled:
                    return FinishReason.STOP
        return FinishReason.LENGTH
