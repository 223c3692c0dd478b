"""The calibration text as what toolchains calibrate on: rows of token ids."""

from __future__ import annotations

from collections.abc import Mapping

from quantop_adapters import checkpoint, perplexity, stage
from quantop_adapters.refusal import RefusedError


def choose_method(task: stage.Task, methods: Mapping[str, bool], toolchain: str) -> str:
    """The method asked for, or the first; `methods` says which of them need text.

    Raises:
        RefusedError: there is no such method, or calibration is missing or of no use.
    """
    method = task.method or next(iter(methods))
    if method not in methods:
        raise RefusedError(
            "UnsupportedMethod",
            f"spec.quantization.method is {method}; {toolchain} makes {task.precision} by "
            f"{', '.join(methods)}",
        )
    calibrated = bool(task.calibration)
    if methods[method] == calibrated:
        return method
    others = [other for other, needs_text in methods.items() if needs_text == calibrated]
    instead = f", or choose spec.quantization.method {' or '.join(others)}" if others else ""
    if calibrated:
        raise RefusedError(
            "CalibrationNotUsed",
            f"{task.precision} by {method} uses no calibration text: remove "
            f"spec.quantization.calibration{instead}",
        )
    raise RefusedError(
        "CalibrationRequired",
        f"{task.precision} by {method} needs a calibration text: set "
        f"spec.quantization.calibration{instead}",
    )


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
