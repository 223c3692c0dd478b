"""Progress, as one JSON line at a time on stdout."""

import json
import sys
import threading
import time
from typing import Any

INTERVAL_SECONDS = 1.0


class Progress:
    """Counts bytes from any thread and prints at most one line a second."""

    def __init__(self, stage: str) -> None:
        self._stage = stage
        self._lock = threading.Lock()
        self._message = ""
        self._done = 0
        self._total = 0
        self._last = 0.0

    def begin(self, message: str, total: int = 0) -> None:
        """Say what is being done now; ``total`` is its size in bytes, 0 when it has none."""
        with self._lock:
            self._message, self._done, self._total = message, 0, total
            self._print()

    def add(self, count: int) -> None:
        """Note ``count`` more bytes (negative when an attempt is thrown away)."""
        with self._lock:
            self._done += count
            if time.monotonic() - self._last >= INTERVAL_SECONDS:
                self._print()

    def note(self, message: str) -> None:
        """Print one line now, apart from what is being counted."""
        with self._lock:
            _print({"stage": self._stage, "message": message})

    def end(self) -> None:
        """Print the final count of what was begun."""
        with self._lock:
            self._print()

    def _print(self) -> None:
        self._last = time.monotonic()
        line: dict[str, Any] = {"stage": self._stage, "message": self._message}
        if self._total:
            line["bytes"] = self._done
            line["percent"] = max(0, min(100, self._done * 100 // self._total))
        _print(line)


def _print(line: dict[str, Any]) -> None:
    print(json.dumps(line), file=sys.stdout, flush=True)
