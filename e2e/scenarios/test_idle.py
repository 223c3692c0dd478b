"""A settled cluster costs the API server no write."""

import time

from e2e.cluster.audit import AuditLog
from e2e.cluster.names import Names
from e2e.kubectl import Kubectl, conditions
from e2e.scenarios.operator import Operator
from e2e.scenarios.team import Team, quantized_model
from e2e.scenarios.waiting import until

IDLE_SECONDS = 30


def settled(kubectl: Kubectl) -> bool:
    """Whether nothing is being done about any object, and none is going away."""
    return all(
        "deletionTimestamp" not in model["metadata"]
        and conditions(model)["Reconciling"]["status"] == "False"
        for model in kubectl.find("quantizedmodels")
    )


def test_settled_objects_cause_no_writes(team: Team, operator: Operator) -> None:
    for name in ("still-gguf", "still-artifact"):
        serving = {"replicas": 1} if name == "still-gguf" else None
        team.apply(quantized_model(name, serving=serving))
    for name in ("still-gguf", "still-artifact"):
        team.ready(name)
    until("all objects are settled", lambda: settled(team.kubectl), timeout=300)
    time.sleep(2)  # the last status write is on its way into the log

    user = operator.user
    log = AuditLog(Names.of().layout.audit_log)
    mark = log.mark()
    time.sleep(IDLE_SECONDS)
    requests = [call for call in log.calls(mark) if call.user == user]
    assert any(call.resource == "leases" for call in requests), "the operator is in this log"
    writes = [call for call in requests if call.writes and call.resource != "leases"]
    assert writes == []
