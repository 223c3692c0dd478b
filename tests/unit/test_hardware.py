"""What the nodes can hold of a candidate."""

from decimal import Decimal
from typing import Any

import pytest
from quantop.api.modelruntime import ModelRuntimeSpec
from quantop.api.quantizedmodel import QuantizedModelSpec, QuantizedModelStatus
from quantop.reasons import Reason
from quantop.reconcile import hardware
from quantop.reconcile.cache import node
from quantop.reconcile.choices import ChosenRuntime
from quantop.reconcile.snapshot import Node, Snapshot
from quantop.settings import Settings

from tests.operator import objects

GIB = 2**30
ENGINE = {"requests": {"cpu": "2", "memory": "4Gi"}, "limits": {"memory": "6Gi"}}
GPU = {"limits": {"nvidia.com/gpu": 1, "memory": "6Gi"}}


def runtime(**spec: Any) -> ChosenRuntime:
    parsed = ModelRuntimeSpec.model_validate(objects.runtime(**spec)["spec"])
    return ChosenRuntime("engine", parsed)


def cluster(*nodes: Node, serving: dict[str, Any] | None = None) -> Snapshot:
    manifest = objects.model("team", serving=serving or {})
    return Snapshot(
        model=manifest,
        spec=QuantizedModelSpec.model_validate(manifest["spec"]),
        status=QuantizedModelStatus(),
        settings=Settings(worker_image="worker"),
        nodes=nodes,
    )


def offers(
    cpu: str = "4", memory: str = "8Gi", labels: dict[str, str] | None = None, **rest: str
) -> Node:
    more = {name.replace("_", "/"): amount for name, amount in rest.items()}
    body = {
        "metadata": {"name": "n", "labels": labels or {}},
        "status": {"allocatable": {"cpu": cpu, "memory": memory, **more}},
    }
    return node(body)


def test_a_node_is_read_as_numbers() -> None:
    assert offers(cpu="1500m", memory="2Gi").allocatable == {
        "cpu": Decimal("1.5"),
        "memory": Decimal(2 * GIB),
    }


def test_while_no_node_is_known_everything_fits() -> None:
    assert hardware.shortage(cluster(), runtime(resources=ENGINE)) is None


@pytest.mark.parametrize(
    ("nodes", "fits"),
    [
        ([offers()], True),
        ([offers(cpu="2", memory="4Gi")], True),
        ([offers(cpu="1900m")], False),
        ([offers(memory="3Gi")], False),
        ([offers(cpu="1"), offers(memory="1Gi")], False),
        ([offers(cpu="1"), offers()], True),
    ],
)
def test_one_node_has_to_have_all_that_the_engine_asks_for(nodes: list[Node], fits: bool) -> None:
    problem = hardware.shortage(cluster(*nodes), runtime(resources=ENGINE))
    assert (problem is None) is fits
    if problem:
        assert problem.reason == Reason.INSUFFICIENT_CAPACITY
        assert "asks for cpu 2, memory 4Gi" in problem.message


def test_an_extended_resource_is_asked_for_by_its_limit() -> None:
    problem = hardware.shortage(cluster(offers()), runtime(resources=GPU))
    assert problem is not None
    assert "nvidia.com/gpu 1" in problem.message
    with_gpu = Node({}, {**offers().allocatable, "nvidia.com/gpu": Decimal(1)})
    assert hardware.shortage(cluster(with_gpu), runtime(resources=GPU)) is None


def test_what_the_model_says_wins_over_its_runtime() -> None:
    serving = {"resources": {"requests": {"cpu": "500m", "memory": "1Gi"}}}
    small = offers(cpu="1", memory="2Gi")
    assert hardware.shortage(cluster(small), runtime(resources=ENGINE)) is not None
    assert hardware.shortage(cluster(small, serving=serving), runtime(resources=ENGINE)) is None


def test_only_nodes_that_the_runtime_may_run_on_count() -> None:
    special = runtime(resources=ENGINE, nodeSelector={"kind": "special"})
    problem = hardware.shortage(cluster(offers()), special)
    assert problem is not None
    assert "runs on nodes labelled kind=special only, and there is none" in problem.message
    small = offers(cpu="1", labels={"kind": "special"})
    assert hardware.shortage(cluster(offers(), small), special) is not None
    large = offers(labels={"kind": "special", "zone": "a"})
    assert hardware.shortage(cluster(large), special) is None


@pytest.mark.parametrize(
    ("nodes", "size", "said"),
    [
        ([], 6 * GIB, None),
        ([], 6 * GIB + 1, "the engine's limit is 6.0 GiB"),
        ([offers(memory="5Gi")], 5 * GIB, None),
        ([offers(memory="5Gi")], 6 * GIB, "the largest node's memory is 5.0 GiB"),
        ([offers(memory="8Gi")], 7 * GIB, "the engine's limit is 6.0 GiB"),
    ],
)
def test_an_artifact_has_to_fit_the_engines_memory(
    nodes: list[Node], size: int, said: str | None
) -> None:
    problem = hardware.oversize(cluster(*nodes), runtime(resources=ENGINE), size)
    if said is None:
        assert problem is None
    else:
        assert problem is not None
        assert said in problem.message


def test_what_an_accelerator_holds_is_not_known() -> None:
    assert hardware.oversize(cluster(), runtime(resources=GPU), 100 * GIB) is None
