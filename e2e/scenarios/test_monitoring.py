"""The cluster's Prometheus sees every engine and the operator."""

import httpx
import pytest

from e2e.kubectl import Object
from e2e.scenarios.team import GGUF, ONNX, Team, quantized_model
from e2e.scenarios.waiting import until

PROMETHEUS = "http://prometheus.monitoring.svc:9090"


def query(expression: str) -> list[Object]:
    """The series that a PromQL expression gives now."""
    answer = httpx.get(f"{PROMETHEUS}/api/v1/query", params={"query": expression}, timeout=30)
    answer.raise_for_status()
    series: list[Object] = answer.json()["data"]["result"]
    return series


@pytest.mark.parametrize(
    ("recipe", "metric"),
    [
        (GGUF, "llamacpp:requests_processing"),
        (ONNX, "quantop_serving_requests_running"),
        pytest.param(
            ("CompressedTensors", "W4A16"), "vllm:num_requests_running", marks=pytest.mark.slow
        ),
    ],
    ids=["llama-cpp", "onnxruntime", "vllm"],
)
def test_an_engine_is_scraped(team: Team, recipe: tuple[str, str], metric: str) -> None:
    name = team.apply(quantized_model("watched", recipe))
    team.ready(name)
    where = f'{metric}{{namespace="{team.namespace}", model="{name}"}}'
    assert until(f"{where} in Prometheus", lambda: query(where), timeout=60)


def test_the_operator_is_scraped(team: Team) -> None:
    name = team.apply(quantized_model("counted"))
    team.ready(name)
    # The scraped pod's namespace is `namespace`; the metric's own is kept under another name.
    labels = f'exported_namespace="{team.namespace}", model="{name}", type="Ready"'
    where = f"quantop_model_condition{{{labels}}} == 1"
    assert until(f"{where} in Prometheus", lambda: query(where), timeout=60)
