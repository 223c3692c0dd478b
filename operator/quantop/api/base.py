"""What every API type shares: camelCase names, refusal of unknown fields, CEL rules, bounded types.

Every string, list and integer has a bound, so that the API server can price the CEL rules and a
bad manifest is refused before it is stored.
"""

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    GetJsonSchemaHandler,
)
from pydantic.alias_generators import to_camel
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema

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

    @classmethod
    def __get_pydantic_json_schema__(
        cls, core_schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        """The JSON schema, with the type's CEL rules on it."""
        schema = handler(core_schema)
        if cls.rules:
            handler.resolve_ref_schema(schema)["x-kubernetes-validations"] = [
                {"rule": rule.rule, "message": rule.message} for rule in cls.rules
            ]
        return schema


def map_list(*keys: str) -> dict[str, Any]:
    """Schema of a list whose items are told apart by ``keys``, so that appliers can share it."""
    return {"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": list(keys)}


SET: dict[str, Any] = {"x-kubernetes-list-type": "set"}
"""Schema of a list without duplicates."""


def _unquoted(value: object) -> object:
    """Whole numbers need no quotes in a manifest: ``cpu: 4`` is ``cpu: "4"``."""
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


Name = Annotated[
    str, Field(min_length=1, max_length=253, pattern=r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$")
]
"""A Kubernetes object name (RFC 1123 subdomain)."""

QUANTITY_PATTERN = r"^[0-9]+(\.[0-9]+)?(m|k|M|G|T|P|E|Ki|Mi|Gi|Ti|Pi|Ei)?$"

Quantity = Annotated[
    str,
    Field(
        min_length=1,
        max_length=32,
        pattern=QUANTITY_PATTERN,
        json_schema_extra={"x-kubernetes-int-or-string": True},
    ),
    BeforeValidator(_unquoted),
]
"""A non-negative Kubernetes resource quantity, for example ``500m`` or ``16Gi``."""

Decimal = Annotated[str, Field(min_length=1, max_length=32, pattern=r"^-?[0-9]+(\.[0-9]+)?$")]
"""A decimal number as a string: the API has no floats, whose rounding differs between clients."""

Percent = Annotated[
    str,
    Field(
        min_length=1,
        max_length=16,
        pattern=r"^[0-9]+(\.[0-9]+)?$",
        json_schema_extra={"x-kubernetes-int-or-string": True},
    ),
    BeforeValidator(_unquoted),
]
"""A percentage of 0 or more, for example ``5`` or ``"0.5"``."""

Nats = Percent
"""An amount of information of 0 or more, in nats, for example ``"0.05"``."""

Similarity = Percent
"""A similarity of 0 or more, where 1 is that of equals, for example ``"0.995"``."""

Rate = Percent
"""So much of something for each of another, or within a time, of 0 or more."""

Count = Annotated[int, Field(ge=0, le=9_007_199_254_740_991)]
"""A number of things or bytes, up to the largest that every JSON reader keeps exact (2^53 - 1)."""

Image = Annotated[str, Field(min_length=1, max_length=512)]
"""A container image reference; pin it by digest, as artifact keys contain it."""

Argument = Annotated[str, Field(max_length=4096)]
"""One word of a container's command line; ``$(VAR)`` is expanded by Kubernetes."""


def _known_resources(field: str) -> Rule:
    names = "cpu|memory|ephemeral-storage|hugepages-[0-9]+(Ki|Mi|Gi)|[a-z0-9.-]+/[A-Za-z0-9._-]+"
    return Rule(
        f"!has(self.{field}) || self.{field}.all(r, r.matches('^({names})$'))",
        f"{field} must name cpu, memory, ephemeral-storage, hugepages-SIZE or an extended resource "
        "such as nvidia.com/gpu",
    )


class ResourceRequirements(ApiModel):
    """Compute resources of a container, as in ``core/v1``."""

    rules: ClassVar = (
        _known_resources("requests"),
        _known_resources("limits"),
        Rule(
            "!has(self.requests) || !has(self.limits) || self.requests.all(r, "
            "!(r in self.limits) || quantity(string(self.requests[r]))"
            ".compareTo(quantity(string(self.limits[r]))) <= 0)",
            "requests must not be above limits: lower the one or raise the other",
        ),
    )

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


def reserved_env(*names: str) -> Rule:
    """A spec's ``env`` must leave alone what the operator itself sets."""
    quoted = ", ".join(f"'{name}'" for name in names)
    return Rule(
        f"!has(self.env) || !self.env.exists(e, e.name in [{quoted}])",
        f"spec.env must not set what the operator sets itself: {', '.join(names)}",
    )


class Condition(ApiModel):
    """A condition, as in ``meta/v1``."""

    type: Annotated[str, Field(min_length=1, max_length=64, pattern=r"^[A-Z][A-Za-z]*$")]
    """What the condition is about."""
    status: Annotated[str, Field(max_length=7, pattern=r"^(True|False|Unknown)$")]
    """True, False or Unknown."""
    observed_generation: Count = 0
    """The object's generation that this condition was computed from."""
    last_transition_time: Annotated[
        str, Field(max_length=32, json_schema_extra={"format": "date-time"})
    ]
    """When ``status`` last changed."""
    reason: Annotated[str, Field(min_length=1, max_length=128, pattern=r"^[A-Z][A-Za-z0-9]*$")]
    """Why, in one CamelCase word that programs may match on."""
    message: Annotated[str, Field(max_length=4096)]
    """Why, for people; when something is wrong, what to do about it."""
