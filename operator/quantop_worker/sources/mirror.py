"""A hub's commits and their copies in the store: ``spec.hubSources`` of a ModelStore.

The hub is asked first for what is small, with the user's own token: whoever may not read a model
there does not get its copy. Only when the hub cannot be reached does a copy answer in its place,
and only one of a model that anybody could read.
"""

from collections.abc import Callable, Sequence
from functools import cached_property, partial
from pathlib import Path

from pydantic import ValidationError
from quantop.contract import Message, StoreRef, digest, in_store

from quantop_worker.digests import FileRecord
from quantop_worker.errors import TryAgainError
from quantop_worker.manifest import SCHEMA_VERSION, StoredFile
from quantop_worker.progress import Progress
from quantop_worker.sources.base import Source, SourceFile
from quantop_worker.sources.hub import HubSource
from quantop_worker.store import MANIFEST, MANIFEST_LIMIT_BYTES, store_bucket, stored_file
from quantop_worker.transfer import Download, Upload, download, upload


class MirroredFile(StoredFile):
    """A file, the object that holds it, and what the hub called this version of it."""

    version: str


class Mirror(Message):
    """sources/<id>/manifest.json: the files of one commit that conversions read."""

    schema_version: int = SCHEMA_VERSION
    uri: str
    commit: str
    public: bool
    """Whether the hub gave it to anybody when it was copied."""
    files: tuple[MirroredFile, ...]


class MirroredHubSource(Source):
    """A model repository at one commit, read from the store where it was copied to before."""

    def __init__(self, hub: HubSource, store: StoreRef) -> None:
        self.uri = hub.uri
        self._hub = hub
        self._store = store
        self._bucket = store_bucket(store)
        self._hub_answers = True

    @property
    def revision(self) -> str | None:
        """The commit, once it is known."""
        return self._hub.commit

    def files(self) -> list[SourceFile]:
        """All files of the commit, or when the hub cannot be reached, those that were copied."""
        try:
            return self._hub.files()
        except TryAgainError:
            if not self._hub.pin() or self._mirror is None or not self._mirror.public:
                raise
            if len(self._copies) < len(self._mirror.files):
                raise
            self._hub_answers = False
            return [
                SourceFile(file.path, file.size, file.version, file.sha256)
                for file in self._copies.values()
            ]

    def read(self, file: SourceFile, start: int, stop: int) -> bytes:
        """A range of a file."""
        if self._hub_answers:
            return self._hub.read(file, start, stop)
        copy = self._key(self._copies[file.path].object)
        return b"".join(self._bucket.stream(copy, start, stop))

    def identity(self, files: Sequence[SourceFile]) -> str:
        """The commit."""
        return self._hub.identity(files)

    def download(
        self,
        files: Sequence[SourceFile],
        folder: Path,
        on_file: Callable[[FileRecord], None],
        on_bytes: Callable[[int], None],
    ) -> None:
        """From the store when all of them are there, else from the hub."""
        copies = self._copies
        if any(file.path not in copies for file in files):
            self._hub.download(files, folder, on_file, on_bytes)
            return

        def verify(record: FileRecord) -> None:
            copy = copies[record.path]
            if record.sha256 != copy.sha256:
                self._bucket.delete(self._key(copy.object))
                raise TryAgainError(
                    "Corrupted",
                    f"{record.path} of {self._bucket.uri(self._folder)} was altered in the store; "
                    "it is removed there, and the next attempt asks the hub.",
                )
            on_file(record)

        download(
            [
                Download(
                    path=file.path,
                    size=file.size,
                    read=partial(self._bucket.stream, self._key(copies[file.path].object)),
                    target=folder / file.path,
                )
                for file in files
            ],
            verify,
            on_bytes,
        )

    def keep(
        self,
        files: Sequence[SourceFile],
        records: Sequence[FileRecord],
        folder: Path,
        progress: Progress,
    ) -> None:
        """Copy what was downloaded to the store, the manifest last, unless it is there."""
        if all(file.path in self._copies for file in files):
            return
        kept = tuple(
            MirroredFile(**stored_file(record).model_dump(), version=file.version)
            for file, record in zip(files, records, strict=True)
        )
        there = self._sizes()
        uploads = [
            Upload(self._key(file.object), folder / file.path, file.size, file.sha256)
            for file in kept
            if there.get(file.object) != file.size
        ]
        progress.begin(
            f"copying {self.uri} to the store", total=sum(upload.size for upload in uploads)
        )
        upload(self._bucket, uploads, progress.add)
        mirror = Mirror(
            uri=self.uri, commit=str(self.revision), public=self._hub.public, files=kept
        )
        self._bucket.put(self._key(MANIFEST), mirror.to_json().encode())
        progress.end()

    @property
    def _folder(self) -> str:
        # Another hub could claim any commit.
        place = {"endpoint": self._hub.endpoint, "uri": self.uri, "commit": self.revision}
        return in_store(self._store, f"sources/{digest(place)}")

    def _key(self, name: str) -> str:
        return f"{self._folder}/{name}"

    def _sizes(self) -> dict[str, int]:
        start = len(self._folder) + 1
        return {item.key[start:]: item.size for item in self._bucket.objects(self._key("files/"))}

    @cached_property
    def _mirror(self) -> Mirror | None:
        """The commit's copy; None when there is none, or one of another version."""
        content = self._bucket.get(self._key(MANIFEST), MANIFEST_LIMIT_BYTES)
        try:
            found = Mirror.model_validate_json(content) if content else None
        except ValidationError:
            return None
        return found if found and found.schema_version == SCHEMA_VERSION else None

    @cached_property
    def _copies(self) -> dict[str, MirroredFile]:
        """The files of the copy that the store still has: a bucket may expire objects."""
        if self._mirror is None:
            return {}
        sizes = self._sizes()
        return {
            file.path: file for file in self._mirror.files if sizes.get(file.object) == file.size
        }
