"""mlx-lm's continuous batching."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import mlx.core as mx
from mlx_lm.generate import BatchGenerator, StopSequences
from mlx_lm.models.cache import make_prompt_cache
from mlx_lm.sample_utils import apply_top_p, greedy_sampler
from mlx_lm.utils import load_model
from quantop_serving.batching import Event, Request
from quantop_serving.engine import FinishReason, Sampling

PROMPT_STEP = 32
"""Tokens of each prompt computed at once: a longer one is read in several steps, between which the
others get their tokens and a client that left is noticed. Larger steps are hardly faster on a
CPU."""


class MlxBatch:
    """The loaded model with the requests that run on it."""

    def __init__(self, folder: Path, end_tokens: Sequence[int], max_running: int) -> None:
        """Load the folder's model. Raises mlx-lm's errors, of many types, when it cannot."""
        model, _ = load_model(folder)
        for cache in make_prompt_cache(model):
            if not hasattr(cache, "merge"):
                raise NotImplementedError(
                    f"mlx-lm cannot compute requests together with a {type(cache).__name__}, which"
                    " this architecture needs"
                )
        self._generator = BatchGenerator(
            model,
            stop_tokens=[[token] for token in end_tokens],
            completion_batch_size=max_running,
            prefill_batch_size=max_running,
            prefill_step_size=PROMPT_STEP,
        )
        self._numbers: dict[int, int] = {}
        """Of each request by mlx-lm's own number for it."""

    @property
    def idle(self) -> bool:
        return not self._numbers

    def add(self, request: Request) -> None:
        sampling = request.sampling
        (uid,) = self._generator.insert(
            [list(request.prompt)],
            [sampling.max_tokens],
            samplers=[sampler(sampling)],
            stop_sequences=[StopSequences()] if sampling.ignore_eos else None,
        )
        self._numbers[uid] = request.number

    def cancel(self, number: int) -> None:
        for uid, running in list(self._numbers.items()):
            if running == number:
                self._generator.remove([uid])
                del self._numbers[uid]

    def step(self) -> list[Event]:
        """Raises what MLX raises."""
        _, responses = self._generator.next()
        return [self._event(response) for response in responses]

    def _event(self, response: Any) -> Event:
        if not response.finish_reason:
            return Event(self._numbers[response.uid], [response.token])
        number = self._numbers.pop(response.uid)
        reason = FinishReason(response.finish_reason)
        return Event(number, [] if reason is FinishReason.STOP else [response.token], reason)


def sampler(sampling: Sampling) -> Any:
    """Choose tokens as mlx-lm does, but of each request by random numbers of its own."""
    if sampling.temperature == 0:
        return greedy_sampler
    numbers = random.Random(sampling.seed)

    def sample(logprobs: mx.array) -> mx.array:
        if sampling.top_p < 1:
            logprobs = apply_top_p(logprobs, sampling.top_p)
        key = mx.random.key(numbers.getrandbits(64))
        return mx.random.categorical(logprobs / sampling.temperature, key=key)

    return sample
