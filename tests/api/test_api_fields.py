"""Unknown fields are refused, and defaults mean the same to the API server and to the operator."""

import copy
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from quantop.api.kinds import KINDS, Kind

from tests.api.manifests import GOOD, good, put
from tests.kube import EXAMPLES, WHOLE_EXAMPLES, Kubectl, Object

UNKNOWN = "replicass"
OTHERS_KINDS = {EXAMPLES / "gitops", EXAMPLES / "prometheus-rules.yaml"}
EXAMPLE_FILES = [path for path in WHOLE_EXAMPLES if not {path, path.parent} & OTHERS_KINDS]
MAPS = {"requests", "limits", "matchLabels", "nodeSelector"}


def objects(value: object, path: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:
    """Paths of all objects with named fields inside ``value``, itself included."""
    if isinstance(value, dict) and (not path or path[-1] not in MAPS):
        yield path
        for key, part in value.items():
            yield from objects(part, (*path, key))
    elif isinstance(value, list):
        for place, part in enumerate(value):
            yield from objects(part, (*path, place))


def misspelt(kind: str, path: tuple[str | int, ...]) -> Object:
    manifest = good(kind)
    place = manifest["spec"]
    for step in path:
        place = place[step]
    place[UNKNOWN] = 1
    return manifest


PLACES = [(kind, path) for kind, spec in GOOD.items() for path in objects(spec)]


@pytest.mark.parametrize(("kind", "path"), PLACES, ids=str)
def test_an_unknown_field_is_refused(
    kubectl: Kubectl, kind: str, path: tuple[str | int, ...]
) -> None:
    answer = kubectl.try_apply(misspelt(kind, path))
    assert not answer.ok
    assert "unknown field" in answer.text
    assert UNKNOWN in answer.text


@pytest.mark.parametrize("kind", GOOD)
@pytest.mark.parametrize("validation", ["strict", "warn", "ignore"])
def test_server_side_apply_refuses_whatever_the_client_asks_for(
    kubectl: Kubectl, kind: str, validation: str
) -> None:
    """Helm, Flux and Argo CD apply so, and the operator itself."""
    answer = kubectl.try_apply(misspelt(kind, ()), "--server-side", f"--validate={validation}")
    assert not answer.ok
    assert f".spec.{UNKNOWN}: field not declared in schema" in answer.text


def test_a_client_that_does_not_ask_is_warned(kubectl: Kubectl) -> None:
    """The limit of what a CRD can do: docs/install.md says so."""
    answer = kubectl.try_apply(misspelt("QuantizedModel", ()), "--validate=warn")
    assert answer.ok
    assert f'unknown field "spec.{UNKNOWN}"' in answer.text


@pytest.mark.parametrize(
    ("kind", "path", "value", "sentence"),
    [
        ("QuantizedModel", "spec.quantization.format", "gguf", "should match '^[A-Z]"),
        ("QuantizedModel", "spec.quantization.resources.limits.cpu", "2 cores", "should match"),
        ("QuantizedModel", "spec.quantization.resources.limits.cpu", -1, "should be greater than"),
        ("QuantizedModel", "spec.quantization.resources.limits.cpu", 0.5, "must be of type"),
        ("QuantizedModel", "spec.storage.deletionPolicy", "Keep", 'supported values: "Retain"'),
        (
            "QuantizedModel",
            "spec.quantization.auto",
            {"minimize": "Weight"},
            'supported values: "Size"',
        ),
        ("QuantizedModel", "spec.serving.replicas", 1001, "less than or equal to 1000"),
        ("ModelStore", "spec.s3.bucket", "My_Bucket", "should match"),
        ("Quantizer", "spec.precisions", [], "should have at least 1 items"),
        ("ModelRuntime", "spec.port", 80, "greater than or equal to 1024"),
        ("Preset", "spec.description", "", "should be at least 1 chars long"),
    ],
)
def test_a_value_out_of_bounds_is_refused(
    kubectl: Kubectl, kind: str, path: str, value: object, sentence: str
) -> None:
    answer = kubectl.try_apply(put(good(kind), path, value))
    assert not answer.ok
    assert sentence in answer.text
    assert path in answer.text.replace("[cpu]", ".cpu")


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_defaults_are_the_same_to_the_operator(kubectl: Kubectl, kind: Kind) -> None:
    """What the API server fills in is what pydantic would."""
    given = good(kind.name)
    answer = kubectl(
        "create", "--dry-run=server", "--output=json", "--filename=-", stdin=json.dumps(given)
    )
    assert answer.ok, answer.text
    stored = json.loads(answer.text)["spec"]
    assert stored != given["spec"], "no default was filled in: the test would prove nothing"
    assert kind.spec.model_validate(stored) == kind.spec.model_validate(given["spec"])
    ours = kind.spec.model_validate(given["spec"]).model_dump(mode="json", by_alias=True)
    assert without_nothing(stringified(stored)) == without_nothing(ours)


UNQUOTED = (
    "cpu",
    "maxPerplexityIncreasePercent",
    "maxP99KLDivergence",
    "maxTimeToFirstTokenMilliseconds",
)
"""Where the good manifests have a number in place of text."""


def stringified(value: object) -> object:
    """Whole numbers of quantities and percentages as text, as the operator reads them."""
    if not isinstance(value, dict):
        return [stringified(part) for part in value] if isinstance(value, list) else value
    return {
        key: {name: str(amount) for name, amount in part.items()}
        if key in MAPS
        else str(part)
        if key in UNQUOTED
        else stringified(part)
        for key, part in value.items()
    }


def without_nothing(value: object) -> object:
    """Without absent values, which the API server leaves out and the operator has as empty."""
    if isinstance(value, list):
        return [without_nothing(part) for part in value]
    if not isinstance(value, dict):
        return value
    parts = {key: without_nothing(part) for key, part in value.items()}
    return {key: part for key, part in parts.items() if part is not None and part not in ({}, [])}


@pytest.mark.parametrize("file", EXAMPLE_FILES, ids=lambda file: file.name)
def test_an_example_is_taken(kubectl: Kubectl, namespace: str, file: Path) -> None:
    """By the API server, and by the types."""
    kinds = {kind.name: kind for kind in KINDS}
    for document in yaml.safe_load_all(file.read_text()):
        if kind := kinds.get(document["kind"]):
            kind.spec.model_validate(document["spec"])
        placed = copy.deepcopy(document)
        if "namespace" in placed["metadata"]:
            placed["metadata"]["namespace"] = namespace
        answer = kubectl.try_apply(placed)
        assert answer.ok, answer.text


def test_the_variants_are_objects_of_one_source(kubectl: Kubectl, namespace: str) -> None:
    """As `kubectl apply -k` puts them together."""
    whole = kubectl.must("kustomize", EXAMPLES / "variants")
    models = [each for each in yaml.safe_load_all(whole) if each["kind"] == "QuantizedModel"]
    targets = [each["spec"]["quantization"]["presetName"] for each in models]
    assert len(set(targets)) == len(targets) == 3
    for model in models:
        assert model["spec"]["source"] == models[0]["spec"]["source"]
        assert model["metadata"]["labels"] == {"app.kubernetes.io/part-of": "assistant"}
        model["metadata"]["namespace"] = namespace
        answer = kubectl.try_apply(model)
        assert answer.ok, answer.text


def test_there_are_examples() -> None:
    assert len(EXAMPLE_FILES) >= 6
