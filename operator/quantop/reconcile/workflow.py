"""Workflows: passes in place of a method. What a Quantizer does not list is refused before any Job.

A toolchain's own passes can read and write files, fetch from a network and run code of a user's.
Only settings that the Quantizer lists get through, and only plain values of them. Pure.
"""

import json
from typing import Any

from quantop.api.quantizedmodel import WORKFLOW
from quantop.api.quantizer import CalibrationNeed, QuantizerMethod, QuantizerPass, QuantizerSpec
from quantop.reasons import Reason
from quantop.reconcile.snapshot import Problem

FIELD = "spec.quantization.workflow"
SHAPE = '{"passes": {"NAME": {"type": "TYPE", "SETTING": VALUE}}}'
MOST_PASSES = 16
FOUND_LENGTH = 80
"""Characters of what was found that a message repeats."""


class _RefusedError(Exception):
    """Says where, what was found and what is allowed."""


def method(text: str, name: str, quantizer: QuantizerSpec) -> QuantizerMethod | Problem:
    """What stands in a method's place, if the Quantizer runs all that the workflow says."""
    listed = {each.type: each for each in quantizer.passes}
    try:
        if not listed:
            raise _RefusedError(
                f"{FIELD} is set, but Quantizer {name!r} runs no workflows: remove it, or name "
                "another in spec.quantization.quantizerName."
            )
        used = [_pass(label, each, listed, name) for label, each in _passes(text).items()]
    except _RefusedError as refused:
        return Problem(Reason.WORKFLOW_NOT_SUPPORTED, str(refused))
    needs = {each.calibration for each in used}
    need = next((need for need in CalibrationNeed if need in needs), CalibrationNeed.IGNORED)
    return QuantizerMethod(name=WORKFLOW, calibration=need)


def canonical(text: str) -> str:
    """The workflow as a toolchain is told it: the passes in their order, settings sorted."""
    passes = {label: dict(sorted(settings.items())) for label, settings in _passes(text).items()}
    told = json.dumps({"passes": passes}, separators=(",", ":"), ensure_ascii=False)
    # Kubernetes would read $(NAME) in a variable as another's value. Only texts can have a $.
    return told.replace("$", "\\u0024")


def _passes(text: str) -> dict[str, Any]:
    try:
        document = json.loads(text, object_pairs_hook=_object, parse_constant=_no_number)
    except (ValueError, RecursionError) as error:
        raise _RefusedError(f"{FIELD} is no JSON ({error}): write {SHAPE}.") from None
    if not isinstance(document, dict) or not isinstance(document.get("passes"), dict):
        raise _RefusedError(f"{FIELD} has no passes: write {SHAPE}.")
    for key, value in document.items():
        if key != "passes":
            raise _RefusedError(
                f"{_path(key)} is {_shown(value)}, but only passes may be given: the model, the "
                "folders and the machine are the operator's to name. Remove it."
            )
    passes: dict[str, Any] = document["passes"]
    if not 1 <= len(passes) <= MOST_PASSES:
        raise _RefusedError(f"{FIELD}.passes has {len(passes)}: give 1 to {MOST_PASSES}.")
    return passes


def _pass(
    label: str, settings: Any, listed: dict[str, QuantizerPass], quantizer: str
) -> QuantizerPass:
    """What the Quantizer lists of the pass, if its settings are among that."""
    if not isinstance(settings, dict):
        raise _RefusedError(
            f"{_path('passes', label)} is {_shown(settings)}: it must be an object with a type and "
            "settings."
        )
    type_ = settings.get("type")
    found = listed.get(type_) if isinstance(type_, str) else None
    if found is None:
        raise _RefusedError(
            f"{_path('passes', label, 'type')} is {_shown(type_)}, which Quantizer {quantizer!r} "
            f"does not run; possible: {', '.join(sorted(listed))}."
        )
    for key, value in settings.items():
        if key == "type":
            continue
        if key not in found.settings:
            raise _RefusedError(
                f"{_path('passes', label, key)} is {_shown(value)}, which Quantizer {quantizer!r} "
                f"does not let {found.type} have; possible: "
                f"{', '.join(sorted(found.settings)) or 'no setting'}."
            )
        if not all(isinstance(each, str | int | float | None) for each in _items(value)):
            raise _RefusedError(
                f"{_path('passes', label, key)} is {_shown(value)}: it must be a number, a text, "
                "true, false, null, or a list of these."
            )
    return found


def _items(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object whose names are all different: of two alike, readers take one or the other."""
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"{_short(twice)} is there twice")
    return found


def _no_number(name: str) -> None:
    raise ValueError(f"{name} is no number of JSON's")


def _path(*names: str) -> str:
    return ".".join([FIELD, *map(_short, names)])


def _shown(value: Any) -> str:
    return _short(json.dumps(value, ensure_ascii=False))


def _short(text: str) -> str:
    return text if len(text) <= FOUND_LENGTH else text[:FOUND_LENGTH] + "…"
