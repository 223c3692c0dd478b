"""Which Quantizer and ModelRuntime are taken where some are for particular hardware only."""

from typing import Any

import pytest
from quantop.api.modelruntime import ModelRuntimeSpec
from quantop.api.quantizedmodel import QuantizedModelSpec, QuantizedModelStatus
from quantop.api.quantizer import QuantizerSpec
from quantop.reasons import Reason
from quantop.reconcile import choices
from quantop.reconcile.snapshot import Problem, Snapshot
from quantop.settings import Settings

from tests.operator import objects

GENERAL = objects.quantizer()["spec"] | {"format": "ONNX"}
METHODS = [{"name": "Default"}]
CUDA = GENERAL | {
    "hardware": "CUDA",
    "priority": 5,
    "precisions": [*GENERAL["precisions"], {"name": "FP16", "methods": METHODS}],
}
SERVED = GENERAL["precisions"][0]["name"]


def runtime(**served: Any) -> dict[str, Any]:
    spec: dict[str, Any] = objects.runtime()["spec"]
    return spec | {"formats": [{"format": "ONNX", **served}]}


def snapshot(
    precision: str = SERVED,
    quantizer: str | None = None,
    quantizers: dict[str, Any] | None = None,
    runtimes: dict[str, Any] | None = None,
    **serving: Any,
) -> Snapshot:
    quantization = {"format": "ONNX", "precision": precision, "quantizerName": quantizer}
    model = objects.model("team-a", quantization=quantization, serving=serving)
    offered = {"cpu": GENERAL, "cuda": CUDA} if quantizers is None else quantizers
    return Snapshot(
        model=model,
        spec=QuantizedModelSpec.model_validate(model["spec"]),
        status=QuantizedModelStatus(),
        settings=Settings("worker"),
        quantizers={n: QuantizerSpec.model_validate(each) for n, each in offered.items()},
        runtimes={n: ModelRuntimeSpec.model_validate(each) for n, each in (runtimes or {}).items()},
    )


def quantizer_of(given: Snapshot) -> str:
    chosen = choices.choose_quantizer(given)
    assert isinstance(chosen, choices.ChosenQuantizer), chosen
    return chosen.name


def test_one_for_particular_hardware_is_taken_where_it_is_named_or_alone() -> None:
    assert quantizer_of(snapshot()) == "cpu"
    assert quantizer_of(snapshot(quantizer="cuda")) == "cuda"
    assert quantizer_of(snapshot(quantizers={"cuda": CUDA})) == "cuda"


def test_a_precision_that_only_such_a_one_offers_names_it() -> None:
    problem = choices.choose_quantizer(snapshot("FP16"))
    assert isinstance(problem, Problem)
    assert problem.reason == Reason.PRECISION_NOT_SUPPORTED
    assert "by spec.quantization.quantizerName: cuda (for CUDA)." in problem.message


@pytest.mark.parametrize(
    ("quantizer", "runtimes", "chosen"),
    [
        (None, {"cpu": runtime()}, "cpu"),
        (None, {"gpu": runtime(hardware=["CUDA"])}, "gpu"),
        ("cuda", {"cpu": runtime(), "gpu": runtime(hardware=["CUDA"])}, "gpu"),
    ],
)
def test_a_runtime_serves_what_is_for_any_hardware_and_what_is_for_its_own(
    quantizer: str | None, runtimes: dict[str, Any], chosen: str
) -> None:
    found = choices.choose_runtime(snapshot(quantizer=quantizer, runtimes=runtimes))
    assert isinstance(found, choices.ChosenRuntime), found
    assert found.name == chosen


@pytest.mark.parametrize(
    ("serving", "reason", "said"),
    [
        ({}, Reason.RUNTIME_NOT_FOUND, f"serves ONNX {SERVED}, which is for CUDA; "),
        (
            {"runtimeName": "other"},
            Reason.FORMAT_NOT_SERVED,
            f"'other' serves ONNX (WebGPU), not ONNX {SERVED}, which is for CUDA; able: none.",
        ),
    ],
)
def test_no_other_runtime_is_given_it(serving: dict[str, Any], reason: Reason, said: str) -> None:
    runtimes = {"cpu": runtime(), "other": runtime(hardware=["WebGPU"])}
    problem = choices.choose_runtime(snapshot(quantizer="cuda", runtimes=runtimes, **serving))
    assert isinstance(problem, Problem)
    assert problem.reason == reason
    assert said in problem.message
