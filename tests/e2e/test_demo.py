"""What the demo says while it waits, and what it makes of the manifests and the chart."""

from pathlib import Path
from typing import Any

import pytest

from e2e.demo import MANIFESTS, Watch, look_around
from e2e.diagnose import unfinished_containers
from e2e.install import model_store
from e2e.kubectl import Kubectl, Object, is_true
from e2e.scenarios.waiting import until
from e2e.store import Store


class FakeKubectl(Kubectl):
    """Answers from a list in place of a cluster."""

    models: list[Object]

    def find(self, kind: str, namespace: str = "", selector: str = "") -> list[Object]:
        return self.models


def model(name: str, generation: int = 1, **statuses: str) -> Object:
    """A QuantizedModel whose conditions were computed from generation 1."""
    conditions = [
        {
            "type": kind,
            "status": status,
            "observedGeneration": 1,
            "reason": f"Because{kind}",
            "message": f"{kind} it is.",
        }
        for kind, status in statuses.items()
    ]
    return {
        "metadata": {"name": name, "namespace": "demo", "generation": generation},
        "status": {"conditions": conditions},
    }


def watch(*models: Object) -> Watch:
    kubectl = FakeKubectl()
    object.__setattr__(kubectl, "models", list(models))
    return Watch(kubectl, [f"demo/{each['metadata']['name']}" for each in models])


def test_a_condition_of_an_older_spec_does_not_count() -> None:
    assert is_true(model("m", generation=1, Ready="True"), "Ready")
    assert not is_true(model("m", generation=2, Ready="True"), "Ready")


def test_the_demo_waits_until_each_model_is_ready_or_stalled() -> None:
    waiting = watch(model("a", Ready="True"), model("b", Ready="False", Stalled="False"))
    waiting.poll()
    assert not waiting.settled()
    done = watch(model("a", Ready="True"), model("b", Ready="False", Stalled="True"))
    done.poll()
    assert done.settled()
    assert done.stalled() == ["demo/b"]


def test_without_a_terminal_only_changes_are_said() -> None:
    following = watch(model("a", Ready="False", Reconciling="True"))
    following.poll()
    (line,) = following.news()
    assert "Ready=False" in line
    assert "Reconciling it is." in line
    following.poll()
    assert list(following.news()) == []


def test_the_store_is_named_as_pods_reach_it() -> None:
    store = Store("http://outside:1", "http://inside:2", "r", "key", "secret")
    spec: Any = model_store(store)["spec"]
    assert spec["s3"]["endpoint"] == "http://inside:2"
    assert "secret" not in str(spec["s3"])


def test_the_demo_has_three_manifests() -> None:
    assert len(list(Path(MANIFESTS).glob("*.yaml"))) == 3


def test_the_commands_to_look_around_fit_the_cluster() -> None:
    assert all(not line.startswith("kubectl") for line in look_around(["demo/a"], local=True))
    assert all(line.startswith("kubectl") for line in look_around(["demo/a"], local=False))


def test_logs_are_shown_of_what_failed_and_not_of_what_waits() -> None:
    pod: Object = {
        "status": {
            "initContainerStatuses": [
                _container("done", ready=True, state={"terminated": {"exitCode": 0}}),
                _container("failed", ready=False, state={"terminated": {"exitCode": 3}}),
            ],
            "containerStatuses": [
                _container("waiting", ready=False, state={"waiting": {}}),
                _container("loading", ready=False, state={"running": {}}),
            ],
        }
    }
    assert unfinished_containers(pod) == ["failed", "loading"]


def test_waiting_for_what_never_comes_ends() -> None:
    with pytest.raises(TimeoutError, match="the moon"):
        until("the moon", lambda: False, timeout=0.01, every=0.001)


def _container(name: str, ready: bool, state: Object) -> Object:
    return {"name": name, "ready": ready, "restartCount": 0, "state": state}
