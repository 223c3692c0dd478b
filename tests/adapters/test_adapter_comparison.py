"""What is measured of an artifact against its source, on logits whose answers are known."""

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from quantop_adapters import comparison
from quantop_adapters.comparison import Comparison
from quantop_adapters.refusal import RefusedError

Logits = np.ndarray[Any, Any]


def measured(source: Logits, artifact: Logits, window: list[int]) -> dict[str, Any]:
    compared = Comparison()
    compared.add(window, [source], [artifact])
    return compared.report()


def softmax(logits: Logits) -> Logits:
    weights = np.exp(logits.astype(np.float64))
    return np.asarray(weights / weights.sum(axis=-1, keepdims=True))


@pytest.fixture
def logits() -> tuple[Logits, Logits, list[int]]:
    """A source's and an artifact's logits over a window of 50 ids."""
    generator = np.random.default_rng(7)
    source = generator.normal(scale=4, size=(50, 17)).astype(np.float32)
    artifact = source + generator.normal(scale=1, size=(50, 17)).astype(np.float32)
    return source, artifact, [int(each) for each in generator.integers(0, 17, 50)]


def test_an_artifact_that_predicts_as_its_source_has_lost_nothing(
    logits: tuple[Logits, Logits, list[int]],
) -> None:
    source, _, window = logits
    found = measured(source, source.copy(), window)
    assert found["baselinePerplexity"] == found["perplexity"]
    assert found["increasePercentLow"] == found["increasePercentHigh"] == 0
    assert found["meanKLDivergence"] == found["p99KLDivergence"] == 0
    assert found["topTokenAgreementPercent"] == 100
    assert found["tokens"] == 49, "the last position predicts a token beyond the window"


def test_every_figure_is_what_its_formula_gives(
    logits: tuple[Logits, Logits, list[int]],
) -> None:
    source, artifact, window = logits
    p, q = softmax(source)[:-1], softmax(artifact)[:-1]
    rows, targets = np.arange(49), window[1:]
    ours, theirs = -np.log(p[rows, targets]), -np.log(q[rows, targets])
    difference = theirs - ours
    margin = 1.96 * difference.std(ddof=1) / math.sqrt(49)
    divergences = (p * np.log(p / q)).sum(axis=-1)
    found = measured(source, artifact, window)
    assert found["baselinePerplexity"] == pytest.approx(math.exp(ours.mean()), abs=1e-3)
    assert found["perplexity"] == pytest.approx(math.exp(theirs.mean()), abs=1e-3)
    assert found["increasePercentLow"] == pytest.approx(
        100 * (math.exp(difference.mean() - margin) - 1), abs=1e-3
    )
    assert found["increasePercentHigh"] == pytest.approx(
        100 * (math.exp(difference.mean() + margin) - 1), abs=1e-3
    )
    assert found["meanKLDivergence"] == pytest.approx(divergences.mean(), abs=1e-5)
    highest = sorted(divergences)[-2:]
    # The 99th percentile of 49 values is 0.99 x 48 = 47.52 steps above the lowest.
    assert found["p99KLDivergence"] == pytest.approx(
        highest[0] + 0.52 * (highest[1] - highest[0]), abs=1e-5
    )
    agreement = 100 * (p.argmax(axis=-1) == q.argmax(axis=-1)).mean()
    assert 0 < agreement < 100
    assert found["topTokenAgreementPercent"] == pytest.approx(agreement, abs=1e-3)


def test_how_an_engine_cuts_its_logits_changes_nothing(
    logits: tuple[Logits, Logits, list[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    source, artifact, window = logits
    monkeypatch.setattr(comparison, "ROWS_AT_ONCE", 8)
    compared = Comparison()
    compared.add(
        window, iter([source[:20], source[20:]]), (artifact[i : i + 7] for i in range(0, 50, 7))
    )
    assert compared.report() == measured(source, artifact, window)


def test_an_array_is_used_before_the_next_is_asked_for(
    logits: tuple[Logits, Logits, list[int]],
) -> None:
    """llama.cpp writes each batch's logits where the last one's were."""
    source, artifact, window = logits
    buffer = np.empty((10, 17), dtype=np.float32)

    def engine() -> Iterator[Logits]:
        for start in range(0, 50, 10):
            buffer[:] = artifact[start : start + 10]
            yield buffer

    compared = Comparison()
    compared.add(window, [source], engine())
    assert compared.report() == measured(source, artifact, window)


def test_tokens_that_a_format_pads_the_vocabulary_with_are_not_compared(
    logits: tuple[Logits, Logits, list[int]],
) -> None:
    source, _, window = logits
    padded = np.concatenate([source, np.full((50, 3), -50, dtype=np.float32)], axis=1)
    found = measured(source, padded, window)
    assert found["meanKLDivergence"] == pytest.approx(0, abs=1e-6)
    assert found["topTokenAgreementPercent"] == 100


def test_a_permuted_vocabulary_is_seen(logits: tuple[Logits, Logits, list[int]]) -> None:
    source, _, window = logits
    found = measured(source, np.roll(source, 1, axis=-1), window)
    assert found["topTokenAgreementPercent"] == 0
    assert found["meanKLDivergence"] > 1


def test_logits_that_do_not_cover_the_window_are_an_error(
    logits: tuple[Logits, Logits, list[int]],
) -> None:
    source, artifact, window = logits
    with pytest.raises(ValueError, match="49 rows of logits for a window of 50 tokens"):
        measured(source, artifact[:-1], window)


def test_logits_that_are_no_numbers_are_refused(
    logits: tuple[Logits, Logits, list[int]],
) -> None:
    source, artifact, window = logits
    artifact[3, 3] = np.nan
    with pytest.raises(RefusedError, match="artifact's perplexity is not finite"):
        measured(source, artifact, window)
