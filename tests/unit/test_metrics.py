"""What is shown of an object's quality, and for how long."""

from typing import Any

import pytest
from prometheus_client import REGISTRY, generate_latest
from quantop import metrics
from quantop.api.quantizedmodel import QualityStatus, QuantizedModelStatus

KEY = ("team-a", "phi")


def task(name: str, source: str, artifact: str) -> dict[str, Any]:
    """The accuracies in a task."""
    return {
        "name": name,
        "metric": "acc",
        "samples": 200,
        "baselinePercent": source,
        "baselineErrorPercent": "3.2",
        "accuracyPercent": artifact,
        "errorPercent": "3.3",
    }


def show(quality: dict[str, Any] | None) -> list[str]:
    """All samples of the object, once it has this quality."""
    measured = quality and QualityStatus.model_validate({"protocol": "windows-v1", **quality})
    metrics.observe(*KEY, QuantizedModelStatus(quality=measured or None))
    return shown()


def shown() -> list[str]:
    lines = generate_latest(REGISTRY).decode().splitlines()
    return sorted(line for line in lines if 'model="phi"' in line)


@pytest.mark.parametrize(
    ("field", "metric"),
    [
        ("increasePercent", "perplexity_increase_percent"),
        ("topTokenAgreementPercent", "top_token_agreement_percent"),
        ("meanKLDivergence", "mean_kl_divergence_nats"),
        ("answerAgreementPercent", "answer_agreement_percent"),
        ("meanCosineSimilarity", "mean_cosine_similarity"),
        ("labelAgreementPercent", "label_agreement_percent"),
    ],
)
def test_a_figure_is_shown_while_it_is_the_objects(field: str, metric: str) -> None:
    sample = f'quantop_model_{metric}{{model="phi",namespace="team-a"}}'
    assert show({field: "62.5"}) == [f"{sample} 62.5"]
    assert show({}) == []
    assert show({field: "0.25"}) == [f"{sample} 0.25"]
    assert show(None) == []
    show({field: "1"})
    metrics.forget(KEY)
    assert shown() == []


def test_each_task_is_shown_while_it_is_measured() -> None:
    def sample(name: str, points: str) -> str:
        of = f'model="phi",namespace="team-a",task="{name}"'
        return f"quantop_model_task_accuracy_drop_points{{{of}}} {points}"

    tasks = [task("endings", "71.500", "68.000"), task("sums", "40.1", "41.2")]
    assert show({"tasks": tasks}) == [sample("endings", "3.5"), sample("sums", "-1.1")]
    assert show({"tasks": tasks[1:]}) == [sample("sums", "-1.1")]
    metrics.forget(KEY)
    assert shown() == []
