"""What is measured of models that read a text whole, by the protocol `texts-v1`.

Encoders turn a text into a vector, classifiers into the logits of labels. Source and artifact are
given the same texts, one at a time, so that neither padding nor a neighbour has a part in it. Over
all texts, with `a` the source's vector and `b` the artifact's:

- encoders: cosine similarity, a.b / (|a| |b|): mean and 1st percentile;
- classifiers: label agreement, for how many texts both think the same label most likely;
  Kullback-Leibler divergence of the label's distribution, sum(p (ln p - ln q)) in nats: mean and
  99th percentile; where the texts are labelled, the accuracy of both.
"""

from __future__ import annotations

import importlib
import json
import re
import statistics
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from quantop_adapters.comparison import log_softmax
from quantop_adapters.perplexity import read_file
from quantop_adapters.refusal import RefusedError

PROTOCOL = "texts-v1"


@dataclass(frozen=True)
class Text:
    """A text, and what it should be classified as where that is known: a label's name or index."""

    text: str
    label: str | int | None = None


def read(path: Path) -> list[Text]:
    """The texts of a file: of JSON lines the `text` fields, with their `label`, otherwise the
    paragraphs, or the lines where no line is empty.

    Raises:
        RefusedError: the file is not UTF-8.
    """
    raw = read_file(path)
    try:
        entries = [json.loads(line) for line in raw.splitlines() if line.strip()]
        return [Text(entry["text"], entry.get("label")) for entry in entries]
    except (ValueError, KeyError, TypeError, AttributeError):
        pieces = re.split(r"\n\s*\n", raw.strip())
        pieces = pieces if len(pieces) > 1 else raw.splitlines()
        return [Text(" ".join(piece.split())) for piece in pieces if piece.strip()]


def within(texts: list[Text], lengths: Iterator[int], limit: int) -> list[Text]:
    """The first texts whose lengths, in tokens, together do not exceed `limit`.

    Raises:
        RefusedError: there is not one.
    """
    chosen: list[Text] = []
    for text, length in zip(texts, lengths, strict=False):
        limit -= length
        if limit < 0:
            break
        chosen.append(text)
    if not chosen:
        raise RefusedError(
            "EvaluationTextTooShort",
            "the evaluation text has no text that fits into spec.quality.evaluation.maxTokens: "
            "give one with paragraphs or with JSON lines, or raise maxTokens",
        )
    return chosen


def cosine(one: Any, other: Any) -> float:
    """The cosine similarity of two arrays of shape (numbers,)."""
    numpy: Any = importlib.import_module("numpy")
    a, b = (numpy.asarray(each, dtype=numpy.float64) for each in (one, other))
    lengths = numpy.linalg.norm(a) * numpy.linalg.norm(b)
    # An embedding of length 0 is like none.
    return float(a @ b / lengths) if lengths else 0.0


class Measure(Protocol):
    """Collects what source and artifact say of each text."""

    def add(self, text: Text, source: Any, artifact: Any) -> None:
        """Compare two arrays of the same shape (numbers,) of any float type."""

    def report(self) -> dict[str, object]:
        """The measurements as the quality file names them."""


@dataclass
class Similarity:
    """Of embeddings."""

    cosines: list[float] = field(default_factory=list)

    def add(self, text: Text, source: Any, artifact: Any) -> None:
        """Compare the embeddings of one text."""
        self.cosines.append(cosine(source, artifact))

    def report(self) -> dict[str, object]:
        """Similarities from -1 to 1."""
        numpy: Any = importlib.import_module("numpy")
        return {
            # Rounding may leave the similarity of equal vectors just above 1.
            "meanCosineSimilarity": round(min(1.0, statistics.fmean(self.cosines)), 6),
            "p1CosineSimilarity": round(min(1.0, float(numpy.percentile(self.cosines, 1))), 6),
        }


@dataclass
class Agreement:
    """Of labels; `labels` are their names in the order of the logits."""

    labels: list[str]
    divergences: list[float] = field(default_factory=list)
    agreements: int = 0
    known: int = 0
    """Texts that came with a label."""
    right: dict[str, int] = field(default_factory=lambda: {"source": 0, "artifact": 0})

    def add(self, text: Text, source: Any, artifact: Any) -> None:
        """Compare the logits of one text.

        Raises:
            RefusedError: the text has a label that the model does not know.
        """
        numpy: Any = importlib.import_module("numpy")
        p, q = log_softmax(source), log_softmax(artifact)
        self.divergences.append(float((numpy.exp(p) * (p - q)).sum()))
        ours, theirs = int(p.argmax()), int(q.argmax())
        self.agreements += ours == theirs
        if text.label is not None:
            wanted = self._index(text.label)
            self.known += 1
            self.right["source"] += ours == wanted
            self.right["artifact"] += theirs == wanted

    def _index(self, label: str | int) -> int:
        if label in self.labels:
            return self.labels.index(str(label))
        if isinstance(label, int) and 0 <= label < len(self.labels):
            return label
        raise RefusedError(
            "EvaluationLabelUnknown",
            f"the evaluation text has the label {label!r}, but the source's labels are "
            f"{', '.join(self.labels[:8])}: use their names, or their indices from 0",
        )

    def report(self) -> dict[str, object]:
        """Percentages of the texts; accuracies only where all of them are labelled."""
        numpy: Any = importlib.import_module("numpy")
        count = len(self.divergences)
        report: dict[str, object] = {
            "labelAgreementPercent": round(100 * self.agreements / count, 3),
            # Rounding of the sum may leave a divergence of equal distributions just below 0.
            "meanKLDivergence": round(max(0.0, statistics.fmean(self.divergences)), 6),
            "p99KLDivergence": round(max(0.0, float(numpy.percentile(self.divergences, 99))), 6),
        }
        if self.known == count:
            report["baselineAccuracyPercent"] = round(100 * self.right["source"] / count, 3)
            report["accuracyPercent"] = round(100 * self.right["artifact"] / count, 3)
        return report
