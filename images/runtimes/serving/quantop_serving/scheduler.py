"""Admission, queue and worker threads: between the event loop and an engine that blocks."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from functools import partial

from quantop_serving.engine import Engine, FinishReason, Sampling
from quantop_serving.metrics import Metrics

log = logging.getLogger(__name__)


class QueueFullError(Exception):
    """As many requests run and wait as the server admits."""


class GenerationFailedError(Exception):
    """The engine raised an error; the server's log has it."""


class Generation:
    """The tokens of one admitted request, for one reader on the event loop."""

    def __init__(self, prompt: Sequence[int], sampling: Sampling) -> None:
        self.prompt = prompt
        self.sampling = sampling
        self.tokens = 0
        self._events: asyncio.Queue[str | FinishReason | GenerationFailedError] = asyncio.Queue()
        self._cancelled = threading.Event()
        self._admitted = time.perf_counter()
        self._last_token: float | None = None
        self._future: Future[None] | None = None
        self.finish_reason: FinishReason | None = None

    async def pieces(self) -> AsyncGenerator[str]:
        """Yield each token's text, which may be empty; `finish_reason` is set at the end.

        Raises GenerationFailedError when the engine fails. A reader that leaves early cancels.
        """
        try:
            while True:
                event = await self._events.get()
                if isinstance(event, GenerationFailedError):
                    raise event
                if isinstance(event, FinishReason):
                    self.finish_reason = event
                    return
                self.tokens += 1
                yield event
        finally:
            self.cancel()

    def cancel(self) -> None:
        """Give up the rest: leave the queue, or end at the next token."""
        self._cancelled.set()
        if self._future is not None:
            self._future.cancel()


class _Output:
    """What the engine's thread sees of a generation."""

    def __init__(self, cancelled: threading.Event, token: Callable[[str], None]) -> None:
        self._cancelled = cancelled
        self.token = token

    @property
    def cancelled(self) -> bool:
        return self._cancelled.is_set()


class Scheduler:
    """Runs at most `max_running` generations at once and lets `max_waiting` more wait, in order.

    Its methods and the gauges belong to the event loop; only the engine runs in the threads.
    """

    def __init__(
        self, engine: Engine, metrics: Metrics, *, max_running: int, max_waiting: int
    ) -> None:
        self._engine = engine
        self._metrics = metrics
        self._limit = max_running + max_waiting
        self._loop = asyncio.get_running_loop()
        self._threads = ThreadPoolExecutor(max_running, thread_name_prefix="generate")
        self._admitted: set[Generation] = set()

    def submit(self, prompt: Sequence[int], sampling: Sampling) -> Generation:
        """Admit a request. Raises QueueFullError."""
        if len(self._admitted) >= self._limit:
            raise QueueFullError
        generation = Generation(prompt, sampling)
        self._admitted.add(generation)
        self._metrics.waiting.inc()
        self._metrics.prompt_tokens.inc(len(prompt))
        future = self._threads.submit(self._run, generation)
        generation._future = future
        future.add_done_callback(lambda done: self._on_loop(self._ended, generation, done))
        return generation

    def close(self) -> None:
        """Cancel whatever is left; the threads end at their next token."""
        for generation in self._admitted:
            generation.cancel()
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _run(self, generation: Generation) -> None:
        """Generate, in a worker thread."""
        self._on_loop(self._started, generation)
        output = _Output(generation._cancelled, partial(self._on_loop, self._token, generation))
        outcome: FinishReason | GenerationFailedError
        try:
            outcome = self._engine.generate(generation.prompt, generation.sampling, output)
        except Exception as error:  # The engine's own kinds of error are not known here.
            log.exception("the engine failed")
            outcome = GenerationFailedError(str(error))
        self._on_loop(generation._events.put_nowait, outcome)

    def _on_loop(self, call: Callable[..., object], *arguments: object) -> None:
        """Have the event loop make a call. When it is closed the process ends, and nobody waits."""
        with suppress(RuntimeError):
            self._loop.call_soon_threadsafe(call, *arguments)

    def _started(self, generation: Generation) -> None:
        self._metrics.waiting.dec()
        self._metrics.running.inc()
        self._metrics.queue_seconds.observe(time.perf_counter() - generation._admitted)

    def _token(self, generation: Generation, piece: str) -> None:
        now = time.perf_counter()
        if generation._last_token is None:
            self._metrics.first_token_seconds.observe(now - generation._admitted)
        else:
            self._metrics.inter_token_seconds.observe(now - generation._last_token)
        generation._last_token = now
        self._metrics.generated_tokens.inc()
        generation._events.put_nowait(piece)

    def _ended(self, generation: Generation, future: Future[None]) -> None:
        self._admitted.discard(generation)
        if future.cancelled():
            self._metrics.waiting.dec()
            return
        self._metrics.running.dec()
        self._metrics.request_seconds.observe(time.perf_counter() - generation._admitted)
