"""Which overrides, file sizes and evaluations are refused before any Job, and in what words."""

from typing import Any

import pytest
from quantop.api.modelstore import ModelStoreSpec
from quantop.api.quantizedmodel import QuantizedModelSpec, QuantizedModelStatus
from quantop.api.quantizer import QuantizerSpec
from quantop.builders import jobs
from quantop.reasons import Reason
from quantop.reconcile import artifact, choices
from quantop.reconcile.snapshot import Problem, Snapshot
from quantop.settings import Settings

from tests.operator import objects

ABLE: dict[str, Any] = {
    "overrides": {"precisions": ["Q8_0", "Q6_K"], "exceptFor": ["Q8_0"]},
    "fileSplitting": "Supported",
}
STORE = ModelStoreSpec.model_validate(objects.store()["spec"])
DOWN = {"tensors": "ffn_down", "precision": "Q6_K"}


def snapshot(
    quantizer: dict[str, Any], evaluation: dict[str, Any] | None = None, **recipe: Any
) -> Snapshot:
    quantization = {"format": "GGUF", "precision": "Q4_K_M", **recipe}
    model = objects.model(
        "team-a", quantization=quantization, quality={"evaluation": evaluation or None}
    )
    return Snapshot(
        model=model,
        spec=QuantizedModelSpec.model_validate(model["spec"]),
        status=QuantizedModelStatus(),
        settings=Settings("worker"),
        quantizers={
            "llama-cpp": QuantizerSpec.model_validate(objects.quantizer(**quantizer)["spec"])
        },
    )


@pytest.mark.parametrize(
    ("quantizer", "recipe", "reason", "said"),
    [
        (
            {},
            {"overrides": [DOWN]},
            Reason.OVERRIDES_NOT_SUPPORTED,
            "spec.quantization.overrides is set, which Quantizer 'llama-cpp' cannot follow for "
            "GGUF Q4_K_M: remove it",
        ),
        (
            ABLE,
            {"overrides": [DOWN], "precision": "Q8_0"},
            Reason.OVERRIDES_NOT_SUPPORTED,
            "cannot follow for GGUF Q8_0",
        ),
        (
            ABLE,
            {"overrides": [DOWN, DOWN | {"precision": "Q9"}]},
            Reason.PRECISION_NOT_SUPPORTED,
            "spec.quantization.overrides[1].precision is 'Q9', which Quantizer 'llama-cpp' does "
            "not offer for single tensors; possible: Q6_K, Q8_0.",
        ),
        (
            ABLE,
            {"overrides": [DOWN | {"tensors": "ffn_(down"}]},
            Reason.INVALID_SPEC,
            "spec.quantization.overrides[0].tensors is 'ffn_(down', which is no regular expression",
        ),
        (
            {},
            {"maxFileSize": "5Gi"},
            Reason.MAX_FILE_SIZE_NOT_SUPPORTED,
            "spec.quantization.maxFileSize is set, but Quantizer 'llama-cpp' splits no files",
        ),
    ],
)
def test_what_the_quantizer_cannot_do_is_refused(
    quantizer: dict[str, Any], recipe: dict[str, Any], reason: Reason, said: str
) -> None:
    problem = choices.choose_quantizer(snapshot(quantizer, **recipe))
    assert isinstance(problem, Problem)
    assert problem.reason == reason
    assert said in problem.message


@pytest.mark.parametrize(
    ("quantizer", "evaluation", "said"),
    [
        (
            {"evaluations": ["Text", "Prompts"]},
            {"uri": "s3://t/e.txt", "tasks": {"uri": "s3://t/tasks/"}},
            "spec.quality.evaluation.tasks is set, by which Quantizer 'llama-cpp' cannot measure; "
            "possible: prompts, uri. Remove it",
        ),
        (
            {},
            {"prompts": {"uri": "s3://t/p.txt"}},
            "evaluation.prompts is set, by which Quantizer 'llama-cpp' cannot measure; possible: u",
        ),
        (
            {"evaluations": []},
            {"uri": "s3://t/e.txt"},
            "evaluation.uri is set, by which Quantizer 'llama-cpp' cannot measure; possible: noth",
        ),
    ],
)
def test_what_the_quantizer_cannot_measure_by_is_refused(
    quantizer: dict[str, Any], evaluation: dict[str, Any], said: str
) -> None:
    problem = choices.choose_quantizer(snapshot(quantizer, evaluation))
    assert isinstance(problem, Problem)
    assert problem.reason == Reason.EVALUATION_NOT_SUPPORTED
    assert said in problem.message
    able = {"evaluations": ["Tasks", "Prompts", "Text"]}
    chosen = choices.choose_quantizer(snapshot(able, evaluation))
    assert isinstance(chosen, choices.ChosenQuantizer)


def environment(given: Snapshot) -> dict[str, str]:
    """The variables of the toolchain's containers."""
    chosen = choices.choose_quantizer(given)
    assert isinstance(chosen, choices.ChosenQuantizer), chosen
    task = artifact.conversion_task(given, STORE, chosen)
    made = jobs.conversion_job(
        given.model | {"metadata": given.model["metadata"] | {"uid": "1"}},
        "job",
        task.model_copy(update={"key": "0" * 64}),
        jobs.Access("worker", "default", None),
        chosen.spec,
        chosen.precision,
        jobs.Needs({}, {}, "1Gi"),
    )
    quantize = made["spec"]["template"]["spec"]["initContainers"][1]
    return {each["name"]: each.get("value", "") for each in quantize["env"]}


def test_what_it_can_do_reaches_the_toolchain() -> None:
    told = environment(snapshot(ABLE, overrides=[DOWN], maxFileSize="5Gi"))
    assert told["OVERRIDES"] == '[{"precision":"Q6_K","tensors":"ffn_down"}]'
    assert told["MAX_FILE_BYTES"] == str(5 * 2**30)
    plain = environment(snapshot(ABLE))
    assert plain["OVERRIDES"] == plain["MAX_FILE_BYTES"] == ""


def test_a_toolchain_is_told_what_is_given_to_measure_by_and_no_more() -> None:
    text, prompts = {"uri": "pvc://texts/e.txt"}, {"prompts": {"uri": "pvc://prompts/p.txt"}}
    variables = ("EVALUATION_FILE", "EVALUATION_MAX_TOKENS", "EVALUATION_PROMPTS_FILE")

    def told(**evaluation: Any) -> list[str]:
        given = environment(snapshot({"evaluations": ["Text", "Prompts"]}, evaluation))
        return [given[name].rpartition("/")[2] for name in variables]

    assert told(**text) == ["evaluation", "20000", ""]
    assert told(**prompts) == ["", "", "prompts"]
    assert told(**text, **prompts) == ["evaluation", "20000", "prompts"]
    assert told() == ["", "", ""]
