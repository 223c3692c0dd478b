"""Two replicas: one works, the other takes over."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from kubernetes import client

from e2e.cluster.controlplane import ControlPlane
from tests.operator import objects
from tests.operator.conftest import Cluster, Operator, free_ports


@pytest.fixture
def standby(
    plane: ControlPlane, cluster: Cluster, operator: Operator, tmp_path: Path
) -> Iterator[Operator]:
    cluster.wait("the first leads", operator.leads)
    standby = Operator(plane, tmp_path / "standby.log", "replica-b", free_ports())
    standby.start()
    yield standby
    if standby.running:
        standby.stop()


def test_the_standby_writes_nothing_and_takes_over_from_a_killed_leader(
    cluster: Cluster, operator: Operator, standby: Operator, namespace: str
) -> None:
    cluster.apply(objects.model(namespace))
    cluster.wait_for(namespace, "tiny", "Ready")
    assert not standby.leads()
    assert "applied" not in standby.log.read_text()
    operator.kill()
    cluster.apply(objects.model(namespace, "after"))
    cluster.wait_for(namespace, "after", "Ready")
    assert standby.leads()


def test_a_leader_that_is_told_to_end_hands_over(
    cluster: Cluster, operator: Operator, standby: Operator, namespace: str
) -> None:
    """The Lease is given up, so that nobody has to wait for its end."""
    leases = client.CoordinationV1Api(cluster.core.api_client)

    def holder() -> str:
        lease = leases.read_namespaced_lease("quantop-operator", "quantop-system")
        return lease.spec.holder_identity or ""

    assert holder() == "replica-a"
    assert operator.stop() == 0
    assert holder() != "replica-a"
    cluster.wait("the standby leads", standby.leads)
    assert holder() == "replica-b"
