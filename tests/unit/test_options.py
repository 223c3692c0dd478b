"""Which engine options are refused, and in what words."""

from typing import Any

import pytest
from quantop.api.modelruntime import ModelRuntimeSpec
from quantop.api.quantizedmodel import Serving
from quantop.reasons import Reason
from quantop.reconcile import options
from quantop.reconcile.snapshot import Capacity, Problem

from tests.operator import objects

GPU = "nvidia.com/gpu"
OFFERED: list[dict[str, Any]] = [
    {"name": "maxConcurrentRequests", "args": ["--parallel"], "maximum": 256},
    {"name": "kvCacheType", "args": ["--kv"], "values": [{"value": "f16"}, {"value": "q8_0"}]},
    {"name": "tensorParallelSize", "args": ["--tp"], "multiplies": [GPU]},
    {"name": "pipelineParallelSize", "args": ["--pp"], "multiplies": [GPU]},
]
RUNTIME = ModelRuntimeSpec.model_validate(
    objects.runtime(options=OFFERED, resources={"limits": {GPU: 2}})["spec"]
)


def check(
    engine: dict[str, Any] | None,
    runtime: ModelRuntimeSpec = RUNTIME,
    gpus: int | None = None,
    **serving: Any,
) -> Problem | None:
    given = Serving.model_validate({"engine": engine, **serving})
    capacity = Capacity(1, 1, {} if gpus is None else {GPU: gpus})
    return options.check(given, "engine", runtime, capacity)


def refused(*arguments: Any, **given: Any) -> Problem:
    problem = check(*arguments, **given)
    assert problem is not None
    return problem


@pytest.mark.parametrize(
    "engine",
    [
        None,
        {},
        {"maxConcurrentRequests": 256, "kvCacheType": "q8_0"},
        {"tensorParallelSize": 2, "pipelineParallelSize": 2},
    ],
)
def test_what_the_runtime_has_is_taken(engine: dict[str, Any] | None) -> None:
    assert check(engine, gpus=8) is None


def test_an_option_that_the_runtime_lacks_is_refused_with_those_that_it_has() -> None:
    problem = refused({"maxModelLength": 4096})
    assert problem.reason == Reason.OPTION_NOT_SUPPORTED
    assert problem.message == (
        "spec.serving.engine.maxModelLength is set, which ModelRuntime 'engine' does not have; "
        "possible: kvCacheType, maxConcurrentRequests, pipelineParallelSize, tensorParallelSize. "
        "Remove it, or name another in spec.serving.runtimeName."
    )


def test_a_runtime_without_options_says_so() -> None:
    bare = ModelRuntimeSpec.model_validate(objects.runtime(options=[])["spec"])
    assert "possible: none." in refused({"kvCacheType": "f16"}, bare).message


@pytest.mark.parametrize(
    ("engine", "said"),
    [
        ({"kvCacheType": "q9"}, "kvCacheType is q9, which ModelRuntime 'engine' does not have; "),
        ({"kvCacheType": "q9"}, "possible: f16, q8_0."),
        ({"maxConcurrentRequests": 257}, "possible: at most 256."),
    ],
)
def test_a_value_that_the_runtime_lacks_is_refused_with_those_that_it_has(
    engine: dict[str, Any], said: str
) -> None:
    problem = refused(engine)
    assert problem.reason == Reason.OPTION_VALUE_NOT_SUPPORTED
    assert said in problem.message


def test_devices_beyond_every_nodes_are_refused_before_a_pod_waits_for_them() -> None:
    """The runtime takes two for one device of the engine's."""
    engine = {"tensorParallelSize": 2, "pipelineParallelSize": 2}
    problem = refused(engine, gpus=4)
    assert problem.reason == Reason.INSUFFICIENT_CAPACITY
    asked = "tensorParallelSize 2 x pipelineParallelSize 2 needs 8 nvidia.com/gpu on one node"
    assert asked in problem.message
    assert "the node with the most has 4; no engine spans nodes" in problem.message
    assert check(engine, gpus=8) is None


def test_where_no_node_has_such_a_device_yet_the_scheduler_is_asked() -> None:
    """A pool of them may be scaled to zero."""
    assert check({"tensorParallelSize": 64}) is None


@pytest.mark.parametrize("end", ["limits", "requests"])
def test_another_number_of_devices_beside_the_options_is_refused(end: str) -> None:
    problem = refused({"tensorParallelSize": 2}, resources={end: {GPU: 2}})
    assert problem.reason == Reason.OPTION_VALUE_NOT_SUPPORTED
    assert "needs 4 nvidia.com/gpu, but spec.serving.resources says 2: remove it" in problem.message
    assert check({"tensorParallelSize": 2}, resources={end: {GPU: 4}}) is None
    assert check({}, resources={end: {GPU: 1}}) is None, "as ever, where no option says so"
