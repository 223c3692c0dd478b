"""The reference for people (Markdown) and for editors (JSON schema), from the same schemas."""

import json
from collections.abc import Iterator

from quantop.api.base import API_VERSION, QUANTITY_PATTERN
from quantop.api.crds import CATEGORY, Schema, object_schema, structural
from quantop.api.kinds import KINDS, MODEL_RUNTIME, MODEL_STORE, PRESET, QUANTIZER, Kind

_RANGES = (
    ("minLength", "maxLength", " characters"),
    ("minimum", "maximum", ""),
    ("minItems", "maxItems", " items"),
    ("minProperties", "maxProperties", " entries"),
)


def json_schema(kind: Kind) -> str:
    """A JSON schema of whole manifests of a kind, which knows no other fields than the kind's."""
    schema = _closed(object_schema(kind))
    properties = schema["properties"]
    properties["apiVersion"] = {"const": API_VERSION}
    properties["kind"] = {"const": kind.name}
    properties["metadata"] = {"type": "object", "required": ["name"]}
    document = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": kind.name,
        **schema,
        "required": ["apiVersion", "kind", "metadata", "spec"],
    }
    return _json(document)


def values_schema(schema: Schema) -> str:
    """The schema of the chart's values, with the specs in it as the kinds have them. The chart
    itself fills in the image of a toolchain or an engine."""
    for kind in (QUANTIZER, MODEL_RUNTIME, MODEL_STORE, PRESET):
        spec = _closed(structural(kind.spec))
        if spec["properties"].pop("image", None):
            spec["required"].remove("image")
        schema["definitions"][f"{kind.singular}Spec"] = spec
    return _json(schema)


def markdown() -> str:
    """The reference of all kinds."""
    lines = [
        f"# API reference: {API_VERSION}",
        "",
        f"`kubectl get {CATEGORY}` lists objects of every kind. Required fields are marked \\*. ",
        "JSON schemas for editors are beside this page.",
    ]
    for kind in KINDS:
        lines += ["", *_kind(kind)]
    return "\n".join(lines) + "\n"


def _json(document: Schema) -> str:
    return json.dumps(document, indent=2, ensure_ascii=False) + "\n"


def _closed(schema: Schema) -> Schema:
    """The schema without Kubernetes' own words, where unknown fields are errors."""
    result: Schema = {}
    for key, value in schema.items():
        if key == "properties":
            result[key] = {name: _closed(part) for name, part in value.items()}
            result["additionalProperties"] = False
        elif key in ("items", "additionalProperties"):
            result[key] = _closed(value)
        elif not key.startswith("x-kubernetes-"):
            result[key] = value
    return result


def _kind(kind: Kind) -> Iterator[str]:
    schema = object_schema(kind)
    short = f", short name `{kind.short_names[0]}`" if kind.short_names else ""
    yield f"## {kind.name}"
    yield f"{kind.description} {kind.scope}, `kubectl get {kind.plural}`{short}."
    for name in ("spec", "status"):
        if name in schema["properties"]:
            yield from ("", f"### {kind.name} {name}")
            yield from ("| field | type | default | meaning |", "| --- | --- | --- | --- |")
            yield from _rows(schema["properties"][name], name)
    rules = list(_rules(schema))
    if rules:
        yield from ("", f"### What a {kind.name} is refused for")
        yield from (f"- {rule}" for rule in rules)


def _rows(schema: Schema, path: str) -> Iterator[str]:
    required = schema.get("required", [])
    for name, part in schema.get("properties", {}).items():
        here = f"{path}.{name}"
        mark = " \\*" if name in required else ""
        default = f"`{json.dumps(part['default'])}`" if "default" in part else ""
        cells = (f"`{here}`{mark}", _type(part), default, part["description"])
        yield "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"
        inner, mark = part, ""
        while "items" in inner:
            inner, mark = inner["items"], f"{mark}[]"
        yield from _rows(inner, here + mark)


def _type(schema: Schema) -> str:
    if "enum" in schema:
        return " or ".join(f"`{value}`" for value in schema["enum"])
    if "x-kubernetes-int-or-string" in schema:
        pattern = schema["pattern"]
        return "quantity" if pattern == QUANTITY_PATTERN else f"number, `{pattern}`"
    if "items" in schema:
        name = f"list of {_type(schema['items'])}"
    elif "additionalProperties" in schema:
        name = f"map to {_type(schema['additionalProperties'])}"
    else:
        name = str(schema["type"])
    if "pattern" in schema:
        return f"{name}, `{schema['pattern']}`"
    ranges = [
        f"{schema.get(least, 0)} to {schema[most]}{unit}"
        for least, most, unit in _RANGES
        if schema.get(most, 2**53) < 2**53 - 1
    ]
    return ", ".join([name, *ranges])


def _rules(schema: Schema) -> Iterator[str]:
    """The sentences of all rules, each once, in the order of the fields."""
    seen: set[str] = set()

    def walk(part: Schema) -> Iterator[str]:
        for rule in part.get("x-kubernetes-validations", []):
            if rule["message"] not in seen:
                seen.add(rule["message"])
                yield rule["message"]
        for below in (*part.get("properties", {}).values(), part.get("items")):
            if below:
                yield from walk(below)

    return walk(schema)
