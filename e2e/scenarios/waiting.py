"""Waiting for something to become so."""

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def until(what: str, attempt: Callable[[], T | None], timeout: float, every: float = 0.5) -> T:
    """The first truthy result of ``attempt``, tried for ``timeout`` seconds.

    Raises:
        TimeoutError: it never was; the message says ``what`` was waited for.
    """
    deadline = time.monotonic() + timeout
    while not (result := attempt()):
        if time.monotonic() > deadline:
            raise TimeoutError(f"{what}: not so after {timeout:.0f} s")
        time.sleep(every)
    return result
