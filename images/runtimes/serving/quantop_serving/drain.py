"""When the server may end without cutting or refusing anybody."""

from __future__ import annotations

import time
from pathlib import Path


class Drain:
    """Begins with the preStop hook's file or with SIGTERM; after SIGTERM it also ends."""

    def __init__(self, file: Path, *, linger: float, timeout: float) -> None:
        self._file = file
        self._linger = linger
        self._timeout = timeout
        self._signalled: float | None = None

    @property
    def active(self) -> bool:
        """Whether new clients should go elsewhere."""
        return self._signalled is not None or self._file.exists()

    @property
    def signalled(self) -> bool:
        """Whether SIGTERM came."""
        return self._signalled is not None

    def signal(self) -> None:
        """SIGTERM came."""
        if self._signalled is not None:
            return
        self._signalled = time.monotonic()
        try:
            waited = time.time() - self._file.stat().st_mtime
        except FileNotFoundError:
            # From now on responses close their connections, as they do after the hook.
            self._file.touch()
            return
        # The hook has waited for the proxies already.
        self._signalled -= max(waited, 0.0)

    def done(self, answering: int) -> bool:
        """Whether to exit now, with `answering` requests in flight."""
        if self._signalled is None:
            return False
        elapsed = time.monotonic() - self._signalled
        return elapsed >= self._linger if answering == 0 else elapsed >= self._timeout
