"""Stop sequences: cut the text where the first one begins, though it arrives in pieces."""

from __future__ import annotations

from collections.abc import Sequence


class StopSequences:
    """Passes text on as soon as it cannot be the beginning of a stop sequence any more."""

    def __init__(self, sequences: Sequence[str]) -> None:
        self._sequences = tuple(sequences)
        self._held = ""
        self.found = False

    def feed(self, piece: str) -> str:
        """Return the text that may be shown now; after `found` there is none."""
        if self.found:
            return ""
        self._held += piece
        starts = [at for at in map(self._held.find, self._sequences) if at >= 0]
        if starts:
            self.found = True
            shown, self._held = self._held[: min(starts)], ""
            return shown
        keep = self._longest_beginning()
        split = len(self._held) - keep
        shown, self._held = self._held[:split], self._held[split:]
        return shown

    def flush(self) -> str:
        """Return what was held back, once no more text comes."""
        shown, self._held = self._held, ""
        return shown

    def _longest_beginning(self) -> int:
        """Length of the longest end of the held text that a stop sequence begins with."""
        longest = max((len(sequence) for sequence in self._sequences), default=1) - 1
        for length in range(min(longest, len(self._held)), 0, -1):
            if any(sequence.startswith(self._held[-length:]) for sequence in self._sequences):
                return length
        return 0
