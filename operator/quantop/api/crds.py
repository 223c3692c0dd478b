"""CustomResourceDefinitions from the kinds.

pydantic's JSON schema becomes a structural one: references inlined, titles and null dropped,
descriptions unwrapped. Whatever a CRD cannot say is an error here, never silently lost. Unknown
fields need no ``additionalProperties: false``, which CRDs do not allow: the API server refuses them
from everyone who validates strictly, as kubectl, Helm and every server-side apply do.
"""

from typing import Any

from quantop.api.base import GROUP, VERSION, ApiModel, Rule
from quantop.api.kinds import KINDS, Column, Kind

CATEGORY = "quantop"

Schema = dict[str, Any]

_KEPT = frozenset(
    {
        "type",
        "description",
        "default",
        "enum",
        "format",
        "pattern",
        "minLength",
        "maxLength",
        "minimum",
        "maximum",
        "minItems",
        "maxItems",
        "minProperties",
        "maxProperties",
        "required",
        "x-kubernetes-list-type",
        "x-kubernetes-list-map-keys",
        "x-kubernetes-validations",
    }
)
_INT_OR_STRING = "x-kubernetes-int-or-string"


def crds() -> list[Schema]:
    """The CustomResourceDefinitions of all kinds."""
    return [crd(kind) for kind in KINDS]


def crd(kind: Kind) -> Schema:
    """The CustomResourceDefinition of one kind."""
    names: Schema = {
        "kind": kind.name,
        "listKind": f"{kind.name}List",
        "plural": kind.plural,
        "singular": kind.singular,
        "categories": [CATEGORY],
    }
    if kind.short_names:
        names["shortNames"] = list(kind.short_names)
    version: Schema = {
        "name": VERSION,
        "served": True,
        "storage": True,
        "additionalPrinterColumns": [_column(column) for column in kind.columns],
        "schema": {"openAPIV3Schema": object_schema(kind)},
    }
    if kind.status is not None:
        version["subresources"] = _subresources(kind)
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{kind.plural}.{GROUP}"},
        "spec": {
            "group": GROUP,
            "names": names,
            "scope": kind.scope,
            "versions": [version],
        },
    }


def object_schema(kind: Kind) -> Schema:
    """The structural schema of a whole object."""
    properties: Schema = {
        "apiVersion": {"type": "string", "description": f"{GROUP}/{VERSION}"},
        "kind": {"type": "string", "description": kind.name},
        "metadata": {"type": "object"},
        "spec": structural(kind.spec),
    }
    if kind.status is not None:
        # No defaults: an absent value was not observed, which a made-up one would hide.
        properties["status"] = _without_defaults(structural(kind.status))
    schema: Schema = {
        "description": kind.description,
        "type": "object",
        "required": ["spec"],
        "properties": properties,
    }
    if kind.rules:
        schema["x-kubernetes-validations"] = [_validation(rule) for rule in kind.rules]
    return schema


def structural(model: type[ApiModel]) -> Schema:
    """The structural schema of a type. Raises ValueError for what a CRD cannot say."""
    schema = model.model_json_schema(by_alias=True)
    return _structural(schema, schema.get("$defs", {}), model.__name__)


def _structural(schema: Schema, definitions: Schema, where: str) -> Schema:
    schema = _plain(schema, definitions, where)
    if _INT_OR_STRING in schema:
        # CRDs want no type here, and apply minimum to integers and pattern to strings.
        schema["minimum"] = 0
        schema["maximum"] = 9_007_199_254_740_991
        schema["anyOf"] = [{"type": "integer"}, {"type": "string"}]
        if "description" in schema:
            schema["description"] = _unwrapped(schema["description"])
        return {key: value for key, value in schema.items() if key not in ("type", "title")}
    result: Schema = {}
    for key, value in schema.items():
        if key == "description":
            result[key] = _unwrapped(value)
        elif key == "const":
            result["enum"] = [value]
        elif key in _KEPT:
            result[key] = value
        elif key == "items":
            result[key] = _structural(value, definitions, f"{where}[]")
            result.setdefault("x-kubernetes-list-type", "atomic")
        elif key == "properties":
            result[key] = {
                name: _property(name, part, schema, definitions, where)
                for name, part in value.items()
            }
        elif key == "additionalProperties":
            if value is not False:
                result[key] = _structural(value, definitions, f"{where}.*")
        elif key not in ("title", "$defs"):
            raise ValueError(f"{where}: a CRD cannot say {key}")
    return {key: result[key] for key in sorted(result, key=_rank)}


def _rank(key: str) -> int:
    """Where a person expects a key: what it is, then its bounds, then what is in it."""
    first = ("description", "type", "default", "enum", "format", "pattern")
    last = ("x-kubernetes-validations", "required", "items", "additionalProperties", "properties")
    if key in first:
        return first.index(key)
    return 100 + last.index(key) if key in last else 50


def _property(name: str, part: Schema, parent: Schema, definitions: Schema, where: str) -> Schema:
    result = _structural(part, definitions, f"{where}.{name}")
    made = name not in parent.get("required", []) and "default" not in part
    defaults = _defaults(result)
    if made and defaults:
        # pydantic makes the object when it is absent: let the API server do so too.
        result = {"default": defaults} | result
    return result


def _plain(schema: Schema, definitions: Schema, where: str) -> Schema:
    """The schema with its reference and its "or null" resolved; siblings win over the target."""
    schema = dict(schema)
    if "anyOf" in schema:
        variants = [variant for variant in schema.pop("anyOf") if variant != {"type": "null"}]
        if len(variants) != 1:
            raise ValueError(f"{where}: a CRD cannot say one of several types")
        if schema.get("default", ...) is None:
            del schema["default"]
        schema = variants[0] | schema
    if "$ref" in schema:
        target = definitions[schema.pop("$ref").removeprefix("#/$defs/")]
        schema = _plain(target, definitions, where) | schema
    return schema


def _defaults(schema: Schema) -> Schema:
    properties: Schema = schema.get("properties", {})
    return {name: part["default"] for name, part in properties.items() if "default" in part}


def _without_defaults(schema: Schema) -> Schema:
    result = {key: value for key, value in schema.items() if key != "default"}
    if "properties" in result:
        result["properties"] = {
            name: _without_defaults(part) for name, part in result["properties"].items()
        }
    if "items" in result:
        result["items"] = _without_defaults(result["items"])
    return result


def _unwrapped(docstring: str) -> str:
    return " ".join(docstring.split()).replace("``", "`")


def _validation(rule: Rule) -> Schema:
    return {"rule": rule.rule, "message": rule.message}


def _column(column: Column) -> Schema:
    return {
        "name": column.name,
        "type": column.type,
        "jsonPath": column.path,
        "description": column.description,
        "priority": int(column.wide),
    }


def _subresources(kind: Kind) -> Schema:
    subresources: Schema = {"status": {}}
    if kind.scalable:
        subresources["scale"] = {
            "specReplicasPath": ".spec.serving.replicas",
            "statusReplicasPath": ".status.replicas",
            "labelSelectorPath": ".status.selector",
        }
    return subresources
