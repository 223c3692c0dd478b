"""The conformance suite covers what the chart offers, and the matrix is made of it."""

from dataclasses import replace

import pytest
from quantop.api.quantizedmodel import MAX_NAME_LENGTH

from e2e.conformance import matrix, refused, seen
from e2e.conformance.rows import SAMPLE, rows
from e2e.conformance.test_conformance import LEAST_COSINE_SIMILARITY, MOST_INCREASE_PERCENT

ROWS = {row.id: row for row in rows()}


def test_every_precision_of_the_chart_has_one_limit_and_nothing_else_has() -> None:
    offered = [(row.quantizer, row.precision) for row in ROWS.values()]
    limited = [
        (quantizer, precision)
        for table in (MOST_INCREASE_PERCENT, LEAST_COSINE_SIMILARITY)
        for quantizer, limits in table.items()
        for precisions in limits.values()
        for precision in precisions
    ]
    assert set(limited) == set(offered)
    assert len(limited) == len(set(limited))
    assert len(ROWS) > 100


def test_rows_have_names_of_their_own_that_an_object_may_have() -> None:
    names = [row.name for row in ROWS.values()]
    assert len(set(names)) == len(names)
    assert max(map(len, names)) <= MAX_NAME_LENGTH


def test_the_quick_rows_are_rows_that_are_served() -> None:
    assert all(ROWS[each].runtime for each in SAMPLE)


def test_what_was_seen_is_still_offered() -> None:
    assert set(seen.load()) <= set(ROWS)


def test_what_is_refused_is_not_offered() -> None:
    """By the engine named, or at all; and a Quantizer of that name is there."""
    offered = {(row.quantizer, row.precision): row for row in ROWS.values()}
    for each in refused.all_refusals():
        assert each.quantizer in {quantizer for quantizer, _ in offered}
        for precision in each.precisions:
            row = offered.get((each.quantizer, precision))
            if each.by == "`vllm`":
                assert row is not None
                assert "vllm" not in (row.runtime, *row.others)
            elif row is not None:
                assert row.runtime is None
                assert row.elsewhere is None
    assert "| `auto-round-gptq` | W2A16 | vllm 0.26.0 on an NVIDIA H100" in matrix.page()


def test_a_row_is_told_as_it_was_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    def figures(size: str, bits: str, increase: str, agreement: str, answered: bool) -> seen.Seen:
        return seen.Seen(
            size_ratio=size,
            bits_per_weight=bits,
            increase_percent=increase,
            top_token_agreement_percent=agreement,
            quantize_seconds=9,
            peak_memory_bytes=400 * 2**20,
            answered=answered,
        )

    encoder = seen.Seen(
        size_ratio="1.1",
        bits_per_weight="8.07",
        mean_cosine_similarity="0.9931",
        p1_cosine_similarity="0.9812",
        quantize_seconds=5,
        peak_memory_bytes=2**29,
        answered=False,
    )
    q4 = figures("0.32", "4.998", "0.214", "94.500", answered=True)
    other = "llm-compressor/FP8_DYNAMIC/RTN"
    monkeypatch.setattr(
        seen,
        "load",
        lambda: {
            "llama-cpp/Q4_K_M/Default": q4,
            "llama-cpp/F16/Default": replace(q4, also=["ollama"]),
            other: figures("0.6", "10", "0.1", "99", answered=False),
            "onnxruntime-genai-cuda/FP16/Default": figures("1", "16", "0.0", "99", answered=False),
            "qnn/W8A16/V73": encoder,
        },
    )
    page = matrix.page()
    assert (
        "| Q4_K_M | Default | works | llama-cpp | 0.32 | 4.998 | +0.21 % | 94.5 % | 9 s | 400 MiB |"
        in page
    )
    assert "| F16 | Default | works | llama-cpp, ollama | 0.32 |" in page
    assert "| FP8_DYNAMIC | RTN | works elsewhere | vllm-gpu | 0.6 |" in page
    assert "| FP16 | Default | artifact |  | 1 | 16 |" in page
    assert "| W8A16 | V73 (calibrated) | artifact |  | 1.1 | 8.07 | 0.9931 | 0.9812 | 5 s |" in page
    assert "| Q8_0 | Default | not run | llama-cpp, ollama |" in page
