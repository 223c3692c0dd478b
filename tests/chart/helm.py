"""helm, typed."""

import json
import os
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from e2e.cluster import toolchain
from e2e.cluster.paths import REPOSITORY
from tests.kube import Answer, Object

CHART = REPOSITORY / "charts" / "quantop"
RELEASE = "quantop"
NAMESPACE = "quantop-system"
DIGEST = "sha256:" + "0123456789abcdef" * 4

EVERYTHING: Object = {
    "monitoring": {
        "podMonitors": {"enabled": True, "labels": {"release": "prometheus"}},
        "prometheusRules": {"enabled": True, "labels": {"release": "prometheus"}},
    },
    "networkPolicies": {
        "enabled": True,
        "namespaces": ["team-a", "team-b"],
        "clients": [{"namespaceSelector": {"matchLabels": {"gateway": "yes"}}}],
        "storage": [{"ipBlock": {"cidr": "10.0.0.0/8"}}],
    },
    "admission": {"requireStrictFields": True},
    "store": {
        "create": True,
        "spec": {
            "s3": {"bucket": "artifacts"},
            "credentials": {"writerSecretName": "writer", "readerSecretName": "reader"},
        },
    },
    "registry": {
        "enabled": True,
        "readerSecretName": "reader",
        "serviceAccountAnnotations": {"e": "f"},
        "namespaces": ["team-a", "team-b"],
        "clients": [{"namespaceSelector": {"matchLabels": {"pulls": "yes"}}}],
        "weights": "Proxy",
        "publicEndpoint": "https://s3.example.com",
    },
    "crds": {"keep": False},
    "images": {"pullSecrets": ["registry"], "registry": "registry.example.com/team"},
    "operator": {
        "hubEndpoint": "https://hub.example.com",
        "env": {"QUANTOP_LEASE_SECONDS": 10},
        "nodeSelector": {"pool": "system"},
        "tolerations": [{"operator": "Exists"}],
        "affinity": {"nodeAffinity": {}},
        "priorityClassName": "system-cluster-critical",
        "podAnnotations": {"a": "b"},
        "podLabels": {"c": "d"},
        "resources": {"limits": {"memory": "512Mi"}},
    },
    "serviceAccount": {"name": "operator", "annotations": {"e": "f"}},
}
"""Values that turn every switch on."""


@dataclass(frozen=True)
class Helm:
    """helm, as a rule on the repository's chart."""

    kubeconfig: Path | None = None

    def __call__(self, *arguments: str, values: Object | None = None) -> Answer:
        """Run it; ``values`` go in as a file. A failure is an answer, too."""
        given = ["--values=-"] if values is not None else []
        environment = os.environ | {"KUBECONFIG": str(self.kubeconfig or "/nonexistent")}
        done = subprocess.run(
            [toolchain.binary("helm"), *arguments, *given],
            input=json.dumps(values),
            env=environment,
            capture_output=True,
            text=True,
            timeout=120,
        )
        return Answer(done.returncode, done.stdout if done.returncode == 0 else done.stderr)

    def text(self, values: Object | None = None, *options: str) -> str:
        """The rendered manifests. Raises AssertionError when the chart refuses."""
        answer = self(
            "template", RELEASE, str(CHART), f"--namespace={NAMESPACE}", *options,
            values=values or {},
        )  # fmt: skip
        assert answer.ok, answer.text
        return answer.text

    def render(self, values: Object | None = None, *options: str) -> "Rendered":
        """The rendered manifests, read. Raises AssertionError when the chart refuses."""
        documents = yaml.safe_load_all(self.text(values, *options))
        return Rendered([document for document in documents if document])


@dataclass(frozen=True)
class Rendered:
    """Rendered manifests."""

    objects: list[Object]

    def of(self, kind: str) -> list[Object]:
        """All of a kind."""
        return [found for found in self.objects if found["kind"] == kind]

    def one(self, kind: str, name: str | None = None) -> Object:
        """The one of a kind, and of a name where one is given."""
        found = [o for o in self.of(kind) if name in (None, o["metadata"]["name"])]
        assert len(found) == 1, [o["metadata"]["name"] for o in self.of(kind)]
        return found[0]

    def names(self, kind: str) -> set[str]:
        return {found["metadata"]["name"] for found in self.of(kind)}

    def pods(self) -> Iterator[Object]:
        """The pod templates of Deployments and Jobs."""
        for workload in (*self.of("Deployment"), *self.of("Job")):
            yield workload["spec"]["template"]

    def operator(self) -> Any:
        """The operator's container."""
        return self.one("Deployment", "quantop")["spec"]["template"]["spec"]["containers"][0]


def merged(base: Object, over: Object) -> Object:
    """``over`` on ``base``, map by map, as helm merges values."""
    result = dict(base)
    for key, value in over.items():
        both = isinstance(value, dict) and isinstance(result.get(key), dict)
        result[key] = merged(result[key], value) if both else value
    return result
