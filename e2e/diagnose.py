"""Why a QuantizedModel is not Ready: its conditions, events, and the log of what failed."""

from collections.abc import Iterator

from e2e.kubectl import Kubectl, KubectlError, Object, conditions

MODEL_LABEL = "quantop.dev/model"
LOG_LINES = 20


def diagnose(kubectl: Kubectl, namespace: str, name: str) -> Iterator[str]:
    """Lines for a person who has to find out what went wrong."""
    yield f"--- {namespace}/{name}"
    model = kubectl.get("quantizedmodel", name, namespace)
    if model is None:
        yield "there is no such QuantizedModel"
        return
    for kind, found in conditions(model).items():
        yield f"{kind}={found['status']} {found['reason']}: {found['message']}"
    pods = kubectl.find("pods", namespace, f"{MODEL_LABEL}={name}")
    jobs = kubectl.find("jobs", namespace, f"{MODEL_LABEL}={name}")
    yield from _events(kubectl, namespace, name)
    for job in jobs:
        yield from _events(kubectl, namespace, job["metadata"]["name"], warnings=True)
    for pod in pods:
        yield from why_not_running(kubectl, pod)


def why_not_running(kubectl: Kubectl, pod: Object) -> Iterator[str]:
    """A pod's warnings, and the log tails of its containers that failed or are not ready."""
    namespace, name = pod["metadata"]["namespace"], pod["metadata"]["name"]
    yield from _events(kubectl, namespace, name, warnings=True)
    for container in unfinished_containers(pod):
        yield f"log of {name}, container {container}:"
        yield from _log(kubectl, namespace, name, container)


def unfinished_containers(pod: Object) -> list[str]:
    """The containers of a pod that failed or are not ready; waiting ones have no log."""
    status = pod.get("status", {})
    names = []
    for each in [*status.get("initContainerStatuses", []), *status.get("containerStatuses", [])]:
        finished = each["state"].get("terminated", {}).get("exitCode") == 0
        restarted = each["restartCount"] > 0
        if restarted or not (finished or each["ready"] or "waiting" in each["state"]):
            names.append(each["name"])
    return names


def _events(kubectl: Kubectl, namespace: str, name: str, warnings: bool = False) -> Iterator[str]:
    for event in kubectl.events(namespace, name):
        if event["type"] == "Warning" or not warnings:
            yield f"event on {name}: {event['type']} {event['reason']}: {event['message']}"


def _log(kubectl: Kubectl, namespace: str, pod: str, container: str) -> Iterator[str]:
    try:
        yield from kubectl.logs(namespace, pod, container, LOG_LINES).splitlines()
    except KubectlError as error:
        yield f"no log: {error}"
