"""Who may do what: the operator reads no Secrets, and pods get no token."""

import pytest

from e2e.kubectl import Kubectl
from e2e.scenarios.operator import Operator
from e2e.scenarios.team import Team, quantized_model


@pytest.mark.parametrize("verb", ["get", "list", "watch", "create", "update", "patch", "delete"])
@pytest.mark.parametrize("resource", ["secrets", "configmaps"])
def test_the_operator_cannot_touch_secrets(operator: Operator, verb: str, resource: str) -> None:
    assert not Kubectl(user=operator.user).can(verb, resource)
    assert not Kubectl(user=operator.user).can(verb, resource, "default")


def test_the_operator_can_do_its_work(operator: Operator) -> None:
    """The test above would hold for a user who may do nothing at all."""
    assert Kubectl(user=operator.user).can("create", "jobs.batch")
    assert Kubectl(user=operator.user).can("patch", "quantizedmodels.quantop.dev/status")


def test_pods_of_a_model_hold_no_service_account_token(team: Team) -> None:
    name = team.apply(quantized_model("tokenless"))
    team.ready(name)
    pods = team.pods(name)
    assert pods
    for pod in pods:
        volumes = [volume for volume in pod["spec"]["volumes"] if "projected" in volume]
        assert pod["spec"]["automountServiceAccountToken"] is False
        assert volumes == []


def test_engines_see_no_credentials(team: Team) -> None:
    name = team.apply(quantized_model("innocent"))
    team.ready(name)
    (pod,) = team.pods(name, "server")
    (engine,) = pod["spec"]["containers"]
    assert "envFrom" not in engine
    assert all("valueFrom" not in variable for variable in engine["env"])
