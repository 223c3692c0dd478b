"""Everything that one pass over one object looks at, frozen."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import Decimal

from quantop.api.modelruntime import ModelRuntimeSpec
from quantop.api.modelstore import ModelStoreSpec
from quantop.api.preset import PresetSpec
from quantop.api.quantizedmodel import QuantizedModelSpec, QuantizedModelStatus
from quantop.api.quantizer import QuantizerSpec
from quantop.builders.meta import Manifest
from quantop.settings import Settings


@dataclass(frozen=True)
class Capacity:
    """What the largest node can hold: bytes, and devices by the name of their resource."""

    memory: int
    disk: int
    devices: Mapping[str, int] = field(default_factory=dict)
    """Of those that any node has."""


@dataclass(frozen=True)
class Node:
    """What a node offers: its labels, and what pods may have of it, by resource name."""

    labels: Mapping[str, str]
    allocatable: Mapping[str, Decimal]


@dataclass(frozen=True)
class Peer:
    """Another object's running conversion Job for the same artifact key."""

    namespace: str
    name: str


@dataclass(frozen=True)
class Draft:
    """The QuantizedModel that the spec names as its draft model."""

    spec: QuantizedModelSpec
    status: QuantizedModelStatus


@dataclass(frozen=True)
class Snapshot:
    """What is: the model, parsed, and the children as the API has them."""

    model: Manifest
    spec: QuantizedModelSpec
    status: QuantizedModelStatus
    settings: Settings
    namespace_labels: Mapping[str, str] = field(default_factory=dict)
    namespace_terminating: bool = False
    stores: Mapping[str, ModelStoreSpec] = field(default_factory=dict)
    quantizers: Mapping[str, QuantizerSpec] = field(default_factory=dict)
    runtimes: Mapping[str, ModelRuntimeSpec] = field(default_factory=dict)
    presets: Mapping[str, PresetSpec] = field(default_factory=dict)
    unreadable: Mapping[tuple[str, str], str] = field(default_factory=dict)
    """Of these four kinds, those that are stored in a shape which this version does not know: what
    is wrong with each, by kind and name."""
    jobs: Mapping[str, Manifest] = field(default_factory=dict)
    pods: tuple[Manifest, ...] = ()
    deployment: Manifest | None = None
    service: Manifest | None = None
    disruption_budget: Manifest | None = None
    autoscaler: Manifest | None = None
    peers: tuple[Peer, ...] = ()
    nodes: tuple[Node, ...] = ()
    draft: Draft | None = None
    drafts_for: tuple[str, ...] = ()
    """Names of the models that this one is the draft model of."""

    @property
    def capacity(self) -> Capacity | None:
        """What the largest of the nodes can hold."""
        if not self.nodes:
            return None

        def most(resource: str) -> int:
            return max(math.ceil(n.allocatable.get(resource, Decimal(0))) for n in self.nodes)

        devices = {name for node in self.nodes for name in node.allocatable if "/" in name}
        return Capacity(
            memory=most("memory"),
            disk=most("ephemeral-storage"),
            devices={name: most(name) for name in devices},
        )

    @property
    def name(self) -> str:
        """The model's name."""
        return str(self.model["metadata"]["name"])

    @property
    def namespace(self) -> str:
        """The model's namespace."""
        return str(self.model["metadata"]["namespace"])

    @property
    def generation(self) -> int:
        """The generation of the model's spec."""
        return int(self.model["metadata"].get("generation", 0))

    @property
    def format(self) -> str:
        """The recipe's format; there is one once a Preset is spelt out."""
        assert self.spec.quantization.format is not None
        return self.spec.quantization.format

    @property
    def precision(self) -> str:
        """The recipe's precision, or Auto; there is one once a Preset is spelt out."""
        assert self.spec.quantization.precision is not None
        return self.spec.quantization.precision

    @property
    def finalizers(self) -> list[str]:
        """The model's finalizers."""
        return list(self.model["metadata"].get("finalizers", []))

    @property
    def deleting(self) -> bool:
        """Whether the model is being deleted."""
        return "deletionTimestamp" in self.model["metadata"]


@dataclass(frozen=True)
class Problem:
    """Something that only a person can put right."""

    reason: str
    message: str
    stage: str = ""
    """The stage of a pod that said so, where one did."""
