"""Each way of each built-in Quantizer: made, what it says it is, loaded, served and asked."""

import json
import secrets
from collections.abc import Callable, Mapping

from openai import OpenAI

from e2e.conformance.rows import ENCODER, WORKFLOWS, Row
from e2e.conformance.seen import Seen, record
from e2e.kubectl import Object
from e2e.scenarios.team import Team, quantized_model
from e2e.scenarios.waiting import until
from e2e.store import ARTIFACTS_BUCKET, TEXTS_BUCKET, Store, text_uri

TIMEOUT = 3600.0
SEARCH = "Search"
"""The method by which a toolchain chooses among several ways."""
LOOKED_FOR = ("latencyMilliseconds", "tokenMilliseconds")
"""The figures that it looks for the least of."""
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
    "onnxruntime-genai-cuda": {"0.1": ("FP16",), "0.5": ("INT8",), "2": ("INT4",)},
    "onnxruntime-genai-directml": {"0.1": ("FP16",), "0.5": ("INT8",), "2": ("INT4",)},
    "onnxruntime-genai-webgpu": {"0.1": ("FP32", "FP16"), "0.5": ("INT8",), "2": ("INT4",)},
    "olive": {"0.5": ("INT8",), "4": ("INT4",)},
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
LEAST_COSINE_SIMILARITY: Mapping[str, Mapping[str, tuple[str, ...]]] = {
    "onnxruntime": {"0.9999": ("FP32", "FP16"), "0.9985": ("INT8",), "0.975": ("INT4",)},
    "onnxruntime-tensorflow": {"0.9999": ("FP32", "FP16"), "0.9985": ("INT8",), "0.975": ("INT4",)},
    "olive-encoder": {"0.9999": ("FP16",), "0.999": ("INT8",), "0.96": ("INT4",)},
    "llama-cpp-encoder": {
        "0.9999": ("F32", "BF16", "F16", "Q8_0", "Q6_K"),
        "0.9998": ("Q5_K_M", "Q5_K_S", "Q5_1", "Q5_0", "Q4_K_M", "Q4_K_S"),
        "0.9995": ("Q4_1", "Q4_0", "IQ4_NL", "IQ4_XS"),
    },
    "qnn": {"0.998": ("W8A16",), "0.98": ("W8A8",)},
}
"""Of encoders, precisions by how alike their embeddings must be to the source's, in the mean: about
twice as far from 1 as they were measured to be."""


def model(row: Row, source: str, **spec: object) -> Object:
    """An object of the row, which must keep the limit of its precision."""
    return quantized_model(
        row.name,
        (row.format, row.precision),
        source,
        quantization={
            "method": row.method,
            "quantizerName": row.quantizer,
            **({"calibration": CALIBRATION} if row.calibrated else {}),
        },
        quality={"evaluation": EVALUATION, **limit(row)},
        **spec,
    )


def limit(row: Row) -> dict[str, object]:
    """The field of `spec.quality` that holds the row's limit."""
    limits = LEAST_COSINE_SIMILARITY if row.encodes else MOST_INCREASE_PERCENT
    (found,) = (
        each for each, precisions in limits[row.quantizer].items() if row.precision in precisions
    )
    return {"minMeanCosineSimilarity" if row.encodes else "maxPerplexityIncreasePercent": found}


def test_a_row_is_made_measured_served_and_answers_alike_when_asked_twice(
    team: Team, source: Callable[[str], str], row: Row
) -> None:
    """The Job itself refuses an artifact outside its band of bits per weight or with layers left as
    they were, and one that the format's own engine cannot load."""
    serving: dict[str, object] = {"serving": {"runtimeName": row.runtime} if row.runtime else None}
    name = team.apply(model(row, source(row.model), **serving))
    status = team.ready(name, timeout=TIMEOUT)["status"]
    artifact, quality = status["artifact"], status["quality"]
    assert artifact["quantizer"] == row.quantizer
    if row.method == SEARCH:
        check_benchmark(artifact["benchmark"])
    if row.runtime:
        assert answer(team, row, name) == answer(team, row, name)
    for other in row.others:
        serve_by(team, name, other)
        assert answer(team, row, name) == answer(team, row, name)
    seconds, memory = quantize_stage(team, name)
    record(
        row.id,
        Seen(
            size_ratio=f"{artifact['sizeBytes'] / artifact['sourceSizeBytes']:.2f}",
            bits_per_weight=artifact["bitsPerWeight"],
            quantize_seconds=seconds,
            peak_memory_bytes=memory,
            answered=row.runtime is not None,
            also=list(row.others),
            **measured(row, quality),
        ),
    )


def check_benchmark(benchmark: Object) -> None:
    """A search says what it measured where, and that it chose the fastest of those that pass."""
    assert benchmark["node"]
    assert benchmark["processor"]
    chosen, *others = benchmark["candidates"]
    assert chosen["state"] == "Chosen"
    assert len(others) >= 3
    time = next(figure["name"] for figure in chosen["figures"] if figure["name"] in LOOKED_FOR)
    passed = [each for each in others if each["state"] == "Passed"]
    assert all(figure(chosen, time) <= figure(each, time) for each in passed)


def figure(candidate: Object, name: str) -> float:
    """A figure of a candidate in the status."""
    (found,) = (each["value"] for each in candidate["figures"] if each["name"] == name)
    return float(found)


def serve_by(team: Team, name: str, runtime: str) -> None:
    """Have another engine serve the same artifact, and wait until it alone does."""
    team.patch(name, {"serving": {"runtimeName": runtime}})
    team.ready(name)

    def replaced() -> bool:
        pods = team.pods(name, "server")
        return {pod["metadata"]["annotations"]["quantop.dev/runtime"] for pod in pods} == {runtime}

    until(f"only {runtime} serves it", replaced, timeout=600)


def answer(team: Team, row: Row, name: str) -> object:
    """What its engine answers: a text, or an embedding."""
    if not row.encodes:
        text = team.answer(name)
        assert text
        return text
    url = team.model(name)["status"]["endpoint"]["url"].rstrip("/").removesuffix("/v1")
    client = OpenAI(base_url=f"{url}/v1", api_key="none", timeout=120)
    (found,) = client.embeddings.create(model=name, input=["The function returns"]).data
    assert any(found.embedding)
    return found.embedding


def measured(row: Row, quality: Object) -> dict[str, str]:
    """The figures of the status that say what the row lost."""
    if row.encodes:
        return {
            "mean_cosine_similarity": quality["meanCosineSimilarity"],
            "p1_cosine_similarity": quality["p1CosineSimilarity"],
        }
    assert float(quality["perplexity"]) > 1
    return {
        "increase_percent": quality["increasePercent"],
        "top_token_agreement_percent": quality["topTokenAgreementPercent"],
    }


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
    name = team.apply(model(first_row, new_checkpoint(first_row.model), serving=None))

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
    source = new_checkpoint(first_row.model, **unknown)
    name = team.apply(model(first_row, source, serving=None))
    stalled = team.stalled(name, timeout=600)
    assert stalled["reason"] == "UnsupportedArchitecture", stalled
    assert "NeverHeardOfForCausalLM" in stalled["message"]


def test_a_classifier_keeps_its_labels(
    team: Team, new_checkpoint: Callable[[str], str], first_classifier_row: Row
) -> None:
    made = model(first_classifier_row, new_checkpoint("tiny-bert-classifier"), serving=None)
    evaluation = {"uri": text_uri("classification.jsonl"), "maxTokens": 8192}
    made["spec"]["quality"] = {"evaluation": evaluation, "minLabelAgreementPercent": 95}
    quality = team.ready(team.apply(made), timeout=TIMEOUT)["status"]["quality"]
    assert float(quality["accuracyPercent"]) > 60, "by chance it were a third"


def test_a_workflow_of_ones_own_is_run_and_what_it_may_not_have_is_refused(
    team: Team, source: Callable[[str], str], first_composing_row: Row
) -> None:
    """As another artifact than the method's; a refusal leaves what is there."""
    passes = {
        f"p{i}": dict(each) for i, each in enumerate(WORKFLOWS[first_composing_row.quantizer])
    }
    made = model(first_composing_row, source(first_composing_row.model), serving=None)
    del made["spec"]["quantization"]["method"]
    made["spec"]["quantization"]["workflow"] = json.dumps({"passes": passes})
    name = team.apply(made)
    artifact = team.ready(name, timeout=TIMEOUT)["status"]["artifact"]
    assert artifact["method"] == "Workflow"
    assert artifact["quantizer"] == first_composing_row.quantizer
    passes["p1"]["user_script"] = "/work/source/script.py"
    team.patch(name, {"quantization": {"workflow": json.dumps({"passes": passes})}})
    stalled = team.stalled(name)
    assert stalled["reason"] == "WorkflowNotSupported", stalled
    assert 'passes.p1.user_script is "/work/source/script.py"' in stalled["message"]
    assert team.model(name)["status"]["artifact"]["key"] == artifact["key"]


def test_a_workflow_out_of_the_store_is_the_one_in_the_spec_and_is_checked_like_it(
    team: Team, store: Store, source: Callable[[str], str], first_composing_row: Row
) -> None:
    row = first_composing_row
    passes = {f"p{i}": dict(each) for i, each in enumerate(WORKFLOWS[row.quantizer])}

    def put() -> str:
        key = f"workflows/{secrets.token_hex(8)}.json"
        text = json.dumps({"passes": passes}, indent=2)
        store.client().put_object(Bucket=TEXTS_BUCKET, Key=key, Body=text.encode())
        return text_uri(key)

    made = model(row, source(row.model), serving=None)
    del made["spec"]["quantization"]["method"]
    made["spec"]["quantization"]["workflowFrom"] = {"uri": put()}
    name = team.apply(made)
    artifact = team.ready(name, timeout=TIMEOUT)["status"]["artifact"]
    assert artifact["method"] == "Workflow"
    inline = {"workflow": json.dumps({"passes": passes}), "workflowFrom": None}
    team.patch(name, {"quantization": inline})
    assert team.ready(name, timeout=600)["status"]["artifact"]["key"] == artifact["key"]
    passes["p1"]["user_script"] = "/work/source/script.py"
    bad = put()
    team.patch(name, {"quantization": {"workflow": None, "workflowFrom": {"uri": bad}}})
    stalled = team.stalled(name, timeout=600)
    assert stalled["reason"] == "WorkflowNotSupported", stalled
    assert bad in stalled["message"]
    assert 'passes.p1.user_script is "/work/source/script.py"' in stalled["message"]
    assert "possible: accuracy_level, bits, block_size" in stalled["message"]


def test_what_a_compiler_says_of_a_graph_that_it_refuses_reaches_the_user(
    team: Team, new_checkpoint: Callable[..., str], first_compiled_row: Row
) -> None:
    """Its activation has an operator that the processor lacks."""
    source = new_checkpoint("tiny-bert", hidden_act="laplace")
    name = team.apply(model(first_compiled_row, source, serving=None))
    stalled = team.stalled(name, timeout=600)
    assert stalled["reason"] == "GraphNotCompiled", stalled
    assert "Unsupported nodes in QNN EP" in stalled["message"]
    assert "type: Erf" in stalled["message"]


def test_a_graph_that_would_do_more_than_compute_is_refused_with_the_operator(
    team: Team, store: Store, new_checkpoint: Callable[[str], str], first_saved_row: Row
) -> None:
    """Names of one length take each other's place, and it is a whole SavedModel still."""
    source = new_checkpoint(first_saved_row.model)
    graph = f"{source}/saved_model.pb"
    bucket, _, key = graph.removeprefix("s3://").partition("/")
    spoilt = store.read(graph).replace(b"Transpose", b"WriteFile")
    store.client().put_object(Bucket=bucket, Key=key, Body=spoilt)
    name = team.apply(model(first_saved_row, source, serving=None))
    stalled = team.stalled(name, timeout=600)
    assert stalled["reason"] == "SavedModelRefused", stalled
    assert "the operator WriteFile" in stalled["message"]


def test_a_source_of_another_kind_is_refused_before_anything_is_converted(
    team: Team, source: Callable[[str], str], first_saved_row: Row
) -> None:
    """With what each of the Quantizers reads."""
    made = model(first_saved_row, source(ENCODER), serving=None)
    stalled = team.stalled(team.apply(made))
    assert stalled["reason"] == "UnsupportedSource", stalled
    assert "saved as Safetensors" in stalled["message"]
    made = model(first_saved_row, source(first_saved_row.model), serving=None)
    made["metadata"]["name"] = "by-another"
    made["spec"]["quantization"]["quantizerName"] = "onnxruntime"
    stalled = team.stalled(team.apply(made))
    assert stalled["reason"] == "UnsupportedSource", stalled
    assert "saved as SavedModel" in stalled["message"]
