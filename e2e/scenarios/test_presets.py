"""Recipes by name: a built-in Preset is made and served, and one of the platform team's may change
under those who name it."""

import secrets
from collections.abc import Iterator

import pytest

from e2e.kubectl import Kubectl, conditions
from e2e.scenarios.load import steady_load
from e2e.scenarios.team import Team, quantized_model
from e2e.scenarios.waiting import until
from e2e.store import text_uri

QUALITY = {"evaluation": {"uri": text_uri("evaluation.txt"), "maxTokens": 4096}}


@pytest.fixture
def preset(kubectl: Kubectl) -> Iterator[str]:
    """A Preset of Q8_0 with a limit; its name."""
    name = f"e2e-{secrets.token_hex(3)}"
    spec = {
        "description": "For a scenario.",
        "quantization": {"format": "GGUF", "precision": "Q8_0"},
        "quality": {"maxPerplexityIncreasePercent": 5},
        "runtimeName": "llama-cpp",
    }
    kind = {"apiVersion": "quantop.dev/v1alpha1", "kind": "Preset"}
    kubectl.apply({**kind, "metadata": {"name": name}, "spec": spec})
    yield name
    kubectl.delete("preset", name)


def test_a_built_in_preset_is_made_measured_and_served(team: Team) -> None:
    name = team.apply(quantized_model("phone", "mobile", quality=QUALITY))
    status = team.ready(name)["status"]
    assert status["artifact"]["precision"] == "Q4_K_M"
    assert float(status["quality"]["increasePercent"]) <= 5
    assert team.answer(name)


def test_a_changed_preset_rolls_over_without_a_lost_request(
    team: Team, kubectl: Kubectl, preset: str
) -> None:
    name = team.apply(quantized_model("preset", preset, quality=QUALITY))
    first = team.ready(name)["status"]
    assert first["artifact"]["precision"] == "Q8_0"
    with steady_load(first["endpoint"]["url"], name, clients=1, tokens=16) as load:
        until("the load runs", lambda: load.completed >= 1, timeout=300)
        kubectl.patch("preset", preset, "", {"spec": {"quantization": {"precision": "Q4_K_M"}}})
        until("the other precision is Ready", lambda: serves(team, name, "Q4_K_M"), timeout=900)
        answered = load.completed
        until("it goes on answering", lambda: load.completed > answered, timeout=120)
    assert load.failures == [], f"{len(load.failures)} failed, {load.completed} completed"

    kubectl.delete("preset", preset)
    stalled = team.stalled(name)
    assert stalled["reason"] == "PresetNotFound"
    assert "mobile" in stalled["message"], "those that there are"
    assert conditions(team.model(name))["Serving"]["status"] == "True"
    assert team.answer(name)


def serves(team: Team, name: str, precision: str) -> bool:
    """Whether the model is Ready, in that precision and no other."""
    pods = team.pods(name, "server")
    labels = {pod["metadata"]["labels"]["quantop.dev/precision"] for pod in pods}
    ready = conditions(team.model(name))["Ready"]
    return labels == {precision} and ready["status"] == "True"
