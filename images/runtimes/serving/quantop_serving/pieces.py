"""From tokens that come one by one to the text that each adds."""

from __future__ import annotations

from collections.abc import Callable

REPLACEMENT = "\ufffd"
"""What decoders write for bytes that are not a whole character."""


class PieceDecoder:
    """Turns tokens into pieces of text that together are the text of all of them.

    A token is decoded behind the piece before it: by itself it would lose what its place tells,
    such as the space before a word.
    """

    def __init__(self, decode: Callable[[list[int]], str]) -> None:
        self._decode = decode
        self._before: list[int] = []
        self._pending: list[int] = []

    def add(self, token: int) -> str:
        """Return what the token adds; nothing while a character is not whole."""
        self._pending.append(token)
        text = self._decode(self._before + self._pending)
        if text.endswith(REPLACEMENT):
            return ""
        piece = text[len(self._decode(self._before)) :]
        self._before, self._pending = self._pending, []
        return piece
