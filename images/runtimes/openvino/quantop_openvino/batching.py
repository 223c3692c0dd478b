"""The process that computes: OpenVINO GenAI's continuous batching, driven through a pipe.

A process of its own, because a step of the Python binding keeps the GIL: in the server's process
each would stop the event loop, which answers the liveness probe, for as long as it takes to read a
piece of prompt. The requests that run share each step, and so the reading of the weights.
"""

from __future__ import annotations

import signal
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from random import getrandbits
from typing import Any

import numpy as np
import openvino
import openvino_genai
from quantop_serving.engine import FinishReason, Sampling

PROMPT_STEP = 256
"""Tokens computed at once over all requests: a longer prompt is read in several steps, between
which the others get their tokens and a client that left is noticed."""


@dataclass(frozen=True, slots=True)
class Request:
    """Generate behind a prompt; `number` names the request from now on."""

    number: int
    prompt: Sequence[int]
    sampling: Sampling


@dataclass(frozen=True, slots=True)
class Cancel:
    """Nobody wants the rest of a request, which may have ended already."""

    number: int


@dataclass(frozen=True, slots=True)
class Event:
    """What a step brought one request: tokens, and how it ended if it did."""

    number: int
    tokens: Sequence[int] = ()
    finish_reason: FinishReason | None = None
    error: str = ""


class Batch:
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
        """Whether there is nothing to compute and nothing to free."""
        return not self._pipeline.has_non_finished_requests()

    def add(self, request: Request) -> Event | None:
        """Take a request; an event if it failed at once."""
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
        """Compute the next token of each request, or a piece of a prompt.

        Raises RuntimeError when OpenVINO fails.
        """
        if self.idle:
            return []
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


def run(pipe: Connection, folder: Path, threads: int, max_running: int) -> None:
    """Load the model, send an empty string or what went wrong, then compute what is asked for.

    The pipe brings Requests and Cancels and takes lists of Events; its end ends the process.
    """
    # Ctrl+C in a terminal goes to both processes: the server says when this one ends.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        batch = Batch(folder, threads, max_running)
    except RuntimeError as error:
        pipe.send(str(error))
        return
    pipe.send("")
    try:
        while True:
            events: list[Event] = []
            # Wait for a message only when there is nothing else to do.
            while (batch.idle and not events) or pipe.poll():
                message = pipe.recv()
                if isinstance(message, Cancel):
                    batch.cancel(message.number)
                elif failed := batch.add(message):
                    events.append(failed)
            events += batch.step()
            if events:
                pipe.send(events)
    except (EOFError, BrokenPipeError):
        return
