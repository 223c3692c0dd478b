"""What is served is tried first, on a node: its figures appear, hold against limits, and choose."""

import json
from collections.abc import Callable
from typing import Any

from e2e.kubectl import Object, conditions
from e2e.scenarios.team import Team, quantized_model
from e2e.scenarios.waiting import until
from e2e.store import SOURCES_BUCKET, Store, text_uri

EVALUATION = {"uri": text_uri("evaluation.txt"), "maxTokens": 4096}
MEMORY_LIMIT = 512 * 2**20


def limited(**limits: Any) -> dict[str, Any]:
    return {"evaluation": EVALUATION, **limits}


def test_a_slow_artifact_keeps_the_old_revision_serving(team: Team, store: Store) -> None:
    name = team.apply(
        quantized_model(
            "tried", ("GGUF", "Q8_0"), quality=limited(minTokensPerSecond=1, maxMemory="512Mi")
        )
    )
    shown = figures(team.ready(name))
    (job,) = team.jobs(name, "trial")
    assert job["status"]["succeeded"] == 1
    assert {"pull", "engine"} == {
        c["name"] for c in job["spec"]["template"]["spec"]["initContainers"]
    }
    assert reported(team, store, name, shown) == 1

    team.patch(
        name,
        {"quantization": {"precision": "Q4_0"}, "quality": {"minTokensPerSecond": 10_000_000}},
    )
    stalled = team.stalled(name, timeout=600)
    assert stalled["reason"] == "PerformanceBelowLimit", stalled
    assert "spec.quality.minTokensPerSecond is 10000000, but" in stalled["message"]
    model = team.model(name)
    slow = figures(model)
    assert slow["inputsHash"] != shown["inputsHash"]
    assert reported(team, store, name, slow) == 2, "of this one, too, and of the one that serves"
    assert conditions(model)["Serving"]["status"] == "True"
    assert precisions(team, name) == {"Q8_0"}
    assert team.answer(name)

    team.patch(name, {"quality": {"minTokensPerSecond": 1}})
    assert figures(team.ready(name)) == figures(model), "it is not tried again"
    assert precisions(team, name) == {"Q4_0"}


def test_an_engine_that_is_out_of_memory_is_said_before_the_rollout(team: Team) -> None:
    """8 MiB are less than the engine needs for itself. No text is needed to find that out."""
    name = team.apply(
        quantized_model(
            "starved",
            ("GGUF", "Q8_0"),
            quality={"minTokensPerSecond": 1},
            serving={
                "resources": {
                    "requests": {"cpu": "100m", "memory": "8Mi"},
                    "limits": {"cpu": "1", "memory": "8Mi"},
                }
            },
        )
    )
    stalled = team.stalled(name, timeout=600)
    assert stalled["reason"] in ("OutOfMemory", "TrialFailed"), stalled
    assert "spec.serving.resources" in stalled["message"]
    assert team.pods(name, "server") == []


def test_the_least_memory_chooses(
    team: Team, store: Store, new_checkpoint: Callable[[str], str]
) -> None:
    name = team.apply(
        quantized_model(
            "least",
            ("GGUF", "Auto"),
            new_checkpoint("tiny-llama"),
            quantization={"auto": {"minimize": "Memory", "precisions": ["Q4_0", "Q5_0", "Q8_0"]}},
            quality=limited(maxPerplexityIncreasePercent=20),
        )
    )
    model = team.ready(name, timeout=1800)
    figures(model)
    asked = {c["precision"]: c for c in model["status"]["candidates"] if c["reason"] != "NotListed"}
    for precision, found in asked.items():
        shown = found.get("performance", {})
        print(precision, found["state"], found.get("sizeBytes"), shown.get("peakMemoryBytes"))
    tried = {n: c["performance"]["peakMemoryBytes"] for n, c in asked.items() if "performance" in c}
    chosen = model["status"]["artifact"]["precision"]
    assert asked[chosen]["state"] == "Chosen"
    assert asked[chosen]["reason"] == "LeastMemory"
    assert tried[chosen] == min(tried.values())
    assert reported(team, store, name, figures(model)) == len(tried), "all that were tried"
    assert precisions(team, name) == {chosen}


def test_trials_are_in_the_report_also_when_nothing_passes(team: Team, store: Store) -> None:
    name = team.apply(
        quantized_model(
            "too-slow",
            ("GGUF", "Auto"),
            quantization={"auto": {"precisions": ["Q4_0", "Q8_0"]}},
            quality=limited(maxPerplexityIncreasePercent=20, minTokensPerSecond=10_000_000),
        )
    )
    stalled = team.stalled(name, timeout=900)
    assert stalled["reason"] == "NoCandidatePasses", stalled

    def kept() -> dict[str, Object] | None:
        candidates = team.model(name)["status"]["candidates"]
        tried = {c["precision"]: c for c in candidates if "performance" in c}
        return tried if all("reportURI" in c["performance"] for c in tried.values()) else None

    tried = until("the report has the trials", kept, timeout=120)
    assert set(tried) == {"Q4_0", "Q8_0"}
    for found in tried.values():
        stored = json.loads(store.read(found["performance"]["reportURI"]))
        assert stored["trial"]["key"] == found["key"]
        assert stored["trial"]["tokensPerSecond"] == float(found["performance"]["tokensPerSecond"])
    best = next(each for each in tried if f"The best is {each} " in stalled["message"])
    page = store.read(tried[best]["quality"]["reportURI"]).decode()
    assert page.count(f"{team.namespace}/{name}</td>") == len(tried)
    assert team.pods(name, "server") == []


def test_an_encoder_is_tried_by_its_own_protocol(team: Team) -> None:
    name = team.apply(
        quantized_model(
            "embedder",
            ("ONNXEncoder", "INT8"),
            f"s3://{SOURCES_BUCKET}/tiny-bert",
            quality=limited(maxTimeToFirstTokenMilliseconds=60_000),
        )
    )
    shown = team.ready(name)["status"]["performance"]
    assert float(shown["timeToFirstTokenMilliseconds"]) > 0
    assert shown["answerMilliseconds"] == shown["timeToFirstTokenMilliseconds"]
    assert "tokensPerSecond" not in shown


def reported(team: Team, store: Store, name: str, shown: dict[str, Any]) -> int:
    """Find what a trial showed in the report, as JSON and on the page; how many trials that has."""
    uri = until(
        "the report has the trial",
        lambda: team.model(name)["status"]["performance"].get("reportURI"),
        timeout=120,
    )
    stored = json.loads(store.read(uri))
    assert stored["referrer"]["name"] == name
    assert stored["trial"]["timeToFirstTokenMilliseconds"] == float(
        shown["timeToFirstTokenMilliseconds"]
    )
    for field in ("peakMemoryBytes", "node", "processor", "cpus", "runtime"):
        assert stored["trial"][field] == shown[field], field
    (job,) = (j for j in team.jobs(name, "report") if stored["trial"]["key"] in json.dumps(j))
    (container,) = job["spec"]["template"]["spec"]["containers"]
    assert container["name"] == "report", "no engine beside the credentials"
    page = store.read(team.model(name)["status"]["quality"]["reportURI"]).decode()
    for said in (
        "In the engine that serves",
        shown["timeToFirstTokenMilliseconds"],
        shown["tokensPerSecond"],
        f"{shown['node']}, {shown['processor']}",
    ):
        assert said in page, said
    return page.count(f"{team.namespace}/{name}</td>")


def figures(model: Object) -> dict[str, Any]:
    """What the trial of a generating engine showed, which must be possible."""
    shown = {k: v for k, v in model["status"]["performance"].items() if k != "reportURI"}
    print(shown)
    assert shown["protocol"] == "trial-v1"
    assert float(shown["timeToFirstTokenMilliseconds"]) > 0
    assert float(shown["tokensPerSecond"]) > 1
    assert shown["outputTokens"] == 64, "the engine was to go on after the end of its text"
    assert shown["promptTokens"] > 100
    assert shown["node"]
    assert shown["processor"]
    size = model["status"]["artifact"]["sizeBytes"]
    assert size < shown["peakMemoryBytes"] <= MEMORY_LIMIT
    return shown


def precisions(team: Team, name: str) -> set[str]:
    """What the serving pods serve that are not ending."""
    return {
        pod["metadata"]["labels"]["quantop.dev/precision"]
        for pod in team.pods(name, "server")
        if "deletionTimestamp" not in pod["metadata"]
    }
