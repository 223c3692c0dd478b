"""What the pods of a Job or a Deployment say, in words."""

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from quantop.builders.meta import Manifest
from quantop.contract import ExitCode, Stage
from quantop.reasons import Reason
from quantop.reconcile.snapshot import Problem

CONFIG_ERRORS = {"CreateContainerConfigError", "CreateContainerError"}
NOT_YET = "failed to sync "
"""How kubelet begins to say that it has not read a Secret or ConfigMap yet. It tries again."""
IMAGE_ERRORS = {"ErrImagePull", "ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull"}


@dataclass(frozen=True)
class Termination:
    """How a container last ended. ``message`` is its termination message, parsed, or empty."""

    stage: str
    exit_code: int
    reason: str
    message: dict[str, Any]
    text: str


def of_job(pods: Iterable[Manifest], job: Manifest) -> list[Manifest]:
    """The pods of a Job, the newest first.

    By its uid: those of an earlier Job of the same name may still be going, and what they said is
    not an answer to what this one asks.
    """
    uid = job["metadata"]["uid"]
    mine = [p for p in pods if _labels(p).get("batch.kubernetes.io/controller-uid") == uid]
    return sorted(mine, key=lambda p: str(p["metadata"].get("creationTimestamp")), reverse=True)


def has_ended(job: Manifest, how: str) -> bool:
    """Whether a Job is ``Complete``, or ``Failed``."""
    conditions = job.get("status", {}).get("conditions", [])
    return any(c.get("type") == how and c.get("status") == "True" for c in conditions)


def result(pods: Iterable[Manifest], stage: Stage) -> dict[str, Any] | None:
    """The termination message of a container ``stage`` that ended well, or None."""
    for pod in pods:
        for end in terminations(pod):
            if end.stage == stage and end.exit_code == ExitCode.DONE and end.message:
                return end.message
    return None


def refusal(pods: Iterable[Manifest]) -> Problem | None:
    """The Problem of a stage that refused for good, or None."""
    for pod in pods:
        for end in terminations(pod):
            if end.exit_code == ExitCode.REFUSED:
                return failure(end)
    return None


def last_failure(pods: Iterable[Manifest]) -> Problem | None:
    """The Problem of the newest container that failed in whatever way, or None."""
    for pod in pods:
        for end in terminations(pod):
            if end.exit_code != ExitCode.DONE:
                return failure(end)
    return None


def failure(end: Termination) -> Problem:
    """A failed container, in words."""
    if end.reason == "OOMKilled":
        return Problem(
            Reason.OUT_OF_MEMORY,
            f"{end.stage} was ended for using more memory than its limit: raise "
            "spec.quantization.resources.limits.memory (or spec.serving.resources for an engine).",
            end.stage,
        )
    said = end.message.get("message") or end.text.strip()[-1024:] or "it left no message"
    reason = end.message.get("reason")
    return Problem(
        reason if isinstance(reason, str) and reason.isalnum() else Reason.JOB_FAILED,
        f"{end.stage}: {said}" + ("" if end.message else f" (exit code {end.exit_code})"),
        end.stage,
    )


def crash(pods: Iterable[Manifest], name: str) -> Problem | None:
    """The Problem of a container that ended, and was started again in its pod, or None. One that
    ended with its pod is no crash."""
    for pod in pods:
        for status in _statuses(pod):
            ended = status.get("lastState", {}).get("terminated")
            if status["name"] == name and ended:
                return failure(_termination(name, ended))
    return None


def without(pods: Iterable[Manifest], name: str) -> list[Manifest]:
    """The pods as if they had no container of this name."""

    def others(pod: Manifest) -> Manifest:
        kinds = ("initContainerStatuses", "containerStatuses")
        kept = {
            kind: [
                status for status in pod.get("status", {}).get(kind, []) if status["name"] != name
            ]
            for kind in kinds
        }
        return {**pod, "status": {**pod.get("status", {}), **kept}}

    return [others(pod) for pod in pods]


def blocked(pods: Iterable[Manifest]) -> Problem | None:
    """The Problem that keeps a pod from starting until a person acts, or None."""
    for pod in pods:
        if pod["metadata"].get("deletionTimestamp"):
            continue
        for status in _statuses(pod):
            waiting = status.get("state", {}).get("waiting") or {}
            said = waiting.get("message", "")
            if waiting.get("reason") in CONFIG_ERRORS and not said.startswith(NOT_YET):
                missing = said.startswith('secret "') and said.endswith("not found")
                return Problem(
                    Reason.SECRET_NOT_FOUND if missing else Reason.CONTAINER_CONFIG_ERROR,
                    f"{status['name']}: {said}"
                    + (
                        f" in namespace {pod['metadata']['namespace']!r}: create it with the keys "
                        "that the ModelStore's or the source's documentation names."
                        if missing
                        else ""
                    ),
                )
            if waiting.get("reason") in IMAGE_ERRORS:
                return Problem(
                    Reason.IMAGE_PULL_FAILED,
                    f"{status['name']}: image {status.get('image')!r} cannot be pulled "
                    f"({waiting['reason']}): {said[:512]}",
                )
    return None


def unschedulable(pods: Iterable[Manifest]) -> str | None:
    """Why the scheduler finds no node for a pod, or None."""
    for pod in pods:
        for condition in pod.get("status", {}).get("conditions", []):
            if condition.get("type") == "PodScheduled" and condition.get("status") == "False":
                return str(condition.get("message", ""))
    return None


def running_stage(pods: Iterable[Manifest]) -> str | None:
    """The name of the container that runs now, or None."""
    for pod in pods:
        for status in _statuses(pod):
            if "running" in status.get("state", {}):
                return str(status["name"])
    return None


def is_ready(pod: Manifest) -> bool:
    """Whether a pod takes requests."""
    return not pod["metadata"].get("deletionTimestamp") and any(
        c.get("type") == "Ready" and c.get("status") == "True"
        for c in pod.get("status", {}).get("conditions", [])
    )


def terminations(pod: Manifest) -> Iterator[Termination]:
    """How the containers of a pod last ended, the current state before the one before it."""
    for status in _statuses(pod):
        for state in ("state", "lastState"):
            ended = status.get(state, {}).get("terminated")
            if ended:
                yield _termination(status["name"], ended)


def _termination(name: str, ended: Manifest) -> Termination:
    text = ended.get("message", "")
    return Termination(
        name, ended.get("exitCode", -1), ended.get("reason", ""), _parsed(text), text
    )


def _parsed(text: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}


def _statuses(pod: Manifest) -> list[Manifest]:
    status = pod.get("status", {})
    return [*status.get("initContainerStatuses", []), *status.get("containerStatuses", [])]


def _labels(pod: Manifest) -> dict[str, str]:
    labels: dict[str, str] = pod["metadata"].get("labels", {})
    return labels
