"""A keyed work queue: keys wait once, are never processed twice at a time, and come back later.

The same contract as client-go's work queue: a key that is added while it is processed is processed
once more afterwards; a key whose processing failed comes back with exponential backoff and jitter.
"""

import asyncio
import logging
import random
from collections import deque
from collections.abc import Awaitable, Callable, Hashable
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)

logger = logging.getLogger(__name__)

BACKOFF_BASE_SECONDS = 0.5
BACKOFF_MAX_SECONDS = 60.0


class WorkQueue(Generic[K]):
    """Keys to process, each serially, several keys at once."""

    def __init__(self, random_: Callable[[], float] = random.random) -> None:
        self._random = random_
        self._ready: deque[K] = deque()
        self._waiting: set[K] = set()
        self._running: set[K] = set()
        self._again: set[K] = set()
        self._later: dict[K, asyncio.TimerHandle] = {}
        self._failures: dict[K, int] = {}
        self._filled = asyncio.Event()

    @property
    def depth(self) -> int:
        """How many keys wait to be processed now."""
        return len(self._ready)

    def add(self, key: K) -> None:
        """Process ``key`` as soon as a worker is free."""
        if key in self._running:
            self._again.add(key)
        elif key not in self._waiting:
            self._waiting.add(key)
            self._ready.append(key)
            self._filled.set()

    def add_after(self, key: K, seconds: float) -> None:
        """Process ``key`` in ``seconds``, or earlier if that was asked for before."""
        loop = asyncio.get_running_loop()
        due = loop.time() + seconds
        if timer := self._later.get(key):
            if timer.when() <= due:
                return
            timer.cancel()
        self._later[key] = loop.call_at(due, self._due, key)

    def backoff(self, failures: int) -> float:
        """Seconds to wait after so many failures in a row: exponential, with up to half of
        jitter so that keys which failed together do not come back together."""
        full = min(BACKOFF_MAX_SECONDS, BACKOFF_BASE_SECONDS * 2.0 ** min(failures - 1, 30))
        return full * (0.5 + self._random() / 2)

    async def work(self, process: Callable[[K], Awaitable[float | None]]) -> None:
        """Process keys for ever. ``process`` returns the seconds after which the key is wanted
        again, or None; an exception from it is logged and the key retried after a backoff."""
        while True:
            key = await self._take()
            try:
                again = await process(key)
                self._failures.pop(key, None)
            except Exception:
                failures = self._failures[key] = self._failures.get(key, 0) + 1
                again = self.backoff(failures)
                logger.exception("reconcile failed", extra={"key": str(key), "retry_in": again})
            finally:
                self._running.discard(key)
            if key in self._again:
                self._again.discard(key)
                self.add(key)
            if again is not None:
                self.add_after(key, again)

    async def _take(self) -> K:
        while not self._ready:
            self._filled.clear()
            await self._filled.wait()
        key = self._ready.popleft()
        self._waiting.discard(key)
        self._running.add(key)
        # The pass that begins now decides anew when it wants to be run again.
        if timer := self._later.pop(key, None):
            timer.cancel()
        return key

    def _due(self, key: K) -> None:
        self._later.pop(key, None)
        self.add(key)
