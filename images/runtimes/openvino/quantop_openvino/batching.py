"""OpenVINO GenAI's continuous batching."""

from __future__ import annotations

from pathlib import Path
from random import getrandbits
from typing import Any

import numpy as np
import openvino
import openvino_genai
from quantop_serving.batching import Event, Request
from quantop_serving.engine import FinishReason, Sampling

PROMPT_STEP = 256
"""Tokens computed at once over all requests: a longer prompt is read in several steps, between
which the others get their tokens and a client that left is noticed."""


class OpenVinoBatch:
    """The loaded model with the requests that run on it."""

    def __init__(self, folder: Path, threads: int, max_running: int) -> None:
        """Load the folder's model. Raises RuntimeError when OpenVINO cannot."""
        limits = openvino_genai.SchedulerConfig()
        limits.max_num_batched_tokens = PROMPT_STEP
        limits.max_num_seqs = max_running
        self._pipeline = openvino_genai.ContinuousBatchingPipeline(
            str(folder), limits, "CPU", {"INFERENCE_NUM_THREADS": threads}
        )
        config = self._pipeline.get_config()
        self._end_tokens = frozenset({config.eos_token_id, *config.stop_token_ids})
        self._running: dict[int, Any] = {}

    @property
    def idle(self) -> bool:
        return not self._pipeline.has_non_finished_requests()

    def add(self, request: Request) -> Event | None:
        try:
            self._running[request.number] = self._pipeline.add_request(
                request.number,
                openvino.Tensor(np.array([request.prompt], dtype=np.int64)),
                self._config(request.sampling),
            )
        except RuntimeError as error:
            return Event(request.number, error=str(error))
        return None

    def cancel(self, number: int) -> None:
        """End a request; the next step frees what it holds."""
        if handle := self._running.pop(number, None):
            handle.cancel()

    def step(self) -> list[Event]:
        """Raises RuntimeError when OpenVINO fails."""
        self._pipeline.step()
        events = [
            event
            for number, handle in self._running.items()
            if (event := self._event(number, handle))
        ]
        for event in events:
            if event.finish_reason or event.error:
                del self._running[event.number]
        return events

    def _event(self, number: int, handle: Any) -> Event | None:
        tokens: list[int] = []
        reason = openvino_genai.GenerationFinishReason.NONE
        while handle.can_read():
            for output in handle.read().values():
                tokens += output.generated_ids
                reason = output.finish_reason
        if reason == openvino_genai.GenerationFinishReason.STOP:
            whole = tokens[:-1] if tokens and tokens[-1] in self._end_tokens else tokens
            return Event(number, whole, FinishReason.STOP)
        if reason == openvino_genai.GenerationFinishReason.LENGTH:
            return Event(number, tokens, FinishReason.LENGTH)
        if handle.get_status() == openvino_genai.GenerationStatus.IGNORED:
            return Event(number, tokens, error="there is no memory for the request's cache")
        return Event(number, tokens) if tokens else None

    def _config(self, sampling: Sampling) -> Any:
        config = self._pipeline.get_config()
        config.apply_chat_template = False
        config.max_new_tokens = sampling.max_tokens
        config.ignore_eos = sampling.ignore_eos
        config.do_sample = sampling.temperature > 0
        if config.do_sample:
            config.temperature = sampling.temperature
            config.top_p = sampling.top_p
            config.rng_seed = getrandbits(64) if sampling.seed is None else sampling.seed % 2**64
        return config
