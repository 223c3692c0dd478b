"""Whether an artifact answers prompts as its source does, by the protocol `answers-v1`.

A prompt is a text to go on from, or a conversation in the source's own template. Both engines go on
greedily, each token the most likely one, from the same ids: to the first token that ends a text, or
to a number of tokens. Over all prompts, with `a` the source's answer and `b` the artifact's, ids
both:

- answer agreement: for how many prompts a = b;
- answer prefix: the tokens before the first that differs, over those of the longer answer: mean.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from quantop_adapters import checkpoint
from quantop_adapters.perplexity import Scorer
from quantop_adapters.refusal import RefusedError

FIELD = "spec.quality.evaluation.prompts"


@dataclass(frozen=True)
class Prompts:
    """Prompts of a file, how many of them are answered at most, and an answer's most tokens."""

    file: Path
    most: int
    answer_tokens: int

    def read(self, source: Path) -> list[list[int]]:
        """The ids of each prompt, by the tokenizer of the source, which a text begins with the
        token that begins one and a conversation as the template says.

        Raises:
            RefusedError: there is none, one is empty or longer than the model holds, or is a
                conversation and the source has no template for it.
        """
        tokenizer = checkpoint.load_tokenizer(source)
        begin = checkpoint.token_ids(source, "")
        found = []
        for number, prompt in enumerate(entries(self.file)[: self.most], start=1):
            # A template writes the beginning of a text itself.
            before, text = (
                (begin, prompt)
                if isinstance(prompt, str)
                else ([], conversation(tokenizer, prompt))
            )
            ids = [*before, *tokenizer(text, add_special_tokens=False).input_ids]
            if not ids:
                raise RefusedError("PromptsUnusable", f"prompt {number} of {FIELD} is empty")
            checkpoint.check_length(
                source,
                f"the length of prompt {number} of {FIELD}, with its answerTokens,",
                len(ids) + self.answer_tokens,
            )
            found.append(ids)
        if not found:
            raise RefusedError(
                "PromptsUnusable", f"{FIELD} names a file without a prompt: give one on each line"
            )
        return found


def entries(path: Path) -> list[str | list[dict[str, str]]]:
    """The prompts of a file: its lines, or of JSON lines `prompt`, a text, or `messages`, a
    conversation. Empty lines are passed over.

    Raises:
        RefusedError: a line of a file of JSON lines holds neither.
    """
    lines = [line for line in path.read_text("utf-8").splitlines() if line.strip()]
    if not lines or not lines[0].lstrip().startswith("{"):
        return [*lines]
    return [entry(line, number) for number, line in enumerate(lines, start=1)]


def entry(line: str, number: int) -> str | list[dict[str, str]]:
    """The prompt of a JSON line."""
    try:
        read = json.loads(line)
        if isinstance(prompt := read.get("prompt"), str):
            return prompt
        return [{key: str(turn[key]) for key in ("role", "content")} for turn in read["messages"]]
    except (ValueError, KeyError, TypeError, AttributeError):
        raise RefusedError(
            "PromptsUnusable",
            f"line {number} of {FIELD} is not a JSON object with `prompt`, a text, or `messages`, "
            "a list of objects with `role` and `content`",
        ) from None


def conversation(tokenizer: Any, messages: list[dict[str, str]]) -> str:
    """A conversation as the source's template writes it, up to where the answer begins.

    Raises:
        RefusedError: there is no template, or it does not take these messages.
    """
    try:
        text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    except Exception as error:  # none at all, or whatever a template raises
        raise RefusedError(
            "PromptsUnusable",
            f"{FIELD} has conversations, and the source's tokenizer cannot write them "
            f"({checkpoint.first_sentence(error)}): give each prompt as a text",
        ) from None
    return str(text)


def ends(source: Path) -> frozenset[int]:
    """The ids that end a text, by all that the source says of it."""
    said = [
        checkpoint.read_json(source / name).get("eos_token_id")
        for name in ("generation_config.json", "config.json")
    ]
    said.append(checkpoint.load_tokenizer(source).eos_token_id)
    lists = [each if isinstance(each, list) else [each] for each in said]
    return frozenset(int(each) for some in lists for each in some if each is not None)


def last(rows: Iterable[Any]) -> Any:
    """The logits at the last position."""
    for found in rows:
        logits = found[-1]
    return logits


def greedy(score: Scorer, prompt: Sequence[int], most: int, ends: frozenset[int]) -> Iterator[int]:
    """What follows the prompt when each token is the most likely one; an end is part of it."""
    given, start = prompt, 0
    for _ in range(most):
        token = int(last(score(given, start)).argmax())
        yield token
        if token in ends:
            return
        start += len(given)
        given = [token]


@dataclass
class Agreement:
    """Collects the answers to each prompt."""

    prefixes: list[float] = field(default_factory=list)
    """Of each, the share of the longer answer before the first difference."""

    def add(self, source: Sequence[int], artifact: Sequence[int]) -> None:
        """Compare two answers of one token at least."""
        pairs = zip(source, artifact, strict=False)
        same = next(
            (index for index, (ours, theirs) in enumerate(pairs) if ours != theirs),
            min(len(source), len(artifact)),
        )
        self.prefixes.append(same / max(len(source), len(artifact)))

    def report(self) -> dict[str, object]:
        """The measurements as the quality file names them."""
        agreements = sum(prefix == 1 for prefix in self.prefixes)
        return {
            "answerAgreementPercent": round(100 * agreements / len(self.prefixes), 3),
            "meanAnswerPrefixPercent": round(100 * statistics.fmean(self.prefixes), 3),
            "prompts": len(self.prefixes),
        }


def compare(
    prompts: Iterable[Sequence[int]],
    most: int,
    ends: frozenset[int],
    source: Scorer,
    artifact: Scorer,
) -> dict[str, object]:
    """Have both answer every prompt; the measurements by their names."""
    measured = Agreement()
    for prompt in prompts:
        measured.add(
            list(greedy(source, prompt, most, ends)), list(greedy(artifact, prompt, most, ends))
        )
    return measured.report()
