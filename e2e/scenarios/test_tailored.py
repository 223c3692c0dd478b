"""Single tensors in another precision, an artifact in several files: made, stored, served."""

import json
from collections.abc import Callable

from e2e.kubectl import Object
from e2e.scenarios.team import Team, quantized_model
from e2e.store import ARTIFACTS_BUCKET, Store, text_uri

FILE_BYTES = 1_500_000
RECIPE = ("GGUF", "Q4_K_M")
OVERRIDES = [
    {"tensors": "^output[.]weight$", "precision": "Q8_0"},
    {"tensors": "ffn_down", "precision": "Q6_K"},
]


def manifest(store: Store, model: Object) -> Object:
    """What the store says of a model's artifact."""
    key = f"artifacts/{model['status']['artifact']['key']}/manifest.json"
    content = store.client().get_object(Bucket=ARTIFACTS_BUCKET, Key=key)["Body"].read()
    found: Object = json.loads(content)
    return found


def test_overrides_in_files_of_a_given_size_are_served(
    team: Team, store: Store, new_checkpoint: Callable[[str], str]
) -> None:
    source = new_checkpoint("tiny-llama")
    quality = {
        "evaluation": {"uri": text_uri("evaluation.txt"), "maxTokens": 4096},
        "maxPerplexityIncreasePercent": 5,
    }
    plain = team.apply(quantized_model("plain", RECIPE, source, serving=None))
    tailored = team.apply(
        quantized_model(
            "tailored",
            RECIPE,
            source,
            quantization={"overrides": OVERRIDES, "maxFileSize": FILE_BYTES},
            quality=quality,
        )
    )
    before, after = team.ready(plain), team.ready(tailored)
    assert after["status"]["artifact"]["key"] != before["status"]["artifact"]["key"]
    bits = [float(model["status"]["artifact"]["bitsPerWeight"]) for model in (before, after)]
    assert bits[0] + 0.3 < bits[1] < bits[0] + 1

    stored = manifest(store, after)
    assert stored["recipe"]["overrides"] == OVERRIDES
    assert stored["recipe"]["maxFileBytes"] == FILE_BYTES
    assert "overrides" not in manifest(store, before)["recipe"]
    sizes = {file["path"]: file["size"] for file in stored["files"]}
    assert len(sizes) >= 2
    assert max(sizes.values()) <= FILE_BYTES
    assert "model-00001-of-" in min(sizes)
    assert len(team.answer(tailored)) > 8

    # As a draft, too, a model is found by its first file.
    draft = {"engine": {"draftModel": {"name": tailored}}}
    team.apply(quantized_model("drafting", source=source, serving=draft))
    team.ready("drafting")
    assert len(team.answer("drafting")) > 8


def test_what_cannot_be_followed_is_refused(team: Team) -> None:
    unknown = [{"tensors": "ffn_down", "precision": "Q4_K_M"}]
    team.apply(quantized_model("mixture", quantization={"overrides": unknown}))
    assert "possible: BF16, F16, F32, " in team.stalled("mixture")["message"]
    team.apply(
        quantized_model("onnx", ("ONNX", "INT4"), quantization={"maxFileSize": "1Gi"}, serving=None)
    )
    assert team.stalled("onnx")["reason"] == "MaxFileSizeNotSupported"
    assert team.kubectl.find("jobs", team.namespace) == []
