"""What is measured of answers, on engines whose answers are known."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from quantop_adapters import answers, checkpoint
from quantop_adapters.answers import Agreement, Prompts
from quantop_adapters.refusal import RefusedError

END = 9
Rows = np.ndarray[Any, Any]


class FakeEngine:
    """Goes on from `n` with `n + step`, and refuses what does not follow on what it has read."""

    def __init__(self, step: int = 1) -> None:
        self.step = step
        self.read: list[int] = []

    def __call__(self, ids: Sequence[int], start: int = 0) -> Iterator[Rows]:
        assert start in (0, len(self.read)), "it has read something else"
        self.read = [*self.read[:start], *ids]
        # As engines do: a few rows at a time, in a buffer that is used again.
        buffer = np.zeros((1, END + 1), dtype=np.float32)
        for each in ids:
            buffer[:] = 0
            buffer[0, min(END, each + self.step)] = 1
            yield buffer


class FakeTokenizer:
    """One id for each letter, and a template of one line for each turn."""

    bos_token_id = 1
    eos_token_id = 2

    def __call__(self, text: str, add_special_tokens: bool) -> Any:
        assert not add_special_tokens
        return type("Encoding", (), {"input_ids": [ord(letter) for letter in text]})

    def apply_chat_template(
        self, messages: list[dict[str, str]], tokenize: bool, add_generation_prompt: bool
    ) -> str:
        assert not tokenize
        assert add_generation_prompt
        if messages[0]["role"] == "system":
            raise ValueError("no system role. Remove it")
        return "".join(f"{turn['role']}:{turn['content']}\n" for turn in messages) + "assistant:"


@pytest.fixture
def tokenizer(monkeypatch: pytest.MonkeyPatch) -> FakeTokenizer:
    found = FakeTokenizer()
    monkeypatch.setattr(checkpoint, "load_tokenizer", lambda _: found)
    return found


def test_an_answer_is_read_on_and_ends_with_what_ends_a_text() -> None:
    assert list(answers.greedy(FakeEngine(), [3, 4], 20, frozenset({END}))) == [5, 6, 7, 8, 9]
    assert list(answers.greedy(FakeEngine(), [3, 4], 20, frozenset({7, END}))) == [5, 6, 7]


def test_an_answer_has_no_more_tokens_than_asked_for() -> None:
    assert list(answers.greedy(FakeEngine(), [3, 4], 2, frozenset())) == [5, 6]


def test_what_ends_a_prompt_ends_no_answer() -> None:
    assert list(answers.greedy(FakeEngine(), [4], 2, frozenset({4}))) == [5, 6]


def test_every_figure_is_what_its_formula_gives() -> None:
    measured = Agreement()
    measured.add([1, 2, 3, 4], [1, 2, 3, 4])
    measured.add([1, 2, 3, 4], [1, 2, 9, 4])
    measured.add([1, 2, 3, 4], [1, 2])
    measured.add([5], [6, 7])
    assert measured.report() == {
        "answerAgreementPercent": 25,
        "meanAnswerPrefixPercent": 50,
        "prompts": 4,
    }


def test_both_answer_every_prompt() -> None:
    found = answers.compare([[3], [7]], 4, frozenset({END}), FakeEngine(), FakeEngine(2))
    # 4 5 6 7 and 5 7 9; 8 9 and 9.
    assert found == {"answerAgreementPercent": 0, "meanAnswerPrefixPercent": 0, "prompts": 2}
    same = answers.compare([[3], [7]], 4, frozenset({END}), FakeEngine(), FakeEngine())
    assert same["answerAgreementPercent"] == same["meanAnswerPrefixPercent"] == 100


def prompts(folder: Path, content: str, most: int = 64) -> list[str]:
    """What is read of a file, as letters; the token that begins a text is a caret."""
    (folder / "prompts").write_text(content)
    read = Prompts(folder / "prompts", most, 8).read(folder)
    return ["".join("^" if each == 1 else chr(each) for each in ids) for ids in read]


@pytest.mark.usefixtures("tokenizer")
def test_each_line_is_a_prompt(tmp_path: Path) -> None:
    assert prompts(tmp_path, "one\n\n two \nthree") == ["^one", "^ two ", "^three"]
    assert prompts(tmp_path, "one\n\n two \nthree", most=2) == ["^one", "^ two "]


@pytest.mark.usefixtures("tokenizer")
def test_json_lines_hold_texts_and_conversations(tmp_path: Path) -> None:
    turns = [("user", "a"), ("assistant", "b"), ("user", "c")]
    lines = [
        {"prompt": "two\nlines", "more": 1},
        {"messages": [{"role": role, "content": content} for role, content in turns]},
    ]
    assert prompts(tmp_path, "\n".join(map(json.dumps, lines))) == [
        "^two\nlines",
        # The template writes the beginning itself, if it wants one.
        "user:a\nassistant:b\nuser:c\nassistant:",
    ]


@pytest.mark.usefixtures("tokenizer")
@pytest.mark.parametrize(
    ("content", "said"),
    [
        ('{"prompt": "a"}\n{"text": "b"}', "line 2 of spec.quality.evaluation.prompts is not"),
        ('{"prompt": "a"}\nb', "line 2 of spec.quality.evaluation.prompts is not"),
        ('{"messages": [{"role": "user"}]}', "line 1 of spec.quality.evaluation.prompts is not"),
        ('{"messages": [{"role": "system", "content": "x"}]}', "no system role"),
        ("\n \n", "a file without a prompt"),
    ],
)
def test_prompts_that_cannot_be_used_are_refused(tmp_path: Path, content: str, said: str) -> None:
    with pytest.raises(RefusedError, match=said) as refusal:
        prompts(tmp_path, content)
    assert refusal.value.reason == "PromptsUnusable"


@pytest.mark.usefixtures("tokenizer")
def test_a_prompt_that_the_model_cannot_hold_with_its_answer_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"max_position_embeddings": 13}')
    assert prompts(tmp_path, "four") == ["^four"]
    with pytest.raises(RefusedError, match="is 14, but the source's model holds 13") as refusal:
        prompts(tmp_path, "four\nfives")
    assert refusal.value.reason == "SequenceTooLong"


@pytest.mark.usefixtures("tokenizer")
def test_all_that_a_source_says_of_ends_counts(tmp_path: Path) -> None:
    assert answers.ends(tmp_path) == {2}
    (tmp_path / "config.json").write_text('{"eos_token_id": 5}')
    (tmp_path / "generation_config.json").write_text('{"eos_token_id": [6, 7]}')
    assert answers.ends(tmp_path) == {2, 5, 6, 7}
