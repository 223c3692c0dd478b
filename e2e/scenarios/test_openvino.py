"""OpenVINO's format: made by its toolchain, measured, and served by its engine.

Its images are not among those that the demo builds: `make images ALL=1`.
"""

import pytest

from e2e.kubectl import Object
from e2e.scenarios.team import Team, quantized_model
from e2e.store import text_uri

CALIBRATION = {"uri": text_uri("calibration.txt"), "samples": 32, "sequenceLength": 256}
EVALUATION = {"uri": text_uri("evaluation.txt"), "maxTokens": 8192}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "quantization"),
    [
        ("rounded", {}),
        ("weighed", {"method": "GPTQ", "calibration": CALIBRATION}),
    ],
)
def test_a_model_in_four_bits_answers(team: Team, name: str, quantization: Object) -> None:
    model = quantized_model(
        name,
        ("OpenVINO", "INT4"),
        quantization=quantization,
        quality={"evaluation": EVALUATION, "maxPerplexityIncreasePercent": "2"},
    )
    status = team.ready(team.apply(model), timeout=1800)["status"]
    # A quarter of the test model is its output layer and embedding, which have 8 bits.
    assert 4.5 < float(status["artifact"]["bitsPerWeight"]) < 5.5
    assert float(status["quality"]["increasePercent"]) < 2
    assert len(team.answer(name)) > 8
