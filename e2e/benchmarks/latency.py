"""How long the operator takes: from ``kubectl apply`` to the Job, from a stored artifact to Ready.

Times of requests are the API server's own, from its audit log, to the microsecond. What the kubelet
reports of a pod has whole seconds.
"""

import secrets
import statistics
from collections.abc import Iterable
from datetime import datetime

from e2e.benchmarks.figures import Figure
from e2e.cluster.audit import AuditLog, Call
from e2e.cluster.names import Names
from e2e.kubectl import Kubectl, Object
from e2e.scenarios.team import Team, quantized_model

ROUNDS = 5


def measure(kubectl: Kubectl, team: Team) -> list[Figure]:
    """Apply objects whose artifact is in the store already, one after the other."""
    log = AuditLog(Names.of().layout.audit_log)
    team.apply(quantized_model("latency-warm", serving=None))
    team.ready("latency-warm")
    to_job: list[float] = []
    to_ready: list[float] = []
    for _ in range(ROUNDS):
        mark = log.mark()
        name = team.apply(quantized_model(f"latency-{secrets.token_hex(3)}"))
        team.ready(name)
        (pod,) = team.pods(name, "server")
        calls = [call for call in log.calls(mark) if call.namespace == team.namespace]
        applied = _time(first(calls, "quantizedmodels", name))
        to_job.append(_time(first(calls, "jobs", f"{name}-resolve-")) - applied)
        ready = _time(last(calls, "quantizedmodels/status", name))
        resolved = _resolved(kubectl, team, name)
        to_ready.append(ready - resolved - _engine_seconds(pod))
        kubectl.delete("quantizedmodel", name, team.namespace)
    rounds = f"median of {ROUNDS}"
    return [
        Figure("apply -> Job created", f"{statistics.median(to_job):.3f} s", "", rounds),
        Figure(
            "artifact known -> Ready, less the engine's own start",
            f"{statistics.median(to_ready):.1f} s",
            "5 s",
            f"{rounds}; pod times have whole seconds",
        ),
    ]


def first(calls: Iterable[Call], resource: str, name: str) -> Call:
    """The first write about an object whose name begins so."""
    return next(c for c in calls if c.writes and c.resource == resource and _named(c, name))


def last(calls: Iterable[Call], resource: str, name: str) -> Call:
    """The last write about an object whose name begins so."""
    return [c for c in calls if c.writes and c.resource == resource and _named(c, name)][-1]


def _named(call: Call, name: str) -> bool:
    return call.name.startswith(name)


def _time(call: Call) -> float:
    return datetime.fromisoformat(call.received).timestamp()


def _resolved(kubectl: Kubectl, team: Team, name: str) -> float:
    """When the resolve Job's container ended: from then on the artifact is known."""
    (pod,) = team.pods(name, "resolve")
    (container,) = pod["status"]["containerStatuses"]
    return datetime.fromisoformat(container["state"]["terminated"]["finishedAt"]).timestamp()


def _engine_seconds(pod: Object) -> float:
    """From the engine's start to the pod's readiness."""
    (container,) = pod["status"]["containerStatuses"]
    began = datetime.fromisoformat(container["state"]["running"]["startedAt"])
    (ready,) = (c for c in pod["status"]["conditions"] if c["type"] == "Ready")
    return (datetime.fromisoformat(ready["lastTransitionTime"]) - began).total_seconds()
