"""Embeddings by llama.cpp: what is refused, what its tools make, and what its server answers.

The tools are not in this environment: `test_adapter_llama_cpp` says where these tests run.
"""

import json
import math
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml
from quantop_adapters import llama_cpp_encoder
from quantop_adapters.refusal import RefusedError

from tests.adapters.checkpoints import KINDS, LLAMA, write_modules, write_source
from tests.adapters.test_adapter_llama_cpp import PYTHON, ROOT, adapter, convert, types

MODELS = ROOT / "e2e" / "models"
RUNTIME = "llama-cpp-encoder"
BERT = {"architectures": ["BertModel"], "model_type": "bert", "max_position_embeddings": 512}
TEXTS = (
    "a function that returns a list",
    "The module\tdefines an interface; see PEP-3333, \u00a7 2.",
    "Na\u00efve caf\u00e9s don't exist.",
    "list " * 100,
)
EMBEDDINGS = """
import json, pathlib, sys, torch
from quantop_adapters import encoder
folder, texts = pathlib.Path(sys.argv[1]), json.loads(sys.argv[2])
model, tokenizer, names = encoder.load(folder), encoder.tokenizer(folder), encoder.inputs(folder)
with torch.inference_mode():
    found = [
        model(*map(torch.from_numpy, encoder.feed(tokenizer.encode(text), names).values()))[0]
        for text in texts
    ]
print("embeddings:", json.dumps([each.tolist() for each in found]))
"""
needs_toolchain = pytest.mark.skipif(not PYTHON, reason="QUANTOP_TOOLCHAIN_PYTHON is not set")


@pytest.mark.parametrize(
    ("pooling", "found"),
    [
        ({"pooling_mode_mean_tokens": True}, "mean"),
        ({"pooling_mode_cls_token": True}, "cls"),
        ({"pooling_mode_lasttoken": True}, "last"),
    ],
)
@pytest.mark.parametrize("config", [BERT, LLAMA])
def test_the_source_says_how_it_is_pooled(
    tmp_path: Path, config: dict[str, Any], pooling: dict[str, Any], found: str
) -> None:
    write_source(tmp_path, config)
    write_modules(tmp_path, KINDS, pooling)
    assert llama_cpp_encoder.check(tmp_path) == found


def test_an_encoder_that_says_nothing_is_pooled_by_the_mean(tmp_path: Path) -> None:
    assert llama_cpp_encoder.check(write_source(tmp_path, BERT)) == "mean"


@pytest.mark.parametrize(
    ("config", "pooling", "reason", "said"),
    [
        (BERT, {"pooling_mode_max_tokens": True}, "UnsupportedPooling", "by max"),
        (
            BERT | {"architectures": ["BertForSequenceClassification"]},
            None,
            "UnsupportedHead",
            "labels or a score",
        ),
        (LLAMA, None, "UnsupportedArchitecture", "choose format GGUF"),
    ],
)
def test_what_makes_no_embedding_is_refused(
    tmp_path: Path, config: dict[str, Any], pooling: dict[str, Any] | None, reason: str, said: str
) -> None:
    write_source(tmp_path, config)
    if pooling:
        write_modules(tmp_path, KINDS, pooling)
    with pytest.raises(RefusedError, match=said) as refusal:
        llama_cpp_encoder.check(tmp_path)
    assert refusal.value.reason == reason


def encode(work: Path, precision: str, source: Path, **variables: str) -> dict[str, Any]:
    """Both stages, measured on the evaluation text; what the last one said."""
    spec = catalogue("quantizers", "llama-cpp-encoder")
    (band,) = (p["bitsPerWeight"] for p in spec["precisions"] if p["name"] == precision)
    given = {
        "SOURCE_DIR": str(source),
        "FORMAT": "GGUFEncoder",
        "PRECISION": precision,
        "BITS_PER_WEIGHT_MIN": band["min"],
        "BITS_PER_WEIGHT_MAX": band["max"],
        "EVALUATION_FILE": str(MODELS / "evaluation.txt"),
        "EVALUATION_SEQUENCE_LENGTH": "64",
        "EVALUATION_MAX_TOKENS": "4096",
    }
    return convert(work, module="llama_cpp_encoder", **(given | variables))


def catalogue(kind: str, name: str) -> dict[str, Any]:
    """The spec of one of the chart's objects."""
    values = yaml.safe_load((ROOT / "charts" / "quantop" / "values.yaml").read_text())
    spec: dict[str, Any] = values[kind][name]["spec"]
    return spec


def embeddings(source: Path, texts: Sequence[str]) -> list[list[float]]:
    """What transformers makes of texts, pooled as the source says."""
    _, said = adapter(source, "-c", EMBEDDINGS, str(source), json.dumps(texts))
    (line,) = (line for line in said.splitlines() if line.startswith("embeddings: "))
    found: list[list[float]] = json.loads(line.removeprefix("embeddings: "))
    return found


def cosine(one: Sequence[float], other: Sequence[float]) -> float:
    """The cosine similarity of two vectors."""
    product = sum(a * b for a, b in zip(one, other, strict=True))
    return product / math.hypot(*one) / math.hypot(*other)


@contextmanager
def server(artifact: Path) -> Iterator[str]:
    """llama-server as the chart's ModelRuntime starts it; its address."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    variables = {
        "MODEL_DIR": str(artifact),
        "MODEL_NAME": "tiny",
        "PORT": str(port),
        "CPU_LIMIT": "1",
        "QUANTOP_PRECISION": "F32",
    }
    arguments = []
    for argument in catalogue("modelRuntimes", RUNTIME)["args"]:
        for name, value in variables.items():
            argument = argument.replace(f"$({name})", value)
        arguments.append(argument)
    url = f"http://127.0.0.1:{port}"
    with subprocess.Popen(["llama-server", *arguments], stderr=subprocess.DEVNULL) as process:
        try:
            for _ in range(300):
                try:
                    with urllib.request.urlopen(f"{url}/health"):
                        break
                except (urllib.error.URLError, ConnectionError):
                    assert process.poll() is None, "it ended"
                    time.sleep(0.2)
            yield url
        finally:
            process.terminate()


def post(url: str, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
    """Status and JSON of an answer."""
    headers = {"Content-Type": "application/json"}
    request = urllib.request.Request(url, json.dumps(body).encode(), headers)
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)


@needs_toolchain
@pytest.mark.parametrize(
    ("model", "pooling"),
    [("tiny-bert", "mean_tokens"), ("tiny-bert", "cls_token"), ("tiny-llama", "lasttoken")],
)
def test_what_is_served_is_what_the_source_embeds(tmp_path: Path, model: str, pooling: str) -> None:
    source = tmp_path / "source"
    shutil.copytree(MODELS / model, source)
    shutil.rmtree(source / "1_Pooling", ignore_errors=True)
    write_modules(source, KINDS, {f"pooling_mode_{pooling}": True})
    said = encode(tmp_path, "F32", source)
    assert float(said["meanCosineSimilarity"]) > 0.99999
    assert float(said["p1CosineSimilarity"]) > 0.9999
    with server(tmp_path / "artifact") as url:
        status, answer = post(f"{url}/v1/embeddings", {"model": "tiny", "input": TEXTS})
        assert status == 200
        served = [each["embedding"] for each in answer["data"]]
        for found, expected in zip(served, embeddings(source, TEXTS), strict=True):
            assert found == pytest.approx(expected, abs=2e-4)


@needs_toolchain
def test_a_vector_has_length_one_whatever_the_source_does(tmp_path: Path) -> None:
    source = tmp_path / "source"
    shutil.copytree(MODELS / "tiny-bert", source)
    (source / "modules.json").unlink()
    encode(tmp_path, "F16", source)
    with server(tmp_path / "artifact") as url:
        _, answer = post(f"{url}/v1/embeddings", {"model": "tiny", "input": TEXTS[0]})
    (found,) = (each["embedding"] for each in answer["data"])
    (expected,) = embeddings(source, TEXTS[:1])
    assert math.hypot(*found) == pytest.approx(1, abs=1e-5)
    assert math.hypot(*expected) > 2
    assert cosine(found, expected) > 0.9999


@needs_toolchain
def test_a_text_that_is_too_long_is_refused_and_the_next_is_answered(tmp_path: Path) -> None:
    encode(tmp_path, "Q8_0", MODELS / "tiny-bert")
    with server(tmp_path / "artifact") as url:
        status, answer = post(f"{url}/v1/embeddings", {"model": "tiny", "input": "list " * 600})
        assert status >= 400
        assert "602 tokens" in answer["error"]["message"]
        assert post(f"{url}/v1/embeddings", {"model": "tiny", "input": "list"})[0] == 200


@needs_toolchain
@pytest.mark.parametrize(
    ("precision", "expected", "similar"),
    [("Q8_0", {"Q8_0"}, 0.999), ("Q4_K_M", {"Q4_K", "Q5_0", "Q6_K", "Q8_0"}, 0.99)],
)
def test_rows_that_do_not_suit_a_precision_are_larger(
    tmp_path: Path, precision: str, expected: set[str], similar: float
) -> None:
    """Of the test model only the last matrix of each layer has rows of a multiple of 256."""
    said = encode(tmp_path, precision, MODELS / "tiny-bert")
    assert float(said["meanCosineSimilarity"]) > similar
    found = types(tmp_path)
    matrices = {name for name in found if name.startswith("blk.") and "norm" not in name}
    quantized = {found[name] for name in matrices if name.endswith(".weight")}
    assert quantized <= expected
    assert found["position_embd.weight"] == "F32"
    assert said["totalLayers"] == said["quantizedLayers"] == 12


@needs_toolchain
@pytest.mark.parametrize(
    ("module", "format_", "model", "reason", "said"),
    [
        ("llama_cpp", "GGUF", "tiny-bert", "UnsupportedArchitecture", "GGUFEncoder"),
        (
            "llama_cpp_encoder",
            "GGUFEncoder",
            "tiny-bert-classifier",
            "UnsupportedHead",
            "ONNXEncoder",
        ),
    ],
)
def test_who_chose_the_wrong_format_is_told_the_right_one(
    tmp_path: Path, module: str, format_: str, model: str, reason: str, said: str
) -> None:
    refused = convert(
        tmp_path,
        module=module,
        SOURCE_DIR=str(MODELS / model),
        FORMAT=format_,
        PRECISION="Q8_0",
    )
    assert refused["reason"] == reason
    assert said in refused["message"]


@needs_toolchain
def test_a_tokenizer_that_llama_cpp_reads_otherwise_is_refused(tmp_path: Path) -> None:
    """It makes small letters of all, whatever the source does."""
    source = tmp_path / "source"
    shutil.copytree(MODELS / "tiny-bert", source)
    path = source / "tokenizer.json"
    tokenizer = json.loads(path.read_text())
    tokenizer["normalizer"]["lowercase"] = False
    path.write_text(json.dumps(tokenizer))
    refused = encode(tmp_path, "Q8_0", source)
    assert refused["reason"] == "UnsupportedTokenizer"
    assert "choose format ONNXEncoder" in refused["message"]
