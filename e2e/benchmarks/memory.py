"""The operator's memory with many objects."""

from e2e.benchmarks.figures import Figure
from e2e.kubectl import Kubectl
from e2e.scenarios.operator import Operator
from e2e.scenarios.team import Team, quantized_model
from e2e.scenarios.waiting import until

OBJECTS = 100
MIB = 1024 * 1024


def measure(kubectl: Kubectl, team: Team) -> list[Figure]:
    """Apply objects that share one stored artifact, wait for all, and read the leader's metrics."""
    operator = Operator(kubectl)
    before = resident_bytes(kubectl, operator.leader())
    team.apply(quantized_model("memory-warm", serving=None))
    team.ready("memory-warm")
    models = [quantized_model(f"memory-{n:03}", serving=None) for n in range(OBJECTS)]
    for model in models:
        model["metadata"]["namespace"] = team.namespace
    kubectl.apply(*models)

    def ready() -> bool:
        return sum(
            model.get("status", {}).get("artifact") is not None
            for model in kubectl.find("quantizedmodels", team.namespace)
        ) >= len(models)

    until(f"{OBJECTS} objects have their artifact", ready, timeout=1800, every=5)
    after = resident_bytes(kubectl, operator.leader())
    return [
        Figure(
            f"the operator's RSS with {OBJECTS} objects",
            f"{after / MIB:.0f} MiB",
            "200 MiB",
            f"{before / MIB:.0f} MiB before them",
        )
    ]


def resident_bytes(kubectl: Kubectl, pod: str) -> int:
    """A pod's resident memory in bytes, as its own metrics say."""
    path = f"/api/v1/namespaces/quantop-system/pods/{pod}:9090/proxy/metrics"
    metrics = kubectl.run("get", "--raw", path)
    (value,) = (
        line.split()[1]
        for line in metrics.splitlines()
        if line.startswith("process_resident_memory_bytes ")
    )
    return int(float(value))
