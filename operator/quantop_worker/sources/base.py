"""What every source of checkpoints, and of other folders, can do."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from quantop_worker.digests import FileRecord
from quantop_worker.progress import Progress


@dataclass(frozen=True)
class Purpose:
    """What a text or a folder is for: the field that names it, and the reason when it is not
    there."""

    field: str
    missing: str


CHECKPOINT = Purpose("spec.source.uri", "SourceNotFound")
FIELD = CHECKPOINT.field


@dataclass(frozen=True)
class SourceFile:
    """A file that a source lists: path relative to the checkpoint, size in bytes."""

    path: str
    size: int
    version: str
    """Changes when the content does: an ETag, a modification time, a git blob."""
    sha256: str = ""
    """Where the source knows it beforehand."""


class Source(Protocol):
    """A checkpoint, or another folder, somewhere. Methods raise RefusedError or TryAgainError."""

    purpose: Purpose = CHECKPOINT
    uri: str

    @property
    def revision(self) -> str | None:
        """What the user asked for, resolved: the commit of a hub."""
        return None

    def files(self) -> list[SourceFile]:
        """Everything that is there; empty when there is nothing."""

    def read(self, file: SourceFile, start: int, stop: int) -> bytes:
        """The bytes ``start`` to ``stop`` (exclusive) of a file."""

    def identity(self, files: Sequence[SourceFile]) -> str:
        """The cheap immutable name of these files' content."""

    def download(
        self,
        files: Sequence[SourceFile],
        folder: Path,
        on_file: Callable[[FileRecord], None],
        on_bytes: Callable[[int], None],
    ) -> None:
        """Write files to ``folder`` and report each one that is complete. Raises RefusedError
        ``SourceChanged`` when a file is no longer what was listed."""

    def keep(
        self,
        files: Sequence[SourceFile],
        records: Sequence[FileRecord],
        folder: Path,
        progress: Progress,
    ) -> None:
        """Copy what was downloaded to the store, where the task asks for that."""
        return


def changed(source: Source, path: str) -> str:
    """The sentence for a file that was replaced meanwhile."""
    return (
        f"{source.purpose.field}: {path} of {source.uri} changed while it was read; "
        f"leave the source alone during a conversion, then edit the object to try again."
    )
