"""A spec that names a Preset, as if it said itself what the Preset says.

Pure, and done before everything else: what comes behind knows nothing of Presets.
"""

from dataclasses import replace
from typing import Any

from pydantic.alias_generators import to_snake

from quantop.api.preset import PresetSpec
from quantop.api.quantizedmodel import AUTO, EVIDENCE, MEASURED, Quality, QuantizedModelSpec
from quantop.reasons import Reason
from quantop.reconcile import choices
from quantop.reconcile.snapshot import Problem, Snapshot

OF_WHAT_IT_SAYS = {
    Reason.CALIBRATION_REQUIRED,
    Reason.FORMAT_NOT_SERVED,
    Reason.MAX_FILE_SIZE_NOT_SUPPORTED,
    Reason.METHOD_NOT_SUPPORTED,
    Reason.NO_CANDIDATE_PASSES,
    Reason.OVERRIDES_NOT_SUPPORTED,
    Reason.PERFORMANCE_BELOW_LIMIT,
    Reason.PERFORMANCE_NOT_MEASURED,
    Reason.PRECISION_NOT_SUPPORTED,
    Reason.QUALITY_BELOW_LIMIT,
    Reason.QUALITY_NOT_MEASURED,
    Reason.QUANTIZER_NOT_FOUND,
    Reason.RUNTIME_NOT_FOUND,
    Reason.RUNTIME_NOT_READABLE,
    Reason.SERVING_REQUIRED,
    Reason.WORKFLOW_NOT_SUPPORTED,
}
"""Reasons whose messages name fields that a Preset may have filled in."""


def spelt_out(snapshot: Snapshot) -> Snapshot | Problem:
    """The snapshot as if its spec had the recipe of the Preset that it names, and the Preset's
    limits and runtime where it has none of its own. Without a Preset: as it is."""
    name = snapshot.spec.quantization.preset_name
    if name is None:
        return snapshot
    preset = snapshot.presets.get(name)
    if preset is None:
        field = "spec.quantization.presetName"
        return choices.unreadable(snapshot, field, "Preset", name) or Problem(
            Reason.PRESET_NOT_FOUND,
            f"{field} is {name!r}, but there is no such Preset; "
            f"{choices.there_are('Presets', snapshot.presets)}. Name one of them, create it, or "
            "set format and precision instead.",
        )
    evaluation = snapshot.spec.quality and snapshot.spec.quality.evaluation
    for field, limits in EVIDENCE.items():
        given = [limit for limit in limits if to_snake(limit) in _limits(preset)]
        if given and not getattr(evaluation, field, None):
            return Problem(
                Reason.EVALUATION_REQUIRED,
                f"Preset {name!r} has {', '.join(given)}, measured {MEASURED[field]}: set "
                f"spec.quality.evaluation.{field}, or name a Preset without such limits.",
            )
    named = replace(snapshot, spec=_merged(snapshot.spec, preset))
    precision = preset.quantization.precision
    if precision == AUTO:
        return named
    # Another precision in the Preset must not stall those whose calibration text it has no use for.
    offered = choices.offered_precisions(named)
    known = None if isinstance(offered, Problem) else offered.get(precision)
    return choices.with_precision(named, precision, known)


def attributed(snapshot: Snapshot, problem: Problem) -> Problem:
    """The problem with the name of the Preset, where its message is about fields that the spec
    does not show."""
    name = snapshot.spec.quantization.preset_name
    if name is None or problem.reason not in OF_WHAT_IT_SAYS:
        return problem
    return replace(problem, message=f"With Preset {name!r}: {problem.message}")


def _merged(spec: QuantizedModelSpec, preset: PresetSpec) -> QuantizedModelSpec:
    quality, serving = spec.quality, spec.serving
    if limits := _limits(preset):
        quality = quality or Quality()
        own = quality.model_dump(exclude_none=True)
        theirs = {name: limit for name, limit in limits.items() if name not in own}
        quality = quality.model_copy(update=theirs)
    if serving is not None and serving.runtime_name is None:
        serving = serving.model_copy(update={"runtime_name": preset.runtime_name})
    recipe = dict(preset.quantization)
    return spec.model_copy(
        update={
            "quantization": spec.quantization.model_copy(update=recipe),
            "quality": quality,
            "serving": serving,
        }
    )


def _limits(preset: PresetSpec) -> dict[str, Any]:
    """The limits that the Preset has, by the attribute's name."""
    return preset.quality.model_dump(exclude_none=True) if preset.quality else {}
