"""``QuantizedModel``: which model, how it is quantized, and how it is served."""

from enum import StrEnum
from typing import Annotated, ClassVar

from pydantic import Field

from quantop.api.base import (
    SET,
    ApiModel,
    Condition,
    Count,
    Decimal,
    Name,
    Nats,
    Percent,
    Quantity,
    Rate,
    ResourceRequirements,
    Rule,
    Similarity,
    map_list,
)

MAX_NAME_LENGTH = 46
"""Characters of a QuantizedModel's name: the names of its Jobs add up to 17 and must fit in 63."""

Format = Annotated[str, Field(min_length=1, max_length=32, pattern=r"^[A-Z][A-Za-z0-9]*$")]
Precision = Annotated[str, Field(min_length=1, max_length=32, pattern=r"^[A-Za-z0-9_.-]+$")]
Method = Annotated[str, Field(min_length=1, max_length=64, pattern=r"^[A-Z][A-Za-z0-9]*$")]

AUTO = "Auto"
"""In place of a precision: the operator finds the one that the objective asks for."""
WORKFLOW = "Workflow"
"""In place of a method's name where the recipe has a workflow of its own."""
EVIDENCE = {
    "uri": (
        "maxPerplexityIncreasePercent",
        "minTopTokenAgreementPercent",
        "maxMeanKLDivergence",
        "maxP99KLDivergence",
        "minMeanCosineSimilarity",
        "minP1CosineSimilarity",
        "minLabelAgreementPercent",
        "minAccuracyPercent",
    ),
    "prompts": ("minAnswerAgreementPercent",),
    "tasks": ("maxTaskAccuracyDropPoints",),
}
"""The limits of ``spec.quality`` on what the quantization cost, by the field of
``spec.quality.evaluation`` that names what each is measured by."""
LIMITS = tuple(limit for limits in EVIDENCE.values() for limit in limits)
"""All of them."""
MEASURED = {"uri": "on a text", "prompts": "by prompts", "tasks": "in tasks"}
"""How that is said."""
PERFORMANCE_LIMITS = (
    "maxTimeToFirstTokenMilliseconds",
    "minTokensPerSecond",
    "maxMemory",
)
"""The limits of ``spec.quality`` on what a trial of the served artifact shows."""
HIGHEST = {
    "minTopTokenAgreementPercent": 100,
    "minMeanCosineSimilarity": 1,
    "minP1CosineSimilarity": 1,
    "minLabelAgreementPercent": 100,
    "minAccuracyPercent": 100,
    "minAnswerAgreementPercent": 100,
}
"""The most that those can be which are floors."""
AUTO_NEEDS_A_LIMIT = Rule(
    f"!has(self.quantization.precision) || self.quantization.precision != '{AUTO}' || "
    f"has(self.quality) && ({' || '.join(f'has(self.quality.{limit})' for limit in LIMITS)})",
    f"spec.quantization.precision {AUTO} needs a limit that the choice must keep: set "
    + " or ".join(f"spec.quality.{limit}" for limit in LIMITS),
)
"""A rule of what has ``quantization`` and ``quality``."""
MAX_LATENCY_CANDIDATES = 16
"""How many precisions are tried for the objective Latency at most: it takes all that are listed."""
MAX_CANDIDATES = 128
"""Bound of ``status.candidates``; the largest by promise are left out."""


MAX_BENCHMARK_CANDIDATES = 16
"""Bound of ``status.artifact.benchmark.candidates``."""
MAX_FIGURES = 8
"""Bound of their figures."""
MAX_TASKS = 8
"""Bound of ``status.quality.tasks``; no folder may hold more."""


class DeletionPolicy(StrEnum):
    """What becomes of the artifact when the object is deleted."""

    RETAIN = "Retain"
    DELETE = "Delete"


class OnFailure(StrEnum):
    """What becomes of an artifact that exceeds a limit."""

    BLOCK = "Block"
    WARN = "Warn"


class Objective(StrEnum):
    """What the chosen precision has the least of, among those that keep the limits."""

    SIZE = "Size"
    LATENCY = "Latency"
    MEMORY = "Memory"


class Source(ApiModel):
    """The checkpoint to quantize."""

    rules: ClassVar = (
        Rule(
            "self.uri.matches('^(hf|s3|pvc)://.+')",
            "spec.source.uri must begin with hf://, s3:// or pvc://: "
            "hf://OWNER/NAME, s3://BUCKET/PREFIX or pvc://CLAIM/PATH",
        ),
        Rule(
            "!self.uri.startsWith('hf://') || self.uri.matches('^hf://[^/]+/[^/]+$')",
            "spec.source.uri of a hub must be hf://OWNER/NAME; put a commit, branch or tag into "
            "spec.source.revision",
        ),
        Rule(
            "!self.uri.startsWith('s3://') || "
            "self.uri.matches('^s3://[a-z0-9][a-z0-9.-]+[a-z0-9]/.+$')",
            "spec.source.uri of a bucket must be s3://BUCKET/PREFIX",
        ),
        Rule(
            "!self.uri.startsWith('pvc://') || "
            "self.uri.matches('^pvc://[a-z0-9][-a-z0-9.]*(/.*)?$')",
            "spec.source.uri of a claim must be pvc://CLAIM/PATH",
        ),
        Rule(
            "!has(self.revision) || self.uri.startsWith('hf://')",
            "spec.source.revision names a commit, branch or tag of a hub: remove it, or use an "
            "hf:// uri",
        ),
        Rule(
            "!self.uri.contains('..')",
            "spec.source.uri must not contain '..': name the folder itself",
        ),
        Rule(
            "!has(self.credentialsSecretName) || !self.uri.startsWith('pvc://')",
            "spec.source.credentialsSecretName has no use with a pvc:// uri: remove it",
        ),
    )

    uri: Annotated[str, Field(min_length=1, max_length=1024)]
    """Where the checkpoint is: hf://OWNER/NAME, s3://BUCKET/PREFIX or pvc://CLAIM/PATH."""
    revision: Annotated[str, Field(min_length=1, max_length=128)] | None = None
    """Commit, branch or tag of a hub; resolved once to a commit. Default: the default branch."""
    credentials_secret_name: Name | None = None
    """Secret in the object's namespace: HF_TOKEN for a hub; AWS_ACCESS_KEY_ID,
    AWS_SECRET_ACCESS_KEY and optionally AWS_ENDPOINT_URL and AWS_REGION for S3. Without it, an
    s3:// source is read from the store's endpoint with the store's credentials."""


IS_A_TEXT = Rule(
    "!has(self.uri) || self.uri.matches('^(s3|pvc)://[^/]+/.+') && !self.uri.contains('..')",
    "the uri of a text must be s3://BUCKET/KEY or pvc://CLAIM/PATH, without '..'",
)
"""A rule of what has the ``uri`` of a text."""


class TextReference(ApiModel):
    """A plain text file."""

    rules: ClassVar = (IS_A_TEXT,)

    uri: Annotated[str, Field(min_length=1, max_length=1024)]
    """Where the text is: s3://BUCKET/KEY (at the store's endpoint) or pvc://CLAIM/PATH."""


class Calibration(TextReference):
    """Text that the quantizer calibrates on."""

    samples: Annotated[int, Field(ge=1, le=100_000)] = 256
    """How many sequences of the text are used."""
    sequence_length: Annotated[int, Field(ge=16, le=131_072)] = 512
    """Tokens in each sequence."""


class Prompts(TextReference):
    """Prompts that source and artifact answer: a text on each line, or JSON lines with ``prompt``,
    a text, or ``messages``, a conversation."""

    max_prompts: Annotated[int, Field(ge=1, le=10_000)] = 64
    """How many of them are answered at most."""
    answer_tokens: Annotated[int, Field(ge=1, le=4096)] = 32
    """How many tokens of each answer are compared at most."""


class Tasks(ApiModel):
    """A folder of tasks for lm-evaluation-harness: YAML files, and the data files that they name.
    What would run code, and what is not in the folder, is refused."""

    rules: ClassVar = (
        Rule(
            "self.uri.matches('^(s3|pvc)://[^/]+/.+') && !self.uri.contains('..')",
            "the uri of tasks must be s3://BUCKET/PREFIX or pvc://CLAIM/PATH, without '..'",
        ),
    )

    uri: Annotated[str, Field(min_length=1, max_length=1024)]
    """Where the folder is: s3://BUCKET/PREFIX (at the store's endpoint) or pvc://CLAIM/PATH."""
    max_samples: Annotated[int, Field(ge=1, le=100_000)] = 200
    """How many documents of each task are used at most."""


class Evaluation(ApiModel):
    """What source and artifact are compared by: a text, prompts, tasks, or several of them."""

    rules: ClassVar = (
        IS_A_TEXT,
        Rule(
            " || ".join(f"has(self.{field})" for field in EVIDENCE),
            "spec.quality.evaluation names nothing to measure by: set "
            f"{' or '.join(EVIDENCE)}, or remove it",
        ),
    )

    uri: Annotated[str, Field(min_length=1, max_length=1024)] | None = None
    """Where the text is that both are scored on: s3://BUCKET/KEY (at the store's endpoint) or
    pvc://CLAIM/PATH. Default: none."""
    sequence_length: Annotated[int, Field(ge=16, le=131_072)] = 256
    """Tokens in each window that is scored."""
    max_tokens: Annotated[int, Field(ge=256, le=10_000_000)] = 20_000
    """How many tokens of the text are scored at most."""
    prompts: Prompts | None = None
    """Prompts whose greedy answers are compared. For models that generate text. Default: none."""
    tasks: Tasks | None = None
    """Tasks in which the accuracies of source and artifact are compared, 8 at most. For models that
    generate text. Default: none."""


class Auto(ApiModel):
    """How a precision is chosen."""

    rules: ClassVar = (
        Rule(
            f"!has(self.minimize) || self.minimize != '{Objective.LATENCY}' || "
            "has(self.precisions) && self.precisions.size() > 0 && "
            f"self.precisions.size() <= {MAX_LATENCY_CANDIDATES}",
            f"spec.quantization.auto.minimize {Objective.LATENCY} tries every candidate, as "
            "nothing but a trial tells which is the fastest: list 1 to "
            f"{MAX_LATENCY_CANDIDATES} in spec.quantization.auto.precisions",
        ),
    )

    minimize: Objective = Objective.SIZE
    """Of the precisions that keep the limits of spec.quality, the one with the least of this is
    chosen. Size is the artifact's; Latency is the time to an answer and Memory the engine's at its
    peak, both measured in a trial of each candidate on a node."""
    max_size: Quantity | None = None
    """The most that the artifact may come to, for example 4Gi. Default: any size."""
    precisions: Annotated[list[Precision], Field(max_length=MAX_CANDIDATES)] = Field(
        default_factory=list, json_schema_extra=SET
    )
    """Only these are tried. Default: all that the Quantizers for the format list."""


class Override(ApiModel):
    """A precision for some tensors."""

    tensors: Annotated[str, Field(min_length=1, max_length=256, pattern=r"^([^$]|\$[^$(])*\$?$")]
    """A regular expression, for those matrices of the artifact in whose names it is found, for
    example ffn_down or ^blk[.][01][.] for GGUF. Not $$ or $(, which Kubernetes reads
    otherwise."""
    precision: Precision
    """A precision that the Quantizer lists for single tensors, for example Q8_0."""


class Recipe(ApiModel):
    """How an artifact is made."""

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            f"!has(self.auto) || !has(self.precision) || self.precision == '{AUTO}'",
            f"spec.quantization.auto says how a precision is chosen: set precision to {AUTO}, or "
            "remove it",
        ),
        Rule(
            f"!has(self.precision) || self.precision != '{AUTO}' || !has(self.method)",
            f"spec.quantization.method is chosen with the precision when that is {AUTO}: remove "
            "it, or name a precision",
        ),
        Rule(
            f"!has(self.precision) || self.precision != '{AUTO}' || "
            "!has(self.workflow) && !has(self.workflowFrom)",
            "spec.quantization.workflow and workflowFrom make one precision: name it in place of "
            f"{AUTO}, or remove them",
        ),
        Rule(
            "!has(self.method) || !has(self.workflow) && !has(self.workflowFrom)",
            "spec.quantization.workflow and workflowFrom are run in place of a method: remove "
            "method, or them",
        ),
        Rule(
            "!has(self.workflow) || !has(self.workflowFrom)",
            "spec.quantization.workflow and workflowFrom are two workflows: remove one of them",
        ),
        Rule(
            "!has(self.maxFileSize) || "
            "quantity(string(self.maxFileSize)).compareTo(quantity('1Mi')) >= 0",
            "spec.quantization.maxFileSize must be at least 1Mi",
        ),
    )

    format: Format | None = None
    """The artifact's format, one that a Quantizer of the cluster writes, for example GGUF, ONNX or
    CompressedTensors."""
    precision: Precision | None = None
    """A precision that the Quantizer lists, for example Q4_K_M, INT4 or W4A16; or Auto, for the
    smallest, or what auto.minimize says, that keeps the limits of spec.quality."""
    auto: Auto | None = None
    """How the precision is chosen when it is Auto. Default: the smallest of all."""
    method: Method | None = None
    """A method that the Quantizer lists for the precision. Default: its first."""
    workflow: Annotated[str, Field(min_length=1, max_length=8192)] | None = None
    """Passes that are run one after another in place of a method, as JSON: {"passes": {"NAME":
    {"type": "TYPE", "SETTING": VALUE}}}, which is how Olive has them. Only of the passes and
    settings that the Quantizer lists; nothing else may be in it. Default: the method's."""
    workflow_from: TextReference | None = None
    """The same from a file of such JSON, of at most 64 KiB. Its content is part of the artifact's
    key, as if it stood in ``workflow``. Default: none."""
    overrides: Annotated[list[Override], Field(max_length=64)] = Field(default_factory=list)
    """Tensors that get another precision than the artifact's. Of several that fit, the first one
    counts. Default: none."""
    max_file_size: Quantity | None = None
    """The most that a file of the artifact may come to, for example 5Gi: a larger one is split.
    Default: any size."""
    quantizer_name: Name | None = None
    """The Quantizer. Default: the one that writes the format in this precision."""


class Quantization(Recipe):
    """The recipe, given or by a Preset's name."""

    rules: ClassVar = (
        *Recipe.rules,
        Rule(
            "has(self.presetName) || has(self.format) && has(self.precision)",
            "spec.quantization needs a recipe: set format and precision, or presetName",
        ),
        Rule(
            "!has(self.presetName) || !has(self.format) && !has(self.precision) && "
            "!has(self.auto) && !has(self.method) && !has(self.workflow) && "
            "!has(self.workflowFrom) && !has(self.overrides) && !has(self.maxFileSize) && "
            "!has(self.quantizerName)",
            "spec.quantization.presetName names a whole recipe: remove format, precision, auto, "
            "method, workflow, workflowFrom, overrides, maxFileSize and quantizerName, or "
            "presetName",
        ),
    )

    preset_name: Name | None = None
    """A Preset, whose recipe and limits are taken, in place of format and precision."""
    calibration: Calibration | None = None
    """Calibration text, for precisions that need or gain from it. Where Auto or a Preset chooses a
    precision that makes no use of it, it is left aside."""
    resources: ResourceRequirements = Field(default_factory=ResourceRequirements)
    """Overrides what is estimated from the source's size for the conversion."""


class Limits(ApiModel):
    """How good an artifact must be."""

    rules: ClassVar = (
        *(
            Rule(
                f"!has(self.{field}) || double(self.{field}) <= {most}.0",
                f"spec.quality.{field} must be at most {most}: nothing is nearer to its source "
                "than it is itself",
            )
            for field, most in HIGHEST.items()
        ),
    )

    max_perplexity_increase_percent: Percent | None = None
    """By how much the artifact's perplexity may exceed its source's, in percent; a fraction needs
    quotes. Default: any."""
    min_top_token_agreement_percent: Percent | None = None
    """At how many positions at least, in percent, artifact and source think the same token most
    likely. Default: any."""
    max_mean_kl_divergence: Annotated[Nats | None, Field(alias="maxMeanKLDivergence")] = None
    """How far the artifact's distributions of the next token may be from its source's: their mean
    Kullback-Leibler divergence, in nats. Default: any."""
    max_p99_kl_divergence: Annotated[Nats | None, Field(alias="maxP99KLDivergence")] = None
    """The same for the 99th percentile, which tells of rare but large changes. Default: any."""
    min_mean_cosine_similarity: Similarity | None = None
    """How near the embeddings of artifact and source must be: their mean cosine similarity, at most
    1. For encoders. Default: any."""
    min_p1_cosine_similarity: Similarity | None = None
    """The same for the 1st percentile: all texts but one in a hundred are as near. Default: any."""
    min_label_agreement_percent: Percent | None = None
    """For how many texts at least, in percent, artifact and source think the same label most
    likely. For classifiers. Default: any."""
    min_accuracy_percent: Percent | None = None
    """For how many texts at least, in percent, the artifact finds the label that the evaluation
    text gives. For classifiers. Default: any."""
    min_answer_agreement_percent: Percent | None = None
    """To how many prompts of ``evaluation.prompts`` at least, in percent, artifact and source give
    the same answer. Default: any."""
    max_task_accuracy_drop_points: Percent | None = None
    """By how many percentage points at most the artifact's accuracy may be below its source's, in
    whichever of ``evaluation.tasks`` it lost the most. Default: any."""
    max_time_to_first_token_milliseconds: Rate | None = None
    """How long the engine may take to the first token of an answer, in milliseconds; one that reads
    a text whole, to its answer. Measured in a trial before the rollout. Default: any."""
    min_tokens_per_second: Rate | None = None
    """How many tokens a second the engine must add to an answer at least, after the first. Measured
    in a trial before the rollout. Default: any."""
    max_memory: Quantity | None = None
    """The most memory that the engine may take at its peak, for example 6Gi. Measured in a trial
    before the rollout. Default: any."""


class Quality(Limits):
    """How the artifact's quality is measured, and how good it must be. A limit that is given here
    wins over the Preset's."""

    rules: ClassVar = (
        *Limits.rules,
        *(
            Rule(
                f"!({' || '.join(f'has(self.{limit})' for limit in limits)}) || "
                f"has(self.evaluation) && has(self.evaluation.{field})",
                f"spec.quality.{', '.join(limits)} "
                f"{'are' if len(limits) > 1 else 'is'} measured {MEASURED[field]}: set "
                f"spec.quality.evaluation.{field}, or remove {'them' if len(limits) > 1 else 'it'}",
            )
            for field, limits in EVIDENCE.items()
        ),
    )

    evaluation: Evaluation | None = None
    """What source and artifact are compared by. Limits on what the quantization cost need it; those
    on what a trial shows do not. Default: nothing."""
    on_failure: OnFailure = OnFailure.BLOCK
    """Block keeps an artifact that exceeds a limit from being rolled out, and the earlier revision
    goes on serving; Warn rolls it out and says so."""


class Storage(ApiModel):
    """Where the artifact is kept."""

    store_name: Name = "default"
    """The ModelStore."""
    deletion_policy: DeletionPolicy = DeletionPolicy.RETAIN
    """Retain keeps the artifact when this object is deleted; Delete removes it once no other
    object refers to it."""


class Scaling(ApiModel):
    """Autoscaling by CPU use. While it is set, an autoscaler owns ``spec.serving.replicas``."""

    rules: ClassVar = (
        Rule(
            "self.minReplicas <= self.maxReplicas",
            "spec.serving.scaling.minReplicas must not be above maxReplicas: lower one or raise "
            "the other",
        ),
    )

    min_replicas: Annotated[int, Field(ge=1, le=1000)] = 1
    """The fewest replicas."""
    max_replicas: Annotated[int, Field(ge=1, le=1000)]
    """The most replicas."""
    target_cpu_utilization_percent: Annotated[
        int, Field(ge=1, le=1000, alias="targetCPUUtilizationPercent")
    ] = 80
    """Average CPU use, in percent of the request, that the autoscaler aims at."""


class PrefixCaching(StrEnum):
    """Whether what was computed for a prompt is kept for others that begin alike."""

    ENABLED = "Enabled"
    DISABLED = "Disabled"


class DraftModel(ApiModel):
    """A small model that guesses the tokens that come next; the served one checks several of them
    at once. What is answered stays the served model's."""

    name: Name
    """Another QuantizedModel of the namespace, in the same format, store and tokenizer. Its
    artifact is used: it needs no spec.serving."""


class EngineOptions(ApiModel):
    """Options of the engine: those that the ModelRuntime lists in ``spec.options``, which says what
    each becomes. What is left out stays as the runtime has it."""

    max_model_length: Annotated[int, Field(ge=16, le=16_777_216)] | None = None
    """How many tokens a request's prompt and answer may have together."""
    max_concurrent_requests: Annotated[int, Field(ge=1, le=65_536)] | None = None
    """How many requests a replica answers at once; others wait."""
    kv_cache_type: (
        Annotated[str, Field(min_length=1, max_length=32, pattern=r"^[A-Za-z0-9_]+$")] | None
    ) = None
    """Type of the numbers that are kept of every token of a context, for example q8_0 or fp8."""
    prefix_caching: PrefixCaching | None = None
    """Whether what was computed for a prompt is kept for others that begin alike."""
    tensor_parallel_size: Annotated[int, Field(ge=1, le=256)] | None = None
    """Over how many devices each layer is split. A replica asks for all of them on one node."""
    pipeline_parallel_size: Annotated[int, Field(ge=1, le=256)] | None = None
    """Over how many groups of devices, each as large as tensorParallelSize, the layers are dealt
    out. A replica asks for all of them on one node; no engine spans several."""
    draft_model: DraftModel | None = None
    """Speculative decoding: a small model that guesses ahead."""


class Serving(ApiModel):
    """How the artifact is served."""

    runtime_name: Name | None = None
    """The ModelRuntime. Default: the one of highest priority that serves the format and
    precision."""
    replicas: Annotated[int, Field(ge=0, le=1000)] = 1
    """How many replicas serve; written through the scale subresource where one scales."""
    scaling: Scaling | None = None
    """Autoscaling. Default: none, ``replicas`` is as given."""
    resources: ResourceRequirements = Field(default_factory=ResourceRequirements)
    """Overrides the runtime's resources for the engine."""
    engine: EngineOptions | None = None
    """Options of the engine. Default: as the ModelRuntime has them."""


class QuantizedModelSpec(ApiModel):
    """What is wanted."""

    rules: ClassVar = (
        AUTO_NEEDS_A_LIMIT,
        Rule(
            "has(self.serving) || !has(self.quality) || "
            f"!({' || '.join(f'has(self.quality.{limit})' for limit in PERFORMANCE_LIMITS)})",
            f"spec.quality.{', '.join(PERFORMANCE_LIMITS)} are measured in the engine that serves: "
            "set spec.serving, or remove them",
        ),
        Rule(
            "has(self.serving) || !has(self.quantization.auto) || "
            "!has(self.quantization.auto.minimize) || "
            f"self.quantization.auto.minimize == '{Objective.SIZE}'",
            f"spec.quantization.auto.minimize {Objective.LATENCY} and {Objective.MEMORY} are "
            f"measured in the engine that serves: set spec.serving, or minimize {Objective.SIZE}",
        ),
    )

    source: Source
    """The checkpoint to quantize."""
    quantization: Quantization
    """The recipe, given or by a Preset's name."""
    quality: Quality | None = None
    """How the artifact's quality is measured, and how good it must be. Default: only bits per
    weight and coverage."""
    storage: Storage = Field(default_factory=Storage)
    """Where the artifact is kept."""
    serving: Serving | None = None
    """How the artifact is served. Default: not at all, the artifact is the product."""


class ArtifactState(StrEnum):
    """Whether the store has the artifact, and its quality on the evaluation text if given."""

    PUBLISHED = "Published"
    MISSING = "Missing"


class Resolution(ApiModel):
    """What the resolve Job found for a recipe."""

    inputs_hash: Annotated[str, Field(max_length=64)]
    """Hash over everything that was resolved: a change asks for another resolve Job."""
    key: Annotated[str, Field(max_length=64)]
    """The artifact key."""
    state: ArtifactState
    """Whether the store has it."""
    source_identity: Annotated[str, Field(max_length=256)]
    """Cheap immutable name of the source's content."""
    source_size_bytes: Count
    """Size of the source's files that the conversion reads."""
    architecture: Annotated[str, Field(max_length=256)] = ""
    """The source's model architecture, from its config.json."""
    awaited_job: Annotated[str, Field(max_length=320)] = ""
    """NAMESPACE/NAME of another object's conversion Job for the same key that is waited for."""


class BenchmarkState(StrEnum):
    """What became of a candidate in a toolchain's own search."""

    BASELINE = "Baseline"
    CHOSEN = "Chosen"
    PASSED = "Passed"
    REJECTED = "Rejected"
    FAILED = "Failed"


class BenchmarkFigure(ApiModel):
    """One number that a toolchain measured."""

    name: Annotated[str, Field(max_length=48)]
    """What it is, with its unit, for example latencyMilliseconds."""
    value: Decimal
    """How much."""


class BenchmarkCandidate(ApiModel):
    """A way to make the artifact that a toolchain tried."""

    name: Annotated[str, Field(max_length=128)]
    """What tells it from the others."""
    state: BenchmarkState
    """Chosen: it is the artifact. Passed: kept the toolchain's goal. Rejected: missed it. Failed:
    could not be made or measured. Baseline: the source, which the others are compared with."""
    figures: Annotated[list[BenchmarkFigure], Field(max_length=MAX_FIGURES)] = Field(
        default_factory=list, json_schema_extra=map_list("name")
    )
    """What was measured of it."""


class Benchmark(ApiModel):
    """What the toolchain itself measured while it made the artifact, where its method tries several
    ways and chooses one: in the conversion Job, on the node that ran it. On another node, or at
    another time, it may choose otherwise."""

    node: Annotated[str, Field(max_length=253)] = ""
    """The node."""
    processor: Annotated[str, Field(max_length=256)] = ""
    """The node's processor."""
    threads: Count = 0
    """With how many threads."""
    candidates: Annotated[list[BenchmarkCandidate], Field(max_length=MAX_BENCHMARK_CANDIDATES)] = (
        Field(default_factory=list, json_schema_extra=map_list("name"))
    )
    """The chosen one first; where there are too many, some are in the report only."""
    report_uri: Annotated[str, Field(max_length=2048, alias="reportURI")]
    """The whole, as JSON in the store: every candidate, why one failed, and what
    spec.quantization.workflow must be to have it alone."""


class Artifact(ApiModel):
    """The artifact published last; an older one than the spec asks for while that is made."""

    key: Annotated[str, Field(max_length=64)]
    """sha256 over source identity, recipe, calibration identity and quantizer image."""
    uri: Annotated[str, Field(max_length=2048)]
    """Where it is in the store."""
    size_bytes: Count
    """Size of its files."""
    source_size_bytes: Count
    """Size of the source's files."""
    source_uri: Annotated[str | None, Field(max_length=1024, alias="sourceURI")] = None
    """Where the source was when it was made; another name may hold the same since."""
    bits_per_weight: Decimal | None = None
    """Size of the weights in bits over their number, counted from the artifact."""
    format: Annotated[str, Field(max_length=32)]
    """The artifact's format."""
    precision: Annotated[str, Field(max_length=32)]
    """The artifact's precision."""
    method: Annotated[str, Field(max_length=64)] = ""
    """The method that made it."""
    quantizer: Annotated[str, Field(max_length=253)]
    """The Quantizer that made it."""
    quantizer_image: Annotated[str, Field(max_length=512)]
    """The image that made it."""
    manifest_digest: Annotated[str, Field(max_length=80)] = ""
    """sha256 of manifest.json, which lists every file with its sha256."""
    vocabulary_digest: Annotated[str, Field(max_length=64)] | None = None
    """sha256 over its tokens and their ids: the same one where texts are read alike."""
    benchmark: Benchmark | None = None
    """What the toolchain measured itself to choose how to make it, if it did."""


class AcceptedArtifact(ApiModel):
    """An artifact that ``spec.quality`` let through."""

    key: Annotated[str, Field(max_length=64)]
    """Its key."""
    manifest_digest: Annotated[str, Field(max_length=80)]
    """sha256 of its manifest.json."""


class TaskAccuracy(ApiModel):
    """The accuracies of source and artifact in one task."""

    name: Annotated[str, Field(max_length=32)]
    """The task."""
    metric: Annotated[str, Field(max_length=32)]
    """What counts as right, by lm-evaluation-harness's name."""
    samples: Count
    """Of how many documents."""
    baseline_percent: Decimal
    """How many the source gets right."""
    baseline_error_percent: Decimal
    """The standard error of that."""
    accuracy_percent: Decimal
    """How many the artifact gets right."""
    error_percent: Decimal
    """The standard error of that."""


class QualityStatus(ApiModel):
    """What the quantization cost, measured."""

    protocol: Annotated[str, Field(max_length=64)]
    """The evaluation protocol: docs/reference/quality.md."""
    baseline_perplexity: Decimal | None = None
    """Perplexity of the source."""
    perplexity: Decimal | None = None
    """Perplexity of the artifact."""
    increase_percent: Decimal | None = None
    """(perplexity / baseline perplexity - 1) x 100."""
    increase_percent_low: Decimal | None = None
    """Lower bound of the increase's 95 % confidence interval."""
    increase_percent_high: Decimal | None = None
    """Upper bound of the increase's 95 % confidence interval."""
    top_token_agreement_percent: Decimal | None = None
    """At how many positions artifact and source think the same token most likely."""
    mean_kl_divergence: Annotated[Decimal | None, Field(alias="meanKLDivergence")] = None
    """Mean Kullback-Leibler divergence of the artifact from its source, in nats."""
    p99_kl_divergence: Annotated[Decimal | None, Field(alias="p99KLDivergence")] = None
    """Its 99th percentile."""
    mean_cosine_similarity: Decimal | None = None
    """Mean cosine similarity of the artifact's embeddings and its source's."""
    p1_cosine_similarity: Decimal | None = None
    """Its 1st percentile."""
    label_agreement_percent: Decimal | None = None
    """For how many texts artifact and source think the same label most likely."""
    baseline_accuracy_percent: Decimal | None = None
    """For how many texts the source finds the label that is given."""
    accuracy_percent: Decimal | None = None
    """For how many texts the artifact finds it."""
    answer_agreement_percent: Decimal | None = None
    """To how many prompts artifact and source give the same answer."""
    mean_answer_prefix_percent: Decimal | None = None
    """How much of an answer comes before the first token that differs: the mean over the
    prompts."""
    prompts: Count = 0
    """How many prompts were answered."""
    task_accuracy_drop_points: Decimal | None = None
    """By how many percentage points the accuracy is below the source's in the task that lost the
    most; negative where none lost."""
    tasks: Annotated[list[TaskAccuracy], Field(max_length=MAX_TASKS)] = Field(
        default_factory=list, json_schema_extra=map_list("name")
    )
    """The accuracies in each task, the one that lost the most first."""
    texts: Count = 0
    """How many texts were embedded or classified."""
    tokens: Count = 0
    """How many tokens were scored."""
    report_uri: Annotated[str | None, Field(max_length=2048, alias="reportURI")] = None
    """The whole report, a page in the store: how each number was obtained, and the source's other
    artifacts beside this one."""


class Performance(ApiModel):
    """How an artifact did in a trial: in its engine on one node, asked by one client, with no other
    load. docs/reference/quality.md says how each figure is obtained."""

    inputs_hash: Annotated[str, Field(max_length=64)]
    """Hash of artifact, engine and resources: with others there is another trial."""
    protocol: Annotated[str, Field(max_length=64)] = ""
    """How it was measured."""
    time_to_first_token_milliseconds: Decimal | None = None
    """From a request to the first text of its answer; the median. Of an engine that reads a text
    whole, to its answer."""
    tokens_per_second: Decimal | None = None
    """Tokens that followed the first, by the time that they took; the median."""
    answer_milliseconds: Decimal | None = None
    """From a request to the end of an answer of 64 tokens, by the two figures above: the latency
    that auto.minimize compares. Of an engine that reads a text whole, to its answer."""
    peak_memory_bytes: Count | None = None
    """The most memory that the engine's processes had in use, added up. Not that of a GPU."""
    runs: Count = 0
    """How many requests were measured."""
    prompt_tokens: Count = 0
    """Tokens of a request; the median."""
    output_tokens: Count = 0
    """Tokens of an answer; the median."""
    node: Annotated[str, Field(max_length=253)] = ""
    """The node that did it."""
    processor: Annotated[str, Field(max_length=256)] = ""
    """The node's processor."""
    cpus: Count = 0
    """How many of its cores the engine was told to use."""
    runtime: Annotated[str, Field(max_length=253)]
    """The ModelRuntime."""
    image: Annotated[str, Field(max_length=512)]
    """The engine's image."""
    report_uri: Annotated[str | None, Field(max_length=2048, alias="reportURI")] = None
    """The same in the store, as JSON, once it is there. The page that quality.reportURI names shows
    it, too."""
    reason: Annotated[str, Field(max_length=128)] | None = None
    """Why there are no figures, in one CamelCase word."""
    message: Annotated[str, Field(max_length=2048)] | None = None
    """Why there are none: what the engine or the trial said."""


class Endpoint(ApiModel):
    """Where the model answers."""

    url: Annotated[str, Field(max_length=512)]
    """Base URL inside the cluster."""
    protocol: Annotated[str, Field(max_length=32)]
    """The protocol it speaks."""
    model_name: Annotated[str, Field(max_length=253)]
    """The name to ask for."""


class Failure(ApiModel):
    """Why the current recipe was given up; retried when its inputs change."""

    inputs_hash: Annotated[str, Field(max_length=64)]
    """Hash of the inputs that failed."""
    stage: Annotated[str, Field(max_length=64)] = ""
    """The stage that failed, where one did."""
    reason: Annotated[str, Field(max_length=128)]
    """One CamelCase word."""
    message: Annotated[str, Field(max_length=4096)]
    """What was wrong and what to do."""


class CandidateState(StrEnum):
    """Where a candidate stands in the search for a precision."""

    PENDING = "Pending"
    TRYING = "Trying"
    PASSED = "Passed"
    REJECTED = "Rejected"
    FAILED = "Failed"
    SKIPPED = "Skipped"
    CHOSEN = "Chosen"


class Candidate(ApiModel):
    """A precision that was, may be, or need not be tried."""

    precision: Annotated[str, Field(max_length=32)]
    """The precision."""
    method: Annotated[str, Field(max_length=64)] | None = None
    """The method that it is made by."""
    quantizer: Annotated[str, Field(max_length=253)] | None = None
    """The Quantizer that makes it."""
    state: CandidateState
    """Pending: may be tried. Trying: is being made or measured. Passed and Rejected: measured, and
    held against the limits. Failed: could not be made. Skipped: was not tried. Chosen: is the
    answer."""
    inputs_hash: Annotated[str, Field(max_length=64)] | None = None
    """Hash of the inputs that the figures or the failure belong to; other inputs are another
    try."""
    key: Annotated[str, Field(max_length=64)] | None = None
    """The artifact's key."""
    size_bytes: Count | None = None
    """Size of the artifact's files."""
    bits_per_weight: Decimal | None = None
    """Bits per weight, counted from the artifact."""
    quality: QualityStatus | None = None
    """What this quantization cost."""
    performance: Performance | None = None
    """How it did in a trial, where one was asked for."""
    reason: Annotated[str, Field(max_length=128)]
    """Why it is in this state, in one CamelCase word."""
    message: Annotated[str, Field(max_length=1024)]
    """Why, for people."""


class QuantizedModelStatus(ApiModel):
    """What was observed."""

    observed_generation: Count = 0
    """The generation that this status was computed from."""
    conditions: Annotated[list[Condition], Field(max_length=16)] = Field(
        default_factory=list, json_schema_extra=map_list("type")
    )
    """Ready, Quantized, Verified, Serving, Reconciling, Stalled."""
    resolution: Resolution | None = None
    """What the resolve Job found."""
    failure: Failure | None = None
    """Why the current recipe was given up."""
    artifact: Artifact | None = None
    """The artifact published last."""
    accepted_artifact: AcceptedArtifact | None = None
    """The artifact that ``spec.quality`` let through last: what is pulled by the object's name."""
    quality: QualityStatus | None = None
    """What the quantization cost."""
    performance: Performance | None = None
    """How the artifact did in a trial, where a limit or an objective asks for one."""
    candidates: Annotated[list[Candidate], Field(max_length=MAX_CANDIDATES)] = Field(
        default_factory=list, json_schema_extra=map_list("precision")
    )
    """With precision Auto: all precisions, by promised size, and what was found of each."""
    endpoint: Endpoint | None = None
    """Where the model answers."""
    replicas: Count = 0
    """Pods that exist for the Deployment."""
    ready_replicas: Count = 0
    """Pods that answer."""
    rejected_revision: Annotated[str, Field(max_length=64)] | None = None
    """Hash of the wanted pod template that never became Ready and was rolled back."""
    selector: Annotated[str, Field(max_length=512)] = ""
    """Label selector of the pods, for the scale subresource."""
    published_keys: Annotated[list[Annotated[str, Field(max_length=64)]], Field(max_length=256)] = (
        Field(default_factory=list)
    )
    """Keys of all artifacts that this object refers to in its store."""
