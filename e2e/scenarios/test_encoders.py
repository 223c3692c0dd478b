"""An encoder and a classifier are quantized, measured by what they are for, and served."""

import json
import math
import urllib.request
from typing import Any

from openai import OpenAI

from e2e.scenarios.team import Team, quantized_model
from e2e.store import SOURCES_BUCKET, text_uri

RECIPE = ("ONNXEncoder", "INT8")
TEXTS = ("a function that returns a list", "the list that a function returns", "import sys")


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
    assert [len(each) for each in embeddings(name, status)] == [128] * len(TEXTS)


def test_llama_cpp_serves_the_embeddings_that_onnx_runtime_does(team: Team) -> None:
    """The test model's rows are 128 numbers but for one matrix of each layer: Q4_K_M takes Q5_0 for
    the others, as it does for the 384 of a MiniLM."""
    source, evaluation = f"s3://{SOURCES_BUCKET}/tiny-bert", text_uri("evaluation.txt")
    quality = {"evaluation": {"uri": evaluation, "maxTokens": 4096}}
    exact = team.apply(quantized_model("exact", ("ONNXEncoder", "FP32"), source))
    similar = {"Q8_0": 0.999, "Q4_K_M": 0.99}
    names = {
        precision: team.apply(
            quantized_model(
                f"embedder-{number}",
                ("GGUFEncoder", precision),
                source,
                quality=quality | {"minMeanCosineSimilarity": str(least), "maxMemory": "512Mi"},
            )
        )
        for number, (precision, least) in enumerate(similar.items())
    }
    expected = embeddings(exact, team.ready(exact)["status"])
    bits = {}
    for precision, name in names.items():
        status = team.ready(name)["status"]
        bits[precision] = float(status["artifact"]["bitsPerWeight"])
        assert status["endpoint"]["protocol"] == "OpenAIEmbeddings"
        assert "perplexity" not in status["quality"]
        assert int(status["performance"]["peakMemoryBytes"]) > 0
        assert "tokensPerSecond" not in status["performance"]
        found = embeddings(name, status)
        for ours, theirs in zip(found, expected, strict=True):
            assert cosine(ours, theirs) > similar[precision]
        (listed,) = OpenAI(base_url=f"{base(status)}/v1", api_key="none").models.list()
        assert f"precision={precision}" in listed.model_dump()["tags"]
    assert 5 < bits["Q4_K_M"] < bits["Q8_0"] < 12


def test_a_classifier_is_no_model_that_embeds(team: Team) -> None:
    name = team.apply(
        quantized_model(
            "classifier", ("GGUFEncoder", "Q8_0"), f"s3://{SOURCES_BUCKET}/tiny-bert-classifier"
        )
    )
    stalled = team.stalled(name)
    assert stalled["reason"] == "UnsupportedArchitecture"
    assert "BertForSequenceClassification" in stalled["message"]


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


def embeddings(name: str, status: dict[str, Any]) -> list[list[float]]:
    """What a model makes of the texts, by OpenAI's protocol."""
    client = OpenAI(base_url=f"{base(status)}/v1", api_key="none", timeout=120)
    return [each.embedding for each in client.embeddings.create(model=name, input=TEXTS).data]


def cosine(one: list[float], other: list[float]) -> float:
    """The cosine similarity of two vectors."""
    product = sum(a * b for a, b in zip(one, other, strict=True))
    return product / math.hypot(*one) / math.hypot(*other)


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
