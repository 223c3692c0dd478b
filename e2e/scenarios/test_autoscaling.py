"""An autoscaler adds replicas under load and owns their number."""

from e2e.scenarios.load import steady_load
from e2e.scenarios.team import Team, quantized_model
from e2e.scenarios.waiting import until


def test_load_brings_more_replicas(team: Team) -> None:
    name = team.apply(
        quantized_model(
            "busy",
            serving={
                "scaling": {
                    "minReplicas": 1,
                    "maxReplicas": 2,
                    "targetCPUUtilizationPercent": 50,
                },
                "resources": {
                    "requests": {"cpu": "100m", "memory": "128Mi"},
                    "limits": {"cpu": "500m", "memory": "512Mi"},
                },
            },
        )
    )
    status = team.ready(name)["status"]
    assert status["readyReplicas"] == 1
    with steady_load(status["endpoint"]["url"], name, clients=4) as load:
        until(
            "a second replica is ready",
            lambda: team.model(name)["status"].get("readyReplicas") == 2,
            timeout=300,
        )
    assert load.failures == []
    assert team.model(name)["spec"]["serving"]["replicas"] == 2


def test_scaling_by_hand_goes_through_the_object(team: Team) -> None:
    name = team.apply(quantized_model("by-hand"))
    team.ready(name)
    team.kubectl.run(
        "scale", f"quantizedmodel/{name}", f"--namespace={team.namespace}", "--replicas=2"
    )
    until(
        "two replicas answer",
        lambda: team.model(name)["status"].get("readyReplicas") == 2,
        timeout=120,
    )
