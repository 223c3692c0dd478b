"""What a toolchain measured itself: kept beside the artifact, and told in short."""

import json
from typing import Any

import pytest
from quantop.contract import (
    NODE_VARIABLE,
    TERMINATION_MESSAGE_BYTES,
    BenchmarkCandidate,
    BenchmarkState,
    PublishResult,
)
from quantop_worker.errors import RefusedError
from quantop_worker.manifest import benchmark_report

from tests.worker.harness import REPOSITORY, Bench, evaluation
from tests.worker.test_worker_report import report_of

FILES = {"model.onnx": b"weights"}
WORKFLOW = '{"passes":{"pass0":{"type":"Round","bits":8}}}'
BENCHMARK: dict[str, Any] = {
    "version": 1,
    "threads": 2,
    "candidates": [
        {"name": "Source", "state": "Baseline", "figures": {"latencyMilliseconds": 9.5}},
        {
            "name": "Round bits=4",
            "state": "Failed",
            "figures": {},
            "message": "a <pass> failed",
        },
        {
            "name": "Round bits=8",
            "state": "Chosen",
            "figures": {"latencyMilliseconds": 2.25, "sizeBytes": 1234567},
            "workflow": WORKFLOW,
        },
    ],
}


def test_the_example_in_the_contract_is_one() -> None:
    page = REPOSITORY.joinpath("docs/reference/adapter-contract.md").read_text()
    _, _, section = page.partition("### What a toolchain measured itself")
    example, _, rest = section.partition("```json")[2].partition("```")
    report = benchmark_report(json.loads(example))
    assert {each.state for each in report.candidates} < {*BenchmarkState}
    told = rest.partition("### ")[0]
    assert all(f"`{state}`" in told for state in BenchmarkState)
    assert all(f"`{field}`" in told for field in BenchmarkCandidate.model_fields)


@pytest.fixture
def measured(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> Bench:
    monkeypatch.setenv(NODE_VARIABLE, "node-7")
    bench.put("texts/evaluation.txt", b"measure on this")
    text = evaluation(f"s3://{bench.bucket}/texts/evaluation.txt")
    return bench.with_task(evaluation=text).resolved()


def convert(bench: Bench, benchmark: Any = BENCHMARK, **quality: Any) -> PublishResult:
    bench.fetch()
    bench.quantize(FILES, quality, benchmark)
    return bench.publish()


def test_it_is_kept_beside_the_artifact_with_the_node_and_told_in_short(measured: Bench) -> None:
    published = convert(measured).published
    found = measured.artifact().read()
    assert found
    assert found.manifest.benchmark == f"benchmarks/{found.manifest.files_digest}.json"
    stored = measured.artifact().benchmark(found.manifest)
    assert stored
    assert (stored.node, stored.report.candidates[2].workflow) == ("node-7", WORKFLOW)
    assert stored.processor
    told = published.benchmark
    assert told
    assert (told.node, told.threads, told.report) == ("node-7", 2, found.manifest.benchmark)
    states = [each.state for each in told.candidates]
    assert states == ["Chosen", "Baseline", "Failed"]
    assert told.candidates[0].figures == {"latencyMilliseconds": 2.25, "sizeBytes": 1234567}
    assert not any(each.message or each.workflow for each in told.candidates)
    assert measured.resolve().published == published


def test_the_page_shows_it(measured: Bench) -> None:
    text = report_of(measured, convert(measured)).text
    assert "What its toolchain tried" in text
    assert "on node node-7 (" in text
    for said in ("Failed: a <pass> failed", "2.25", "1234567", WORKFLOW):
        assert said in text


def test_without_one_nothing_of_it_is_there(measured: Bench) -> None:
    published = convert(measured, None)
    assert published.published.benchmark is None
    found = measured.artifact().read()
    assert found
    assert "benchmark" not in json.loads(found.manifest.to_json())
    assert "What its toolchain tried" not in report_of(measured, published).text


def test_it_goes_with_the_artifact(measured: Bench) -> None:
    key = convert(measured).published.key
    assert any("benchmarks/" in each for each in measured.objects())
    measured.delete(key)
    assert measured.objects("models/") == []


@pytest.mark.parametrize(
    ("spoiled", "said"),
    [
        ({"version": 2}, "version"),
        ({"candidates": []}, "0 candidates are Chosen"),
        ({"candidates": [BENCHMARK["candidates"][2]] * 2}, "2 candidates are Chosen"),
        ({"candidates": BENCHMARK["candidates"][:1] * 2 + BENCHMARK["candidates"][2:]}, "named So"),
        ({"candidates": [{"name": "x", "state": "Best"}]}, "candidates.0.state"),
        ({"candidates": [{"name": "", "state": "Chosen"}]}, "candidates.0.name"),
        *(
            ({"candidates": [{"name": "x", "state": "Chosen", "figures": figures}]}, "figures")
            for figures in (
                {"time": float("nan")},
                {"time": 1e300},
                {"time in ms": 1},
                {f"figure{index}": 1 for index in range(9)},
            )
        ),
    ],
)
def test_one_that_breaks_the_contract_is_refused(
    measured: Bench, spoiled: dict[str, Any], said: str
) -> None:
    with pytest.raises(RefusedError, match=said) as refusal:
        convert(measured, BENCHMARK | spoiled)
    assert refusal.value.reason == "InvalidBenchmark"
    assert measured.objects("models/") == []


def test_as_much_of_it_is_told_as_a_termination_message_has_room_for(measured: Bench) -> None:
    figures = {f"figureOfALongName{index}": 123456.654321 for index in range(8)}
    many = [
        {"name": f"{index} " * 30, "state": "Passed", "figures": figures, "workflow": WORKFLOW}
        for index in range(60)
    ]
    task = {
        "name": "t" * 32,
        "metric": "m" * 32,
        "samples": 10**6,
        **dict.fromkeys(
            ("baselinePercent", "baselineErrorPercent", "accuracyPercent", "errorPercent"), 99.123
        ),
    }
    candidates = [*many, BENCHMARK["candidates"][2]]
    published = convert(measured, BENCHMARK | {"candidates": candidates}, tasks=[task] * 4)
    told = published.published.benchmark
    assert told
    assert told.candidates[0].state == "Chosen"
    assert 1 < len(told.candidates) < 16
    resolved = measured.resolve()
    assert resolved.published == published.published
    for said in (published, resolved):
        assert len(said.to_json().encode()) < TERMINATION_MESSAGE_BYTES
