"""publish: the artifact into the store, so that it is there whole or not at all."""

import os
import stat
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from quantop.contract import (
    NODE_VARIABLE,
    ArtifactSummary,
    BenchmarkReport,
    ConversionTask,
    PublishResult,
)

from quantop_worker.digests import FileRecord, files_digest, records_of
from quantop_worker.errors import RefusedError, TryAgainError
from quantop_worker.manifest import (
    FetchRecord,
    Manifest,
    MeasuredQuality,
    StoredBenchmark,
    StoredFile,
    StoredQuality,
    benchmark_report,
    check_same_source,
    manifest_for,
    measured_quality,
    whole_recipe,
)
from quantop_worker.processor import processor
from quantop_worker.progress import Progress
from quantop_worker.provenance import FILE_NAME, statement
from quantop_worker.report import write_report
from quantop_worker.store import Artifact, Published, stored_file
from quantop_worker.transfer import Upload, upload
from quantop_worker.workspace import Workspace, read_json, write_whole

REFUSED_SUFFIXES = (".ckpt", ".pickle", ".pkl", ".pt", ".pth", ".py", ".so")
PICKLE_STARTS = tuple(bytes([0x80, protocol]) for protocol in range(2, 6))
ZIP_START = b"PK\x03\x04"


def run(task: ConversionTask, progress: Progress) -> PublishResult:
    """Publish what quantize and evaluate left, unless the store has it already."""
    if task.key is None:
        raise RefusedError("InvalidTask", "publish needs the key of resolve.")
    workspace = Workspace.from_environment()
    artifact = Artifact(task.store, task.key)
    noted = read_json(workspace.published_file)
    if noted is not None:
        summary = ArtifactSummary.model_validate(noted)
        return PublishResult(published=_confirmed(task, artifact, summary))
    fetched = FetchRecord.model_validate(_needed(workspace.source_file))
    recipe = whole_recipe(task.recipe, fetched.workflow)
    task = task.model_copy(update={"recipe": recipe})
    report = measured_quality(_needed(workspace.quality_file))
    said = read_json(workspace.benchmark_file)
    benchmark = None if said is None else benchmark_report(said)
    paths = artifact_files(workspace.artifact)
    progress.begin("hashing the artifact", total=sum(p.stat().st_size for p in paths.values()))
    files = records_of(paths, progress.add)
    publication = Publication(
        task, artifact, workspace, fetched, report, benchmark, files, progress
    )
    return PublishResult(published=publication.publish())


@dataclass(frozen=True)
class Publication:
    """One attempt to publish: what is there to publish, and where."""

    task: ConversionTask
    artifact: Artifact
    workspace: Workspace
    fetched: FetchRecord
    report: MeasuredQuality
    benchmark: BenchmarkReport | None
    files: Sequence[FileRecord]
    progress: Progress

    def publish(self) -> ArtifactSummary:
        """Bring the artifact into the store, or agree with the one that came first.

        The order matters (docs/reference/store-layout.md): files, reference, files that a
        deletion took before it saw the reference, quality, manifest."""
        provenance = self._write_provenance()
        existing = self.artifact.read()
        if existing is None:
            self._upload([*self.files, provenance])
        else:
            check_same_source(existing.manifest, self.fetched.source)
        self.artifact.refer(self.task.referrer)
        published = self.artifact.read()
        if published is None:
            self._upload([*self.files, provenance])
            self._put_quality()
            published = self.artifact.commit(
                self._manifest(stored_file(provenance), self._put_benchmark())
            )
        check_same_source(published.manifest, self.fetched.source)
        self._complete_files(published.manifest)
        return self._summary(published)

    def _write_provenance(self) -> FileRecord:
        finished = self.workspace.quality_file.stat().st_mtime
        text = statement(self.task, self.fetched, self.files, self.report, finished)
        write_whole(self._provenance_path, text)
        return records_of({FILE_NAME: self._provenance_path})[0]

    @property
    def _provenance_path(self) -> Path:
        return self.workspace.state / FILE_NAME

    def _local(self, record: FileRecord) -> Path:
        if record.path == FILE_NAME:
            return self._provenance_path
        return self.workspace.artifact / record.path

    def _upload(self, records: Sequence[FileRecord]) -> None:
        """Store the files that are not there yet."""
        sizes = self.artifact.sizes("files/")
        uploads = []
        for record in records:
            name = stored_file(record).object
            key = self.artifact.object_key(name)
            if sizes.get(name) == record.size:
                found = self.artifact.bucket.head(key)
                if found is not None and found.sha256 == record.sha256:
                    continue
            uploads.append(Upload(key, self._local(record), record.size, record.sha256))
        self.progress.begin(
            f"publishing to {self.artifact.uri}", total=sum(item.size for item in uploads)
        )
        upload(self.artifact.bucket, uploads, self.progress.add)
        self.progress.end()

    def _manifest(self, provenance: StoredFile, benchmark: str | None) -> Manifest:
        return manifest_for(
            str(self.task.key),
            self.task.recipe,
            self.fetched,
            tuple(stored_file(record) for record in self.files),
            self.report,
            provenance,
            benchmark,
        )

    def _put_benchmark(self) -> str | None:
        """Where it is, if the toolchain measured anything."""
        if self.benchmark is None:
            return None
        return self.artifact.put_benchmark(
            StoredBenchmark(
                key=self.artifact.key,
                files_digest=files_digest(self.files),
                node=os.environ.get(NODE_VARIABLE, ""),
                processor=processor(),
                report=self.benchmark,
            )
        )

    def _put_quality(self) -> None:
        if self.fetched.evaluation is None:
            return
        quality = StoredQuality(
            key=self.artifact.key,
            files_digest=files_digest(self.files),
            evaluation=self.fetched.evaluation,
            report=self.report,
        )
        self.artifact.put_quality(quality)

    def _complete_files(self, manifest: Manifest) -> None:
        """Give the winner's manifest any file of ours that the store has lost."""
        lost = self.artifact.missing(manifest)
        own = {stored_file(record).object: record for record in self.files}
        if lost:
            self._upload([own[file.object] for file in lost if file.object in own])
            lost = self.artifact.missing(manifest)
        if lost:
            raise RefusedError(
                "ArtifactDamaged",
                f"{self.artifact.uri} was published before, but {len(lost)} of its files are gone, "
                f"among them {lost[0].path}: remove its manifest.json to have it made again.",
            )

    def _summary(self, published: Published) -> ArtifactSummary:
        text = self.fetched.evaluation
        if text is None:
            return self.artifact.summary(published)
        if published.manifest.files_digest == files_digest(self.files):
            self._put_quality()
        # The first report stays, so it may be another's than ours.
        quality = self.artifact.quality(published.manifest, text.id)
        if quality is None:
            raise TryAgainError(
                "PublishedByAnother",
                f"Another conversion published {self.artifact.uri} first, with other bytes than "
                f"were measured here; the next attempt measures those.",
            )
        measured = replace(published, quality=quality)
        write_report(self.artifact, measured, self.task)
        return self.artifact.summary(measured)


def artifact_files(folder: Path) -> dict[str, Path]:
    """The files of an artifact by their relative names. Raises RefusedError ``InvalidArtifact`` for
    an empty folder, for anything but plain files, for pickles and for code."""
    files: dict[str, Path] = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        mode = path.lstat().st_mode
        if stat.S_ISDIR(mode):
            continue
        if not stat.S_ISREG(mode):
            raise _invalid(f"{name} is no plain file")
        if not name.isprintable() or "\\" in name:
            raise _invalid(f"{name!r} is no usable name")
        if name.endswith(REFUSED_SUFFIXES) or _may_be_pickle(path):
            raise _invalid(f"{name} can run code when it is read")
        files[name] = path
    if not files:
        raise _invalid("the folder is empty")
    return files


def _may_be_pickle(path: Path) -> bool:
    with path.open("rb") as file:
        start = file.read(4)
    return start.startswith(PICKLE_STARTS) or start == ZIP_START


def _invalid(what: str) -> RefusedError:
    return RefusedError(
        "InvalidArtifact",
        f"The quantizer wrote no artifact that can be published: {what}; its image breaks the "
        f"adapter contract.",
    )


def _confirmed(
    task: ConversionTask, artifact: Artifact, summary: ArtifactSummary
) -> ArtifactSummary:
    """What fetch found is referred to now, and still there."""
    artifact.refer(task.referrer)
    published = artifact.find()
    if published is None or published.manifest_digest != summary.manifest_digest:
        raise TryAgainError(
            "ArtifactDeleted", f"{artifact.uri} was deleted after fetch had found it."
        )
    return summary


def _needed(path: Path) -> Any:
    content = read_json(path)
    if content is None:
        raise RefusedError(
            "StageMissing",
            f"{path.name} is not there: an earlier stage ended without writing it; the "
            f"quantizer's image breaks the adapter contract.",
        )
    return content
