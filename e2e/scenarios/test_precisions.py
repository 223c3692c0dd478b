"""Every precision that a built-in Quantizer lists is made by the operator, and is what it says."""

import re

import pytest

from e2e.kubectl import Kubectl, Object
from e2e.scenarios.team import Team, quantized_model
from e2e.store import text_uri

CALIBRATION = {"uri": text_uri("calibration.txt"), "samples": 32, "sequenceLength": 256}
EVALUATION = {"uri": text_uri("evaluation.txt"), "maxTokens": 8192}
MOST_INCREASE_PERCENT = {16: "0.1", 8: "0.5", 6: "0.5", 5: "1", 4: "2", 3: "8", 2: "30", 1: "60"}
"""By the bits in a precision's name: far above what the test model loses, far below what a model
loses whose weights are wrong."""


@pytest.mark.slow
def test_every_gguf_precision_is_made_and_keeps_its_promise(team: Team, kubectl: Kubectl) -> None:
    quantizer = kubectl.get("quantizer", "llama-cpp", "")
    assert quantizer is not None
    precisions = quantizer["spec"]["precisions"]
    assert len(precisions) > 20
    names = {precision["name"]: team.apply(recipe(precision)) for precision in precisions}
    print(f"\n{'precision':10} {'bits/weight':>11} {'bytes':>8} {'perplexity':>10} {'rose %':>8}")
    for precision, name in names.items():
        status = team.ready(name, timeout=1800)["status"]
        artifact, quality = status["artifact"], status["quality"]
        print(
            f"{precision:10} {artifact['bitsPerWeight']:>11} {artifact['sizeBytes']:>8} "
            f"{quality['perplexity']:>10} {quality['increasePercent']:>8}"
        )


def recipe(precision: Object) -> Object:
    """An artifact of the precision by its first method, which must keep the limit for its bits."""
    (bits, *_) = re.findall(r"\d+", precision["name"])
    limit = MOST_INCREASE_PERCENT[int(bits)]
    quantization = {}
    if precision["methods"][0].get("calibration") == "Required":
        quantization["calibration"] = CALIBRATION
    return quantized_model(
        precision["name"].lower().replace("_", "-"),
        ("GGUF", precision["name"]),
        quantization=quantization,
        quality={"evaluation": EVALUATION, "maxPerplexityIncreasePercent": limit},
        serving=None,
    )
