"""What goes wrong in ways that a person can act on."""

from __future__ import annotations

from pathlib import Path


class ClusterError(Exception):
    """A failure whose message says what to do; shown without a traceback."""


class PartFailedError(ClusterError):
    """One part of the cluster did not come up or died; the message ends with its last log lines."""

    def __init__(self, part: str, what: str, log: Path, tail: str) -> None:
        super().__init__(f"{part} {what}. The end of {log}:\n{tail}")
        self.part = part
