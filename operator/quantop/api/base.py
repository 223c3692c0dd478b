"""What every API type shares: camelCase names, refusal of unknown fields, CEL rules, bounded types.

Every string, list and integer has a bound, so that the API server can price the CEL rules and a
bad manifest is refused before it is stored.
"""

from dataclasses import dataclass
from typing import Annotated, ClassVar

from pydantic import BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_camel

GROUP = "quantop.dev"
VERSION = "v1alpha1"
API_VERSION = f"{GROUP}/{VERSION}"


@dataclass(frozen=True)
class Rule:
    """A CEL rule over one object, and the sentence that its violation is refused with."""

    rule: str
    message: str


class ApiModel(BaseModel):
    """Base of all API types. ``rules`` become ``x-kubernetes-validations`` of the type's schema."""

    model_config = ConfigDict(
        alias_generator=to_camel,
        populate_by_name=True,
        extra="forbid",
        frozen=True,
        use_attribute_docstrings=True,
    )
    rules: ClassVar[tuple[Rule, ...]] = ()


Name = Annotated[
    str, Field(min_length=1, max_length=253, pattern=r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$")
]
"""A Kubernetes object name (RFC 1123 subdomain)."""

Quantity = Annotated[
    str,
    Field(
        min_length=1,
        max_length=32,
        pattern=r"^[0-9]+(\.[0-9]+)?(m|k|M|G|T|P|E|Ki|Mi|Gi|Ti|Pi|Ei)?$",
    ),
]
"""A non-negative Kubernetes resource quantity, for example ``500m`` or ``16Gi``."""

Decimal = Annotated[str, Field(min_length=1, max_length=32, pattern=r"^-?[0-9]+(\.[0-9]+)?$")]
"""A decimal number as a string: the API has no floats, whose rounding differs between clients."""

Image = Annotated[str, Field(min_length=1, max_length=512)]
"""A container image reference; pin it by digest, as artifact keys contain it."""

Argument = Annotated[str, Field(max_length=4096)]
"""One word of a container's command line; ``$(VAR)`` is expanded by Kubernetes."""


class ResourceRequirements(ApiModel):
    """Compute resources of a container, as in ``core/v1``."""

    requests: dict[str, Quantity] = Field(default_factory=dict, max_length=16)
    """What the scheduler reserves, by resource name."""
    limits: dict[str, Quantity] = Field(default_factory=dict, max_length=16)
    """What the container may use at most, by resource name."""


class EnvVar(ApiModel):
    """An environment variable with a literal value."""

    name: Annotated[str, Field(min_length=1, max_length=128, pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")]
    """The variable's name."""
    value: Annotated[str, Field(max_length=4096)] = ""
    """The variable's value."""


class Condition(ApiModel):
    """A condition, as in ``meta/v1``."""

    type: Annotated[str, Field(min_length=1, max_length=64, pattern=r"^[A-Z][A-Za-z]*$")]
    """What the condition is about."""
    status: Annotated[str, Field(max_length=7, pattern=r"^(True|False|Unknown)$")]
    """True, False or Unknown."""
    observed_generation: Annotated[int, Field(ge=0)] = 0
    """The object's generation that this condition was computed from."""
    last_transition_time: Annotated[
        str, Field(max_length=32, json_schema_extra={"format": "date-time"})
    ]
    """When ``status`` last changed."""
    reason: Annotated[str, Field(min_length=1, max_length=128, pattern=r"^[A-Z][A-Za-z0-9]*$")]
    """Why, in one CamelCase word that programs may match on."""
    message: Annotated[str, Field(max_length=4096)]
    """Why, for people; when something is wrong, what to do about it."""
