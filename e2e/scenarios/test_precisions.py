"""Every precision that a built-in Quantizer lists is made by the operator, by every method of it,
and is what it says."""

from collections.abc import Iterator, Mapping

import pytest

from e2e.kubectl import Kubectl, Object
from e2e.scenarios.team import Team, quantized_model
from e2e.store import text_uri

CALIBRATION = {"uri": text_uri("calibration.txt"), "samples": 32, "sequenceLength": 256}
EVALUATION = {"uri": text_uri("evaluation.txt"), "maxTokens": 8192}
MOST_INCREASE_PERCENT: Mapping[str, Mapping[str, tuple[str, ...]]] = {
    "llama-cpp": {
        "0.1": ("F16",),
        "0.5": ("Q8_0", "Q6_K"),
        "1": ("Q5_K_M", "Q5_K_S", "Q5_1", "Q5_0"),
        "2": ("Q4_K_M", "Q4_K_S", "Q4_1", "Q4_0", "IQ4_NL", "IQ4_XS"),
        "8": ("Q3_K_L", "Q3_K_M", "Q3_K_S", "IQ3_M", "IQ3_S", "IQ3_XS", "IQ3_XXS"),
        "30": ("Q2_K", "Q2_K_S", "IQ2_M", "IQ2_S", "IQ2_XS", "IQ2_XXS"),
        "60": ("IQ1_M", "IQ1_S"),
    },
    "llm-compressor": {
        "0.5": ("W8A16", "W8A8"),
        "1": ("FP8", "FP8_DYNAMIC", "FP8_BLOCK", "MXFP8", "MXFP8A16"),
        "4": ("W4A16", "W4A16_ASYM", "W4A8", "NVFP4A16", "MXFP4A16"),
        "8": ("NVFP4", "MXFP4"),
    },
    "onnxruntime-genai": {"0.1": ("FP32",), "0.5": ("INT8",), "2": ("INT4",)},
    "openvino": {
        "0.1": ("FP32", "FP16"),
        "1": ("INT8", "W8A8"),
        "4": ("INT4", "NF4", "MXFP4"),
    },
    "mlx": {
        "0.5": ("8bit",),
        "1": ("6bit", "mxfp8"),
        "2": ("5bit",),
        "5": ("4bit", "mxfp4", "nvfp4", "mixed_4_6"),
        "15": ("3bit", "mixed_3_4", "mixed_3_6"),
        "90": ("2bit", "mixed_2_6"),
    },
}
"""Of each Quantizer, precisions by how much the test model's perplexity may increase: about twice
what it was measured to, and far below what a model loses whose weights are wrong."""


@pytest.mark.slow
@pytest.mark.parametrize("name", MOST_INCREASE_PERCENT)
def test_every_precision_and_method_is_made_and_keeps_its_promise(
    team: Team, kubectl: Kubectl, name: str
) -> None:
    """The Job itself refuses an artifact outside its band of bits per weight, or with layers left
    as they were."""
    quantizer = kubectl.get("quantizer", name, "")
    assert quantizer is not None
    limits = {
        precision: limit
        for limit, precisions in MOST_INCREASE_PERCENT[name].items()
        for precision in precisions
    }
    assert set(limits) == {each["name"] for each in quantizer["spec"]["precisions"]}
    made = [team.apply(model) for model in models(quantizer, limits)]
    print(f"\n{name:40} {'bits/weight':>11} {'bytes':>8} {'perplexity':>10} {'rose %':>8}")
    for each in made:
        status = team.ready(each, timeout=3600)["status"]
        artifact, quality = status["artifact"], status["quality"]
        print(
            f"{each:40} {artifact['bitsPerWeight']:>11} {artifact['sizeBytes']:>8} "
            f"{quality['perplexity']:>10} {quality['increasePercent']:>8}"
        )


def models(quantizer: Object, limits: Mapping[str, str]) -> Iterator[Object]:
    """An artifact of each precision by each method, which must keep the precision's limit."""
    kind = quantizer["spec"]["format"]
    for precision in quantizer["spec"]["precisions"]:
        for method in precision["methods"]:
            needs_text = method.get("calibration") == "Required"
            yield quantized_model(
                f"{kind}-{precision['name']}-{method['name']}".lower().replace("_", "-"),
                (kind, precision["name"]),
                quantization={
                    "method": method["name"],
                    **({"calibration": CALIBRATION} if needs_text else {}),
                },
                quality={
                    "evaluation": EVALUATION,
                    "maxPerplexityIncreasePercent": limits[precision["name"]],
                },
                serving=None,
            )
