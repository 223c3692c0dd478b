"""Many files to and from a bucket: in parallel parts, hashed on the way, continued after a kill."""

import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_EXCEPTION, Executor, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from quantop_worker.digests import FileRecord, Hasher, unseen
from quantop_worker.errors import TryAgainError
from quantop_worker.s3 import SERVER_ERROR, Bucket, Part, UploadGoneError, checksum

RANGE_BYTES = 64 << 20
"""Of a download, which streams: few requests cost less than many."""
PART_BYTES = 16 << 20
"""Of an upload, which is held in memory. S3 wants at least 5 MiB, and at most ``MAX_PARTS``."""
MAX_PARTS = 10_000
WORKERS = 8
"""Requests at once."""
HASHERS = 3
"""Files that are hashed at once while they arrive."""
FILES = 4
"""Files that are stored at once: the server's work on a finished one overlaps the next."""
ATTEMPTS = 5
DRAFT_SUFFIX = ".quantop.part"

Result = TypeVar("Result")
Read = Callable[[int, int], Iterator[bytes]]
"""The bytes from a start to a stop (exclusive), in chunks."""


@dataclass(frozen=True)
class Download:
    """A file to be written to ``target``. ``on_chunk`` is given its bytes in order, and refuses
    it by raising."""

    path: str
    size: int
    read: Read
    target: Path
    on_chunk: Callable[[memoryview], object] = unseen


@dataclass(frozen=True)
class Upload:
    """A file to be stored as ``key``, which must be a name that decides the content: uploads
    under one key are continued and completed by whoever comes first."""

    key: str
    path: Path
    size: int
    sha256: str


def download(
    downloads: Sequence[Download],
    on_file: Callable[[FileRecord], None],
    on_bytes: Callable[[int], None],
) -> None:
    """Fetch files in parallel ranges. Each is written beside its target and, when ``on_file`` has
    accepted its sha256 by not raising, renamed."""
    with _pool(WORKERS) as readers, _pool(HASHERS) as hashers:
        finished: list[Future[None]] = []
        ranges: list[Future[None]] = []
        for item in downloads:
            item.target.parent.mkdir(parents=True, exist_ok=True)
            draft = item.target.with_name(item.target.name + DRAFT_SUFFIX)
            draft.write_bytes(b"")
            os.truncate(draft, item.size)
            parts = [
                readers.submit(_read_range, item, draft, start, stop, on_bytes)
                for start, stop in _ranges(item.size, RANGE_BYTES)
            ]
            ranges += parts
            finished.append(hashers.submit(_finish_file, item, draft, parts, on_file))
        _wait_for_all([*ranges, *finished])


def upload(bucket: Bucket, uploads: Iterable[Upload], on_bytes: Callable[[int], None]) -> None:
    """Store files in parallel parts, with a sha256 that the server checks for each."""
    with _pool(WORKERS) as writers, _pool(FILES) as files:
        _wait_for_all([files.submit(_store, bucket, item, writers, on_bytes) for item in uploads])


def part_size(size: int) -> int:
    """The part size of a file: the same for everybody, so that uploads can be continued."""
    parts = -(-size // PART_BYTES)
    return PART_BYTES * -(-parts // MAX_PARTS)


def _read_range(
    item: Download, draft: Path, start: int, stop: int, on_bytes: Callable[[int], None]
) -> None:
    position = start
    with draft.open("r+b", buffering=0) as file:
        for attempt in range(1, ATTEMPTS + 1):
            try:
                for chunk in item.read(position, stop):
                    os.pwrite(file.fileno(), chunk, position)
                    position += len(chunk)
                    on_bytes(len(chunk))
                if position == stop:
                    return
                raise TryAgainError("Truncated", f"{item.path} ended early, at byte {position}.")
            except TryAgainError:
                if attempt == ATTEMPTS:
                    raise
                time.sleep(min(2**attempt / 4, 8))


def _finish_file(
    item: Download,
    draft: Path,
    parts: Sequence[Future[None]],
    on_file: Callable[[FileRecord], None],
) -> None:
    """Hash a file behind its ranges, from the page cache."""
    with draft.open("rb", buffering=0) as file:
        hasher = Hasher(file, item.on_chunk)
        for (start, stop), part in zip(_ranges(item.size, RANGE_BYTES), parts, strict=True):
            part.result()
            hasher.update(start, stop)
    on_file(FileRecord(path=item.path, size=item.size, sha256=hasher.hexdigest()))
    draft.replace(item.target)


def _store(
    bucket: Bucket, item: Upload, writers: Executor, on_bytes: Callable[[int], None]
) -> None:
    if item.size <= PART_BYTES:
        bucket.put(item.key, item.path.read_bytes(), metadata={"sha256": item.sha256})
        on_bytes(item.size)
        return
    for attempt in range(1, ATTEMPTS + 1):
        try:
            _send_parts(bucket, item, writers, on_bytes)
        except UploadGoneError:
            # Another publisher of the same content completed it, or a deletion aborted it: which
            # of the two, the object itself tells.
            pass
        except TryAgainError as error:
            # Servers may also stumble over a part of an upload that another one completes.
            if error.reason != SERVER_ERROR or attempt == ATTEMPTS:
                raise
        if bucket.head(item.key) is not None:
            _abort_leftovers(bucket, item.key)
            return
    raise TryAgainError(
        "UploadLost", f"The upload of {item.path.name} was aborted again and again."
    )


def _send_parts(
    bucket: Bucket, item: Upload, writers: Executor, on_bytes: Callable[[int], None]
) -> None:
    upload_id = next(
        (found for key, found in bucket.unfinished_uploads(item.key) if key == item.key), None
    )
    there: dict[int, Part] = {}
    if upload_id is None:
        upload_id = bucket.begin_upload(item.key, {"sha256": item.sha256})
    else:
        there = {part.number: part for part in bucket.parts(item.key, upload_id)}
    parts = [
        writers.submit(_send_part, bucket, item, upload_id, number, span, there, on_bytes)
        for number, span in enumerate(_ranges(item.size, part_size(item.size)), start=1)
    ]
    _wait_for_all(parts)
    bucket.finish_upload(item.key, upload_id, [part.result() for part in parts])


def _send_part(
    bucket: Bucket,
    item: Upload,
    upload_id: str,
    number: int,
    span: tuple[int, int],
    there: dict[int, Part],
    on_bytes: Callable[[int], None],
) -> Part:
    start, stop = span
    with item.path.open("rb", buffering=0) as file:
        content = os.pread(file.fileno(), stop - start, start)
    known = there.get(number)
    if known is None or known.size != len(content) or known.sha256 != checksum(content):
        known = bucket.put_part(item.key, upload_id, number, content)
    on_bytes(len(content))
    return known


def _abort_leftovers(bucket: Bucket, key: str) -> None:
    for found, upload_id in list(bucket.unfinished_uploads(key)):
        if found == key:
            bucket.abort_upload(key, upload_id)


def _ranges(size: int, step: int) -> list[tuple[int, int]]:
    return [(start, min(start + step, size)) for start in range(0, size, step)]


@contextmanager
def _pool(workers: int) -> Iterator[ThreadPoolExecutor]:
    """A pool that drops what has not begun when its block fails."""
    pool = ThreadPoolExecutor(workers)
    try:
        yield pool
    except BaseException:
        pool.shutdown(wait=False, cancel_futures=True)
        raise
    pool.shutdown()


def _wait_for_all(futures: Sequence[Future[Result]]) -> None:
    """Wait until all are done or one has failed, and raise what that one raised."""
    done, _ = wait(futures, return_when=FIRST_EXCEPTION)
    for future in done:
        future.result()
