"""The protocol windows-v1."""

import math
from pathlib import Path

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


def test_equal_costs_are_their_own_mean() -> None:
    assert perplexity.perplexity([math.log(32)] * 5, "source") == pytest.approx(32)


@pytest.mark.parametrize("cost", [math.nan, math.inf, 1e9])
def test_a_perplexity_that_is_no_number_is_refused(cost: float) -> None:
    with pytest.raises(RefusedError, match="artifact's perplexity is not finite"):
        perplexity.perplexity([cost], "artifact")


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
