"""Refusals: what no retry can help."""

from __future__ import annotations


class RefusedError(Exception):
    """A recipe or checkpoint that cannot be converted, however often it is tried.

    `reason` is CamelCase for the condition; the message is one sentence that names the field, what
    was found and what to do about it.
    """

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason
