"""The protocol windows-v1."""

import math
from pathlib import Path

import numpy as np
import pytest
from quantop_adapters import perplexity
from quantop_adapters.refusal import RefusedError


def test_windows_do_not_overlap_and_leave_the_last_partial_one_out() -> None:
    assert perplexity.windows(list(range(11)), 4) == [[0, 1, 2, 3], [4, 5, 6, 7]]
    assert perplexity.windows(list(range(8)), 4) == [[0, 1, 2, 3], [4, 5, 6, 7]]


def test_a_text_shorter_than_one_window_is_refused() -> None:
    with pytest.raises(RefusedError, match="3 tokens, less than one window of 4") as refusal:
        perplexity.windows([1, 2, 3], 4)
    assert refusal.value.reason == "EvaluationTextTooShort"


def test_equal_logits_cost_the_logarithm_of_the_vocabulary() -> None:
    logits = np.zeros((5, 32), dtype=np.float32)
    cost = perplexity.negative_log_likelihood(logits, [0, 1, 2, 3, 31])
    assert cost == pytest.approx(5 * math.log(32))
    assert perplexity.perplexity([cost], 5, "source") == 32.0


def test_rows_are_scored_alike_however_many_are_handled_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    generator = np.random.default_rng(7)
    logits = generator.normal(scale=9, size=(50, 17)).astype(np.float32)
    targets = [int(target) for target in generator.integers(0, 17, 50)]
    probabilities = np.exp(logits.astype(np.float64))
    probabilities /= probabilities.sum(axis=1, keepdims=True)
    expected = -float(np.log(probabilities[np.arange(50), targets]).sum())
    assert perplexity.negative_log_likelihood(logits, targets) == pytest.approx(expected)
    monkeypatch.setattr(perplexity, "ROWS_AT_ONCE", 7)
    assert perplexity.negative_log_likelihood(logits, targets) == pytest.approx(expected)


def test_the_last_position_of_a_window_predicts_nothing() -> None:
    logits = np.zeros((3, 4), dtype=np.float32)
    assert perplexity.negative_log_likelihood(logits, [1, 2]) == pytest.approx(2 * math.log(4))


@pytest.mark.parametrize("cost", [math.nan, math.inf, 1e9])
def test_a_perplexity_that_is_no_number_is_refused(cost: float) -> None:
    with pytest.raises(RefusedError, match="artifact's perplexity is not finite"):
        perplexity.perplexity([cost], 1, "artifact")


def test_json_lines_give_their_texts(tmp_path: Path) -> None:
    path = tmp_path / "calibration"
    path.write_text('{"text": "one"}\n\n{"text": "two\\nlines"}\n')
    assert perplexity.read_text(path) == "one\n\ntwo\nlines"


@pytest.mark.parametrize("text", ["plain\ntext\n", '{"not": "a text"}\n', "{curly prose}\n", ""])
def test_any_other_file_is_text_as_it_is(tmp_path: Path, text: str) -> None:
    path = tmp_path / "evaluation"
    path.write_text(text)
    assert perplexity.read_text(path) == text


def test_a_file_that_is_no_text_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "evaluation"
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(RefusedError, match="not UTF-8"):
        perplexity.read_text(path)
