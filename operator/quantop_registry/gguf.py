"""The header of a GGUF file: all that comes before the weights.

https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
"""

import struct
from collections.abc import Iterator
from typing import BinaryIO

from quantop_worker.errors import RefusedError

MAGIC = b"GGUF"
VERSIONS = (2, 3)
HEADER_LIMIT_BYTES = 128 << 20
"""Those of the largest vocabularies come to a tenth of it."""
SIZES = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
"""Bytes of a value, by the number of its type."""
STRING, ARRAY = 8, 9


def copy_header(chunks: Iterator[bytes], target: BinaryIO) -> None:
    """Copy what ``chunks`` give until the header is whole; a little more may be copied.

    Raises RefusedError ``ArtifactUnreadable`` when they are no GGUF file."""
    header = _Header(chunks, target)
    magic, version, tensors, values = struct.unpack("<4sIQQ", header.take(24))
    if magic != MAGIC or version not in VERSIONS:
        raise _unreadable("it does not begin as one of version 2 or 3")
    for _ in range(values):
        header.skip_string()
        header.skip_value(header.number("<I"))
    for _ in range(tensors):
        header.skip_string()
        dimensions = header.number("<I")
        # Its shape, its type and where it is.
        header.skip(dimensions * 8 + 4 + 8)


class _Header:
    """Bytes that are copied as they are read."""

    def __init__(self, chunks: Iterator[bytes], target: BinaryIO) -> None:
        self._chunks = chunks
        self._target = target
        self._copied = 0
        self._buffer = b""
        self._position = 0

    def take(self, count: int) -> bytes:
        """The next few bytes."""
        while len(self._buffer) - self._position < count:
            rest = self._buffer[self._position :]
            self._buffer, self._position = rest + self._next(), 0
        start = self._position
        self._position += count
        return self._buffer[start : self._position]

    def skip(self, count: int) -> None:
        """Pass over any number of bytes."""
        while count > (ahead := len(self._buffer) - self._position):
            count -= ahead
            self._buffer, self._position = self._next(), 0
        self._position += count

    def number(self, layout: str) -> int:
        """The next number."""
        (number,) = struct.unpack(layout, self.take(struct.calcsize(layout)))
        return int(number)

    def skip_string(self) -> None:
        self.skip(self.number("<Q"))

    def skip_value(self, kind: int) -> None:
        if kind == STRING:
            self.skip_string()
        elif kind == ARRAY:
            kind, count = self.number("<I"), self.number("<Q")
            if kind == STRING:
                for _ in range(count):
                    self.skip_string()
            else:
                self.skip(count * _size(kind))
        else:
            self.skip(_size(kind))

    def _next(self) -> bytes:
        chunk = next(self._chunks, b"")
        if not chunk:
            raise _unreadable("it ends within its header")
        self._copied += len(chunk)
        if self._copied > HEADER_LIMIT_BYTES:
            raise _unreadable(f"its header is beyond {HEADER_LIMIT_BYTES >> 20} MiB")
        self._target.write(chunk)
        return chunk


def _size(kind: int) -> int:
    if kind not in SIZES:
        raise _unreadable(f"it has a value of the unknown type {kind}")
    return SIZES[kind]


def _unreadable(what: str) -> RefusedError:
    return RefusedError("ArtifactUnreadable", f"The artifact's file is no GGUF file: {what}.")
