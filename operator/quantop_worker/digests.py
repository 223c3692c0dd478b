"""sha256 of files and of lists of files."""

import hashlib
import os
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from io import RawIOBase
from pathlib import Path

from quantop.contract import Message, digest

BUFFER_BYTES = 256 << 10
WORKERS = 4


def ignore(count: int) -> None:
    """Nobody wants to know the progress."""


def unseen(chunk: memoryview) -> None:
    """Nobody else wants to read the bytes."""


class FileRecord(Message):
    """A file as it was seen: path relative to its folder, size in bytes, sha256 in hex."""

    path: str
    size: int
    sha256: str


def files_digest(files: Iterable[FileRecord]) -> str:
    """One digest over the names and contents of many files."""
    return digest(sorted([file.path, file.size, file.sha256] for file in files))


class Hasher:
    """sha256 of a file that is read through one buffer, which stays in the processor's cache."""

    def __init__(self, file: RawIOBase, on_chunk: Callable[[memoryview], object] = unseen) -> None:
        """``on_chunk`` reads along, in order."""
        self._on_chunk = on_chunk
        self._descriptor = file.fileno()
        self._buffer = memoryview(bytearray(BUFFER_BYTES))
        self._sha256 = hashlib.sha256()

    def update(self, start: int, stop: int, on_bytes: Callable[[int], None] = ignore) -> None:
        """Take in the bytes ``start`` to ``stop`` (exclusive), as far as there are any."""
        while start < stop:
            wanted = min(BUFFER_BYTES, stop - start)
            count = os.preadv(self._descriptor, [self._buffer[:wanted]], start)
            if count == 0:
                return
            self._sha256.update(self._buffer[:count])
            self._on_chunk(self._buffer[:count])
            on_bytes(count)
            start += count

    def hexdigest(self) -> str:
        """The sha256 in hex of all that was taken in."""
        return self._sha256.hexdigest()


def sha256_of(path: Path, on_bytes: Callable[[int], None] = ignore) -> str:
    """Hex sha256 of a file's content."""
    with path.open("rb", buffering=0) as file:
        hasher = Hasher(file)
        hasher.update(0, os.fstat(file.fileno()).st_size, on_bytes)
    return hasher.hexdigest()


def records_of(
    files: Mapping[str, Path], on_bytes: Callable[[int], None] = ignore
) -> list[FileRecord]:
    """Hash several files at once, in the order of their names."""

    def record(name: str) -> FileRecord:
        path = files[name]
        return FileRecord(path=name, size=path.stat().st_size, sha256=sha256_of(path, on_bytes))

    with ThreadPoolExecutor(WORKERS) as pool:
        return list(pool.map(record, sorted(files)))
