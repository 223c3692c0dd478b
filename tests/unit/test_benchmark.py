"""What a toolchain measured itself, as the status shows it."""

from typing import Any

import pytest
from quantop.api.quantizedmodel import MAX_BENCHMARK_CANDIDATES, Benchmark
from quantop.contract import ArtifactSummary, BenchmarkCandidate
from quantop.contract import Benchmark as Told
from quantop.contract import BenchmarkState as State
from quantop.reconcile import artifact

from tests.unit.test_contract import RECIPE


def shown(*candidates: BenchmarkCandidate, **told: Any) -> Benchmark:
    summary = ArtifactSummary(
        key="k",
        uri="s3://store/artifacts/k",
        manifest_digest="d",
        size_bytes=1,
        source_size_bytes=2,
        recipe=RECIPE,
        benchmark=Told(report="benchmarks/f.json", candidates=candidates, **told),
    )
    found = artifact.artifact_status(summary).benchmark
    assert found
    return found


def test_it_says_where_it_was_measured_and_where_the_rest_is() -> None:
    found = shown(node="node-7", processor="p" * 300, threads=2)
    assert (found.node, found.processor, found.threads) == ("node-7", "p" * 256, 2)
    assert found.report_uri == "s3://store/artifacts/k/benchmarks/f.json"


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.19538, "0.19538"),
        (1.23456789, "1.234568"),
        (7031183, "7031183"),
        (100.0, "100"),
        (0.0, "0"),
        (-0.0301, "-0.0301"),
        (1e-9, "0"),
        (-1e-9, "0"),
        (1e15, "1000000000000000"),
    ],
)
def test_figures_are_decimal_strings(value: float, text: str) -> None:
    found = shown(BenchmarkCandidate(name="a", state=State.CHOSEN, figures={"time": value}))
    (figure,) = found.candidates[0].figures
    assert (figure.name, figure.value) == ("time", text)


def test_so_many_candidates_are_shown_at_most() -> None:
    many = [BenchmarkCandidate(name=str(n), state=State.PASSED) for n in range(40)]
    found = shown(*many)
    assert [each.name for each in found.candidates] == [
        str(n) for n in range(MAX_BENCHMARK_CANDIDATES)
    ]
