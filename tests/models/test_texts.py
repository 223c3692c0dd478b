"""The evaluation and the calibration text are long enough and have nothing in common."""

from pathlib import Path

import pytest

MODELS = Path(__file__).resolve().parents[2] / "e2e" / "models"


def paragraphs(file: str) -> set[str]:
    """The paragraphs that are long enough not to be a heading or a stock phrase."""
    text = (MODELS / file).read_text(encoding="utf-8")
    return {paragraph for paragraph in text.split("\n\n") if len(paragraph) > 120}


def test_evaluation_and_calibration_share_no_paragraph() -> None:
    evaluation, calibration = paragraphs("evaluation.txt"), paragraphs("calibration.txt")
    assert len(evaluation) > 200
    assert len(calibration) > 400
    assert evaluation & calibration == set()


@pytest.mark.parametrize(
    ("file", "size"), [("evaluation.txt", 200_000), ("calibration.txt", 400_000)]
)
def test_text_is_as_long_as_promised(file: str, size: int) -> None:
    assert size <= (MODELS / file).stat().st_size <= size * 1.2


def test_licence_of_the_text_is_with_it() -> None:
    licence = (MODELS / "LICENSE-python-documentation.txt").read_text(encoding="utf-8")
    assert "Python Software Foundation" in licence
    assert "ZERO-CLAUSE BSD" in licence
    notice = (MODELS.parents[1] / "NOTICE").read_text(encoding="utf-8")
    assert "PSF-2.0" in notice
    assert "0BSD" in notice
