"""An encoder and a classifier are quantized, measured by what they are for, and served."""

import json
import urllib.request
from typing import Any

from openai import OpenAI

from e2e.scenarios.team import Team, quantized_model
from e2e.store import SOURCES_BUCKET, text_uri

RECIPE = ("ONNXEncoder", "INT8")


def test_an_encoder_is_measured_by_its_embeddings_and_serves_them(team: Team) -> None:
    name = team.apply(
        quantized_model(
            "embedder",
            RECIPE,
            f"s3://{SOURCES_BUCKET}/tiny-bert",
            quality={
                "evaluation": {"uri": text_uri("evaluation.txt"), "maxTokens": 4096},
                "minMeanCosineSimilarity": "0.99",
            },
        )
    )
    status = team.ready(name)["status"]
    assert 0.99 < float(status["quality"]["meanCosineSimilarity"]) < 1
    assert "perplexity" not in status["quality"]
    client = OpenAI(base_url=f"{base(status)}/v1", api_key="none", timeout=120)
    found = client.embeddings.create(
        model=name, input=["a function that returns a list", "the list that a function returns"]
    )
    assert [len(each.embedding) for each in found.data] == [128, 128]


def test_a_classifier_serves_labels_by_the_open_inference_protocol(team: Team) -> None:
    name = team.apply(
        quantized_model(
            "classifier",
            RECIPE,
            f"s3://{SOURCES_BUCKET}/tiny-bert-classifier",
            quality={
                "evaluation": {"uri": text_uri("classification.jsonl"), "maxTokens": 4096},
                "minLabelAgreementPercent": 95,
            },
        )
    )
    status = team.ready(name)["status"]
    assert float(status["quality"]["labelAgreementPercent"]) >= 95
    text = {"name": "text", "datatype": "BYTES", "shape": [1], "data": ["import sys"]}
    answer = post(f"{base(status)}/v2/models/{name}/infer", {"inputs": [text]})
    assert answer["model_name"] == name
    assert answer["outputs"]


def base(status: dict[str, Any]) -> str:
    """The address that both protocols' paths begin at."""
    url: str = status["endpoint"]["url"]
    return url.rstrip("/").removesuffix("/v1")


def post(url: str, body: object) -> dict[str, Any]:
    """The answer to a JSON document."""
    request = urllib.request.Request(
        url, json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=120) as response:
        found: dict[str, Any] = json.load(response)
        return found
