"""Artifacts in a store: docs/reference/store-layout.md says what lies where and why it is safe."""

import hashlib
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from itertools import islice

from pydantic import ValidationError
from quantop.contract import (
    TERMINATION_MESSAGE_BYTES,
    ArtifactSummary,
    Benchmark,
    BenchmarkState,
    QualityReport,
    Referrer,
    StoreRef,
    Trial,
    artifact_prefix,
    digest,
    in_store,
    trial_object,
)

from quantop_worker.digests import FileRecord
from quantop_worker.errors import RefusedError, TryAgainError
from quantop_worker.manifest import (
    SCHEMA_VERSION,
    Manifest,
    Measurement,
    StoredBenchmark,
    StoredFile,
    StoredQuality,
    StoredTrial,
)
from quantop_worker.s3 import Bucket, Place, PreconditionFailedError, store_connection

MANIFEST = "manifest.json"
MANIFEST_LIMIT_BYTES = 16 << 20
QUALITY_LIMIT_BYTES = 1 << 20
DELETION_COUNTS_FOR = timedelta(minutes=15)
"""How long a deletion mark is respected."""
DELETION_ENDS_WITHIN = timedelta(minutes=5)
"""How long a deletion may take before it has to begin again: well within the above."""
WAIT_SECONDS = 60.0
REQUESTS_AT_ONCE = 8
PEERS = 100
"""Other artifacts of a source that are read for a report at most."""
BENCHMARK_END_BYTES = TERMINATION_MESSAGE_BYTES - 768
"""To which a summary may grow with a benchmark: the rest is for what else resolve says."""
SHOWN = (
    BenchmarkState.CHOSEN,
    BenchmarkState.BASELINE,
    BenchmarkState.PASSED,
    BenchmarkState.REJECTED,
    BenchmarkState.FAILED,
)
"""Which of a benchmark's candidates come first where there is no room for all."""
MAX_CANDIDATES = 16
"""Of a benchmark's, that a summary has at most."""
TRIALS = 16
"""Trials of an artifact that are."""


@dataclass(frozen=True)
class Published:
    """An artifact that is in the store, whole."""

    manifest: Manifest
    manifest_digest: str
    quality: StoredQuality | None = None
    """What was measured on the text that was asked for."""


class Artifact:
    """One artifact's place in a store."""

    def __init__(self, store: StoreRef, key: str, bucket: Bucket | None = None) -> None:
        self.key = key
        self.bucket = bucket or store_bucket(store)
        self.store = store
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
        return self._quality(f"{_quality_name(manifest.files_digest, evaluation)}.json")

    def quality_of(self, page: str) -> StoredQuality | None:
        """What was measured that a page is about, by the page's name."""
        return self._quality(f"{page.removesuffix('.html')}.json")

    def _quality(self, name: str) -> StoredQuality | None:
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

    def put_quality(self, quality: StoredQuality) -> None:
        """Keep a report; the first one stays."""
        name = f"{_quality_name(quality.files_digest, quality.evaluation.id)}.json"
        try:
            self.bucket.put(self.object_key(name), quality.to_json().encode(), create_only=True)
        except PreconditionFailedError:
            return

    def put_benchmark(self, benchmark: StoredBenchmark) -> str:
        """Keep what the toolchain measured of these files; where it is. The first one stays."""
        name = f"benchmarks/{benchmark.files_digest}.json"
        with suppress(PreconditionFailedError):
            self.bucket.put(self.object_key(name), benchmark.to_json().encode(), create_only=True)
        return name

    def benchmark(self, manifest: Manifest) -> StoredBenchmark | None:
        """What the toolchain measured itself; None where it did not, or where it cannot be read."""
        if manifest.benchmark is None:
            return None
        content = self.bucket.get(self.object_key(manifest.benchmark), QUALITY_LIMIT_BYTES)
        try:
            return StoredBenchmark.model_validate_json(content or b"")
        except ValidationError:
            return None

    def put_measurement(self, manifest: Manifest, quality: StoredQuality) -> None:
        """List a measurement among those of the source's other artifacts; again is harmless."""
        measurement = Measurement(
            key=self.key,
            recipe=manifest.recipe,
            size_bytes=manifest.size_bytes,
            report=quality.report,
        )
        folder = self._measurements(manifest, quality.evaluation.id)
        self.bucket.put(f"{folder}{self.key}.json", measurement.to_json().encode())

    def peers(self, manifest: Manifest, quality: StoredQuality) -> list[Measurement]:
        """Measurements of the source's other artifacts on the same text, at most PEERS."""
        folder = self._measurements(manifest, quality.evaluation.id)
        own = f"{folder}{self.key}.json"
        keys = (
            item.key
            for item in self.bucket.objects(folder)
            if item.key != own and item.size <= QUALITY_LIMIT_BYTES
        )
        with ThreadPoolExecutor(REQUESTS_AT_ONCE) as pool:
            found = pool.map(self._peer, islice(keys, PEERS))
            return [peer for peer in found if peer is not None]

    def _peer(self, key: str) -> Measurement | None:
        """None for what is no measurement of this version, or is left of an artifact that is
        gone: a report does without it."""
        content = self.bucket.get(key, QUALITY_LIMIT_BYTES)
        try:
            peer = Measurement.model_validate_json(content or b"")
        except ValidationError:
            return None
        if not key.endswith(f"/{peer.key}.json"):
            return None
        there = Artifact(self.store, peer.key, self.bucket).is_committed()
        return peer if there else None

    def put_trial(self, referrer: Referrer, trial: Trial) -> None:
        """Keep how the artifact did for an object, over what it showed before; nothing where the
        object refers to it no more."""
        if self.bucket.head(self.object_key(_reference(referrer))) is None:
            return
        stored = StoredTrial(referrer=referrer, trial=trial)
        self.bucket.put(self.object_key(trial_object(referrer)), stored.to_json().encode())

    def trials(self, others: Sequence[str] = ()) -> list[StoredTrial]:
        """How this artifact did, and others by their keys, for each object that tried it; at most
        TRIALS of each."""
        tried = [Artifact(self.store, key, self.bucket) for key in (self.key, *others)]
        with ThreadPoolExecutor(REQUESTS_AT_ONCE) as pool:
            return [trial for found in pool.map(Artifact._trials, tried) for trial in found]

    def _trials(self) -> list[StoredTrial]:
        """A page does without what is no trial of this version."""
        found = []
        for item in islice(self.bucket.objects(self.object_key("trials/")), TRIALS):
            content = self.bucket.get(item.key, QUALITY_LIMIT_BYTES)
            try:
                stored = StoredTrial.model_validate_json(content or b"")
            except ValidationError:
                continue
            if stored.trial.key == self.key:
                found.append(stored)
        return found

    def is_committed(self) -> bool:
        """Whether there is a manifest."""
        return self.bucket.head(self.object_key(MANIFEST)) is not None

    def put_page(self, quality: StoredQuality, page: str) -> None:
        """Write the page about a measurement, over an earlier one."""
        key = self.object_key(_page_name(quality))
        self.bucket.put(key, page.encode(), content_type="text/html; charset=utf-8")

    def _measurements(self, manifest: Manifest, evaluation: str = "") -> str:
        """The folder of a source's measurements, or of those on one text."""
        folder = in_store(self.store, f"measurements/{manifest.source.digest}/")
        return f"{folder}{evaluation}/" if evaluation else folder

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
        """Take a reference back, and what the artifact showed in a trial."""
        self.bucket.delete(self.object_key(_reference(referrer)))
        self.bucket.delete(self.object_key(trial_object(referrer)))

    def references(self) -> list[str]:
        """Names of all references."""
        return list(self.sizes("refs/"))

    def delete_unless_referred(self, deleter: Referrer) -> bool:
        """Remove everything when no reference is left; whether it did. The manifest goes first of
        what is the artifact's own; before it only what it alone leads to.

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
        for key in self._own_measurements():
            remove(key)
        remove(self.object_key(MANIFEST))
        for key, upload in list(self.bucket.unfinished_uploads(self.object_key(""))):
            self.bucket.abort_upload(key, upload)
        keys = [item.key for item in self.bucket.objects(self.object_key(""))]
        with ThreadPoolExecutor(REQUESTS_AT_ONCE) as pool:
            list(pool.map(remove, (key for key in keys if key != mark)))
        self.bucket.delete(mark)
        return True

    def _own_measurements(self) -> list[str]:
        try:
            published = self.read()
        except RefusedError:
            # Whatever took the manifest's place leads nowhere; readers skip what is left.
            return []
        if published is None:
            return []
        end = f"/{self.key}.json"
        listed = self.bucket.objects(self._measurements(published.manifest))
        return [item.key for item in listed if item.key.endswith(end)]

    def summary(self, published: Published) -> ArtifactSummary:
        """The artifact in short; where quality was not asked for, with what was counted from its
        files."""
        manifest, quality = published.manifest, published.quality
        coverage = QualityReport(protocol="", **manifest.coverage.model_dump())
        report = quality.report if quality else coverage
        summary = ArtifactSummary(
            key=self.key,
            uri=self.uri,
            manifest_digest=published.manifest_digest,
            size_bytes=manifest.size_bytes,
            source_size_bytes=manifest.source.size_bytes,
            source_uri=manifest.source.uri,
            # A termination message has no room for it.
            recipe=manifest.recipe.model_copy(update={"workflow": None}),
            quality=QualityReport(**report.model_dump(include=set(QualityReport.model_fields))),
            report=_page_name(quality) if quality else "",
        )
        benchmark = self.benchmark(manifest)
        if benchmark is None:
            return summary
        room = BENCHMARK_END_BYTES - len(summary.to_json().encode())
        told = shortened(benchmark, str(manifest.benchmark), room)
        return summary.model_copy(update={"benchmark": told})

    def complete(self, evaluation: str | None) -> Published | None:
        """The artifact, when it is in the store and was measured as asked."""
        published = self.find()
        if published is None or evaluation is None:
            return published
        quality = self.quality(published.manifest, evaluation)
        return None if quality is None else replace(published, quality=quality)

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


def shortened(stored: StoredBenchmark, name: str, room: int) -> Benchmark:
    """What the toolchain measured, the chosen one first, with as many others as have room."""
    told = Benchmark(
        node=stored.node,
        processor=stored.processor,
        threads=stored.report.threads,
        report=name,
    )
    for each in sorted(stored.report.candidates, key=lambda each: SHOWN.index(each.state)):
        short = each.model_copy(update={"message": "", "workflow": ""})
        longer = told.model_copy(update={"candidates": (*told.candidates, short)})
        if len(longer.candidates) > MAX_CANDIDATES or len(longer.to_json().encode()) > room:
            break
        told = longer
    return told


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
    return f"quality/{digest({'evaluation': evaluation, 'files': artifact_files_digest})}"


def _page_name(quality: StoredQuality) -> str:
    return f"{_quality_name(quality.files_digest, quality.evaluation.id)}.html"


def _path(referrer: Referrer) -> str:
    return f"{referrer.cluster}/{referrer.namespace}/{referrer.name}"


def _reference(referrer: Referrer) -> str:
    return f"refs/{_path(referrer)}"


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
