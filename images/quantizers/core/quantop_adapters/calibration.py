"""The calibration text as what toolchains calibrate on: rows of token ids."""

from __future__ import annotations

from quantop_adapters import checkpoint, perplexity, stage
from quantop_adapters.refusal import RefusedError


def token_rows(task: stage.Task) -> list[list[int]]:
    """At most `samples` rows of exactly `sequence_length` ids, in the text's order.

    Raises:
        RefusedError: the text does not fill one row.
    """
    assert task.calibration is not None
    length = task.calibration.sequence_length
    ids = checkpoint.token_ids(task.source, perplexity.read_text(task.calibration.file))
    rows = [ids[start : start + length] for start in range(0, len(ids) - length + 1, length)]
    if not rows:
        raise RefusedError(
            "CalibrationTextTooShort",
            f"the calibration text has {len(ids)} tokens, less than one sequence of {length}; "
            "give a longer text at spec.quantization.calibration or a shorter sequenceLength",
        )
    return rows[: task.calibration.samples]
