"""What a spec that names a Preset is taken to say."""

from dataclasses import replace
from typing import Any

import pytest
from quantop.api.preset import PresetSpec
from quantop.api.quantizedmodel import (
    Limits,
    OnFailure,
    QuantizedModelSpec,
    QuantizedModelStatus,
)
from quantop.api.quantizer import QuantizerSpec
from quantop.reasons import Reason
from quantop.reconcile import gate, presets
from quantop.reconcile.snapshot import Problem, Snapshot
from quantop.settings import Settings

from tests.operator import objects

EVALUATION = {"uri": "s3://texts/evaluation.txt"}
CALIBRATION = {"uri": "s3://texts/calibration.txt"}


def snapshot(preset: dict[str, Any], recipe: dict[str, Any] | None = None, **spec: Any) -> Snapshot:
    """An object that names a Preset, beside a Quantizer of Q4_K_M, which can use calibration
    text, and Q8_0, which cannot."""
    quantization = {"presetName": "mobile", **(recipe or {})}
    model = objects.model("team-a", quantization=quantization, **spec)
    made = objects.preset("mobile", **preset)
    return Snapshot(
        model=model,
        spec=QuantizedModelSpec.model_validate(model["spec"]),
        status=QuantizedModelStatus(),
        settings=Settings("worker"),
        quantizers={"llama-cpp": QuantizerSpec.model_validate(objects.quantizer()["spec"])},
        presets={"mobile": PresetSpec.model_validate(made["spec"])},
    )


def spelt_out(given: Snapshot) -> QuantizedModelSpec:
    """The spec, as it is taken."""
    result = presets.spelt_out(given)
    assert isinstance(result, Snapshot), result
    assert presets.spelt_out(result) == result, "once is enough"
    assert result.model is given.model
    return result.spec


def problem(given: Snapshot) -> Problem:
    result = presets.spelt_out(given)
    assert isinstance(result, Problem)
    return result


def test_a_limit_needs_what_it_is_measured_by() -> None:
    preset = {"quality": {"minAnswerAgreementPercent": 80}}
    asked = {**EVALUATION, "prompts": {"uri": "s3://texts/prompts.txt"}}
    said = problem(snapshot(preset, quality={"evaluation": EVALUATION}))
    assert said.reason == Reason.EVALUATION_REQUIRED
    assert "has minAnswerAgreementPercent, measured by prompts: set" in said.message
    assert "set spec.quality.evaluation.prompts" in said.message
    taken = spelt_out(snapshot(preset, quality={"evaluation": asked})).quality
    assert taken is not None
    assert taken.min_answer_agreement_percent == "80"


def test_a_preset_can_have_every_limit() -> None:
    fields = {field.alias for field in Limits.model_fields.values()}
    held = {each.field for each in gate.LIMITS} | {e.field for e in gate.PERFORMANCE_LIMITS}
    assert fields == held


def test_without_a_preset_nothing_changes() -> None:
    model = objects.model("team-a")
    spec = QuantizedModelSpec.model_validate(model["spec"])
    plain = replace(snapshot({}), spec=spec)
    assert presets.spelt_out(plain) is plain


def test_the_whole_recipe_is_the_presets() -> None:
    recipe: dict[str, Any] = {
        "format": "ONNX",
        "precision": "INT4",
        "method": "RTN",
        "quantizerName": "onnx",
        "overrides": [{"tensors": "down_proj", "precision": "INT8"}],
        "maxFileSize": "5Gi",
    }
    resources = {"limits": {"memory": "2Gi"}}
    taken = spelt_out(snapshot({"quantization": recipe}, {"resources": resources})).quantization
    assert taken.model_dump(by_alias=True, exclude_none=True) == {
        **recipe,
        "presetName": "mobile",
        "resources": {"requests": {}, **resources},
    }


def test_a_limit_of_ones_own_wins_over_the_presets() -> None:
    theirs = {"maxPerplexityIncreasePercent": 5, "maxMeanKLDivergence": "0.05"}
    own = {"maxPerplexityIncreasePercent": 9, "minTopTokenAgreementPercent": 90}
    quality = {"evaluation": EVALUATION, "onFailure": "Warn", **own}
    taken = spelt_out(snapshot({"quality": theirs}, quality=quality)).quality
    assert taken is not None
    assert taken.max_perplexity_increase_percent == "9"
    assert taken.min_top_token_agreement_percent == "90"
    assert taken.max_mean_kl_divergence == "0.05"
    assert taken.max_p99_kl_divergence is None
    assert taken.on_failure is OnFailure.WARN
    assert taken.evaluation is not None
    assert taken.evaluation.uri == EVALUATION["uri"]


def test_limits_without_a_text_to_measure_them_on_are_a_problem() -> None:
    limited = {"quality": {"maxPerplexityIncreasePercent": 5, "maxMeanKLDivergence": "0.05"}}
    prompts = {"evaluation": {"prompts": {"uri": "s3://texts/prompts.txt"}}}
    for given in (snapshot(limited), snapshot(limited, quality=prompts)):
        said = problem(given)
        assert said.reason == Reason.EVALUATION_REQUIRED
        assert "maxPerplexityIncreasePercent, maxMeanKLDivergence, measured on a t" in said.message
        assert "set spec.quality.evaluation.uri" in said.message
    assert spelt_out(snapshot({"quality": {}})).quality is None
    assert spelt_out(snapshot({})).quality is None


def test_limits_on_what_a_trial_shows_need_nothing_of_the_object() -> None:
    taken = spelt_out(snapshot({"quality": {"maxMemory": "6Gi"}})).quality
    assert taken is not None
    assert taken.max_memory == "6Gi"
    assert taken.evaluation is None


def test_a_runtime_is_taken_only_where_it_is_served_and_none_is_named() -> None:
    preset = {"runtimeName": "theirs"}
    for serving, name in ({}, "theirs"), ({"runtimeName": "own"}, "own"):
        taken = spelt_out(snapshot(preset, serving=serving)).serving
        assert taken is not None
        assert taken.runtime_name == name
    without = snapshot(preset)
    alone = replace(without, spec=without.spec.model_copy(update={"serving": None}))
    assert spelt_out(alone).serving is None


@pytest.mark.parametrize(
    ("recipe", "kept"),
    [
        ({"precision": "Q4_K_M"}, True),
        ({"precision": "Q4_K_M", "method": "ImportanceMatrix"}, True),
        ({"precision": "Q4_K_M", "method": "KQuant"}, False),
        ({"precision": "Q8_0"}, False),
    ],
)
def test_calibration_text_is_kept_where_it_is_of_use(recipe: dict[str, str], kept: bool) -> None:
    preset = {"quantization": {"format": "GGUF", **recipe}}
    taken = spelt_out(snapshot(preset, {"calibration": CALIBRATION})).quantization
    assert (taken.calibration is not None) is kept


def test_a_problem_names_the_preset_where_it_speaks_of_what_that_says() -> None:
    named = snapshot({})
    unserved = Problem(Reason.RUNTIME_NOT_FOUND, "no ModelRuntime serves it.", "stage")
    assert presets.attributed(named, unserved) == replace(
        unserved, message="With Preset 'mobile': no ModelRuntime serves it."
    )
    elsewhere = Problem(Reason.STORE_NOT_FOUND, "there is no such ModelStore.")
    assert presets.attributed(named, elsewhere) is elsewhere
