"""What an object says of a quality that was measured."""

from typing import Any

import pytest
from quantop.contract import QualityReport
from quantop.reconcile.artifact import quality_status
from quantop.reconcile.plan import told

COUNTED = {"bitsPerWeight": 8.1, "parameters": 100, "quantizedLayers": 2, "totalLayers": 2}


@pytest.mark.parametrize(
    ("report", "said"),
    [
        (
            {
                "protocol": "windows-v1",
                "baselinePerplexity": 20,
                "perplexity": 20.5,
                "topTokenAgreementPercent": 98,
                "tokens": 1024,
            },
            "Perplexity 20.000 -> 20.500 (+2.50 %) over 1024 tokens, the same token most likely at "
            "98.000 %",
        ),
        (
            {
                "protocol": "windows-v1",
                "baselinePerplexity": 20,
                "perplexity": 20.5,
                "tokens": 1024,
                "answerAgreementPercent": 75,
                "meanAnswerPrefixPercent": 90,
                "prompts": 64,
            },
            "Perplexity 20.000 -> 20.500 (+2.50 %) over 1024 tokens, the same answer to 75.000 % "
            "of 64 prompts",
        ),
        (
            {
                "protocol": "texts-v1",
                "meanCosineSimilarity": 0.9927,
                "p1CosineSimilarity": 0.985,
                "texts": 294,
                "tokens": 9983,
            },
            "Cosine similarity of embeddings 0.992700 over 294 texts (1st percentile 0.985000)",
        ),
        (
            {"protocol": "texts-v1", "labelAgreementPercent": 99.5, "texts": 200, "tokens": 9000},
            "The same label most likely for 99.500 % of 200 texts",
        ),
        (
            {
                "protocol": "texts-v1",
                "labelAgreementPercent": 99.5,
                "baselineAccuracyPercent": 91,
                "accuracyPercent": 90.5,
                "texts": 200,
                "tokens": 9000,
            },
            "The same label most likely for 99.500 % of 200 texts, accuracy 91.000 % -> 90.500 %",
        ),
        (
            {
                "protocol": "windows-v1",
                "answerAgreementPercent": 75,
                "prompts": 64,
                "taskAccuracyDropPoints": 1.5,
                "tasks": [
                    {
                        "name": "endings",
                        "metric": "acc",
                        "samples": 200,
                        "baselinePercent": 71.5,
                        "baselineErrorPercent": 3.2,
                        "accuracyPercent": 70,
                        "errorPercent": 3.3,
                    }
                ],
            },
            "The same answer to 75.000 % of 64 prompts, 1.500 points of accuracy lost in 1 tasks "
            "at most",
        ),
        ({"protocol": "windows-v1"}, None),
    ],
)
def test_a_quality_is_told_in_the_words_of_its_protocol(
    report: dict[str, Any], said: str | None
) -> None:
    assert told(quality_status(QualityReport.model_validate({**COUNTED, **report}))) == said


def test_nothing_is_told_where_nothing_was_measured() -> None:
    assert told(None) is None
