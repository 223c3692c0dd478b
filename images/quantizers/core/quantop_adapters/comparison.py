"""How far an artifact's predictions are from its source's, position by position.

Both score the same windows. Over all scored positions, with `p` the source's and `q` the artifact's
distribution of the next token and `t` the token that follows:

- perplexity of each: exp(mean(-ln p(t))), exp(mean(-ln q(t)));
- its increase, exp(mean(d)) - 1 with d = ln p(t) - ln q(t), and the bounds of its 95 % confidence
  interval, exp(mean(d) -+ 1.96 s / sqrt(n)) - 1 with s the sample deviation of d: the positions are
  paired, so what makes a text hard cancels out (as llama-perplexity's --kl-divergence reports it);
- Kullback-Leibler divergence, sum(p (ln p - ln q)) in nats: mean and 99th percentile;
- top token agreement: at how many positions both think the same token most likely.
"""

from __future__ import annotations

import importlib
import math
import statistics
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from quantop_adapters import perplexity

ROWS_AT_ONCE = 64
"""Rows of logits handled at once: a row of a large vocabulary is a megabyte in double precision."""
NORMAL_95 = 1.96
"""Deviations to both sides of a mean that hold 95 % of a normal distribution."""


@dataclass
class Comparison:
    """Collects one value of each kind for each scored position."""

    source: list[float] = field(default_factory=list)
    """Negative log likelihoods of the source, in nats."""
    artifact: list[float] = field(default_factory=list)
    """Negative log likelihoods of the artifact, in nats."""
    divergences: list[float] = field(default_factory=list)
    """Kullback-Leibler divergences of the artifact's distribution from the source's, in nats."""
    agreements: int = 0
    """Positions at which both have the same most likely token."""

    def add(self, window: Sequence[int], source: Iterable[Any], artifact: Iterable[Any]) -> None:
        """Compare the logits that both give for one window's ids.

        Raises:
            ValueError: they do not cover the same positions.
        """
        numpy: Any = importlib.import_module("numpy")
        position = 0
        for given, found in aligned(source, artifact):
            # The last position predicts a token beyond the window.
            targets = numpy.asarray(window[position + 1 : position + 1 + len(given)])
            position += len(given)
            rows = numpy.arange(len(targets))
            if not len(rows):
                continue
            ours, theirs = given[: len(rows)], found[: len(rows)]
            p, q = log_softmax(ours), log_softmax(theirs)
            self.source += (-p[rows, targets]).tolist()
            self.artifact += (-q[rows, targets]).tolist()
            self.agreements += int((p.argmax(axis=-1) == q.argmax(axis=-1)).sum())
            # A format may pad the vocabulary: only tokens that both know are compared.
            known = min(p.shape[-1], q.shape[-1])
            if p.shape[-1] != q.shape[-1]:
                p, q = log_softmax(ours[:, :known]), log_softmax(theirs[:, :known])
            self.divergences += (numpy.exp(p) * (p - q)).sum(axis=-1).tolist()
        if position != len(window):
            raise ValueError(f"{position} rows of logits for a window of {len(window)} tokens")

    def report(self) -> dict[str, object]:
        """The measurements as the quality file names them.

        Raises:
            RefusedError: a perplexity is not finite.
        """
        numpy: Any = importlib.import_module("numpy")
        baseline = perplexity.perplexity(self.source, "source")
        found = perplexity.perplexity(self.artifact, "artifact")
        low, high = increase_interval(
            [q - p for p, q in zip(self.source, self.artifact, strict=True)]
        )
        return {
            "baselinePerplexity": round(baseline, 4),
            "perplexity": round(found, 4),
            "increasePercentLow": round(low, 4),
            "increasePercentHigh": round(high, 4),
            # Rounding of the sum may leave a divergence of equal distributions just below 0.
            "meanKLDivergence": round(max(0.0, statistics.fmean(self.divergences)), 6),
            "p99KLDivergence": round(max(0.0, float(numpy.percentile(self.divergences, 99))), 6),
            "topTokenAgreementPercent": round(100 * self.agreements / len(self.source), 3),
            "tokens": len(self.source),
        }


def increase_interval(differences: Sequence[float]) -> tuple[float, float]:
    """Bounds of the perplexity increase's 95 % confidence interval, in percent.

    Args:
        differences: artifact's less source's negative log likelihood, in nats, by position.
    """
    mean = statistics.fmean(differences)
    spread = statistics.stdev(differences) if len(differences) > 1 else 0.0
    margin = NORMAL_95 * spread / math.sqrt(len(differences))
    low, high = (100 * math.expm1(min(700.0, mean + side)) for side in (-margin, margin))
    return low, high


def aligned(first: Iterable[Any], second: Iterable[Any]) -> Iterator[tuple[Any, Any]]:
    """Cut two runs of arrays into pieces of the same rows, at most ROWS_AT_ONCE each."""
    sides = [iter(first), iter(second)]
    left: list[Any] = [(), ()]
    while True:
        left = [
            rows if len(rows) else next(side, ()) for rows, side in zip(left, sides, strict=True)
        ]
        count = min(ROWS_AT_ONCE, *(len(rows) for rows in left))
        if not count:
            return
        yield left[0][:count], left[1][:count]
        left = [rows[count:] for rows in left]


def log_softmax(logits: Any) -> Any:
    """ln softmax over the last axis, in double precision.

    Args:
        logits: array (rows, vocabulary) of any float type.
    """
    numpy: Any = importlib.import_module("numpy")
    rows = numpy.asarray(logits, dtype=numpy.float64)
    # What is not finite stays so, and is refused where the figures are reported.
    with numpy.errstate(invalid="ignore"):
        rows = rows - rows.max(axis=-1, keepdims=True)
    return rows - numpy.log(numpy.exp(rows).sum(axis=-1, keepdims=True))
