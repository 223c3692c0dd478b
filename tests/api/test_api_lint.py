"""The API's house rules, held against the CRDs. Each test lists what breaks its rule."""

import re
from collections.abc import Iterator

import pytest
from quantop.api.crds import CATEGORY, crds
from quantop.api.kinds import QUANTIZED_MODEL

from tests.kube import Object

CRDS = crds()
QUANTITY = "x-kubernetes-int-or-string"


def walk(schema: Object, path: str) -> Iterator[tuple[str, Object]]:
    """Every schema below one, with its path, itself included."""
    yield path, schema
    for name, part in schema.get("properties", {}).items():
        yield from walk(part, f"{path}.{name}")
    if "items" in schema:
        yield from walk(schema["items"], f"{path}[]")
    if "additionalProperties" in schema:
        yield from walk(schema["additionalProperties"], f"{path}.*")


def ours(crd: Object) -> Iterator[tuple[str, Object]]:
    """The schemas of spec and status: the rest is Kubernetes' own."""
    root = crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
    for name in ("spec", "status"):
        if name in root["properties"]:
            yield from walk(root["properties"][name], f"{crd['spec']['names']['kind']}.{name}")


PARTS = [part for crd in CRDS for part in ours(crd)]


def of_type(name: str) -> list[tuple[str, Object]]:
    found = [(path, schema) for path, schema in PARTS if schema.get("type") == name]
    assert found
    return found


def test_the_walk_sees_all() -> None:
    """Fields at the ends of every way down, so that the tests below look at something."""
    paths = {path for path, _ in PARTS}
    assert {
        "QuantizedModel.spec.serving.resources.limits.*",
        "QuantizedModel.status.conditions[].message",
        "ModelStore.spec.allowedNamespaces.matchLabels.*",
        "Quantizer.spec.precisions[].methods[].calibration",
        "ModelRuntime.spec.probes.startup.periodSeconds",
    } <= paths


def test_everything_has_a_type() -> None:
    assert not [path for path, schema in PARTS if "type" not in schema and QUANTITY not in schema]


def test_there_are_no_floats() -> None:
    """They round differently in different clients: decimals are strings."""
    formats = ("float", "double")
    assert not [path for path, schema in PARTS if schema.get("type") == "number"]
    assert not [path for path, schema in PARTS if schema.get("format") in formats]


def test_there_are_no_booleans() -> None:
    """A third choice always comes: enums."""
    assert not [path for path, schema in PARTS if schema.get("type") == "boolean"]


def test_there_is_no_phase() -> None:
    assert not [path for path, _ in PARTS if path.lower().endswith("phase")]


def test_names_are_camel_case() -> None:
    names = [name for _, schema in PARTS for name in schema.get("properties", {})]
    assert not [name for name in names if not re.fullmatch(r"[a-z][a-zA-Z0-9]*", name)]


def test_every_field_says_what_it_is() -> None:
    fields = {path: s.get("description", "") for path, s in PARTS if path[-1] not in "]*"}
    assert not [path for path, text in fields.items() if not text.endswith((".", ":"))]
    assert not [path for path, text in fields.items() if "``" in text or "\n" in text]


def test_strings_are_bounded() -> None:
    bounds = {"enum", "maxLength", "format"}
    assert not [path for path, schema in of_type("string") if not bounds & schema.keys()]


def test_integers_are_bounded() -> None:
    """And exact in every JSON reader."""
    for path, schema in of_type("integer"):
        assert {"minimum", "maximum"} <= schema.keys(), path
        assert schema["minimum"] <= schema["maximum"] <= 2**53 - 1, path


def test_lists_are_bounded_and_say_how_they_merge() -> None:
    for path, schema in of_type("array"):
        assert schema.get("maxItems"), path
        assert schema["x-kubernetes-list-type"] in ("atomic", "set", "map"), path
        keys = set(schema.get("x-kubernetes-list-map-keys", []))
        assert keys <= set(schema["items"].get("required", [])), path
        assert bool(keys) == (schema["x-kubernetes-list-type"] == "map"), path


def test_objects_have_fields_or_are_bounded_maps() -> None:
    for path, schema in of_type("object"):
        assert ("properties" in schema) != ("additionalProperties" in schema), path
        assert "properties" in schema or schema.get("maxProperties"), path
        assert "x-kubernetes-preserve-unknown-fields" not in schema, path


def test_quantities_are_bounded_text_or_whole_numbers() -> None:
    found = [(path, schema) for path, schema in PARTS if QUANTITY in schema]
    assert found
    bounds = {"maxLength", "pattern", "minimum", "maximum"}
    assert not [path for path, schema in found if not bounds <= schema.keys() or "type" in schema]


def test_status_has_no_defaults() -> None:
    """What was not observed is absent."""
    assert not [path for path, schema in PARTS if ".status" in path and "default" in schema]


@pytest.mark.parametrize("crd", CRDS, ids=lambda crd: crd["metadata"]["name"])
def test_names(crd: Object) -> None:
    names = crd["spec"]["names"]
    assert crd["metadata"]["name"] == f"{names['plural']}.quantop.dev"
    assert names["plural"] == names["kind"].lower() + "s"
    assert CATEGORY in names["categories"]
    namespaced = names["kind"] == QUANTIZED_MODEL.name
    assert crd["spec"]["scope"] == ("Namespaced" if namespaced else "Cluster")


def test_short_names() -> None:
    found = {crd["spec"]["names"]["kind"]: crd["spec"]["names"].get("shortNames") for crd in CRDS}
    assert found["QuantizedModel"] == ["qm"]
    assert found["ModelStore"] == ["mstore"]


def test_conditions_are_a_map_list() -> None:
    """Keyed by type, so that several writers can each own theirs."""
    conditions = dict(PARTS)["QuantizedModel.status.conditions"]
    assert conditions["x-kubernetes-list-type"] == "map"
    assert conditions["x-kubernetes-list-map-keys"] == ["type"]
    fields = {"type", "status", "observedGeneration", "lastTransitionTime", "reason", "message"}
    assert set(conditions["items"]["properties"]) == fields
    assert fields - {"observedGeneration"} <= set(conditions["items"]["required"])


def test_status_is_a_subresource() -> None:
    model = next(crd for crd in CRDS if crd["spec"]["names"]["kind"] == "QuantizedModel")
    assert set(model["spec"]["versions"][0]["subresources"]) == {"status", "scale"}
