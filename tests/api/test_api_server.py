"""What the API server makes of the CRDs: columns, short names, the scale subresource."""

import json

import pytest
from quantop.api.base import API_VERSION

from tests.api.manifests import GOOD, good
from tests.kube import Kubectl, Object

STATUS: Object = {
    "observedGeneration": 1,
    "conditions": [
        {
            "type": "Ready",
            "status": "True",
            "observedGeneration": 1,
            "lastTransitionTime": "2026-01-01T00:00:00Z",
            "reason": "Answering",
            "message": "It answers.",
        }
    ],
    "artifact": {
        "key": "0" * 64,
        "uri": "s3://artifacts/0",
        "sizeBytes": 2684192,
        "sourceSizeBytes": 8397400,
        "bitsPerWeight": "5.11",
        "format": "GGUF",
        "precision": "Q4_K_M",
        "quantizer": "llama-cpp",
        "quantizerImage": "registry.example.com/toolchain:1",
    },
    "quality": {"protocol": "windows-v1", "perplexity": "48.31", "increasePercent": "0.4"},
    "endpoint": {"url": "http://good.test.svc", "protocol": "OpenAI", "modelName": "good"},
    "replicas": 3,
    "readyReplicas": 2,
    "selector": "quantop.dev/model=good",
}


@pytest.fixture
def model(kubectl: Kubectl, namespace: str) -> str:
    """A QuantizedModel with a whole status; its namespace."""
    manifest = good("QuantizedModel", namespace)
    kubectl.must("create", "--filename=-", stdin=json.dumps(manifest))
    status = {"apiVersion": API_VERSION, "kind": "QuantizedModel", "status": STATUS}
    patch = json.dumps(status | {"metadata": {"name": "good", "namespace": namespace}})
    kubectl.must("apply", "--server-side", "--subresource=status", "--filename=-", stdin=patch)
    return namespace


def table(text: str) -> dict[str, str]:
    """The one row of a kubectl table, by column. Cells are told apart by two spaces or more."""
    head, row = text.splitlines()
    names = head.split()
    starts = [head.index(name) for name in names]
    ends = [*starts[1:], None]
    return {name: row[a:b].strip() for name, a, b in zip(names, starts, ends, strict=True)}


def test_columns(kubectl: Kubectl, model: str) -> None:
    found = table(kubectl.must("get", "qm", "--namespace", model))
    age = found.pop("AGE")
    assert age.endswith("s")
    assert found == {
        "NAME": "good",
        "PRESET": "",
        "FORMAT": "GGUF",
        "PRECISION": "Q4_K_M",
        "MADE": "Q4_K_M",
        "READY": "True",
        "REASON": "Answering",
        "REPLICAS": "2",
    }


def test_a_preset_and_what_it_made_are_shown(kubectl: Kubectl, model: str) -> None:
    recipe = {"presetName": "mobile"} | dict.fromkeys(GOOD["QuantizedModel"]["quantization"])
    patch = json.dumps({"spec": {"quantization": recipe}})
    kubectl.must("patch", "qm/good", "--namespace", model, "--type=merge", f"--patch={patch}")
    found = table(kubectl.must("get", "qm", "--namespace", model))
    shown = {name: found[name] for name in ("PRESET", "FORMAT", "PRECISION", "MADE")}
    assert shown == {"PRESET": "mobile", "FORMAT": "", "PRECISION": "", "MADE": "Q4_K_M"}


def test_wide_columns(kubectl: Kubectl, model: str) -> None:
    found = table(kubectl.must("get", "qm", "--namespace", model, "--output=wide"))
    expected = {
        "BYTES": "2684192",
        "BITS": "5.11",
        "PERPLEXITY": "48.31",
        "INCREASE%": "0.4",
        "URL": "http://good.test.svc",
        "MESSAGE": "It answers.",
    }
    assert found.items() >= expected.items()


def test_the_category_shows_it(kubectl: Kubectl, model: str) -> None:
    assert "quantizedmodel.quantop.dev/good" in kubectl.must(
        "get", "quantop", "--namespace", model, "--output=name"
    )


def test_it_waits_as_kubernetes_own_kinds_do(kubectl: Kubectl, model: str) -> None:
    kubectl.must("wait", "qm/good", "--namespace", model, "--for=condition=Ready", "--timeout=5s")


def test_scale(kubectl: Kubectl, model: str) -> None:
    """What an autoscaler reads and writes."""
    path = f"/apis/{API_VERSION}/namespaces/{model}/quantizedmodels/good/scale"
    scale = json.loads(kubectl.must("get", "--raw", path))
    assert scale["spec"] == {"replicas": 1}
    assert scale["status"] == {"replicas": 3, "selector": "quantop.dev/model=good"}

    kubectl.must("scale", "qm/good", "--namespace", model, "--replicas=2")
    stored = kubectl.get("qm", "good", model)
    assert stored["spec"]["serving"]["replicas"] == 2
    assert stored["spec"]["serving"]["scaling"] == {
        "minReplicas": 1,
        "maxReplicas": 3,
        "targetCPUUtilizationPercent": 80,
    }
    assert stored["status"]["readyReplicas"] == 2, "scaling leaves the status alone"


def test_status_is_not_written_with_the_spec(kubectl: Kubectl, namespace: str) -> None:
    manifest = good("QuantizedModel", namespace) | {"status": STATUS}
    kubectl.must("create", "--filename=-", stdin=json.dumps(manifest))
    assert "status" not in kubectl.get("qm", "good", namespace)


def test_a_condition_of_a_type_comes_once(kubectl: Kubectl, model: str) -> None:
    twice = {"status": {"conditions": STATUS["conditions"] * 2}}
    answer = kubectl(
        "patch", "qm/good", "--namespace", model, "--type=merge", "--subresource=status",
        f"--patch={json.dumps(twice)}",
    )  # fmt: skip
    assert not answer.ok
    assert "Duplicate value" in answer.text
