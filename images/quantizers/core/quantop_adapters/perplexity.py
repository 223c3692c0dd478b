"""What is scored by the protocol `windows-v1`, the same for a source and every format made of it.

The ids are the beginning-of-text token and the text's tokens without special ones, cut to a
maximum. Consecutive windows that do not overlap are scored each alone at their positions 1 to L-1;
a last partial window is left out. The perplexity is the exponential of the mean negative log
likelihood. `comparison` tells what else is measured on the same windows.
"""

from __future__ import annotations

import importlib
import json
import math
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

from quantop_adapters.checkpoint import first_sentence
from quantop_adapters.refusal import RefusedError

PROTOCOL = "windows-v1"


class Scorer(Protocol):
    """A model in its engine, which keeps what it has read of one text."""

    def __call__(self, ids: Sequence[int], start: int = 0) -> Iterable[Any]:
        """Read on, behind the text's `start` ids that it has read already; 0 begins another text.

        Returns:
            The logits: arrays of shape (rows, vocabulary) that together hold one row for each of
            the ids, in order. An array is valid until the next one is asked for.
        """


def read_file(path: Path) -> str:
    """A text file as it is.

    Raises:
        RefusedError: it is not UTF-8.
    """
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise RefusedError(
            "TextNotUtf8", f"the text file is not UTF-8 ({error}); convert it"
        ) from None


def read_text(path: Path) -> str:
    """A text, or the `text` fields of JSON lines, one empty line between them.

    Raises:
        RefusedError: the file is not UTF-8.
    """
    raw = read_file(path)
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


def perplexity(negative_log_likelihoods: Sequence[float], what: str) -> float:
    """The exponential of the mean of negative log likelihoods (nats), one for each position.

    Raises:
        RefusedError: it is not a finite number; such a model answers nothing of use.
    """
    mean = math.fsum(negative_log_likelihoods) / len(negative_log_likelihoods)
    value = math.exp(mean) if mean < 700 else math.inf
    if not math.isfinite(value):
        raise RefusedError(
            "PerplexityNotFinite",
            f"the {what}'s perplexity is not finite: its weights or this precision give no usable "
            "numbers",
        )
    return value


def transformers_scorer(folder: Path, what: str) -> Scorer:
    """Score by transformers on the CPU, in single precision.

    Args:
        folder: a checkpoint.
        what: `source` or `artifact`, for messages.

    Raises:
        RefusedError: transformers cannot load it, or a number in it is not finite.
    """
    torch: Any = importlib.import_module("torch")
    transformers: Any = importlib.import_module("transformers")
    try:
        model, loaded = transformers.AutoModelForCausalLM.from_pretrained(
            folder,
            dtype=torch.float32,
            trust_remote_code=False,
            use_safetensors=True,
            output_loading_info=True,
        )
        model.eval()
        if packed := getattr(model, "hf_quantizer", None):
            # Left alone, weights are unpacked at the first call, some formats' to 16 bits. The
            # method of transformers' own class refuses to make them 32.
            packed.compressor.decompress_model(model=model)
            torch.nn.Module.float(model)
    except MemoryError:
        raise
    except Exception as error:  # the libraries below transformers each have their own
        raise RefusedError(
            f"{what.capitalize()}NotLoadable",
            f"transformers cannot load the {what} "
            f"({type(error).__name__}: {first_sentence(error)})",
        ) from error
    # transformers makes up what is missing and leaves what is too much.
    strange = [*loaded["missing_keys"], *loaded["mismatched_keys"]]
    if what == "artifact":
        strange += loaded["unexpected_keys"]
    if strange:
        raise RefusedError(
            f"{what.capitalize()}NotLoadable",
            f"{len(strange)} tensors of the {what} are not those that its config.json asks for, "
            f"first {min(map(str, strange))}",
        )
    for name, tensor in model.state_dict().items():
        if tensor.is_floating_point() and not tensor.isfinite().all():
            raise RefusedError(
                "NumbersNotFinite", f"the {what}'s {name} holds numbers that are not finite"
            )

    kept: Any = None

    def score(ids: Sequence[int], start: int = 0) -> Iterator[Any]:
        nonlocal kept
        with torch.inference_mode():
            found = model(
                input_ids=torch.tensor([list(ids)]),
                past_key_values=kept if start else None,
                use_cache=True,
            )
            kept = found.past_key_values
            yield found.logits[0].float().numpy()

    return score
