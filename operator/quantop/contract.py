"""What the operator and its pods say to each other.

The operator puts one task, as JSON, into the environment variable ``QUANTOP_TASK`` of a worker
container; the worker answers with one result, as JSON of at most 4096 bytes, in its termination
message. Toolchain stages get plain variables instead: docs/reference/adapter-contract.md.

Sizes are in bytes. Store credentials are in the environment as ``STORE_AWS_ACCESS_KEY_ID`` and
``STORE_AWS_SECRET_ACCESS_KEY``, those of a source as ``SOURCE_HF_TOKEN`` or ``SOURCE_AWS_*``;
without them the SDK's default chain (workload identity) is used.
"""

import hashlib
import json
from collections.abc import Mapping
from enum import IntEnum, StrEnum
from pathlib import PurePosixPath
from typing import Annotated, Any, Literal, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    model_serializer,
    model_validator,
)
from pydantic.alias_generators import to_camel

TASK_VARIABLE = "QUANTOP_TASK"
NODE_VARIABLE = "QUANTOP_NODE"
"""Names the node to the stages trial and publish."""
STORE_PREFIX = "STORE_"
SOURCE_PREFIX = "SOURCE_"
TERMINATION_MESSAGE_BYTES = 4096
"""What the kubelet keeps of a container's termination message."""

WORK_DIR = PurePosixPath("/work")
SOURCE_DIR = WORK_DIR / "source"
ARTIFACT_DIR = WORK_DIR / "artifact"
INPUTS_DIR = WORK_DIR / "inputs"
STATE_DIR = WORK_DIR / "state"
CALIBRATION_FILE = INPUTS_DIR / "calibration"
EVALUATION_FILE = INPUTS_DIR / "evaluation"
PROMPTS_FILE = INPUTS_DIR / "prompts"
TASKS_DIR = INPUTS_DIR / "tasks"
WORKFLOW_FILE = INPUTS_DIR / "workflow"
QUALITY_FILE = STATE_DIR / "quality.json"
BENCHMARK_FILE = STATE_DIR / "benchmark.json"
"""What a toolchain measured itself while it made the artifact."""
QUANTIZE_DONE_FILE = STATE_DIR / "quantize.done"
PUBLISHED_FILE = STATE_DIR / "published.json"
"""Written by fetch when the store already has everything: quantize and evaluate end at once."""
MAX_FIGURES = 8
"""Of a candidate in a toolchain's own search."""
MOST = 1e15
"""The largest of them, in whatever unit."""
PVC_DIR = PurePosixPath("/pvc")
"""A claim named C in a ``pvc://C/path`` uri is mounted read-only at ``PVC_DIR / C``."""
MODEL_DIR = PurePosixPath("/models/current")
"""Where a serving pod finds the artifact."""
DRAFT_MODEL_DIR = PurePosixPath("/models/draft")
"""Where it finds that of the draft model, if there is one."""


class Stage(StrEnum):
    """The containers of quantop's pods, by what they do."""

    RESOLVE = "resolve"
    FETCH = "fetch"
    QUANTIZE = "quantize"
    EVALUATE = "evaluate"
    PUBLISH = "publish"
    PULL = "pull"
    DELETE = "delete"
    TRIAL = "trial"
    REPORT = "report"


class ExitCode(IntEnum):
    """How a stage ends; anything else is a failure that is worth another try."""

    DONE = 0
    REFUSED = 3
    """Permanent: the same inputs would fail again."""


class Message(BaseModel):
    """Base of everything that is said: camelCase JSON, unknown fields ignored so that an operator
    and a worker of neighbouring versions understand each other during an upgrade."""

    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True, frozen=True)

    def to_json(self) -> str:
        """The canonical JSON: keys sorted, no spaces, nothing that is None."""
        return canonical_json(self.model_dump(mode="json", by_alias=True, exclude_none=True))


class StoreRef(Message):
    """An S3-compatible bucket."""

    endpoint: str | None = None
    region: str = "us-east-1"
    bucket: str
    prefix: str = ""
    path_style: bool = True
    ca_bundle: str | None = None

    @classmethod
    def of(cls, s3: Mapping[str, Any]) -> Self:
        """The bucket of a ModelStore whose ``spec.s3``, as JSON, is this."""
        given = {name: value for name, value in s3.items() if value is not None}
        return cls.model_validate({**given, "pathStyle": given["addressingStyle"] == "Path"})


class SourceRef(Message):
    """A checkpoint: ``hf://OWNER/NAME``, ``s3://BUCKET/PREFIX`` or ``pvc://CLAIM/PATH``."""

    uri: str
    revision: str | None = None
    hub_endpoint: str | None = None
    mirrored: bool = False
    """Whether what is fetched from a hub is kept in the store, too."""


class TextRef(Message):
    """A text file: ``s3://BUCKET/KEY`` at the store's endpoint, or ``pvc://CLAIM/PATH``."""

    uri: str


class CalibrationRef(TextRef):
    """Calibration text and how much of it is used."""

    samples: int
    sequence_length: int


class PromptsRef(TextRef):
    """Prompts, how many of them are used, and how long an answer is at most."""

    max_prompts: int
    answer_tokens: int


class TasksRef(TextRef):
    """A folder of tasks, ``s3://BUCKET/PREFIX`` or ``pvc://CLAIM/PATH``, and how many documents of
    each are used."""

    max_samples: int


class AllowedPass(Message):
    """A pass that a Quantizer runs: its settings, and what it does with calibration text."""

    type: str
    settings: tuple[str, ...] = ()
    calibration: str


class WorkflowRef(TextRef):
    """A workflow in place of the recipe's own, and the passes that it may have."""

    passes: tuple[AllowedPass, ...]


class EvaluationRef(Message):
    """What is measured by: an evaluation text and how much of it is used, prompts, tasks."""

    uri: str | None = None
    sequence_length: int
    max_tokens: int
    prompts: PromptsRef | None = None
    tasks: TasksRef | None = None


class Override(Message):
    """A precision for those tensors in whose names a regular expression is found."""

    tensors: str
    precision: str


class Recipe(Message):
    """How an artifact is made."""

    format: str
    precision: str
    method: str = ""
    quantizer: str
    quantizer_image: str
    toolchain_digest: str | None = None
    """sha256 over the Quantizer's command and environment variables: several have one image, and
    differ in these."""
    overrides: tuple[Override, ...] = ()
    max_file_bytes: int | None = None
    """The most that a file of the artifact may come to; a larger one is split."""
    workflow: str | None = None
    """JSON of the passes that are run in place of a method; of a workflow out of the store resolve
    and fetch find it."""

    @property
    def overrides_text(self) -> str:
        """The overrides as a toolchain is told them: JSON, or nothing."""
        told = [override.model_dump(mode="json") for override in self.overrides]
        return canonical_json(told) if told else ""

    @model_serializer(mode="wrap")
    def _as_ever(self, serialize: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Without what came later and is not given: what was made before keeps its key."""
        fields: dict[str, Any] = serialize(self)
        return {name: value for name, value in fields.items() if value not in (None, (), [])}


class Referrer(Message):
    """The object that refers to an artifact, named across all clusters that share a store."""

    cluster: str
    namespace: str
    name: str


class ConversionTask(Message):
    """The task of resolve, fetch and publish."""

    store: StoreRef
    source: SourceRef
    recipe: Recipe
    referrer: Referrer
    calibration: CalibrationRef | None = None
    workflow: WorkflowRef | None = None
    """Where the recipe's workflow is, if it is not in the recipe."""
    evaluation: EvaluationRef | None = None
    architectures: tuple[str, ...] = ()
    """Architectures that the quantizer reads; empty: any."""
    source_files: tuple[str, ...] = ("Safetensors",)
    """What the quantizer reads a model from: ``Safetensors`` or ``SavedModel``."""
    max_source_bytes: int
    """A larger source is refused."""
    key: str | None = None
    """The artifact key that resolve computed; None for resolve itself."""
    source_identity: str | None = None
    """What resolve saw; None for resolve itself."""
    max_mean_kl_divergence: Annotated[str | None, Field(alias="maxMeanKLDivergence")] = None
    """The limit of the object that asks, to be drawn on the page; no part of what is asked for."""


class PullTask(Message):
    """The task of a serving pod's init container."""

    store: StoreRef
    key: str
    manifest_digest: str
    """sha256 that manifest.json must have."""
    directory: str = str(MODEL_DIR)


class TrialTask(Message):
    """Ask the engine in the same pod, and measure how it does."""

    protocol: str
    """What it speaks: ``OpenAI``, ``OpenAIEmbeddings`` or ``OpenInferenceV2``."""
    port: int
    model_name: str


class TrialFigures(Message):
    """How an engine did: docs/reference/quality.md, protocol ``trial-v1``. Times are medians."""

    protocol: str
    time_to_first_token_milliseconds: float
    tokens_per_second: float | None = None
    answer_milliseconds: float | None = None
    peak_memory_bytes: int | None = None
    runs: int
    prompt_tokens: int = 0
    output_tokens: int = 0
    node: str = ""
    processor: str = ""


class Trial(TrialFigures):
    """How an artifact did in an engine, which was told to use so many cores."""

    key: str
    cpus: int = 0
    runtime: str
    image: str


class ReportTask(Message):
    """Keep what an object's trials showed, and write the page about its artifact anew."""

    store: StoreRef
    referrer: Referrer
    key: str
    """The artifact that the object has."""
    report: str = ""
    """The page about its quality, relative to its place in the store; empty where there is none."""
    trials: tuple[Trial, ...]
    """Of the artifact, and of others that the object tried before it chose this one."""
    max_mean_kl_divergence: Annotated[str | None, Field(alias="maxMeanKLDivergence")] = None
    """The limit of the object, to be drawn on the page."""


class DeleteTask(Message):
    """Give up an object's references; remove the artifacts that nothing refers to any more."""

    store: StoreRef
    keys: tuple[str, ...]
    referrer: Referrer


class TaskReport(Message):
    """The accuracies of source and artifact in one task."""

    name: str
    metric: str
    samples: int
    baseline_percent: float
    baseline_error_percent: float
    accuracy_percent: float
    error_percent: float


class QualityReport(Message):
    """What was measured, in short."""

    protocol: str
    baseline_perplexity: float | None = None
    perplexity: float | None = None
    increase_percent_low: float | None = None
    increase_percent_high: float | None = None
    top_token_agreement_percent: float | None = None
    mean_kl_divergence: Annotated[float | None, Field(alias="meanKLDivergence")] = None
    p99_kl_divergence: Annotated[float | None, Field(alias="p99KLDivergence")] = None
    mean_cosine_similarity: float | None = None
    p1_cosine_similarity: float | None = None
    label_agreement_percent: float | None = None
    baseline_accuracy_percent: float | None = None
    accuracy_percent: float | None = None
    answer_agreement_percent: float | None = None
    mean_answer_prefix_percent: float | None = None
    prompts: int = 0
    task_accuracy_drop_points: float | None = None
    tasks: tuple[TaskReport, ...] = ()
    texts: int = 0
    tokens: int = 0
    bits_per_weight: float
    parameters: int
    quantized_layers: int
    total_layers: int
    vocabulary_digest: str | None = None
    """sha256 over the tokens and their ids; None from adapters that leave it out."""


class BenchmarkState(StrEnum):
    """What became of a candidate in a toolchain's own search."""

    BASELINE = "Baseline"
    CHOSEN = "Chosen"
    PASSED = "Passed"
    REJECTED = "Rejected"
    FAILED = "Failed"


Figure = Annotated[float, Field(ge=-MOST, le=MOST)]
FigureName = Annotated[str, Field(max_length=48, pattern=r"^[a-z][A-Za-z0-9]*$")]


class BenchmarkCandidate(Message):
    """A way that a toolchain tried, and what it measured of it. A figure's name says its unit."""

    name: Annotated[str, Field(min_length=1, max_length=128)]
    state: BenchmarkState
    figures: Annotated[dict[FigureName, Figure], Field(max_length=MAX_FIGURES)] = {}
    message: Annotated[str, Field(max_length=1024)] = ""
    workflow: Annotated[str, Field(max_length=8192)] = ""
    """What a recipe's workflow must be to have this one alone."""


class BenchmarkReport(Message):
    """What a toolchain measured itself, with so many threads."""

    version: Literal[1]
    threads: Annotated[int, Field(ge=0)] = 0
    candidates: Annotated[tuple[BenchmarkCandidate, ...], Field(max_length=64)]

    @model_validator(mode="after")
    def _one_is_chosen(self) -> Self:
        chosen = [each for each in self.candidates if each.state is BenchmarkState.CHOSEN]
        if len(chosen) != 1:
            raise ValueError(f"{len(chosen)} candidates are Chosen: one must be")
        names = [each.name for each in self.candidates]
        if twice := next((name for name in names if names.count(name) > 1), None):
            raise ValueError(f"two candidates are named {twice}")
        return self


class Benchmark(Message):
    """The same and where it was measured, in short: the chosen one first, without messages and
    workflows, as many candidates as a termination message has room for."""

    node: str = ""
    processor: str = ""
    threads: int = 0
    candidates: tuple[BenchmarkCandidate, ...] = ()
    report: str = ""
    """The whole, relative to the artifact's uri."""


class ArtifactSummary(Message):
    """A published artifact, in short."""

    key: str
    uri: str
    manifest_digest: str
    size_bytes: int
    source_size_bytes: int
    source_uri: str = ""
    """Where the source was when the artifact was made; empty from an older worker."""
    recipe: Recipe
    quality: QualityReport | None = None
    report: str = ""
    """The page about its quality, relative to ``uri``; empty where no text was given."""
    benchmark: Benchmark | None = None
    """What the toolchain measured itself when it made the artifact, if it did."""


class ResolveResult(Message):
    """What resolve found. ``published`` is there only when both the artifact and, if evaluation
    text was given, its quality on that text are in the store, and the reference was written."""

    stage: Stage = Stage.RESOLVE
    key: str
    source_identity: str
    source_size_bytes: int
    architecture: str = ""
    published: ArtifactSummary | None = None


class PublishResult(Message):
    """What publish left in the store."""

    stage: Stage = Stage.PUBLISH
    published: ArtifactSummary


class TrialResult(TrialFigures):
    """What a trial showed."""

    stage: Stage = Stage.TRIAL


class ReportResult(Message):
    """What report wrote."""

    stage: Stage = Stage.REPORT
    trials: int


class FailureResult(Message):
    """Why a stage failed."""

    stage: str
    reason: str
    message: str


def canonical_json(value: Any) -> str:
    """JSON with sorted keys and no spaces: equal values have equal texts."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def digest(value: Any) -> str:
    """Hex sha256 over the canonical JSON of ``value``."""
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()


def artifact_key(
    source_identity: str,
    recipe: Recipe,
    calibration: CalibrationRef | None,
    calibration_identity: str | None,
) -> str:
    """The artifact key: 64 hex digits of a sha256 over everything that decides the artifact's
    content. Evaluation text does not: the same artifact may be measured on several."""
    return digest(
        {
            "sourceIdentity": source_identity,
            "recipe": recipe.model_dump(mode="json", by_alias=True, exclude={"quantizer"}),
            "calibration": None
            if calibration is None
            else {
                "identity": calibration_identity,
                "samples": calibration.samples,
                "sequenceLength": calibration.sequence_length,
            },
        }
    )


def artifact_prefix(store: StoreRef, key: str) -> str:
    """Where an artifact's objects are in the bucket, without a trailing slash."""
    return in_store(store, f"artifacts/{key}")


def trial_object(referrer: Referrer) -> str:
    """Where an object's trial of an artifact is kept, relative to the artifact's place."""
    return f"trials/{referrer.cluster}/{referrer.namespace}/{referrer.name}.json"


def in_store(store: StoreRef, name: str) -> str:
    """The key in the bucket of an object of the store."""
    return f"{store.prefix}/{name}" if store.prefix else name
