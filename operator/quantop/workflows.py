"""Workflows: passes in place of a method. What a Quantizer does not list is refused before it runs.

A toolchain's own passes can read and write files, fetch from a network and run code of a user's.
Only settings that the Quantizer lists get through, and only plain values of them. The operator
reads what a spec holds, the worker what lies in the store, by the same rules. Pure.
"""

import json
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from quantop.contract import AllowedPass

INLINE = "spec.quantization.workflow"
STORED = "spec.quantization.workflowFrom"
SHAPE = '{"passes": {"NAME": {"type": "TYPE", "SETTING": VALUE}}}'
MOST_PASSES = 16
FOUND_LENGTH = 80
"""Characters of what was found that a message repeats."""
NEEDS = ("Required", "Optional", "Ignored")
"""What a pass does with calibration text, the most first."""


class WorkflowRefusedError(Exception):
    """Says where, what was found and what is allowed."""


@dataclass(frozen=True)
class Workflow:
    """A workflow that the Quantizer runs."""

    text: str
    """As a toolchain is told it: the passes in their order, settings sorted."""
    calibration: str
    """The most that one of its passes does with calibration text."""


def read(text: str, field: str, quantizer: str, allowed: Iterable[AllowedPass]) -> Workflow:
    """The workflow in a text, which the field of the spec gives.

    Raises:
        WorkflowRefusedError: it is none, or has what the Quantizer does not list.
    """
    listed = {each.type: each for each in allowed}
    check_runs_any(field, quantizer, listed)
    passes = _passes(text, field)
    used = [_pass(field, label, each, listed, quantizer) for label, each in passes.items()]
    needs = {each.calibration for each in used}
    told = {label: dict(sorted(settings.items())) for label, settings in passes.items()}
    return Workflow(
        # Kubernetes would read $(NAME) in a variable as another's value. Only texts can have a $.
        json.dumps({"passes": told}, separators=(",", ":"), ensure_ascii=False).replace(
            "$", "\\u0024"
        ),
        next(need for need in NEEDS if need in needs),
    )


def check_runs_any(field: str, quantizer: str, allowed: Collection[object]) -> None:
    """Raises WorkflowRefusedError where the Quantizer lists no pass."""
    if not allowed:
        raise WorkflowRefusedError(
            f"{field} is set, but Quantizer {quantizer!r} runs no workflows: remove it, or name "
            "another in spec.quantization.quantizerName."
        )


def _passes(text: str, field: str) -> dict[str, Any]:
    try:
        document = json.loads(text, object_pairs_hook=_object, parse_constant=_no_number)
    except (ValueError, RecursionError) as error:
        raise WorkflowRefusedError(f"{field} is no JSON ({error}): write {SHAPE}.") from None
    if not isinstance(document, dict) or not isinstance(document.get("passes"), dict):
        raise WorkflowRefusedError(f"{field} has no passes: write {SHAPE}.")
    for key, value in document.items():
        if key != "passes":
            raise WorkflowRefusedError(
                f"{_path(field, key)} is {_shown(value)}, but only passes may be given: the model, "
                "the folders and the machine are the operator's to name. Remove it."
            )
    passes: dict[str, Any] = document["passes"]
    if not 1 <= len(passes) <= MOST_PASSES:
        raise WorkflowRefusedError(f"{field}.passes has {len(passes)}: give 1 to {MOST_PASSES}.")
    return passes


def _pass(
    field: str, label: str, settings: Any, listed: Mapping[str, AllowedPass], quantizer: str
) -> AllowedPass:
    """What the Quantizer lists of the pass, if its settings are among that."""
    if not isinstance(settings, dict):
        raise WorkflowRefusedError(
            f"{_path(field, 'passes', label)} is {_shown(settings)}: it must be an object with a "
            "type and settings."
        )
    type_ = settings.get("type")
    found = listed.get(type_) if isinstance(type_, str) else None
    if found is None:
        raise WorkflowRefusedError(
            f"{_path(field, 'passes', label, 'type')} is {_shown(type_)}, which Quantizer "
            f"{quantizer!r} does not run; possible: {', '.join(sorted(listed))}."
        )
    for key, value in settings.items():
        if key == "type":
            continue
        if key not in found.settings:
            raise WorkflowRefusedError(
                f"{_path(field, 'passes', label, key)} is {_shown(value)}, which Quantizer "
                f"{quantizer!r} does not let {found.type} have; possible: "
                f"{', '.join(sorted(found.settings)) or 'no setting'}."
            )
        if not all(isinstance(each, str | int | float | None) for each in _items(value)):
            raise WorkflowRefusedError(
                f"{_path(field, 'passes', label, key)} is {_shown(value)}: it must be a number, a "
                "text, true, false, null, or a list of these."
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


def _path(field: str, *names: str) -> str:
    return ".".join([field, *map(_short, names)])


def _shown(value: Any) -> str:
    return _short(json.dumps(value, ensure_ascii=False))


def _short(text: str) -> str:
    return text if len(text) <= FOUND_LENGTH else text[:FOUND_LENGTH] + "…"
