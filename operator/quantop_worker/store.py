"""Artifacts in a store: docs/reference/store-layout.md says what lies where and why it is safe."""

import hashlib
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from pydantic import ValidationError
from quantop.contract import (
    ArtifactSummary,
    QualityReport,
    Referrer,
    StoreRef,
    artifact_prefix,
    digest,
)

from quantop_worker.digests import FileRecord
from quantop_worker.errors import RefusedError, TryAgainError
from quantop_worker.manifest import SCHEMA_VERSION, Manifest, StoredFile, StoredQuality
from quantop_worker.s3 import Bucket, Place, PreconditionFailedError, store_connection

MANIFEST = "manifest.json"
MANIFEST_LIMIT_BYTES = 16 << 20
QUALITY_LIMIT_BYTES = 1 << 20
DELETION_COUNTS_FOR = timedelta(minutes=15)
"""How long a deletion mark is respected."""
DELETION_ENDS_WITHIN = timedelta(minutes=5)
"""How long a deletion may take before it has to begin again: well within the above."""
WAIT_SECONDS = 60.0
DELETERS = 8


@dataclass(frozen=True)
class Published:
    """An artifact that is in the store, whole."""

    manifest: Manifest
    manifest_digest: str


class Artifact:
    """One artifact's place in a store."""

    def __init__(self, store: StoreRef, key: str, bucket: Bucket | None = None) -> None:
        self.key = key
        self.bucket = bucket or store_bucket(store)
        self._prefix = artifact_prefix(store, key)

    @property
    def uri(self) -> str:
        """``s3://BUCKET/PREFIX`` of all its objects."""
        return self.bucket.uri(self._prefix)

    def object_key(self, name: str) -> str:
        """The key of an object named relative to the artifact's prefix."""
        return f"{self._prefix}/{name}"

    def find(self) -> Published | None:
        """The artifact, when its manifest is there and every file that it lists."""
        published = self.read()
        if published is None or self.missing(published.manifest):
            return None
        return published

    def read(self) -> Published | None:
        """The manifest, when it is there. Raises RefusedError ``ManifestUnreadable``."""
        content = self.bucket.get(self.object_key(MANIFEST), MANIFEST_LIMIT_BYTES)
        return None if content is None else Published(self._parsed(content), _sha256(content))

    def read_verified(self, manifest_digest: str) -> Manifest:
        """The manifest that has the sha256. Raises TryAgainError ``ManifestNotFound`` and
        RefusedError ``ManifestMismatch``."""
        published = self.read()
        if published is None:
            raise TryAgainError("ManifestNotFound", f"{self.uri}/{MANIFEST} is not in the store.")
        if published.manifest_digest != manifest_digest:
            raise RefusedError(
                "ManifestMismatch",
                f"{self.uri}/{MANIFEST} has sha256 {published.manifest_digest}, not "
                f"{manifest_digest}: it was replaced after it was published.",
            )
        return published.manifest

    def missing(self, manifest: Manifest) -> list[StoredFile]:
        """Files of a manifest that the store does not have in their size."""
        sizes = self.sizes("files/")
        return [
            file
            for file in (*manifest.files, manifest.provenance)
            if sizes.get(file.object) != file.size
        ]

    def sizes(self, under: str) -> dict[str, int]:
        """Sizes of the objects below a folder, by their names relative to the prefix."""
        start = len(self._prefix) + 1
        return {item.key[start:]: item.size for item in self.bucket.objects(self.object_key(under))}

    def commit(self, manifest: Manifest) -> Published:
        """Publish, unless another was first: the one that counts now."""
        content = manifest.to_json().encode()
        try:
            self.bucket.put(self.object_key(MANIFEST), content, create_only=True)
        except PreconditionFailedError:
            winner = self.read()
            if winner is None:
                raise TryAgainError(
                    "ArtifactDeleted", f"{self.uri} was deleted while it was published."
                ) from None
            return winner
        return Published(manifest, _sha256(content))

    def quality(self, manifest: Manifest, evaluation: str) -> StoredQuality | None:
        """What was measured of exactly these files on an evaluation text."""
        name = _quality_name(manifest.files_digest, evaluation)
        content = self.bucket.get(self.object_key(name), QUALITY_LIMIT_BYTES)
        if content is None:
            return None
        try:
            return StoredQuality.model_validate_json(content)
        except ValidationError as error:
            raise RefusedError(
                "QualityUnreadable",
                f"{self.uri}/{name} is not a quality report of this version: remove it.",
            ) from error

    def put_quality(self, quality: StoredQuality, evaluation: str) -> None:
        """Keep a report; the first one stays."""
        name = _quality_name(quality.files_digest, evaluation)
        try:
            self.bucket.put(self.object_key(name), quality.to_json().encode(), create_only=True)
        except PreconditionFailedError:
            return

    def refer(self, referrer: Referrer) -> None:
        """Write a reference and wait until no deletion can have overlooked it.

        After this a deletion either sees the reference or has ended; what it left must be looked
        at afterwards. Raises TryAgainError ``DeletionUnderWay``."""
        self.bucket.put(self.object_key(_reference(referrer)), referrer.to_json().encode())
        deadline = time.monotonic() + WAIT_SECONDS
        while self._deletion_under_way():
            if time.monotonic() >= deadline:
                raise TryAgainError("DeletionUnderWay", f"{self.uri} is being deleted.")
            time.sleep(1)

    def forget(self, referrer: Referrer) -> None:
        """Take a reference back."""
        self.bucket.delete(self.object_key(_reference(referrer)))

    def references(self) -> list[str]:
        """Names of all references."""
        return list(self.sizes("refs/"))

    def delete_unless_referred(self, deleter: Referrer) -> bool:
        """Remove everything, the manifest first, when no reference is left; whether it did.

        Raises TryAgainError ``DeletionSlow`` when it took too long: the next attempt goes on."""
        began = time.monotonic()

        def remove(key: str) -> None:
            if time.monotonic() - began > DELETION_ENDS_WITHIN.total_seconds():
                raise TryAgainError("DeletionSlow", f"Deleting {self.uri} takes long; it goes on.")
            self.bucket.delete(key)

        mark = self.object_key(f"deleting/{_path(deleter)}")
        self.bucket.put(mark, deleter.to_json().encode())
        if self.references():
            self.bucket.delete(mark)
            return False
        remove(self.object_key(MANIFEST))
        for key, upload in list(self.bucket.unfinished_uploads(self.object_key(""))):
            self.bucket.abort_upload(key, upload)
        keys = [item.key for item in self.bucket.objects(self.object_key(""))]
        with ThreadPoolExecutor(DELETERS) as pool:
            list(pool.map(remove, (key for key in keys if key != mark)))
        self.bucket.delete(mark)
        return True

    def summary(
        self, published: Published, quality: QualityReport | None = None
    ) -> ArtifactSummary:
        """The artifact in short; without ``quality``, only what was counted from its files."""
        manifest = published.manifest
        report = quality or QualityReport(protocol="", **manifest.coverage.model_dump())
        return ArtifactSummary(
            key=self.key,
            uri=self.uri,
            manifest_digest=published.manifest_digest,
            size_bytes=manifest.size_bytes,
            source_size_bytes=manifest.source.size_bytes,
            recipe=manifest.recipe,
            quality=QualityReport(**report.model_dump(include=set(QualityReport.model_fields))),
        )

    def complete(self, evaluation: str | None) -> ArtifactSummary | None:
        """The artifact in short, when it is in the store and was measured as asked."""
        published = self.find()
        if published is None:
            return None
        if evaluation is None:
            return self.summary(published)
        quality = self.quality(published.manifest, evaluation)
        return None if quality is None else self.summary(published, quality.report)

    def _deletion_under_way(self) -> bool:
        oldest = datetime.now(UTC) - DELETION_COUNTS_FOR
        return any(
            item.modified > oldest for item in self.bucket.objects(self.object_key("deleting/"))
        )

    def _parsed(self, content: bytes) -> Manifest:
        try:
            manifest = Manifest.model_validate_json(content)
        except ValidationError as error:
            raise self._unreadable("is not a manifest of this version") from error
        if manifest.schema_version != SCHEMA_VERSION:
            raise self._unreadable(f"has schema version {manifest.schema_version}")
        if manifest.key != self.key:
            raise self._unreadable("is the manifest of another artifact")
        return manifest

    def _unreadable(self, what: str) -> RefusedError:
        return RefusedError(
            "ManifestUnreadable",
            f"{self.uri}/{MANIFEST} {what}: use a newer worker image, or remove the artifact.",
        )


def store_bucket(store: StoreRef) -> Bucket:
    """The bucket of a ModelStore."""
    place = Place(
        title="the store",
        field="spec.s3 of the ModelStore",
        credentials="check the keys in the Secrets that its spec.credentials names, or what its "
        "ServiceAccount may do",
        missing="StoreNotFound",
    )
    return Bucket(store_connection(store).client, store.bucket, place)


def stored_file(record: FileRecord) -> StoredFile:
    """Where a file goes: its name holds its sha256, so that racing publishers of different bytes
    never touch each other's objects."""
    return StoredFile(**record.model_dump(), object=f"files/{record.sha256}/{record.path}")


def _quality_name(artifact_files_digest: str, evaluation: str) -> str:
    return f"quality/{digest({'evaluation': evaluation, 'files': artifact_files_digest})}.json"


def _path(referrer: Referrer) -> str:
    return f"{referrer.cluster}/{referrer.namespace}/{referrer.name}"


def _reference(referrer: Referrer) -> str:
    return f"refs/{_path(referrer)}"


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
