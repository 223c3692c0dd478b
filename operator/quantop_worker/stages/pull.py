"""pull: a published artifact to a serving pod's disk, verified byte by byte."""

import shutil
from collections.abc import Set
from pathlib import Path

from quantop.contract import Message, PullTask, Stage

from quantop_worker.digests import FileRecord, records_of
from quantop_worker.errors import RefusedError
from quantop_worker.manifest import Manifest, StoredFile
from quantop_worker.progress import Progress
from quantop_worker.store import Artifact
from quantop_worker.transfer import Download, download
from quantop_worker.workspace import check_disk


class PullResult(Message):
    """What pull verified."""

    stage: Stage = Stage.PULL
    key: str
    size_bytes: int


def run(task: PullTask, progress: Progress) -> PullResult:
    """Fetch the artifact that the manifest digest names into the task's directory."""
    artifact = Artifact(task.store, task.key)
    manifest = artifact.read_verified(task.manifest_digest)
    fetch_artifact(artifact, manifest, Path(task.directory), progress)
    return PullResult(key=task.key, size_bytes=manifest.size_bytes)


def fetch_artifact(
    artifact: Artifact, manifest: Manifest, folder: Path, progress: Progress
) -> None:
    """Fetch an artifact's files beside ``folder``, verify each and rename the whole. What an
    earlier attempt left is kept as far as it verifies."""
    if _verified(manifest.files, folder, progress) == set(manifest.files):
        return
    shutil.rmtree(folder, ignore_errors=True)
    draft = folder.with_name(f"{folder.name}.tmp")
    draft.mkdir(parents=True, exist_ok=True)
    rest = sorted(
        set(manifest.files) - _verified(manifest.files, draft, progress), key=lambda file: file.path
    )
    size = sum(file.size for file in rest)
    check_disk(size, draft)
    expected = {file.path: file for file in manifest.files}

    def verify(record: FileRecord) -> None:
        wanted = expected[record.path]
        if record.sha256 != wanted.sha256:
            raise RefusedError(
                "ArtifactDamaged",
                f"{record.path} of {artifact.uri} has sha256 {record.sha256}, its manifest says "
                f"{wanted.sha256}: it was altered in the store; remove the artifact there to have "
                f"it made again.",
            )

    progress.begin(f"fetching {artifact.uri}", total=size)
    download([_download(artifact, file, draft) for file in rest], verify, progress.add)
    progress.end()
    _remove_strangers(draft, expected.keys())
    draft.rename(folder)


def _download(artifact: Artifact, file: StoredFile, folder: Path) -> Download:
    key = artifact.object_key(file.object)
    found = artifact.bucket.head(key)
    if found is None or found.size != file.size:
        raise RefusedError(
            "ArtifactDamaged",
            f"{file.path} of {artifact.uri} has {found.size if found else 'no'} bytes, its "
            f"manifest says {file.size}: remove the artifact in the store to have it made again.",
        )
    return Download(
        path=file.path,
        size=file.size,
        read=lambda start, stop: artifact.bucket.stream(key, start, stop),
        target=folder / file.path,
    )


def _verified(files: tuple[StoredFile, ...], folder: Path, progress: Progress) -> set[StoredFile]:
    """The files that lie in ``folder`` as the manifest says."""
    there = {
        file.path: folder / file.path
        for file in files
        if (folder / file.path).is_file() and (folder / file.path).stat().st_size == file.size
    }
    if not there:
        return set()
    progress.begin("verifying what is there", total=sum(p.stat().st_size for p in there.values()))
    found = {record.path: record.sha256 for record in records_of(there, progress.add)}
    return {file for file in files if found.get(file.path) == file.sha256}


def _remove_strangers(folder: Path, names: Set[str]) -> None:
    """Drop what another artifact, or a killed attempt, left in the draft."""
    for path in folder.rglob("*"):
        if path.is_file() and path.relative_to(folder).as_posix() not in names:
            path.unlink()
