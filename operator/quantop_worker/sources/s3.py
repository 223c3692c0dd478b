"""Checkpoints, and other folders, in a bucket: ``s3://BUCKET/PREFIX``."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

from quantop.contract import StoreRef, digest

from quantop_worker.digests import FileRecord
from quantop_worker.errors import RefusedError, TryAgainError
from quantop_worker.s3 import (
    Bucket,
    Place,
    PreconditionFailedError,
    source_connection,
    store_connection,
)
from quantop_worker.sources.base import CHECKPOINT, Purpose, Source, SourceFile, changed
from quantop_worker.transfer import Download, download

HEADS = 8
STORE_CREDENTIALS = "texts and tasks are read with the store's keys, which must be allowed to"


class S3Source(Source):
    """A checkpoint below a prefix of a bucket; of another purpose, a folder at the store's own
    endpoint."""

    def __init__(
        self, uri: str, location: str, store: StoreRef, purpose: Purpose = CHECKPOINT
    ) -> None:
        self.uri, self.purpose = uri, purpose
        name, _, prefix = location.partition("/")
        self._prefix = f"{prefix.rstrip('/')}/" if prefix.strip("/") else ""
        owned = purpose is CHECKPOINT
        connection = source_connection(store) if owned else store_connection(store)
        # Another server could claim any ETag: what it lists must not pass for what the store's
        # own server lists under the same names.
        self._server = "" if connection == store_connection(store) else connection.endpoint or "aws"
        self._bucket = Bucket(
            connection.client,
            name,
            Place(
                title="the source" if owned else "the store",
                field=purpose.field,
                credentials="check the keys in the Secret that spec.source.credentialsSecretName "
                "names, or without one those of the store"
                if owned
                else STORE_CREDENTIALS,
                missing=purpose.missing,
            ),
        )

    def files(self) -> list[SourceFile]:
        """All objects below the prefix."""
        start = len(self._prefix)
        return [
            SourceFile(item.key[start:], item.size, item.etag)
            for item in self._bucket.objects(self._prefix)
            if not item.key.endswith("/")
        ]

    def read(self, file: SourceFile, start: int, stop: int) -> bytes:
        """A range of an object, if it is still the one that was listed."""
        return b"".join(self._stream(file, start, stop))

    def identity(self, files: Sequence[SourceFile]) -> str:
        """Over server, bucket, keys, sizes, ETags and versions."""
        versions = self._versions(files)
        listing = sorted(
            [self._prefix + file.path, file.size, file.version, version]
            for file, version in zip(files, versions, strict=True)
        )
        return "s3:" + digest(
            {"server": self._server, "bucket": self._bucket.name, "listing": listing}
        )

    def download(
        self,
        files: Sequence[SourceFile],
        folder: Path,
        on_file: Callable[[FileRecord], None],
        on_bytes: Callable[[int], None],
    ) -> None:
        """Parallel ranges of all files."""
        download(
            [
                Download(
                    path=file.path,
                    size=file.size,
                    read=partial(self._stream, file),
                    target=folder / file.path,
                )
                for file in files
            ],
            on_file,
            on_bytes,
        )

    def _versions(self, files: Sequence[SourceFile]) -> list[str]:
        """Asked of one file first: most buckets keep no versions, and a listing shows none."""
        if not self._version(files[0]):
            return [""] * len(files)
        with ThreadPoolExecutor(HEADS) as pool:
            return list(pool.map(self._version, files))

    def _version(self, file: SourceFile) -> str:
        found = self._bucket.head(self._prefix + file.path)
        if found is None or found.etag != file.version:
            raise TryAgainError("SourceChanged", changed(self, file.path))
        return found.version

    def _stream(self, file: SourceFile, start: int, stop: int) -> Iterator[bytes]:
        try:
            yield from self._bucket.stream(self._prefix + file.path, start, stop, etag=file.version)
        except PreconditionFailedError:
            raise RefusedError("SourceChanged", changed(self, file.path)) from None
