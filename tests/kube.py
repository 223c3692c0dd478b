"""What tests against a real API server share."""

import json
import os
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from e2e.cluster.paths import REPOSITORY

CRDS = REPOSITORY / "crds"
EXAMPLES = REPOSITORY / "examples"
WHOLE_EXAMPLES = sorted(
    path for path in EXAMPLES.rglob("*.yaml") if not path.with_name("kustomization.yaml").exists()
)
"""Those that are manifests as they are, and not parts that kustomize puts together."""

Object = dict[str, Any]
"""A Kubernetes object as JSON."""


@dataclass(frozen=True)
class Answer:
    """What a program said: its exit code, and stdout and stderr together."""

    code: int
    text: str

    @property
    def ok(self) -> bool:
        return self.code == 0


@dataclass(frozen=True)
class Kubectl:
    """kubectl on the test's API server."""

    program: Path
    kubeconfig: Path

    def __call__(self, *arguments: str | Path, stdin: str | None = None) -> Answer:
        """Run it; a failure is an answer, too."""
        done = subprocess.run(
            [self.program, *arguments],
            input=stdin,
            env=os.environ | {"KUBECONFIG": str(self.kubeconfig)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=120,
        )
        return Answer(done.returncode, done.stdout)

    def must(self, *arguments: str | Path, stdin: str | None = None) -> str:
        """Run it; what it said. Raises AssertionError when it failed."""
        answer = self(*arguments, stdin=stdin)
        assert answer.ok, answer.text
        return answer.text

    def try_apply(self, manifest: Mapping[str, Any], *options: str) -> Answer:
        """What the API server says to a manifest, without keeping it."""
        return self(
            "apply", "--dry-run=server", *options, "--filename=-", stdin=json.dumps(manifest)
        )

    def get(self, kind: str, name: str, namespace: str | None = None) -> Object:
        """An object. Raises AssertionError when there is none."""
        where = [f"--namespace={namespace}"] if namespace else []
        found: Object = json.loads(self.must("get", kind, name, *where, "--output=json"))
        return found
