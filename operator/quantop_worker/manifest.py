"""manifest.json and quality reports: docs/reference/store-layout.md describes them."""

import math
from typing import Annotated, Any

from pydantic import Field, ValidationError
from quantop.contract import (
    BenchmarkReport,
    EvaluationRef,
    Message,
    QualityReport,
    Recipe,
    Referrer,
    Trial,
    digest,
)

from quantop_worker.digests import FileRecord, files_digest
from quantop_worker.errors import RefusedError

SCHEMA_VERSION = 1


class StoredFile(FileRecord):
    """A file and the object that holds it, relative to the artifact's prefix."""

    object: str


class SourceRecord(Message):
    """A checkpoint as fetch found it."""

    uri: str
    revision: str | None = None
    identity: str
    digest: str
    """Over all files: digests.files_digest."""
    size_bytes: int
    architecture: str = ""
    files: tuple[FileRecord, ...]
    fetched_at: str = ""
    """When fetch began, in RFC 3339; only in /work/state, never in a manifest."""


class TextRecord(Message):
    """Calibration or evaluation text as fetch found it."""

    uri: str
    identity: str
    size: int
    sha256: str


class CalibrationRecord(TextRecord):
    """Calibration text and how much of it was used."""

    samples: int
    sequence_length: int


class WorkflowRecord(TextRecord):
    """A workflow as fetch found it."""

    content: str
    """As a toolchain is told it."""


class PromptsRecord(TextRecord):
    """Prompts, how many of them were used, and how long an answer was at most."""

    max_prompts: int
    answer_tokens: int


class TasksRecord(Message):
    """A folder of tasks as fetch found it, and how many documents of each were used."""

    uri: str
    identity: str
    size: int
    digest: str
    """Over all files: digests.files_digest."""
    max_samples: int


class EvaluationRecord(Message):
    """What was measured by: an evaluation text, as ``TextRecord`` says it, and how much of it was
    used, prompts, tasks."""

    uri: str | None = None
    identity: str | None = None
    size: int | None = None
    sha256: str | None = None
    sequence_length: int
    max_tokens: int
    prompts: PromptsRecord | None = None
    tasks: TasksRecord | None = None

    @property
    def id(self) -> str:
        """Names what is measured by: the texts and tasks, and how much of them is used."""
        return evaluation_id(
            self,
            self.identity,
            self.prompts.identity if self.prompts else None,
            self.tasks.identity if self.tasks else None,
        )


class FetchRecord(Message):
    """/work/state/source.json: what fetch fetched."""

    source: SourceRecord
    calibration: CalibrationRecord | None = None
    workflow: WorkflowRecord | None = None
    evaluation: EvaluationRecord | None = None


class Tool(Message):
    """What made, or measured, an artifact."""

    name: str = ""
    version: str = ""


class MeasuredQuality(QualityReport):
    """What the evaluate stage wrote, whole."""

    tool: Tool = Tool()
    evaluation_skipped: bool = False
    baseline: Annotated[str, Field(max_length=256)] = ""
    """What stood for the source, where that was not run itself."""


class Coverage(Message):
    """What of the model was quantized, counted from the artifact itself."""

    bits_per_weight: float
    parameters: int
    quantized_layers: int
    total_layers: int
    vocabulary_digest: str | None = None


class Manifest(Message):
    """The commit point of an artifact. It says nothing about time or place, so that two
    conversions with the same outcome write the same bytes."""

    schema_version: int = SCHEMA_VERSION
    key: str
    recipe: Recipe
    source: SourceRecord
    calibration: CalibrationRecord | None = None
    files: tuple[StoredFile, ...]
    files_digest: str
    size_bytes: int
    coverage: Coverage
    tool: Tool = Tool()
    provenance: StoredFile
    benchmark: str | None = None
    """The object that holds what the toolchain measured itself, relative to the artifact's."""


class StoredBenchmark(Message):
    """benchmarks/<files digest>.json: what the toolchain measured itself, and where."""

    schema_version: int = SCHEMA_VERSION
    key: str
    files_digest: str
    node: str = ""
    processor: str = ""
    report: BenchmarkReport


class StoredQuality(Message):
    """quality/<id>.json: the quality of an artifact by one evaluation."""

    schema_version: int = SCHEMA_VERSION
    key: str
    files_digest: str
    evaluation: EvaluationRecord
    report: MeasuredQuality


class Measurement(Message):
    """measurements/<source>/<evaluation>/<key>.json: one of all artifacts of a source that were
    measured alike. It repeats what manifest and quality report say, to be found by a listing."""

    schema_version: int = SCHEMA_VERSION
    key: str
    recipe: Recipe
    size_bytes: int
    report: MeasuredQuality


class StoredTrial(Message):
    """trials/<cluster>/<namespace>/<name>.json: how an artifact did for an object that tried it."""

    schema_version: int = SCHEMA_VERSION
    referrer: Referrer
    trial: Trial


def evaluation_id(
    evaluation: EvaluationRef | EvaluationRecord,
    identity: str | None,
    prompts: str | None,
    tasks: str | None,
) -> str:
    """Names what is measured by, with the identities of text, prompts and tasks."""
    named: dict[str, Any] = {}
    if evaluation.uri:
        named = {
            "identity": identity,
            "sequenceLength": evaluation.sequence_length,
            "maxTokens": evaluation.max_tokens,
        }
    if asked := evaluation.prompts:
        named["prompts"] = {
            "identity": prompts,
            "maxPrompts": asked.max_prompts,
            "answerTokens": asked.answer_tokens,
        }
    if given := evaluation.tasks:
        named["tasks"] = {"identity": tasks, "maxSamples": given.max_samples}
    return digest(named)


def whole_recipe(recipe: Recipe, workflow: WorkflowRecord | None) -> Recipe:
    """The recipe with the workflow that was found: the same as if it had been given in the spec."""
    return recipe.model_copy(update={"workflow": workflow.content}) if workflow else recipe


def coverage_of(report: MeasuredQuality) -> Coverage:
    """The part of a report that needs no evaluation text."""
    return Coverage(
        bits_per_weight=report.bits_per_weight,
        parameters=report.parameters,
        quantized_layers=report.quantized_layers,
        total_layers=report.total_layers,
        vocabulary_digest=report.vocabulary_digest,
    )


def measured_quality(content: Any) -> MeasuredQuality:
    """The evaluate stage's report. Raises RefusedError ``InvalidQualityReport``."""
    try:
        report = MeasuredQuality.model_validate(content)
    except ValidationError as error:
        raise RefusedError(
            "InvalidQualityReport",
            f"The evaluate stage wrote no valid quality report: {_first(error)}; the quantizer's "
            "image breaks the adapter contract.",
        ) from error
    for name, figure in report.model_dump(by_alias=True).items():
        if isinstance(figure, float) and not math.isfinite(figure):
            raise RefusedError(
                "InvalidQualityReport",
                f"The evaluate stage measured a {name} that is no finite number: the artifact is "
                "broken, choose another precision or method.",
            )
    return report


def benchmark_report(content: Any) -> BenchmarkReport:
    """What the quantize stage measured itself. Raises RefusedError ``InvalidBenchmark``."""
    try:
        return BenchmarkReport.model_validate(content)
    except ValidationError as error:
        raise RefusedError(
            "InvalidBenchmark",
            f"The quantize stage wrote no valid benchmark: {_first(error)}; the quantizer's image "
            "breaks the adapter contract.",
        ) from error


def _first(error: ValidationError) -> str:
    """Where the first error is, and what it is."""
    first = error.errors()[0]
    return f"{'.'.join(map(str, first['loc'])) or 'the document'}: {first['msg']}"


def manifest_for(
    key: str,
    recipe: Recipe,
    fetched: FetchRecord,
    files: tuple[StoredFile, ...],
    report: MeasuredQuality,
    provenance: StoredFile,
    benchmark: str | None,
) -> Manifest:
    """The manifest of a fresh artifact."""
    return Manifest(
        key=key,
        recipe=recipe,
        source=fetched.source.model_copy(update={"fetched_at": ""}),
        calibration=fetched.calibration,
        files=files,
        files_digest=files_digest(files),
        size_bytes=sum(file.size for file in files),
        coverage=coverage_of(report),
        tool=report.tool,
        provenance=provenance,
        benchmark=benchmark,
    )


def check_same_source(manifest: Manifest, source: SourceRecord) -> None:
    """Raises RefusedError ``SourceChanged`` when the artifact was made of other bytes."""
    if manifest.source.digest != source.digest:
        raise RefusedError(
            "SourceChanged",
            f"spec.source.uri is {source.uri}: its identity {source.identity} was published "
            f"before with other bytes (digest {manifest.source.digest}, now {source.digest}): "
            f"put the checkpoint under another name or revision.",
        )
