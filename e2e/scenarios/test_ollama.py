"""A GGUF artifact served by Ollama, asked by Ollama's own API.

Its image is not among those that the demo builds: `make images ALL=1`.
"""

import json

import httpx
import pytest

from e2e.scenarios.team import Team, quantized_model


@pytest.mark.slow
def test_ollama_answers_by_its_own_api_and_lets_nobody_change_the_model(team: Team) -> None:
    model = quantized_model("llama", ("GGUF", "Q8_0"), serving={"runtimeName": "ollama"})
    name = team.apply(model)
    url = team.ready(name)["status"]["endpoint"]["url"]
    with httpx.Client(base_url=url, timeout=300, trust_env=False) as http:
        tags = http.get("/api/tags")
        assert [each["name"] for each in tags.json()["models"]] == [f"{name}:latest"]
        assert tags.headers["X-Quantop-Precision"] == "Q8_0"
        asked = {"model": name, "options": {"temperature": 0, "num_predict": 16}}
        words = http.post("/api/generate", json={**asked, "prompt": "The function returns"})
        pieces = [json.loads(line) for line in words.text.splitlines()]
        assert len(pieces) > 2
        assert pieces[-1]["done"]
        messages = [{"role": "user", "content": "What does the function return?"}]
        said = http.post("/api/chat", json={**asked, "messages": messages, "stream": False})
        assert said.json()["message"]["role"] == "assistant"
        assert http.request("DELETE", "/api/delete", json={"model": name}).status_code == 404
        assert http.get("/api/ps").json()["models"][0]["name"] == f"{name}:latest"
        assert 'route="/api/chat"' in http.get("/metrics").text
