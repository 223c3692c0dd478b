"""sha256 of files and of lists of files."""

import hashlib
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from quantop.contract import Message, digest

CHUNK_BYTES = 1 << 20
WORKERS = 4


class FileRecord(Message):
    """A file as it was seen: path relative to its folder, size in bytes, sha256 in hex."""

    path: str
    size: int
    sha256: str


def files_digest(files: Iterable[FileRecord]) -> str:
    """One digest over the names and contents of many files."""
    return digest(sorted([file.path, file.size, file.sha256] for file in files))


def sha256_of(path: Path, on_bytes: Callable[[int], None] = lambda count: None) -> str:
    """Hex sha256 of a file's content."""
    hasher = hashlib.sha256()
    with path.open("rb", buffering=0) as file:
        while chunk := file.read(CHUNK_BYTES):
            hasher.update(chunk)
            on_bytes(len(chunk))
    return hasher.hexdigest()


def records_of(
    files: Mapping[str, Path], on_bytes: Callable[[int], None] = lambda count: None
) -> list[FileRecord]:
    """Hash several files at once, in the order of their names."""

    def record(name: str) -> FileRecord:
        path = files[name]
        return FileRecord(path=name, size=path.stat().st_size, sha256=sha256_of(path, on_bytes))

    with ThreadPoolExecutor(WORKERS) as pool:
        return list(pool.map(record, sorted(files)))
