"""``Quantizer``: a toolchain as data; docs/reference/adapter-contract.md says what it must do."""

from enum import StrEnum
from typing import Annotated, ClassVar

from pydantic import Field

from quantop.api.base import (
    SET,
    ApiModel,
    Argument,
    Decimal,
    EnvVar,
    Image,
    Quantity,
    Rule,
    map_list,
    reserved_env,
)
from quantop.api.quantizedmodel import AUTO, WORKFLOW, Format, Method, Precision

CONTRACT_VARIABLES = (
    "WORK_DIR",
    "SOURCE_DIR",
    "ARTIFACT_DIR",
    "MODEL_NAME",
    "FORMAT",
    "PRECISION",
    "METHOD",
    "WORKFLOW",
    "WORKFLOW_FILE",
    "OVERRIDES",
    "MAX_FILE_BYTES",
    "CALIBRATION_FILE",
    "CALIBRATION_SAMPLES",
    "CALIBRATION_SEQUENCE_LENGTH",
    "EVALUATION_FILE",
    "EVALUATION_SEQUENCE_LENGTH",
    "EVALUATION_MAX_TOKENS",
    "BITS_PER_WEIGHT_MIN",
    "BITS_PER_WEIGHT_MAX",
    "QUALITY_FILE",
    "OMP_NUM_THREADS",
)
"""The environment that every adapter is given."""


class CalibrationNeed(StrEnum):
    """What a precision does with calibration text."""

    REQUIRED = "Required"
    OPTIONAL = "Optional"
    IGNORED = "Ignored"


class BitsPerWeight(ApiModel):
    """The band that the bits per weight of an artifact's quantized layers must lie in, scales
    counted; of all weights where the precision quantizes no layer."""

    rules: ClassVar = (
        Rule(
            "0.0 <= double(self.min) && double(self.min) < double(self.max)",
            "bitsPerWeight.min must be 0 or more and below bitsPerWeight.max",
        ),
    )

    min: Decimal
    """The fewest."""
    max: Decimal
    """The most."""


class QuantizerMethod(ApiModel):
    """A way to reach a precision."""

    rules: ClassVar = (
        Rule(
            f"self.name != '{WORKFLOW}'",
            f"a method must not be named {WORKFLOW}, which stands for spec.quantization.workflow: "
            "give it another name",
        ),
    )

    name: Method
    """The method's name."""
    calibration: CalibrationNeed = CalibrationNeed.IGNORED
    """Whether the method needs calibration text."""


class QuantizerPrecision(ApiModel):
    """A precision that the toolchain can write."""

    rules: ClassVar = (
        Rule(
            f"self.name != '{AUTO}'",
            f"a precision must not be named {AUTO}, which asks for one to be chosen: give it "
            "another name",
        ),
    )

    name: Precision
    """The precision's name."""
    bits_per_weight: BitsPerWeight | None = None
    """What an artifact of this precision must come to. Default: unchecked."""
    methods: Annotated[list[QuantizerMethod], Field(min_length=1, max_length=32)] = Field(
        json_schema_extra=map_list("name")
    )
    """Methods, the default one first."""


class QuantizerPass(ApiModel):
    """A pass that ``spec.quantization.workflow``, or the one of ``workflowFrom``, may have."""

    type: Method
    """The pass's type, as the toolchain names it."""
    settings: Annotated[
        list[
            Annotated[str, Field(min_length=1, max_length=64, pattern=r"^[A-Za-z][A-Za-z0-9_]*$")]
        ],
        Field(max_length=64),
    ] = Field(default_factory=list, json_schema_extra=SET)
    """Settings that it may be given: none that names a file, a machine or code. Default: none."""
    calibration: CalibrationNeed = CalibrationNeed.IGNORED
    """Whether the pass needs calibration text."""


class QuantizerOverrides(ApiModel):
    """What single tensors may be given by ``spec.quantization.overrides``."""

    precisions: Annotated[list[Precision], Field(min_length=1, max_length=128)] = Field(
        json_schema_extra=SET
    )
    """Their precisions, by the names that the format has for single tensors."""
    except_for: Annotated[list[Precision], Field(max_length=128)] = Field(
        default_factory=list, json_schema_extra=SET
    )
    """Precisions of the artifact that leave no tensor another one. Default: none."""


class FileSplitting(StrEnum):
    """Whether a toolchain splits files that are too large."""

    SUPPORTED = "Supported"
    UNSUPPORTED = "Unsupported"


class EvaluationKind(StrEnum):
    """What an artifact can be measured by."""

    TEXT = "Text"
    PROMPTS = "Prompts"
    TASKS = "Tasks"


class SourceFiles(StrEnum):
    """What a model is saved as."""

    SAFETENSORS = "Safetensors"
    SAVED_MODEL = "SavedModel"


class QuantizerResources(ApiModel):
    """What a conversion needs, from which its Job's requests are estimated."""

    cpu: Quantity = "1"
    """CPU limit of the toolchain's stages."""
    memory_base: Quantity = "1Gi"
    """Memory that the toolchain needs whatever the source's size."""
    memory_percent_of_source: Annotated[int, Field(ge=0, le=10_000)] = 200
    """Memory on top, in percent of the source's size."""
    evaluation_memory_percent_of_source: Annotated[int, Field(ge=0, le=10_000)] = 400
    """The same while source and artifact are compared on an evaluation text, both of them loaded,
    the source in 32 bits: twice the size of one in 16."""
    disk_base: Quantity = "256Mi"
    """Disk that the toolchain needs whatever the source's size."""
    disk_percent_of_source: Annotated[int, Field(ge=100, le=10_000)] = 300
    """Disk on top (source, intermediate files and artifact), in percent of the source's size."""


class QuantizerSpec(ApiModel):
    """A toolchain."""

    rules: ClassVar = (reserved_env(*CONTRACT_VARIABLES),)

    image: Image
    """The image that holds the toolchain and its adapter."""
    format: Format
    """The format that it writes."""
    command: Annotated[list[Argument], Field(min_length=1, max_length=16)]
    """The adapter; the stage (quantize or evaluate) is appended."""
    env: Annotated[list[EnvVar], Field(max_length=64)] = Field(
        default_factory=list, json_schema_extra=map_list("name")
    )
    """Environment of the adapter, beside the contract's."""
    precisions: Annotated[list[QuantizerPrecision], Field(min_length=1, max_length=128)] = Field(
        json_schema_extra=map_list("name")
    )
    """What it can write."""
    passes: Annotated[list[QuantizerPass], Field(max_length=64)] = Field(
        default_factory=list, json_schema_extra=map_list("type")
    )
    """Passes that a workflow may have. Default: none, workflows are refused."""
    overrides: QuantizerOverrides | None = None
    """What single tensors may be given. Default: nothing, overrides are refused."""
    file_splitting: FileSplitting = FileSplitting.UNSUPPORTED
    """Whether it keeps spec.quantization.maxFileSize."""
    evaluations: Annotated[list[EvaluationKind], Field(max_length=3)] = Field(
        default_factory=lambda: [EvaluationKind.TEXT], json_schema_extra=SET
    )
    """What of spec.quality.evaluation its evaluate stage measures by: Text is the one that its uri
    names."""
    architectures: Annotated[
        list[Annotated[str, Field(min_length=1, max_length=128)]], Field(max_length=512)
    ] = Field(default_factory=list, json_schema_extra=SET)
    """Model architectures (config.json) that it reads. Default: whatever the toolchain accepts."""
    source_files: Annotated[list[SourceFiles], Field(min_length=1, max_length=2)] = Field(
        default_factory=lambda: [SourceFiles.SAFETENSORS], json_schema_extra=SET
    )
    """What it reads a model from: a checkpoint in safetensors, or TensorFlow's SavedModel with
    config.json and tokenizer.json beside it. Who reads both reads safetensors where there are such.
    Default: safetensors."""
    hardware: Annotated[str, Field(max_length=128)] = ""
    """What alone runs its artifacts. A ModelRuntime serves them that lists the same in
    spec.formats; whoever asks for serving and has none is told. Where others write the format for
    any hardware, it is taken only when it is named. Default: any."""
    resources: QuantizerResources = Field(default_factory=QuantizerResources)
    """What a conversion needs."""
    priority: Annotated[int, Field(ge=-1000, le=1000)] = 0
    """Among Quantizers that can do the same, the highest is taken."""
