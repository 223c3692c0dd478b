"""kubectl, typed: JSON objects in, JSON objects out.

The cluster is whatever kubectl itself would talk to: run below `e2e/cluster/exec` for the local
one, or with a kubeconfig of yours.
"""

import json
import subprocess
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Object = dict[str, Any]
"""A Kubernetes object as JSON."""

FIELD_MANAGER = "quantop-e2e"


class KubectlError(Exception):
    """kubectl failed; the message is its own."""


@dataclass(frozen=True)
class Kubectl:
    """A kubectl, optionally as somebody else (`--as`)."""

    program: str = "kubectl"
    user: str = ""

    def run(self, *arguments: str, stdin: str | None = None, timeout: float = 120) -> str:
        """Run kubectl and return what it printed.

        Raises:
            KubectlError: it failed, or took longer than `timeout` seconds.
        """
        impersonation = [f"--as={self.user}"] if self.user else []
        try:
            done = subprocess.run(
                [self.program, *impersonation, *arguments],
                input=stdin,
                capture_output=True,
                text=True,
                timeout=timeout,
            )
        except subprocess.TimeoutExpired as error:
            raise KubectlError(f"kubectl {' '.join(arguments)}: no end in {timeout} s") from error
        if done.returncode:
            raise KubectlError(f"{done.stderr.strip()}\n{done.stdout.strip()}".strip())
        return done.stdout

    def get(self, kind: str, name: str, namespace: str = "") -> Object | None:
        """An object, or None when there is none."""
        text = self.run(
            "get", kind, name, *_in(namespace), "--ignore-not-found", "--output=json"
        ).strip()
        return json.loads(text) if text else None

    def find(self, kind: str, namespace: str = "", selector: str = "") -> list[Object]:
        """The objects of a kind, in all namespaces unless one is named."""
        where = _in(namespace) or ["--all-namespaces"]
        chosen = [f"--selector={selector}"] if selector else []
        items: list[Object] = json.loads(self.run("get", kind, *where, *chosen, "--output=json"))[
            "items"
        ]
        return items

    def apply(self, *objects: Mapping[str, Any]) -> None:
        """Server-side apply. Raises KubectlError with the API server's refusal."""
        items = {"apiVersion": "v1", "kind": "List", "items": objects}
        self._apply("-", json.dumps(items))

    def apply_path(self, path: Path) -> None:
        """Server-side apply of a manifest or of a folder of them."""
        self._apply(str(path))

    def _apply(self, source: str, stdin: str | None = None) -> None:
        self.run(
            "apply",
            "--server-side",
            "--force-conflicts",
            f"--field-manager={FIELD_MANAGER}",
            f"--filename={source}",
            stdin=stdin,
        )

    def patch(self, kind: str, name: str, namespace: str, body: Mapping[str, Any]) -> None:
        """JSON merge patch: None removes a field."""
        self.run(
            "patch", kind, name, *_in(namespace), "--type=merge", f"--patch={json.dumps(body)}"
        )

    def delete(self, kind: str, name: str, namespace: str = "", *extra: str) -> None:
        """Delete an object, if it is there, and wait until it is gone."""
        self.run(
            "delete", kind, name, *_in(namespace), "--ignore-not-found", "--wait", *extra,
            timeout=300,
        )  # fmt: skip

    def logs(self, namespace: str, pod: str, container: str, lines: int = 20) -> str:
        """The last lines of a container's log, of its last run when it runs no more."""
        return self.run("logs", pod, *_in(namespace), f"--container={container}", f"--tail={lines}")

    def events(self, namespace: str, name: str) -> list[Object]:
        """The events about an object of this name, oldest first."""
        found = self.find("events", namespace)
        about = [event for event in found if event["involvedObject"]["name"] == name]
        return sorted(about, key=lambda event: event["metadata"]["creationTimestamp"])

    def can(self, verb: str, resource: str, namespace: str = "") -> bool:
        """Whether the user may do this (`kubectl auth can-i`)."""
        where = _in(namespace) or ["--all-namespaces"]
        try:
            return self.run("auth", "can-i", verb, resource, *where).strip() == "yes"
        except KubectlError as error:
            if str(error).splitlines()[-1] == "no":
                return False
            raise


def _in(namespace: str) -> list[str]:
    return [f"--namespace={namespace}"] if namespace else []


def key(item: Object) -> str:
    """NAMESPACE/NAME of an object."""
    metadata = item["metadata"]
    return f"{metadata.get('namespace', '')}/{metadata['name']}"


def conditions(item: Object) -> dict[str, Object]:
    """An object's conditions by type."""
    return {each["type"]: each for each in item.get("status", {}).get("conditions", [])}


def is_true(item: Object, condition: str) -> bool:
    """Whether a condition is True and was computed from the object's present spec."""
    found = conditions(item).get(condition, {})
    return (
        found.get("status") == "True"
        and found.get("observedGeneration", 0) >= item["metadata"]["generation"]
    )


def restarts(pods: Iterable[Object]) -> int:
    """How often the containers of these pods were restarted."""
    return sum(
        status["restartCount"]
        for pod in pods
        for status in pod.get("status", {}).get("containerStatuses", [])
    )
