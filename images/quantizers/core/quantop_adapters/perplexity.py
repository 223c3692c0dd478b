"""Perplexity by the protocol `windows-v1`, the same for a source and for every format made of it.

The ids are the beginning-of-text token and the text's tokens without special ones, cut to a
maximum. Consecutive windows that do not overlap are scored each alone at their positions 1 to L-1;
a last partial window is left out. The perplexity is the exponential of the mean negative log
likelihood.
"""

from __future__ import annotations

import importlib
import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from quantop_adapters.refusal import RefusedError

PROTOCOL = "windows-v1"
ROWS_AT_ONCE = 256
"""Rows of logits handled at once: a row of a large vocabulary is a megabyte in double precision."""

Scorer = Callable[[Sequence[int]], float]
"""From one window's ids to the sum of its negative log likelihoods in nats."""


def read_text(path: Path) -> str:
    """A text, or the `text` fields of JSON lines, one empty line between them.

    Raises:
        RefusedError: the file is not UTF-8.
    """
    try:
        raw = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise RefusedError(
            "TextNotUtf8", f"the text file is not UTF-8 ({error}); convert it"
        ) from None
    lines = [line for line in raw.splitlines() if line.strip()]
    if not lines or not lines[0].lstrip().startswith("{"):
        return raw
    try:
        return "\n\n".join(json.loads(line)["text"] for line in lines)
    except (ValueError, KeyError, TypeError):
        return raw


def windows(tokens: Sequence[int], length: int) -> list[Sequence[int]]:
    """Consecutive windows of `length` tokens, the last partial one left out.

    Raises:
        RefusedError: there is not one whole window.
    """
    whole = [tokens[start : start + length] for start in range(0, len(tokens) - length + 1, length)]
    if not whole:
        raise RefusedError(
            "EvaluationTextTooShort",
            f"the evaluation text has {len(tokens)} tokens, less than one window of {length}; "
            "give a longer text at spec.quality.evaluation or a shorter sequenceLength",
        )
    return whole


def perplexity(negative_log_likelihoods: Sequence[float], tokens: int, what: str) -> float:
    """The exponential of the mean over `tokens` scored positions.

    Raises:
        RefusedError: it is not a finite number; such a model answers nothing of use.
    """
    mean = math.fsum(negative_log_likelihoods) / tokens
    value = math.exp(mean) if mean < 700 else math.inf
    if not math.isfinite(value):
        raise RefusedError(
            "PerplexityNotFinite",
            f"the {what}'s perplexity is not finite: its weights or this precision give no usable "
            "numbers",
        )
    return round(value, 4)


def negative_log_likelihood(logits: Any, targets: Sequence[int]) -> float:
    """Sum of -log softmax(logits)[target] over rows.

    Args:
        logits: array (rows, vocabulary) of any float type; row i predicts `targets[i]`.
        targets: one id per row.
    """
    numpy: Any = importlib.import_module("numpy")
    total = 0.0
    for start in range(0, len(targets), ROWS_AT_ONCE):
        chosen = targets[start : start + ROWS_AT_ONCE]
        rows = numpy.asarray(logits[start : start + len(chosen)], dtype=numpy.float64)
        rows = rows - rows.max(axis=-1, keepdims=True)
        picked = rows[numpy.arange(len(chosen)), numpy.asarray(chosen)]
        total += float((numpy.log(numpy.exp(rows).sum(axis=-1)) - picked).sum())
    return total


def transformers_scorer(folder: Path, dtype: str) -> Scorer:
    """Score by transformers on the CPU, in the float type named."""
    torch: Any = importlib.import_module("torch")
    transformers: Any = importlib.import_module("transformers")
    model = transformers.AutoModelForCausalLM.from_pretrained(
        folder, dtype=getattr(torch, dtype), trust_remote_code=False, use_safetensors=True
    ).eval()

    def score(window: Sequence[int]) -> float:
        with torch.inference_mode():
            logits = model(input_ids=torch.tensor([list(window)]), use_cache=False).logits[0]
        return negative_log_likelihood(logits.float().numpy(), window[1:])

    return score
