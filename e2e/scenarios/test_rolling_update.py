"""A change of the recipe under a steady load of streams fails no request."""

import time

import pytest

from e2e.kubectl import Object
from e2e.scenarios.load import steady_load
from e2e.scenarios.team import Team, quantized_model
from e2e.scenarios.waiting import until
from e2e.store import text_uri

CALIBRATION = {"uri": text_uri("calibration.txt"), "samples": 16, "sequenceLength": 256}
SETTLING_SECONDS = 10


def serving_keys(team: Team, name: str) -> set[str]:
    """The artifact keys of all serving pods that still exist."""
    return {
        pod["metadata"]["annotations"]["quantop.dev/artifact-key"]
        for pod in team.pods(name, "server")
    }


def roll(team: Team, before: Object, change: dict[str, str], clients: int) -> None:
    """Apply ``before``, change its recipe under load, and check that nobody noticed."""
    name = team.apply(before)
    status = team.ready(name)["status"]
    with steady_load(status["endpoint"]["url"], name, clients) as load:
        until("the load runs", lambda: load.completed >= clients, timeout=300)
        team.patch(name, {"quantization": change})
        key = team.ready(name, timeout=1800)["status"]["artifact"]["key"]
        until("the old pods are gone", lambda: serving_keys(team, name) == {key}, timeout=600)
        before_settling = load.completed
        time.sleep(SETTLING_SECONDS)
        until("the new pods answer", lambda: load.completed > before_settling, timeout=300)
    assert key != status["artifact"]["key"]
    assert load.failures == [], f"{len(load.failures)} failed, {load.completed} completed"


def test_llama_cpp_rolls_without_a_failed_request(team: Team) -> None:
    before = quantized_model("roll-gguf", ("GGUF", "Q4_K_M"), serving={"replicas": 2})
    roll(team, before, {"precision": "Q8_0"}, clients=3)


def test_onnxruntime_rolls_without_a_failed_request(team: Team) -> None:
    before = quantized_model("roll-onnx", ("ONNX", "INT4"), serving={"replicas": 2})
    roll(team, before, {"precision": "INT8"}, clients=2)


@pytest.mark.slow
def test_mlx_rolls_without_a_failed_request(team: Team) -> None:
    before = quantized_model("roll-mlx", ("MLX", "mxfp4"), serving={"replicas": 2})
    roll(team, before, {"precision": "4bit"}, clients=2)


@pytest.mark.slow
def test_ollama_rolls_without_a_failed_request(team: Team) -> None:
    by_ollama = {"replicas": 2, "runtimeName": "ollama"}
    before = quantized_model("roll-ollama", ("GGUF", "Q4_K_M"), serving=by_ollama)
    roll(team, before, {"precision": "Q8_0"}, clients=2)


@pytest.mark.slow
def test_vllm_rolls_without_a_failed_request(team: Team) -> None:
    before = quantized_model(
        "roll-vllm",
        ("CompressedTensors", "W8A8"),
        quantization={"calibration": CALIBRATION},
    )
    roll(team, before, {"precision": "W4A16"}, clients=2)
