"""Stop sequences: the text ends where one begins, however it is cut into pieces."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from quantop_serving.stop import StopSequences


def shown(stop: StopSequences, pieces: Sequence[str]) -> list[str]:
    texts = [stop.feed(piece) for piece in pieces]
    return [*texts, "" if stop.found else stop.flush()]


@pytest.mark.parametrize(
    ("pieces", "text"),
    [
        (["one END two"], "one "),
        (["one E", "N", "D two"], "one "),
        (list("one END two"), "one "),
        (["one EN"], "one EN"),
        (["EEND"], "E"),
        (["one", " two"], "one two"),
        (["END"], ""),
    ],
)
def test_text_ends_where_the_sequence_begins(pieces: list[str], text: str) -> None:
    assert "".join(shown(StopSequences(["END"]), pieces)) == text


def test_the_first_of_several_sequences_counts() -> None:
    stop = StopSequences(["three", "two"])
    assert "".join(shown(stop, ["one two three"])) == "one "
    assert stop.found


def test_only_what_may_begin_a_sequence_is_held_back() -> None:
    assert shown(StopSequences(["END"]), ["one ", "E", "x"]) == ["one ", "", "Ex", ""]


def test_without_sequences_nothing_is_held_back() -> None:
    assert shown(StopSequences([]), ["one", "two"]) == ["one", "two", ""]


def test_nothing_is_shown_after_the_end() -> None:
    stop = StopSequences(["."])
    stop.feed("a.")
    assert stop.feed("b") == ""
    assert stop.flush() == ""
