"""Each way of each built-in Quantizer: made, what it says it is, loaded, served and asked."""

import json
from collections.abc import Callable, Mapping

from e2e.conformance.rows import Row
from e2e.conformance.seen import Seen, record
from e2e.kubectl import Object
from e2e.scenarios.team import Team, quantized_model
from e2e.scenarios.waiting import until
from e2e.store import ARTIFACTS_BUCKET, Store, text_uri

TIMEOUT = 3600.0
CALIBRATION = {"uri": text_uri("calibration.txt"), "samples": 32, "sequenceLength": 256}
EVALUATION = {"uri": text_uri("evaluation.txt"), "maxTokens": 8192}
MOST_INCREASE_PERCENT: Mapping[str, Mapping[str, tuple[str, ...]]] = {
    "llama-cpp": {
        "0.1": ("F32", "BF16", "F16"),
        "0.5": ("Q8_0", "Q6_K"),
        "1": ("Q5_K_M", "Q5_K_S", "Q5_1", "Q5_0"),
        "2": ("Q4_K_M", "Q4_K_S", "Q4_1", "Q4_0", "IQ4_NL", "IQ4_XS"),
        "8": ("Q3_K_L", "Q3_K_M", "Q3_K_S", "IQ3_M", "IQ3_S", "IQ3_XS", "IQ3_XXS"),
        "30": ("Q2_K", "Q2_K_S", "IQ2_M", "IQ2_S", "IQ2_XS", "IQ2_XXS"),
        "60": ("IQ1_M", "IQ1_S"),
        "1000": ("TQ2_0", "TQ1_0"),
    },
    "llm-compressor": {
        "0.5": ("W8A16", "W8A8"),
        "1": ("FP8", "FP8_DYNAMIC", "FP8_BLOCK", "MXFP8", "MXFP8A16"),
        "4": ("W4A16", "W4A16_ASYM", "W4A8", "NVFP4A16", "MXFP4A16"),
        "8": ("NVFP4", "MXFP4"),
    },
    "auto-round-gptq": {"0.5": ("W8A16",), "4": ("W4A16",), "60": ("W2A16",)},
    "auto-round-awq": {"4": ("W4A16", "W4A16_ASYM")},
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


def model(row: Row, source: str, **spec: object) -> Object:
    """An object of the row, which must keep the limit of its precision."""
    (limit,) = (
        limit
        for limit, precisions in MOST_INCREASE_PERCENT[row.quantizer].items()
        if row.precision in precisions
    )
    return quantized_model(
        row.name,
        (row.format, row.precision),
        source,
        quantization={
            "method": row.method,
            "quantizerName": row.quantizer,
            **({"calibration": CALIBRATION} if row.calibrated else {}),
        },
        quality={"evaluation": EVALUATION, "maxPerplexityIncreasePercent": limit},
        **spec,
    )


def test_a_row_is_made_measured_served_and_answers_alike_when_asked_twice(
    team: Team, source: str, row: Row
) -> None:
    """The Job itself refuses an artifact outside its band of bits per weight or with layers left as
    they were, and one that the format's own engine cannot load."""
    serving: dict[str, object] = {"serving": {"runtimeName": row.runtime} if row.runtime else None}
    name = team.apply(model(row, source, **serving))
    status = team.ready(name, timeout=TIMEOUT)["status"]
    artifact, quality = status["artifact"], status["quality"]
    assert artifact["quantizer"] == row.quantizer
    assert float(quality["perplexity"]) > 1
    if row.runtime:
        assert team.answer(name) == team.answer(name) != ""
    for other in row.others:
        serve_by(team, name, other)
        assert team.answer(name) == team.answer(name) != ""
    seconds, memory = quantize_stage(team, name)
    record(
        row.id,
        Seen(
            size_ratio=f"{artifact['sizeBytes'] / artifact['sourceSizeBytes']:.2f}",
            bits_per_weight=artifact["bitsPerWeight"],
            increase_percent=quality["increasePercent"],
            top_token_agreement_percent=quality["topTokenAgreementPercent"],
            quantize_seconds=seconds,
            peak_memory_bytes=memory,
            answered=row.runtime is not None,
            also=list(row.others),
        ),
    )


def serve_by(team: Team, name: str, runtime: str) -> None:
    """Have another engine serve the same artifact, and wait until it alone does."""
    team.patch(name, {"serving": {"runtimeName": runtime}})
    team.ready(name)

    def replaced() -> bool:
        pods = team.pods(name, "server")
        return {pod["metadata"]["annotations"]["quantop.dev/runtime"] for pod in pods} == {runtime}

    until(f"only {runtime} serves it", replaced, timeout=600)


def quantize_stage(team: Team, name: str) -> tuple[int, int]:
    """Seconds and peak memory in bytes of the toolchain's first stage."""
    (pod,) = team.pods(name, "convert")
    ended = terminated(pod, "quantize")
    assert ended is not None
    said = json.loads(ended["message"])
    return int(said["seconds"]), int(said["peakMemoryBytes"])


def terminated(pod: Object, stage: str) -> Object | None:
    """How a stage's container ended, if it did."""
    for container in pod["status"].get("initContainerStatuses", []):
        if container["name"] == stage:
            ended: Object | None = container["state"].get("terminated")
            return ended
    return None


def test_sigterm_while_it_converts_leaves_nothing_published(
    team: Team, store: Store, new_checkpoint: Callable[[str], str], first_row: Row
) -> None:
    name = team.apply(model(first_row, new_checkpoint("tiny-llama"), serving=None))

    def quantizing() -> Object | None:
        for pod in team.pods(name, "convert"):
            for container in pod["status"].get("initContainerStatuses", []):
                if container["name"] == "quantize" and "running" in container["state"]:
                    return pod
        return None

    pod = until("quantize runs", quantizing, timeout=600, every=0.2)
    team.kubectl.delete("pod", pod["metadata"]["name"], team.namespace)
    key = team.model(name)["status"]["resolution"]["key"]
    assert published(store, key) == []
    team.ready(name, timeout=TIMEOUT)
    assert published(store, key) != []


def published(store: Store, key: str) -> list[str]:
    """Commit points of an artifact in the store: at most one."""
    listed = store.client().list_objects_v2(Bucket=ARTIFACTS_BUCKET, Prefix=f"artifacts/{key}/")
    return [each["Key"] for each in listed.get("Contents", []) if "manifest" in each["Key"]]


def test_a_source_that_it_cannot_read_is_refused_with_the_reason(
    team: Team, new_checkpoint: Callable[..., str], first_row: Row
) -> None:
    unknown = {"architectures": ["NeverHeardOfForCausalLM"], "model_type": "never_heard_of"}
    source = new_checkpoint("tiny-llama", **unknown)
    name = team.apply(model(first_row, source, serving=None))
    stalled = team.stalled(name, timeout=600)
    assert stalled["reason"] == "UnsupportedArchitecture", stalled
    assert "NeverHeardOfForCausalLM" in stalled["message"]
