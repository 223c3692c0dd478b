"""The chart against Kubernetes' own schemas and the CRDs', by helm lint and kubeconform."""

import json
import os
import subprocess
from pathlib import Path

import pytest

from e2e.cluster import toolchain
from e2e.cluster.controlplane import ControlPlane
from e2e.cluster.paths import REPOSITORY
from tests.chart.helm import CHART, EVERYTHING, Helm
from tests.kube import WHOLE_EXAMPLES, Kubectl, Object

# prometheus-operator's kinds: their CRDs are not part of Kubernetes nor of quantop.
SKIPPED = "-skip=PodMonitor,PrometheusRule"
OURS = REPOSITORY / "docs" / "reference" / "{{ .ResourceKind }}.schema.json"


@pytest.fixture(scope="session")
def schemas(control_plane: ControlPlane, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of JSON schemas of all of Kubernetes' kinds, as this API server publishes them."""
    kubectl = Kubectl(control_plane.kubectl, control_plane.kubeconfig)
    folder = tmp_path_factory.mktemp("schemas")
    paths = json.loads(kubectl.must("get", "--raw", "/openapi/v3"))["paths"]
    for path, where in paths.items():
        if path.startswith(("api/", "apis/")):
            document = json.loads(kubectl.must("get", "--raw", where["serverRelativeURL"]))
            write_schemas(document["components"]["schemas"], folder)
    return folder


def write_schemas(components: dict[str, Object], folder: Path) -> None:
    """One file per kind; each holds all the types of its API group, which refer to each other."""
    for schema in components.values():
        if "properties" in schema:
            # kubectl refuses unknown fields, and so shall this.
            schema.setdefault("additionalProperties", False)
    for name, schema in components.items():
        for kind in schema.get("x-kubernetes-group-version-kind", []):
            file = "-".join(filter(None, [kind["kind"], kind["group"], kind["version"]])).lower()
            whole = {"$ref": f"#/components/schemas/{name}", "components": {"schemas": components}}
            (folder / f"{file}.json").write_text(json.dumps(whole))


def kubeconform(schemas: Path, manifests: str) -> tuple[bool, Object]:
    """Whether all manifests are good, and kubeconform's report."""
    ours = str(OURS)
    theirs = str(schemas / "{{ .ResourceKind }}-{{ .Group }}-{{ .ResourceAPIVersion }}.json")
    core = str(schemas / "{{ .ResourceKind }}-{{ .ResourceAPIVersion }}.json")
    done = subprocess.run(
        [
            toolchain.binary("kubeconform"), "-strict", "-summary", "-output=json", SKIPPED,
            *(f"-schema-location={place}" for place in (theirs, core, ours)),
        ],
        input=manifests, capture_output=True, text=True, timeout=120, env=dict(os.environ),
    )  # fmt: skip
    report: Object = json.loads(done.stdout)
    return done.returncode == 0, report


@pytest.mark.parametrize("values", [{}, EVERYTHING], ids=["defaults", "everything"])
def test_lint(tmp_path: Path, values: Object) -> None:
    file = tmp_path / "values.json"
    file.write_text(json.dumps(values))
    answer = Helm()("lint", "--strict", str(CHART), f"--values={file}")
    assert answer.ok, answer.text


@pytest.mark.parametrize("values", [{}, EVERYTHING], ids=["defaults", "everything"])
def test_kubeconform(schemas: Path, values: Object) -> None:
    good, report = kubeconform(schemas, Helm().text(values, "--is-upgrade"))
    assert good, report
    assert report["summary"]["valid"] >= 17
    assert report["summary"]["skipped"] == (3 if values else 0)


def test_kubeconform_takes_the_examples(schemas: Path) -> None:
    manifests = [path.read_text() for path in WHOLE_EXAMPLES]
    others = ("argoproj", "fluxcd", "monitoring.coreos.com")
    ours = [text for text in manifests if not any(other in text for other in others)]
    good, report = kubeconform(schemas, "\n---\n".join(ours))
    assert good, report
    assert report["summary"]["valid"] >= len(ours) >= 8


@pytest.mark.parametrize(
    ("manifest", "sentence"),
    [
        ({"apiVersion": "v1", "kind": "Service", "spec": {"port": 1}}, "'port' not allowed"),
        ({"apiVersion": "apps/v1", "kind": "Deployment", "spec": {"replicas": "2"}}, "replicas"),
        ({"apiVersion": "quantop.dev/v1alpha1", "kind": "Quantizer"}, "spec"),
    ],
)
def test_kubeconform_sees_faults(schemas: Path, manifest: Object, sentence: str) -> None:
    """Else its agreement would mean nothing."""
    good, report = kubeconform(schemas, json.dumps({**manifest, "metadata": {"name": "a"}}))
    assert not good
    assert sentence in json.dumps(report)
