"""What is measured of models that read a text whole, on numbers whose answers are known."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
from quantop_adapters import texts
from quantop_adapters.refusal import RefusedError
from quantop_adapters.texts import Agreement, Similarity, Text


@pytest.mark.parametrize(
    ("content", "read"),
    [
        ("one\nline\n\n  two \n \n\nthree", ["one line", "two", "three"]),
        ("one\ntwo\n", ["one", "two"]),
        ("alone", ["alone"]),
        ('{"text": "one"}\n{"text": "two\\n\\nthree"}\n', ["one", "two\n\nthree"]),
        ("{not JSON}\n\nof lines", ["{not JSON}", "of lines"]),
    ],
)
def test_a_file_is_cut_into_its_texts(tmp_path: Path, content: str, read: list[str]) -> None:
    (tmp_path / "file").write_text(content)
    assert [each.text for each in texts.read(tmp_path / "file")] == read


def test_labels_come_with_the_texts(tmp_path: Path) -> None:
    lines = [{"text": "one", "label": "good"}, {"text": "two", "label": 1}, {"text": "three"}]
    (tmp_path / "file").write_text("\n".join(map(json.dumps, lines)))
    assert [each.label for each in texts.read(tmp_path / "file")] == ["good", 1, None]


def test_texts_are_taken_until_one_does_not_fit() -> None:
    given = [Text("a"), Text("b"), Text("c")]
    assert texts.within(given, iter([3, 4, 1]), 7) == given[:2]
    assert texts.within(given, iter([3, 5, 1]), 7) == given[:1]
    with pytest.raises(RefusedError, match="raise maxTokens") as refusal:
        texts.within(given, iter([8, 1, 1]), 7)
    assert refusal.value.reason == "EvaluationTextTooShort"


def test_similarity_is_that_of_directions() -> None:
    measured = Similarity()
    measured.add(Text(""), np.array([1.0, 1.0]), np.array([3.0, 3.0]))
    measured.add(Text(""), np.array([1.0, 0.0]), np.array([1.0, 1.0], dtype=np.float32))
    found = measured.report()
    assert found["meanCosineSimilarity"] == pytest.approx((1 + math.sqrt(0.5)) / 2, abs=1e-6)
    assert found["p1CosineSimilarity"] == pytest.approx(
        math.sqrt(0.5) + 0.01 * (1 - math.sqrt(0.5)), abs=1e-6
    )


def test_an_embedding_of_nothing_is_like_none() -> None:
    measured = Similarity()
    measured.add(Text(""), np.array([1.0, 0.0]), np.zeros(2))
    assert measured.report()["meanCosineSimilarity"] == 0


def test_agreement_is_of_labels_and_divergence_of_their_distribution() -> None:
    p, q = np.array([0.7, 0.2, 0.1]), np.array([0.3, 0.6, 0.1])
    measured = Agreement(["a", "b", "c"])
    # Logits are logarithms of probabilities but for a constant.
    measured.add(Text("", "a"), np.log(p) + 5, np.log(q))
    measured.add(Text("", 0), np.log(p), np.log(p))
    found = measured.report()
    divergence = float((p * np.log(p / q)).sum())
    assert found["labelAgreementPercent"] == 50
    assert found["meanKLDivergence"] == pytest.approx(divergence / 2, abs=1e-6)
    assert found["p99KLDivergence"] == pytest.approx(0.99 * divergence, abs=1e-6)
    assert found["baselineAccuracyPercent"] == 100
    assert found["accuracyPercent"] == 50


def test_accuracy_is_told_only_where_every_text_has_a_label() -> None:
    measured = Agreement(["a", "b"])
    for label in ("a", None):
        measured.add(Text("", label), np.array([1.0, 0.0]), np.array([1.0, 0.0]))
    assert "accuracyPercent" not in measured.report()


@pytest.mark.parametrize("label", ["d", 3, -1, 1.5])
def test_a_label_that_the_model_does_not_know_is_refused(label: str | int) -> None:
    measured = Agreement(["a", "b", "c"])
    with pytest.raises(RefusedError, match="the source's labels are a, b, c") as refusal:
        measured.add(Text("", label), np.zeros(3), np.zeros(3))
    assert refusal.value.reason == "EvaluationLabelUnknown"
