"""``ModelRuntime``: an inference engine as data."""

from enum import StrEnum
from typing import Annotated, ClassVar

from pydantic import Field

from quantop.api.base import (
    SET,
    ApiModel,
    Argument,
    EnvVar,
    Image,
    Quantity,
    ResourceRequirements,
    Rule,
    map_list,
    reserved_env,
)
from quantop.api.quantizedmodel import Format, Precision

Path = Annotated[str, Field(min_length=1, max_length=256, pattern=r"^/")]
Hardware = Annotated[str, Field(min_length=1, max_length=128)]


class OptionName(StrEnum):
    """An option of ``spec.serving.engine``."""

    MAX_MODEL_LENGTH = "maxModelLength"
    MAX_CONCURRENT_REQUESTS = "maxConcurrentRequests"
    KV_CACHE_TYPE = "kvCacheType"
    PREFIX_CACHING = "prefixCaching"
    TENSOR_PARALLEL_SIZE = "tensorParallelSize"
    PIPELINE_PARALLEL_SIZE = "pipelineParallelSize"
    DRAFT_MODEL = "draftModel"

    @property
    def variable(self) -> str:
        """The variable of the engine's environment that has the value, or the draft's folder."""
        return "DRAFT_MODEL_DIR" if self is OptionName.DRAFT_MODEL else self.name


CONTRACT_VARIABLES = (
    "MODEL_DIR",
    "MODEL_NAME",
    "PORT",
    "CPU_LIMIT",
    "QUANTOP_FORMAT",
    "QUANTOP_PRECISION",
    "QUANTOP_BITS_PER_WEIGHT",
    "QUANTOP_ARTIFACT_KEY",
    "QUANTOP_SOURCE_URI",
    *(option.variable for option in OptionName),
)
"""The environment that every engine is given; of options, those that a model sets."""


class Protocol(StrEnum):
    """What an engine speaks."""

    OPENAI = "OpenAI"
    OPENAI_EMBEDDINGS = "OpenAIEmbeddings"
    OPEN_INFERENCE_V2 = "OpenInferenceV2"


class ServedFormat(ApiModel):
    """A format that the engine serves."""

    format: Format
    """The format."""
    precisions: Annotated[list[Precision], Field(max_length=128)] = Field(
        default_factory=list, json_schema_extra=SET
    )
    """The precisions of it that the engine serves. Default: all."""
    hardware: Annotated[list[Hardware], Field(max_length=16)] = Field(
        default_factory=list, json_schema_extra=SET
    )
    """What the engine runs of that which Quantizers make for particular hardware, by the words of
    their spec.hardware, beside what is made for any. Default: none of it."""


class Probe(ApiModel):
    """An HTTP probe of the engine."""

    path: Path
    """The path that answers 200."""
    period_seconds: Annotated[int, Field(ge=1, le=300)] = 5
    """Seconds between probes."""
    failure_threshold: Annotated[int, Field(ge=1, le=10_000)] = 3
    """Failures in a row that count."""
    timeout_seconds: Annotated[int, Field(ge=1, le=60)] = 3
    """Seconds after which a probe has failed."""


class Probes(ApiModel):
    """The engine's probes."""

    startup: Probe
    """Gives the engine time to load; period x failures is the most it may take."""
    readiness: Probe
    """Whether requests are sent to the pod."""
    liveness: Probe
    """Whether the engine is restarted."""


class Drain(ApiModel):
    """How a pod ends without cutting a stream."""

    command: Annotated[list[Argument], Field(min_length=1, max_length=32)]
    """Runs in the engine's container before it is told to end; returns when it is idle."""
    grace_period_seconds: Annotated[int, Field(ge=1, le=3600)] = 120
    """Seconds until the pod is ended whatever it does."""


class Metrics(ApiModel):
    """The engine's Prometheus metrics, at the engine's port."""

    path: Path = "/metrics"
    """The path."""


class OptionValue(ApiModel):
    """A value that an option may have."""

    value: Annotated[str, Field(min_length=1, max_length=32, pattern=r"^[A-Za-z0-9_]+$")]
    """The value."""
    args: Annotated[list[Argument], Field(max_length=16)] = Field(default_factory=list)
    """Arguments for this value, behind the option's."""


class EngineOption(ApiModel):
    """An option that the engine has, and what it becomes on its command line."""

    rules: ClassVar = (
        Rule(
            "!has(self.values) || self.name in ['kvCacheType', 'prefixCaching']",
            "values are those of kvCacheType and prefixCaching: give a number's maximum, if any",
        ),
        Rule(
            "self.name != 'prefixCaching' || "
            "has(self.values) && self.values.all(v, v.value in ['Enabled', 'Disabled'])",
            "prefixCaching needs values with arguments for Enabled, Disabled or both",
        ),
        Rule(
            "!has(self.maximum) || !(self.name in ['kvCacheType', 'prefixCaching', 'draftModel'])",
            "maximum is that of a number: remove it, or list the values of kvCacheType and "
            "prefixCaching",
        ),
        Rule(
            "!has(self.multiplies) || self.name in ['tensorParallelSize', 'pipelineParallelSize']",
            "multiplies goes with tensorParallelSize and pipelineParallelSize: remove it",
        ),
        Rule(
            "has(self.args) || has(self.values) && self.values.all(v, has(v.args))",
            "an option must become something: give args, of it or of each of its values",
        ),
    )

    name: OptionName
    """The field of spec.serving.engine."""
    args: Annotated[list[Argument], Field(max_length=16)] = Field(default_factory=list)
    """Arguments that are put behind spec.args when a model sets the option, so that they win in
    an engine that takes the last of several. Its value is in $(MAX_MODEL_LENGTH),
    $(MAX_CONCURRENT_REQUESTS), $(KV_CACHE_TYPE), $(PREFIX_CACHING), $(TENSOR_PARALLEL_SIZE) or
    $(PIPELINE_PARALLEL_SIZE); $(DRAFT_MODEL_DIR) is the folder of the draft model's artifact."""
    values: Annotated[list[OptionValue], Field(max_length=64)] = Field(
        default_factory=list, json_schema_extra=map_list("value")
    )
    """The values that the engine knows. Default: any."""
    maximum: Annotated[int, Field(ge=1, le=16_777_216)] | None = None
    """The most that the engine can. Default: anything."""
    multiplies: Annotated[
        list[Annotated[str, Field(min_length=1, max_length=128)]], Field(max_length=4)
    ] = Field(default_factory=list, json_schema_extra=SET)
    """Extended resources of spec.resources.limits, for example nvidia.com/gpu, of which the engine
    needs as many times more as the value says."""


class ModelRuntimeSpec(ApiModel):
    """An engine."""

    rules: ClassVar = (
        reserved_env(*CONTRACT_VARIABLES),
        Rule(
            "!has(self.options) || self.options.all(o, !has(o.multiplies) || "
            "has(self.resources) && has(self.resources.limits) && "
            "o.multiplies.all(r, r.contains('/') && r in self.resources.limits))",
            "spec.options multiplies extended resources of spec.resources.limits: give how many of "
            "it one device comes to there, for example nvidia.com/gpu: 1",
        ),
    )

    image: Image
    """The image that holds the engine."""
    formats: Annotated[list[ServedFormat], Field(min_length=1, max_length=32)] = Field(
        json_schema_extra=map_list("format")
    )
    """What it serves."""
    protocol: Protocol
    """What it speaks."""
    port: Annotated[int, Field(ge=1024, le=65_535)] = 8080
    """The port that it listens on; given to it as $(PORT)."""
    command: Annotated[list[Argument], Field(max_length=64)] = Field(default_factory=list)
    """The container's command. Default: the image's."""
    args: Annotated[list[Argument], Field(max_length=128)] = Field(default_factory=list)
    """The container's arguments; $(MODEL_DIR), $(MODEL_NAME), $(PORT) and $(CPU_LIMIT) are given,
    and of the artifact $(QUANTOP_FORMAT), $(QUANTOP_PRECISION), $(QUANTOP_BITS_PER_WEIGHT),
    $(QUANTOP_ARTIFACT_KEY) and $(QUANTOP_SOURCE_URI)."""
    env: Annotated[list[EnvVar], Field(max_length=64)] = Field(
        default_factory=list, json_schema_extra=map_list("name")
    )
    """Environment of the engine, beside the contract's."""
    options: Annotated[list[EngineOption], Field(max_length=16)] = Field(
        default_factory=list, json_schema_extra=map_list("name")
    )
    """Options of spec.serving.engine that the engine has. A model that sets another one is told
    which there are. Default: none."""
    probes: Probes
    """The engine's probes."""
    drain: Drain | None = None
    """How a pod ends. Default: SIGTERM after five seconds, thirty seconds of grace."""
    metrics: Metrics | None = None
    """The engine's metrics. Default: none."""
    shared_memory: Quantity | None = None
    """Size of /dev/shm. Default: the container runtime's."""
    resources: ResourceRequirements = Field(default_factory=ResourceRequirements)
    """Resources of the engine's container where the model does not say."""
    node_selector: dict[str, Annotated[str, Field(max_length=63)]] = Field(
        default_factory=dict, max_length=16
    )
    """Labels of the nodes that it runs on, for example of those with a kind of GPU. Default: any
    that have its resources."""
    progress_deadline_seconds: Annotated[int, Field(ge=30, le=86_400)] = 1800
    """Seconds that a new revision may take to become Ready before that is called a failure."""
    priority: Annotated[int, Field(ge=-1000, le=1000)] = 0
    """Among runtimes that serve the same, the highest is the default."""
