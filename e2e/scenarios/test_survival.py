"""Killing the operator, a Job's pod or a serving pod at any moment changes nothing in the end."""

import time
from collections.abc import Callable

import pytest

from e2e.scenarios.operator import Operator
from e2e.scenarios.team import Team, quantized_model
from e2e.scenarios.waiting import until


def kill(team: Team, pod: str) -> None:
    team.kubectl.delete("pod", pod, team.namespace, "--grace-period=0", "--force")


def running(team: Team, name: str, component: str) -> str:
    """The name of a pod of the component that runs; empty when there is none."""
    for pod in team.pods(name, component):
        if pod["status"].get("phase") in ("Pending", "Running") and pod["spec"].get("nodeName"):
            return str(pod["metadata"]["name"])
    return ""


@pytest.mark.parametrize("component", ["resolve", "convert", "server"])
def test_a_killed_operator_changes_nothing(
    team: Team,
    operator: Operator,
    new_checkpoint: Callable[[str], str],
    component: str,
) -> None:
    """Killed while a pod of each component in turn is the newest thing there is."""
    name = team.apply(quantized_model("orphaned", source=new_checkpoint("tiny-llama")))
    until(f"a {component} pod", lambda: team.pods(name, component), timeout=300, every=0.2)
    operator.kill(operator.leader())
    team.ready(name)
    assert team.answer(name)
    assert len(team.jobs(name, "convert")) == 1


@pytest.mark.parametrize("component", ["resolve", "convert"])
def test_a_killed_job_pod_changes_nothing(
    team: Team, new_checkpoint: Callable[[str], str], component: str
) -> None:
    name = team.apply(quantized_model("interrupted", source=new_checkpoint("tiny-llama")))
    kill(team, until(f"a {component} pod", lambda: running(team, name, component), timeout=300))
    team.ready(name)
    assert team.answer(name)


def test_a_killed_serving_pod_is_replaced(team: Team) -> None:
    name = team.apply(quantized_model("bereaved"))
    team.ready(name)
    (old,) = (pod["metadata"]["name"] for pod in team.pods(name, "server"))
    kill(team, old)
    until("another pod", lambda: old not in _names(team, name) and _names(team, name), timeout=60)
    team.ready(name)
    assert team.answer(name)


def test_the_other_replica_takes_over(
    team: Team, operator: Operator, record_property: Callable[[str, object], None]
) -> None:
    """The leader dies without a word; how long nobody worked goes into the report."""
    leader = operator.leader()
    began = time.monotonic()
    operator.kill(leader)
    name = team.apply(quantized_model("orphan", serving=None))
    until("a Job for the new object", lambda: team.jobs(name, "resolve"), timeout=120, every=0.2)
    gap = time.monotonic() - began
    record_property("failover_seconds", round(gap, 1))
    print(f"failover: {gap:.1f} s from the leader's end to the next object's Job")
    assert operator.leader() != leader
    team.ready(name)


def _names(team: Team, name: str) -> set[str]:
    return {pod["metadata"]["name"] for pod in team.pods(name, "server")}
