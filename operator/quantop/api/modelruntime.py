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
    map_list,
    reserved_env,
)
from quantop.api.quantizedmodel import Format, Precision

Path = Annotated[str, Field(min_length=1, max_length=256, pattern=r"^/")]


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
)
"""The environment that every engine is given."""


class Protocol(StrEnum):
    """What an engine speaks."""

    OPENAI = "OpenAI"
    OPEN_INFERENCE_V2 = "OpenInferenceV2"


class ServedFormat(ApiModel):
    """A format that the engine serves."""

    format: Format
    """The format."""
    precisions: Annotated[list[Precision], Field(max_length=128)] = Field(
        default_factory=list, json_schema_extra=SET
    )
    """The precisions of it that the engine serves. Default: all."""


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


class ModelRuntimeSpec(ApiModel):
    """An engine."""

    rules: ClassVar = (reserved_env(*CONTRACT_VARIABLES),)

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
