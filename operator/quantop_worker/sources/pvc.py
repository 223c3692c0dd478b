"""Checkpoints, and other folders, on a mounted claim: ``pvc://CLAIM/PATH``."""

import os
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

from quantop.contract import Referrer, digest

from quantop_worker.digests import FileRecord
from quantop_worker.errors import RefusedError
from quantop_worker.s3 import CHUNK_BYTES
from quantop_worker.sources.base import CHECKPOINT, Purpose, Source, SourceFile, changed
from quantop_worker.transfer import Download, download
from quantop_worker.workspace import pvc_folder


class PvcSource(Source):
    """A checkpoint, or another folder, in a folder of a claim."""

    def __init__(
        self, uri: str, location: str, referrer: Referrer, purpose: Purpose = CHECKPOINT
    ) -> None:
        self.uri, self.purpose = uri, purpose
        self._location = location.rstrip("/")
        # A claim is its namespace's own: equal names and times elsewhere prove nothing.
        self._owner = [referrer.cluster, referrer.namespace]
        self._folder = claim_path(uri, location, purpose)
        if not self._folder.is_dir():
            raise RefusedError(
                purpose.missing,
                f"{purpose.field} is {uri}, but the claim has no such folder: correct the path.",
            )

    def files(self) -> list[SourceFile]:
        """All files below the folder. Raises RefusedError ``PathEscapeRefused`` for a symlink."""
        return sorted(self._walk(self._folder), key=lambda file: file.path)

    def read(self, file: SourceFile, start: int, stop: int) -> bytes:
        """A range of a file."""
        return b"".join(self._stream(file, start, stop))

    def identity(self, files: Sequence[SourceFile]) -> str:
        """Over cluster, namespace, claim, paths, sizes and modification times."""
        listing = sorted([file.path, file.size, file.version] for file in files)
        return "pvc:" + digest(
            {"owner": self._owner, "location": self._location, "listing": listing}
        )

    def download(
        self,
        files: Sequence[SourceFile],
        folder: Path,
        on_file: Callable[[FileRecord], None],
        on_bytes: Callable[[int], None],
    ) -> None:
        """Copy all files, hashing them on the way."""

        def accept(record: FileRecord) -> None:
            listed = next(file for file in files if file.path == record.path)
            if _version(self._folder / record.path) != listed.version:
                raise RefusedError("SourceChanged", changed(self, record.path))
            on_file(record)

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
            accept,
            on_bytes,
        )

    def _walk(self, folder: Path) -> Iterator[SourceFile]:
        with os.scandir(folder) as entries:
            for entry in entries:
                path = Path(entry.path)
                name = path.relative_to(self._folder).as_posix()
                if entry.is_symlink():
                    raise RefusedError(
                        "PathEscapeRefused",
                        f"{self.purpose.field} is {self.uri}, where {name} is a symbolic link: put "
                        f"the files themselves there, for example by `hf download --local-dir`.",
                    )
                if entry.is_dir():
                    yield from self._walk(path)
                elif entry.is_file():
                    yield SourceFile(name, entry.stat().st_size, _version(path))

    def _stream(self, file: SourceFile, start: int, stop: int) -> Iterator[bytes]:
        descriptor = os.open(self._folder / file.path, os.O_RDONLY | os.O_NOFOLLOW)
        try:
            for position in range(start, stop, CHUNK_BYTES):
                chunk = os.pread(descriptor, min(CHUNK_BYTES, stop - position), position)
                if not chunk:
                    raise RefusedError("SourceChanged", changed(self, file.path))
                yield chunk
        finally:
            os.close(descriptor)


def claim_path(uri: str, location: str, purpose: Purpose) -> Path:
    """Where ``CLAIM/PATH`` is mounted. Raises RefusedError for a path that leaves the claim, and
    when the claim is not mounted."""
    field = purpose.field
    parts = location.rstrip("/").split("/")
    if not all(parts) or any(part in (".", "..") for part in parts):
        raise RefusedError(
            "PathEscapeRefused", f"{field} is {uri}: name a path inside the claim, without '..'."
        )
    claim = pvc_folder() / parts[0]
    path = claim.joinpath(*parts[1:])
    if not claim.is_dir():
        raise RefusedError(
            purpose.missing, f"{field} is {uri}, but there is no claim {parts[0]} to read."
        )
    if path.resolve() != claim.resolve().joinpath(*parts[1:]):
        raise RefusedError(
            "PathEscapeRefused",
            f"{field} is {uri}, which passes through a symbolic link: name the folder itself.",
        )
    return path


def _version(path: Path) -> str:
    return str(path.stat(follow_symlinks=False).st_mtime_ns)
