"""Calibration and evaluation texts, prompts, workflows, and folders of tasks: ``s3://BUCKET/KEY``
at the store's endpoint, ``pvc://...``."""

import codecs
import hashlib
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from quantop import workflows
from quantop.contract import ConversionTask, Referrer, StoreRef, digest

from quantop_worker.checkpoint import visible
from quantop_worker.digests import FileRecord, files_digest, ignore
from quantop_worker.errors import RefusedError
from quantop_worker.manifest import (
    CalibrationRecord,
    EvaluationRecord,
    PromptsRecord,
    TasksRecord,
    TextRecord,
    WorkflowRecord,
    evaluation_id,
)
from quantop_worker.s3 import CHUNK_BYTES, Bucket, Place, PreconditionFailedError, store_connection
from quantop_worker.sources.base import Purpose, Source, SourceFile
from quantop_worker.sources.pvc import PvcSource, claim_path
from quantop_worker.sources.s3 import STORE_CREDENTIALS, S3Source
from quantop_worker.transfer import Download, download
from quantop_worker.workspace import Workspace

LIMIT_BYTES = 1 << 30
WORKFLOW_LIMIT_BYTES = 64 << 10


class Text(Protocol):
    """A text somewhere. Methods raise RefusedError or TryAgainError."""

    size: int

    def identity(self) -> str:
        """The cheap immutable name of the text's content."""

    def stream(self, start: int, stop: int) -> Iterator[bytes]:
        """The bytes ``start`` to ``stop`` (exclusive)."""


CALIBRATION = Purpose("spec.quantization.calibration.uri", "CalibrationNotFound")
WORKFLOW = Purpose("spec.quantization.workflowFrom.uri", "WorkflowNotFound")
EVALUATION = Purpose("spec.quality.evaluation.uri", "EvaluationNotFound")
PROMPTS = Purpose("spec.quality.evaluation.prompts.uri", "PromptsNotFound")
TASKS = Purpose("spec.quality.evaluation.tasks.uri", "TasksNotFound")


class StoredText:
    """A text in a bucket of the store's server."""

    def __init__(self, uri: str, location: str, store: StoreRef, purpose: Purpose) -> None:
        name, _, self._key = location.partition("/")
        self._uri, self._purpose = uri, purpose
        self._bucket = Bucket(
            store_connection(store).client,
            name,
            Place(
                title="the store",
                field=purpose.field,
                credentials=STORE_CREDENTIALS,
                missing=purpose.missing,
            ),
        )
        found = self._bucket.head(self._key)
        if found is None:
            raise RefusedError(
                purpose.missing, f"{purpose.field} is {uri}, which is not there: correct it."
            )
        self._found = found
        self.size = found.size

    def identity(self) -> str:
        """Over bucket, key, size, ETag and version."""
        found = self._found
        return "s3:" + digest([self._bucket.name, found.key, found.size, found.etag, found.version])

    def stream(self, start: int, stop: int) -> Iterator[bytes]:
        """A range of the object, if it is still the same."""
        try:
            yield from self._bucket.stream(self._key, start, stop, etag=self._found.etag)
        except PreconditionFailedError:
            raise _changed(self._uri, self._purpose) from None


class ClaimedText:
    """A text on a mounted claim."""

    def __init__(self, uri: str, location: str, referrer: Referrer, purpose: Purpose) -> None:
        self._owner = [referrer.cluster, referrer.namespace]
        self._location = location
        self._path = claim_path(uri, location, purpose)
        if not self._path.is_file():
            raise RefusedError(
                purpose.missing, f"{purpose.field} is {uri}, but the claim has no such file."
            )
        status = self._path.stat()
        self.size = status.st_size
        self._modified = status.st_mtime_ns

    def identity(self) -> str:
        """Over cluster, namespace, claim, path, size and modification time."""
        return "pvc:" + digest([self._owner, self._location, self.size, self._modified])

    def stream(self, start: int, stop: int) -> Iterator[bytes]:
        """A range of the file."""
        with self._path.open("rb") as file:
            file.seek(start)
            while start < stop and (chunk := file.read(min(CHUNK_BYTES, stop - start))):
                start += len(chunk)
                yield chunk


@dataclass(frozen=True)
class Folder:
    """A folder somewhere, and what is in it."""

    source: Source
    files: tuple[SourceFile, ...]

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(file.size for file in self.files)

    def identity(self) -> str:
        """The cheap immutable name of the files' content."""
        return self.source.identity(self.files)


@dataclass(frozen=True)
class Texts:
    """The texts of a task, and the folder of tasks."""

    task: ConversionTask
    calibration: Text | None
    workflow: Text | None
    evaluation: Text | None
    prompts: Text | None
    tasks: Folder | None

    @property
    def calibration_identity(self) -> str | None:
        """None when the task has no calibration text."""
        return self.calibration.identity() if self.calibration else None

    @property
    def evaluation_id(self) -> str | None:
        """Names what is measured by; None when only what needs nothing of that is."""
        if self.task.evaluation is None:
            return None
        return evaluation_id(
            self.task.evaluation,
            self.evaluation.identity() if self.evaluation else None,
            self.prompts.identity() if self.prompts else None,
            self.tasks.identity() if self.tasks else None,
        )

    def fetch_calibration(self, workspace: Workspace) -> CalibrationRecord | None:
        """Write the calibration text where it belongs; None when there is none."""
        ref = self.task.calibration
        if ref is None or self.calibration is None:
            return None
        record = _fetch(ref.uri, self.calibration, workspace.calibration_file, CALIBRATION)
        return CalibrationRecord(
            **record.model_dump(), samples=ref.samples, sequence_length=ref.sequence_length
        )

    def read_workflow(self) -> WorkflowRecord | None:
        """The workflow, if its Quantizer runs all of it; None when there is none.

        Raises RefusedError WorkflowNotSupported, CalibrationRequired or CalibrationIgnored."""
        ref = self.task.workflow
        if ref is None or self.workflow is None:
            return None
        content = b"".join(self.workflow.stream(0, self.workflow.size))
        quantizer, field = self.task.recipe.quantizer, f"{workflows.STORED} ({ref.uri})"
        try:
            text = content.decode()
            found = workflows.read(text, field, quantizer, ref.passes)
        except UnicodeDecodeError:
            raise _not_utf8(ref.uri, WORKFLOW) from None
        except workflows.WorkflowRefusedError as refused:
            raise RefusedError("WorkflowNotSupported", str(refused)) from None
        if found.calibration == "Required" and self.calibration is None:
            raise RefusedError(
                "CalibrationRequired",
                f"{field} has a pass that needs calibration text: set "
                "spec.quantization.calibration.uri.",
            )
        if found.calibration == "Ignored" and self.calibration is not None:
            raise RefusedError(
                "CalibrationIgnored",
                f"{field} has no pass that makes use of calibration text: remove "
                "spec.quantization.calibration, or give a pass that does.",
            )
        return WorkflowRecord(
            uri=ref.uri,
            identity=self.workflow.identity(),
            size=len(content),
            sha256=hashlib.sha256(content).hexdigest(),
            content=found.text,
        )

    def fetch_evaluation(self, workspace: Workspace) -> EvaluationRecord | None:
        """Write evaluation text, prompts and tasks where they belong; None when there are none."""
        ref = self.task.evaluation
        if ref is None:
            return None
        text = {}
        if ref.uri and self.evaluation:
            record = _fetch(ref.uri, self.evaluation, workspace.evaluation_file, EVALUATION)
            text = record.model_dump()
        return EvaluationRecord(
            **text,
            sequence_length=ref.sequence_length,
            max_tokens=ref.max_tokens,
            prompts=self._fetch_prompts(workspace),
            tasks=self._fetch_tasks(workspace),
        )

    def _fetch_prompts(self, workspace: Workspace) -> PromptsRecord | None:
        ref = self.task.evaluation.prompts if self.task.evaluation else None
        if ref is None or self.prompts is None:
            return None
        record = _fetch(ref.uri, self.prompts, workspace.prompts_file, PROMPTS)
        return PromptsRecord(
            **record.model_dump(), max_prompts=ref.max_prompts, answer_tokens=ref.answer_tokens
        )

    def _fetch_tasks(self, workspace: Workspace) -> TasksRecord | None:
        ref = self.task.evaluation.tasks if self.task.evaluation else None
        if ref is None or self.tasks is None:
            return None
        # Every file in it counts: none may be left of an earlier attempt.
        shutil.rmtree(workspace.tasks, ignore_errors=True)
        records: list[FileRecord] = []
        folder = self.tasks
        folder.source.download(folder.files, workspace.tasks, records.append, ignore)
        return TasksRecord(
            uri=ref.uri,
            identity=folder.identity(),
            size=folder.size,
            digest=files_digest(records),
            max_samples=ref.max_samples,
        )


def open_texts(task: ConversionTask) -> Texts:
    """Find the texts of a task, and the folder of tasks. Raises RefusedError CalibrationNotFound,
    WorkflowNotFound, EvaluationNotFound, PromptsNotFound, TasksNotFound, InvalidSource or
    PathEscapeRefused."""
    calibration, workflow, evaluation = task.calibration, task.workflow, task.evaluation
    prompts = evaluation.prompts if evaluation else None
    tasks = evaluation.tasks if evaluation else None
    return Texts(
        task,
        _open(task, calibration.uri if calibration else None, CALIBRATION),
        _open(task, workflow.uri if workflow else None, WORKFLOW, WORKFLOW_LIMIT_BYTES),
        _open(task, evaluation.uri if evaluation else None, EVALUATION),
        _open(task, prompts.uri if prompts else None, PROMPTS),
        _open_folder(task, tasks.uri if tasks else None, TASKS),
    )


def _open_folder(task: ConversionTask, uri: str | None, purpose: Purpose) -> Folder | None:
    if uri is None:
        return None
    scheme, _, location = uri.partition("://")
    source: Source
    match scheme:
        case "s3":
            source = S3Source(uri, location, task.store, purpose)
        case "pvc":
            source = PvcSource(uri, location, task.referrer, purpose)
        case _:
            raise _unreadable(uri, purpose)
    folder = Folder(source, tuple(visible(source).values()))
    _check_size(uri, folder.size, purpose, LIMIT_BYTES)
    return folder


def _open(
    task: ConversionTask, uri: str | None, purpose: Purpose, limit: int = LIMIT_BYTES
) -> Text | None:
    if uri is None:
        return None
    scheme, _, location = uri.partition("://")
    text: Text
    match scheme:
        case "s3":
            text = StoredText(uri, location, task.store, purpose)
        case "pvc":
            text = ClaimedText(uri, location, task.referrer, purpose)
        case _:
            raise _unreadable(uri, purpose)
    _check_size(uri, text.size, purpose, limit)
    return text


def _unreadable(uri: str, purpose: Purpose) -> RefusedError:
    return RefusedError(
        "InvalidSource", f"{purpose.field} is {uri}: it must be an s3:// or pvc:// uri."
    )


def _check_size(uri: str, size: int, purpose: Purpose, limit: int) -> None:
    if not 0 < size <= limit:
        raise RefusedError(
            "InvalidSource",
            f"{purpose.field} is {uri}, which has {size} bytes: it may have 1 to {limit}.",
        )


def _fetch(uri: str, text: Text, target: Path, purpose: Purpose) -> TextRecord:
    records: list[FileRecord] = []
    decoder = codecs.getincrementaldecoder("utf-8")()

    def finish(record: FileRecord) -> None:
        decoder.decode(b"", final=True)
        records.append(record)

    item = Download(target.name, text.size, text.stream, target, decoder.decode)
    try:
        download([item], finish, ignore)
    except UnicodeDecodeError:
        raise _not_utf8(uri, purpose) from None
    return TextRecord(
        uri=uri, identity=text.identity(), size=records[0].size, sha256=records[0].sha256
    )


def _not_utf8(uri: str, purpose: Purpose) -> RefusedError:
    return RefusedError(
        "InvalidSource", f"{purpose.field} is {uri}, which is no UTF-8 text: convert it."
    )


def _changed(uri: str, purpose: Purpose) -> RefusedError:
    return RefusedError(
        "SourceChanged", f"{purpose.field} is {uri}, which changed while it was read."
    )
