"""What a conversion is estimated to need."""

from quantop.api.base import ResourceRequirements
from quantop.api.quantizer import QuantizerSpec
from quantop.builders import jobs, pod
from quantop.builders.jobs import Needs
from quantop.reasons import Reason
from quantop.reconcile import estimate
from quantop.reconcile.snapshot import Capacity

MIB, GIB = 2**20, 2**30
QUANTIZER = QuantizerSpec.model_validate(
    {
        "image": "registry.example/quantizer:1",
        "format": "GGUF",
        "command": ["convert"],
        "precisions": [{"name": "Q4_0", "methods": [{"name": "Default"}]}],
        "resources": {
            "cpu": 2,
            "memoryBase": "1Gi",
            "memoryPercentOfSource": 120,
            "evaluationMemoryPercentOfSource": 320,
            "diskBase": "256Mi",
            "diskPercentOfSource": 300,
        },
    }
)


def needs(compares: bool, **given: dict[str, str]) -> Needs:
    resources = ResourceRequirements.model_validate(given)
    return estimate.estimate(QUANTIZER, resources, 10 * GIB, compares)


def test_each_stage_is_given_what_the_quantizer_says_of_it() -> None:
    wanted = needs(compares=True)
    assert wanted.quantize["limits"] == {"cpu": "2", "memory": f"{13 * 1024}Mi"}
    assert wanted.evaluate["limits"] == {"cpu": "2", "memory": f"{33 * 1024}Mi"}
    assert wanted.evaluate["requests"] == wanted.evaluate["limits"]
    assert wanted.disk == f"{30 * 1024 + 256}Mi"


def test_without_a_text_nothing_is_compared_and_no_memory_asked_for_it() -> None:
    wanted = needs(compares=False)
    assert wanted.evaluate == wanted.quantize


def test_what_the_recipe_gives_goes_before_for_both_stages() -> None:
    wanted = needs(compares=True, limits={"memory": "5Gi"}, requests={"ephemeral-storage": "9Gi"})
    for stage in (wanted.quantize, wanted.evaluate):
        assert stage["limits"] == {"cpu": "2", "memory": "5Gi"}
        assert stage["requests"] == {"cpu": "2", "memory": "5Gi"}
    assert wanted.disk == "9Gi"


def test_fetch_may_keep_in_memory_what_the_toolchain_reads() -> None:
    fetches = jobs.fetch_resources(needs(compares=True))
    assert fetches["limits"]["memory"] == f"{13 * 1024}Mi"
    assert fetches["requests"]["memory"] == pod.WORKER_RESOURCES["requests"]["memory"]
    small = jobs.fetch_resources(needs(compares=True, limits={"memory": "100Mi"}))
    assert small["limits"] == pod.WORKER_RESOURCES["limits"]


def test_the_hungrier_stage_decides_whether_a_node_can_hold_it() -> None:
    node = Capacity(memory=20 * GIB, disk=100 * GIB)
    assert estimate.exceeds(needs(compares=False), 10 * GIB, node) is None
    problem = estimate.exceeds(needs(compares=True), 10 * GIB, node)
    assert problem is not None
    assert problem.reason == Reason.INSUFFICIENT_CAPACITY
    assert "memory 33" in problem.message
    assert "the largest node has 20" in problem.message
