"""What the quality gate lets through."""

from typing import Any

import pytest
from quantop.api import quantizedmodel
from quantop.api.quantizedmodel import Performance, Quality, QualityStatus
from quantop.reasons import Reason
from quantop.reconcile import gate

EVALUATION = {"uri": "s3://texts/evaluation.txt"}
INCREASE, AGREEMENT = "maxPerplexityIncreasePercent", "minTopTokenAgreementPercent"
MEAN, P99 = "maxMeanKLDivergence", "maxP99KLDivergence"
COSINE, P1 = "minMeanCosineSimilarity", "minP1CosineSimilarity"
ANSWERS, TASKS = "minAnswerAgreementPercent", "maxTaskAccuracyDropPoints"
LABELS, ACCURACY = "minLabelAgreementPercent", "minAccuracyPercent"
FIGURES = {
    INCREASE: "increasePercent",
    AGREEMENT: "topTokenAgreementPercent",
    MEAN: "meanKLDivergence",
    P99: "p99KLDivergence",
    COSINE: "meanCosineSimilarity",
    P1: "p1CosineSimilarity",
    LABELS: "labelAgreementPercent",
    ACCURACY: "accuracyPercent",
    ANSWERS: "answerAgreementPercent",
    TASKS: "taskAccuracyDropPoints",
}


def limits(**given: object) -> Quality:
    return Quality.model_validate({"evaluation": EVALUATION, **given})


def measured(**figures: str) -> QualityStatus:
    return QualityStatus.model_validate(
        {
            "protocol": "windows-v1",
            "baselinePerplexity": "20.000",
            "perplexity": "21.000",
            "baselineAccuracyPercent": "91.250",
            "meanAnswerPrefixPercent": "85.500",
            "prompts": 64,
            "tasks": [
                {
                    "name": "endings",
                    "metric": "acc",
                    "samples": 200,
                    "baselinePercent": "71.500",
                    "baselineErrorPercent": "3.192",
                    "accuracyPercent": "68.000",
                    "errorPercent": "3.299",
                }
            ],
            "texts": 400,
            "tokens": 1024,
            **figures,
        }
    )


def test_every_limit_of_the_api_is_held() -> None:
    fields = {field.alias for field in Quality.model_fields.values()}
    held = {each.field for each in gate.LIMITS} | {e.field for e in gate.PERFORMANCE_LIMITS}
    assert fields - {"evaluation", "onFailure"} == held
    assert set(FIGURES) == {each.field for each in gate.LIMITS}


@pytest.mark.parametrize(
    ("field", "limit", "figure"),
    [
        (INCREASE, 5, "5.000"),
        (INCREASE, "5", "4.999"),
        (INCREASE, "0.5", "0.500"),
        (INCREASE, 0, "-0.250"),
        (AGREEMENT, 95, "95.000"),
        (AGREEMENT, "99.5", "100.000"),
        (MEAN, "0.05", "0.050000"),
        (P99, 1, "0.999999"),
        (COSINE, "0.995", "0.995000"),
        (P1, 1, "1.000000"),
        (LABELS, 99, "99.250"),
        (ACCURACY, "90", "91.000"),
        (ANSWERS, 75, "75.000"),
        (TASKS, "3.5", "3.500"),
        (TASKS, 0, "-1.000"),
    ],
)
def test_an_artifact_within_the_limit_passes(field: str, limit: object, figure: str) -> None:
    assert gate.check(limits(**{field: limit}), measured(**{FIGURES[field]: figure})) is None


@pytest.mark.parametrize(
    ("field", "limit", "figure", "said"),
    [
        (INCREASE, 5, "5.001", "rose by 5.001 % (20.000 -> 21.000, 1024 tokens)"),
        (INCREASE, "0.5", "0.501", "rose by 0.501 %"),
        (INCREASE, 0, "0.001", "rose by 0.001 %"),
        (AGREEMENT, 95, "94.999", "most likely at 94.999 % of 1024 positions"),
        (AGREEMENT, 95, "9.000", "most likely at 9.000 %"),
        (MEAN, "0.05", "0.050001", "mean divergence is 0.050001 nats"),
        (P99, 1, "1.000001", "99th percentile is 1.000001 nats"),
        (COSINE, "0.995", "0.994999", "mean cosine similarity of 400 texts is 0.994999"),
        (P1, "0.9", "-0.100000", "1st percentile is -0.100000"),
        (LABELS, 99, "98.750", "most likely for 98.750 % of 400 texts"),
        (ACCURACY, 90, "89.750", "for 89.750 % of 400 texts (by the source: 91.250 %)"),
        (
            TASKS,
            3,
            "3.500",
            "3.500 points of accuracy are lost in task endings (71.500 % -> 68.000 % of 200 doc",
        ),
        (ANSWERS, 75, "70.313", "to 70.313 % of 64 prompts (85.500 % of it on average)"),
    ],
)
def test_an_artifact_beyond_the_limit_does_not(
    field: str, limit: object, figure: str, said: str
) -> None:
    fault = gate.check(limits(**{field: limit}), measured(**{FIGURES[field]: figure}))
    assert fault is not None
    assert fault.reason == Reason.QUALITY_BELOW_LIMIT
    assert f"spec.quality.{field} is {limit}, but" in fault.message
    assert said in fault.message
    assert "loosen the limit" in fault.message


def test_every_limit_that_is_exceeded_is_named() -> None:
    given: dict[str, Any] = {INCREASE: 1, AGREEMENT: 99, MEAN: 1}
    figures = {"increasePercent": "2", "topTokenAgreementPercent": "98", "meanKLDivergence": "0.5"}
    fault = gate.check(limits(**given), measured(**figures))
    assert fault is not None
    assert INCREASE in fault.message
    assert AGREEMENT in fault.message
    assert MEAN not in fault.message


@pytest.mark.parametrize("field", FIGURES)
@pytest.mark.parametrize("evidence", [None, measured()], ids=["no report", "no figure"])
def test_what_was_not_measured_has_not_passed(field: str, evidence: QualityStatus | None) -> None:
    fault = gate.check(limits(**{field: 1}), evidence)
    assert fault is not None
    assert fault.reason == Reason.QUALITY_NOT_MEASURED
    assert f"spec.quality.{field} is 1" in fault.message


@pytest.mark.parametrize(
    "evidence", [None, measured(increasePercent="900.000")], ids=["no report", "bad figure"]
)
def test_without_a_limit_anything_passes(evidence: QualityStatus | None) -> None:
    assert gate.check(None, evidence) is None
    assert gate.check(limits(), evidence) is None


def test_the_limits_that_a_choice_may_be_held_against_are_those_of_the_gate() -> None:
    assert tuple(limit.field for limit in gate.LIMITS) == quantizedmodel.LIMITS


WAIT, SPEED, MEMORY = quantizedmodel.PERFORMANCE_LIMITS


def shown(**figures: object) -> Performance:
    return Performance.model_validate(
        {"inputsHash": "0", "runtime": "r", "image": "i", "node": "node-a", **figures}
    )


SHOWN = shown(
    timeToFirstTokenMilliseconds="250.500", tokensPerSecond="20.000", peakMemoryBytes=2**30
)


def test_the_limits_that_ask_for_a_trial_are_those_of_the_gate() -> None:
    held = tuple(limit.field for limit in gate.PERFORMANCE_LIMITS)
    assert held == quantizedmodel.PERFORMANCE_LIMITS
    assert not gate.limits_performance(None)
    assert not gate.limits_performance(limits(**{INCREASE: 5}))
    assert all(gate.limits_performance(limits(**{field: 1})) for field in held)


@pytest.mark.parametrize(
    ("field", "limit"),
    [(WAIT, "250.5"), (WAIT, 251), (SPEED, 20), (SPEED, "0"), (MEMORY, "1Gi"), (MEMORY, 2**30)],
)
def test_what_does_well_enough_passes(field: str, limit: object) -> None:
    assert gate.check_performance(limits(**{field: limit}), SHOWN) is None


@pytest.mark.parametrize(
    ("field", "limit", "said"),
    [
        (WAIT, 250, "the first token came after 250.500 ms on node node-a"),
        (SPEED, "20.001", "20.000 tokens a second came on node node-a"),
        (MEMORY, "1023Mi", "the engine took 1.0 GiB at its peak on node node-a"),
    ],
)
def test_what_does_not_is_told(field: str, limit: object, said: str) -> None:
    fault = gate.check_performance(limits(**{field: limit}), SHOWN)
    assert fault is not None
    assert fault.reason == Reason.PERFORMANCE_BELOW_LIMIT
    assert f"spec.quality.{field} is {limit}, but {said}" in fault.message


@pytest.mark.parametrize("field", quantizedmodel.PERFORMANCE_LIMITS)
@pytest.mark.parametrize("evidence", [None, shown()], ids=["no trial", "no figure"])
def test_what_no_trial_showed_has_not_passed(field: str, evidence: Performance | None) -> None:
    fault = gate.check_performance(limits(**{field: "1"}), evidence)
    assert fault is not None
    assert fault.reason == Reason.PERFORMANCE_NOT_MEASURED
    assert f"spec.quality.{field} is 1" in fault.message
