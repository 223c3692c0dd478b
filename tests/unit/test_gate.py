"""What the quality gate lets through."""

import pytest
from quantop.api.quantizedmodel import Quality, QualityStatus
from quantop.reasons import Reason
from quantop.reconcile import gate


def limits(percent: object = None) -> Quality:
    evaluation = {"uri": "s3://texts/evaluation.txt"}
    return Quality.model_validate(
        {"evaluation": evaluation, "maxPerplexityIncreasePercent": percent}
    )


def measured(increase: str | None) -> QualityStatus:
    return QualityStatus(
        protocol="windows-v1",
        baseline_perplexity="20.000",
        perplexity="21.000",
        increase_percent=increase,
        tokens=1024,
    )


@pytest.mark.parametrize(
    ("limit", "increase"), [(5, "5.000"), ("5", "4.999"), ("0.5", "0.500"), (0, "-0.250")]
)
def test_an_artifact_within_the_limit_passes(limit: object, increase: str) -> None:
    assert gate.check(limits(limit), measured(increase)) is None


@pytest.mark.parametrize(("limit", "increase"), [(5, "5.001"), ("0.5", "0.501"), (0, "0.001")])
def test_an_artifact_beyond_the_limit_does_not(limit: object, increase: str) -> None:
    fault = gate.check(limits(limit), measured(increase))
    assert fault is not None
    assert fault.reason == Reason.QUALITY_BELOW_LIMIT
    assert f"spec.quality.maxPerplexityIncreasePercent is {limit}" in fault.message
    assert f"rose by {increase} % (20.000 -> 21.000, 1024 tokens)" in fault.message
    assert "raise the limit" in fault.message


@pytest.mark.parametrize("evidence", [None, measured(None)], ids=["no report", "no figure"])
def test_what_was_not_measured_has_not_passed(evidence: QualityStatus | None) -> None:
    fault = gate.check(limits(1000), evidence)
    assert fault is not None
    assert fault.reason == Reason.QUALITY_NOT_MEASURED


@pytest.mark.parametrize("evidence", [None, measured("900.000")], ids=["no report", "bad figure"])
def test_without_a_limit_anything_passes(evidence: QualityStatus | None) -> None:
    assert gate.check(None, evidence) is None
    assert gate.check(limits(), evidence) is None
