"""The kinds as the API server knows them: names, scope, columns, rules on the whole object.

Everything that is generated (CRDs, reference, JSON schemas) starts from ``KINDS``.
"""

from dataclasses import dataclass
from typing import Literal

from quantop.api.base import ApiModel, Rule
from quantop.api.modelruntime import ModelRuntimeSpec
from quantop.api.modelstore import ModelStoreSpec
from quantop.api.preset import PresetSpec
from quantop.api.quantizedmodel import (
    MAX_NAME_LENGTH,
    QuantizedModelSpec,
    QuantizedModelStatus,
)
from quantop.api.quantizer import QuantizerSpec


@dataclass(frozen=True)
class Column:
    """A column of ``kubectl get``; ``wide`` ones appear with ``-o wide`` only."""

    name: str
    path: str
    description: str
    type: Literal["string", "integer", "date"] = "string"
    wide: bool = False


@dataclass(frozen=True)
class Kind:
    """One kind. ``rules`` are judged on the whole object, ``metadata.name`` included."""

    name: str
    plural: str
    scope: Literal["Namespaced", "Cluster"]
    description: str
    spec: type[ApiModel]
    status: type[ApiModel] | None = None
    short_names: tuple[str, ...] = ()
    rules: tuple[Rule, ...] = ()
    columns: tuple[Column, ...] = ()
    scalable: bool = False
    """Whether it has the scale subresource, on the paths of `Serving` and the status."""

    @property
    def singular(self) -> str:
        """The lower-case name of one."""
        return self.name.lower()


def _ready(field: str) -> str:
    return f'.status.conditions[?(@.type=="Ready")].{field}'


AGE = Column("Age", ".metadata.creationTimestamp", "When the object was made.", "date")

QUANTIZED_MODEL = Kind(
    name="QuantizedModel",
    plural="quantizedmodels",
    scope="Namespaced",
    short_names=("qm",),
    description="A model that is quantized, measured, stored and served.",
    spec=QuantizedModelSpec,
    status=QuantizedModelStatus,
    scalable=True,
    rules=(
        Rule(
            f"self.metadata.name.size() <= {MAX_NAME_LENGTH}",
            f"metadata.name must be at most {MAX_NAME_LENGTH} characters, as the names of Jobs are "
            "made from it",
        ),
        Rule(
            "self.metadata.name.matches('^[a-z]([-a-z0-9]*[a-z0-9])?$')",
            "metadata.name must begin with a letter and hold only a-z, 0-9 and '-', as it names a "
            "Service",
        ),
        Rule(
            "!has(self.spec.serving) || !has(self.spec.serving.engine) || "
            "!has(self.spec.serving.engine.draftModel) || "
            "self.spec.serving.engine.draftModel.name != self.metadata.name",
            "spec.serving.engine.draftModel.name must name another QuantizedModel, a smaller one",
        ),
    ),
    columns=(
        Column("Preset", ".spec.quantization.presetName", "The Preset, where the spec names one."),
        Column("Format", ".spec.quantization.format", "The format, where the spec names one."),
        Column("Precision", ".spec.quantization.precision", "The precision, or Auto, likewise."),
        Column(
            "Made",
            ".status.artifact.precision",
            "The precision of the artifact published last; with Auto, the chosen one.",
        ),
        Column(
            "Ready", _ready("status"), "Whether the artifact is verified and, if asked, served."
        ),
        Column("Reason", _ready("reason"), "Why, in a word."),
        Column("Replicas", ".status.readyReplicas", "Pods that answer.", "integer"),
        AGE,
        Column("Bytes", ".status.artifact.sizeBytes", "The artifact's size.", "integer", wide=True),
        Column("Bits", ".status.artifact.bitsPerWeight", "Bits per weight.", wide=True),
        Column("Perplexity", ".status.quality.perplexity", "The artifact's perplexity.", wide=True),
        Column(
            "Increase%",
            ".status.quality.increasePercent",
            "How far it is above the source's.",
            wide=True,
        ),
        Column("URL", ".status.endpoint.url", "Where it answers.", wide=True),
        Column("Message", _ready("message"), "Why, in a sentence.", wide=True),
    ),
)

MODEL_STORE = Kind(
    name="ModelStore",
    plural="modelstores",
    scope="Cluster",
    short_names=("mstore",),
    description="Where artifacts are kept, and which namespaces may use it.",
    spec=ModelStoreSpec,
    columns=(
        Column("Bucket", ".spec.s3.bucket", "The bucket."),
        Column("Prefix", ".spec.s3.prefix", "Put before every key."),
        Column("Namespaces", ".spec.allowedNamespaces.from", "Which namespaces may use it."),
        AGE,
        Column("Endpoint", ".spec.s3.endpoint", "The S3 endpoint.", wide=True),
        Column("Region", ".spec.s3.region", "The region.", wide=True),
    ),
)

QUANTIZER = Kind(
    name="Quantizer",
    plural="quantizers",
    scope="Cluster",
    description="A toolchain that writes one format.",
    spec=QuantizerSpec,
    columns=(
        Column("Format", ".spec.format", "The format that it writes."),
        Column("Priority", ".spec.priority", "The highest is taken.", "integer"),
        AGE,
        Column("Image", ".spec.image", "The toolchain's image.", wide=True),
    ),
)

MODEL_RUNTIME = Kind(
    name="ModelRuntime",
    plural="modelruntimes",
    scope="Cluster",
    description="An inference engine that serves artifacts.",
    spec=ModelRuntimeSpec,
    columns=(
        Column("Protocol", ".spec.protocol", "What it speaks."),
        Column("Priority", ".spec.priority", "The highest is the default.", "integer"),
        AGE,
        Column("Image", ".spec.image", "The engine's image.", wide=True),
    ),
)

PRESET = Kind(
    name="Preset",
    plural="presets",
    scope="Cluster",
    short_names=("qpreset",),
    description="A recipe with its limits, for a use or for hardware, that QuantizedModels name.",
    spec=PresetSpec,
    columns=(
        Column("Format", ".spec.quantization.format", "The format."),
        Column("Precision", ".spec.quantization.precision", "The precision, or Auto."),
        Column("Runtime", ".spec.runtimeName", "The ModelRuntime, where it names one."),
        AGE,
        Column("Description", ".spec.description", "For whom, and why.", wide=True),
    ),
)

KINDS = (QUANTIZED_MODEL, MODEL_STORE, QUANTIZER, MODEL_RUNTIME, PRESET)
