"""The conformance suite covers what the chart offers, and the matrix is made of it."""

from dataclasses import replace

import pytest

from e2e.conformance import matrix, seen
from e2e.conformance.rows import SAMPLE, rows
from e2e.conformance.test_conformance import MOST_INCREASE_PERCENT

ROWS = {row.id: row for row in rows()}


def test_every_precision_of_the_chart_has_one_limit_and_nothing_else_has() -> None:
    offered = [(row.quantizer, row.precision) for row in ROWS.values()]
    limited = [
        (quantizer, precision)
        for quantizer, limits in MOST_INCREASE_PERCENT.items()
        for precisions in limits.values()
        for precision in precisions
    ]
    assert set(limited) == set(offered)
    assert len(limited) == len(set(limited))
    assert len(ROWS) > 100


def test_rows_have_names_of_their_own_that_an_object_may_have() -> None:
    names = [row.name for row in ROWS.values()]
    assert len(set(names)) == len(names)
    assert max(map(len, names)) <= 46


def test_the_quick_rows_are_rows_that_are_served() -> None:
    assert all(ROWS[each].runtime for each in SAMPLE)


def test_what_was_seen_is_still_offered() -> None:
    assert set(seen.load()) <= set(ROWS)


def test_a_row_is_told_as_it_was_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    figures = seen.Seen("0.32", "4.998", "0.214", "94.500", 9, 400 * 2**20, answered=True)
    asked_twice = replace(figures, also=["ollama"])
    other = "llm-compressor/FP8_DYNAMIC/RTN"
    monkeypatch.setattr(
        seen,
        "load",
        lambda: {
            "llama-cpp/Q4_K_M/Default": figures,
            "llama-cpp/F16/Default": asked_twice,
            other: seen.Seen("0.6", "10", "0.1", "99", 2, 0, answered=False),
            "mlx/4bit/Default": seen.Seen("0.3", "4.5", "2.1", "90", 2, 0, answered=False),
        },
    )
    page = matrix.page()
    assert (
        "| Q4_K_M | Default | works | llama-cpp | 0.32 | 4.998 | +0.21 % | 94.5 % | 9 s | 400 MiB |"
        in page
    )
    assert "| F16 | Default | works | llama-cpp, ollama | 0.32 |" in page
    assert "| FP8_DYNAMIC | RTN | other hardware | vllm-gpu | 0.6 |" in page
    assert "| 4bit | Default | artifact |  | 0.3 |" in page
    assert "| Q8_0 | Default | not run | llama-cpp, ollama |" in page
