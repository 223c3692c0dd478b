"""One encoder or classifier behind the routes."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from quantop_serving.errors import SERVER_ERROR, ApiError
from quantop_serving.metrics import Metrics
from quantop_serving.reader import Reader, Reading
from quantop_serving.service import Service
from quantop_serving.settings import Settings

log = logging.getLogger(__name__)

TEXT, EMBEDDING, PROBABILITIES, LABEL = "text", "embedding", "probabilities", "label"
"""Names of the Open Inference Protocol's tensors."""


@dataclass(frozen=True, slots=True)
class LoadedReader:
    """A model that can answer."""

    reader: Reader
    since: int
    """Unix seconds."""

    @property
    def platform(self) -> str:
        """Name of the engine."""
        return self.reader.platform

    @property
    def context_length(self) -> int:
        """Tokens that it reads of a text."""
        return self.reader.context_length


class TextService(Service):
    """Reads the texts of at most `max_running` requests at once, one text after the other: read
    together they would be padded, and take part in each other's numbers."""

    def __init__(self, settings: Settings, load: Callable[[], Reader], metrics: Metrics) -> None:
        super().__init__(settings, metrics)
        self._loaded: LoadedReader | None = None
        self._load = load
        self._threads = ThreadPoolExecutor(settings.max_running, thread_name_prefix="read")
        self._admitted = 0
        self._stopped = False

    @property
    def loaded(self) -> LoadedReader | None:
        return self._loaded

    async def start(self) -> None:
        begin = time.perf_counter()
        reader = await asyncio.to_thread(self._load)
        self._loaded = LoadedReader(reader, int(time.time()))
        log.info(
            "model %s loaded in %.2f s: %s, texts of %d tokens, %d threads",
            self.settings.model_name,
            time.perf_counter() - begin,
            reader.platform,
            reader.context_length,
            self.settings.threads,
        )

    def stop(self) -> None:
        self._stopped = True
        self._threads.shutdown(wait=False, cancel_futures=True)

    def tensors(self) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
        if self._loaded is None:
            return [], []
        reader = self._loaded.reader
        given = [{"name": TEXT, "datatype": "BYTES", "shape": [-1]}]
        if not reader.labels:
            return given, [{"name": EMBEDDING, "datatype": "FP32", "shape": [-1, reader.size]}]
        return given, [
            {"name": LABEL, "datatype": "BYTES", "shape": [-1]},
            {"name": PROBABILITIES, "datatype": "FP32", "shape": [-1, reader.size]},
        ]

    def ready(self, name: str) -> Reader:
        """The model, if this is its name. Raises ApiError."""
        self.check_name(name)
        if self._loaded is None:
            raise self.loading()
        return self._loaded.reader

    async def read(self, reader: Reader, texts: Sequence[str]) -> list[Reading]:
        """Read a request's texts. Raises ApiError."""
        if self._admitted >= self.settings.max_running + self.settings.max_waiting:
            raise self.queue_full()
        admitted = time.perf_counter()
        loop = asyncio.get_running_loop()
        self._admitted += 1
        self.metrics.waiting.inc()
        started = False

        def begin() -> None:
            nonlocal started
            started = True
            self.metrics.waiting.dec()
            self.metrics.running.inc()
            self.metrics.queue_seconds.observe(time.perf_counter() - admitted)

        def work() -> list[Reading]:
            loop.call_soon_threadsafe(begin)
            found = []
            for text in texts:
                if self._stopped:
                    break
                found.append(reader.read(text))
            return found

        try:
            readings = await loop.run_in_executor(self._threads, work)
        except Exception as error:  # The engine's own kinds of error are not known here.
            log.exception("the engine failed")
            raise ApiError(
                500, "The engine failed; the server's log says how.", kind=SERVER_ERROR
            ) from error
        finally:
            self._admitted -= 1
            (self.metrics.running if started else self.metrics.waiting).dec()
        self.metrics.prompt_tokens.inc(sum(each.tokens for each in readings))
        self.metrics.request_seconds.observe(time.perf_counter() - admitted)
        return readings
