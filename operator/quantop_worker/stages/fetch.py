"""fetch: source and texts to the conversion's disk, every byte hashed."""

import json
import time

from quantop.contract import ConversionTask, Message, Stage, artifact_key

from quantop_worker.checkpoint import Checkpoint, inspect
from quantop_worker.digests import FileRecord, files_digest
from quantop_worker.errors import RefusedError
from quantop_worker.manifest import FetchRecord, SourceRecord, check_same_source, whole_recipe
from quantop_worker.progress import Progress
from quantop_worker.provenance import timestamp
from quantop_worker.sources import Source, open_source
from quantop_worker.stages.pull import fetch_artifact
from quantop_worker.store import Artifact, Published
from quantop_worker.texts import open_texts
from quantop_worker.workspace import Workspace, check_disk, write_whole


class FetchResult(Message):
    """What fetch left behind: bytes of the source, or that nothing is left to do."""

    stage: Stage = Stage.FETCH
    source_size_bytes: int = 0
    source_digest: str = ""
    already_published: bool = False


def run(task: ConversionTask, progress: Progress) -> FetchResult:
    """Fetch what the toolchain needs; nothing when the store has the result already."""
    if task.key is None or task.source_identity is None:
        raise RefusedError("InvalidTask", "fetch needs the key and source identity of resolve.")
    workspace = Workspace.from_environment()
    workspace.state.mkdir(parents=True, exist_ok=True)
    artifact = Artifact(task.store, task.key)
    texts = open_texts(task)
    complete = artifact.complete(texts.evaluation_id)
    if complete is not None:
        write_whole(workspace.published_file, artifact.summary(complete).to_json())
        return FetchResult(already_published=True)
    workflow = texts.read_workflow()
    recipe = whole_recipe(task.recipe, workflow)
    given = task.calibration, texts.calibration_identity
    if artifact_key(task.source_identity, recipe, *given) != task.key:
        raise RefusedError(
            "SourceChanged",
            "what spec.quantization names in the store, calibration or workflow, changed since it "
            "was resolved: it must be resolved again.",
        )
    if workflow is not None:
        write_whole(workspace.workflow_file, workflow.content)
    source = _fetch_source(task, task.source_identity, workspace, progress)
    record = FetchRecord(
        source=source,
        calibration=texts.fetch_calibration(workspace),
        workflow=workflow,
        evaluation=texts.fetch_evaluation(workspace),
    )
    published = artifact.find()
    if published is not None:
        _fetch_published(artifact, published, source, workspace, progress)
    write_whole(workspace.source_file, record.to_json())
    return FetchResult(source_size_bytes=source.size_bytes, source_digest=source.digest)


def _fetch_source(
    task: ConversionTask, identity: str, workspace: Workspace, progress: Progress
) -> SourceRecord:
    began = time.time()
    source = open_source(task)
    checkpoint = inspect(source, task.architectures, task.max_source_bytes, task.source_files)
    if checkpoint.identity != identity:
        raise RefusedError(
            "SourceChanged",
            f"spec.source.uri is {task.source.uri}, which changed since it was resolved (it was "
            f"{identity}, it is {checkpoint.identity}): it must be resolved again.",
        )
    records = _download(source, checkpoint, workspace, progress)
    source.keep(checkpoint.files, records, workspace.source, progress)
    return SourceRecord(
        uri=source.uri,
        revision=source.revision,
        identity=identity,
        digest=files_digest(records),
        size_bytes=checkpoint.size_bytes,
        architecture=checkpoint.architecture,
        files=tuple(records),
        fetched_at=timestamp(began),
    )


def _download(
    source: Source, checkpoint: Checkpoint, workspace: Workspace, progress: Progress
) -> list[FileRecord]:
    """Fetch the files that an earlier attempt has not finished."""
    records = _finished(checkpoint, workspace)
    rest = [file for file in checkpoint.files if file.path not in records]
    size = sum(file.size for file in rest)
    check_disk(size, workspace.source)
    progress.begin(f"fetching {source.uri}", total=size)

    def note(record: FileRecord) -> None:
        records[record.path] = record
        with workspace.fetched_file.open("a", encoding="utf-8") as notes:
            version = next(file.version for file in rest if file.path == record.path)
            notes.write(json.dumps({"version": version, "file": json.loads(record.to_json())}))
            notes.write("\n")

    source.download(rest, workspace.source, note, progress.add)
    progress.end()
    return [records[file.path] for file in checkpoint.files]


def _finished(checkpoint: Checkpoint, workspace: Workspace) -> dict[str, FileRecord]:
    wanted = {file.path: file for file in checkpoint.files}
    records: dict[str, FileRecord] = {}
    try:
        lines = workspace.fetched_file.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        return records
    for line in lines:
        try:
            noted = json.loads(line)
        except ValueError:
            # The attempt was killed while it wrote its last line.
            continue
        record = FileRecord.model_validate(noted["file"])
        file = wanted.get(record.path)
        if file is None or (file.version, file.size) != (noted["version"], record.size):
            continue
        if (workspace.source / record.path).is_file():
            records[record.path] = record
    return records


def _fetch_published(
    artifact: Artifact,
    published: Published,
    source: SourceRecord,
    workspace: Workspace,
    progress: Progress,
) -> None:
    """The artifact is there, but was not measured on this text: only that is left to do."""
    check_same_source(published.manifest, source)
    fetch_artifact(artifact, published.manifest, workspace.artifact, progress)
    write_whole(
        workspace.quantize_done_file, json.dumps({"manifestDigest": published.manifest_digest})
    )
