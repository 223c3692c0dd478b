"""Whether a ModelRuntime, and a node, can do what a model's engine options ask for. Pure."""

from collections.abc import Iterable

from quantop.api.modelruntime import EngineOption, ModelRuntimeSpec
from quantop.api.quantizedmodel import Serving
from quantop.builders import engine_options
from quantop.quantities import to_count
from quantop.reasons import Reason
from quantop.reconcile.snapshot import Capacity, Problem


def check(
    serving: Serving, name: str, runtime: ModelRuntimeSpec, capacity: Capacity | None
) -> Problem | None:
    """The Problem of the first option that cannot be, or None."""
    given = engine_options.given(serving)
    offered = {option.name: option for option in runtime.options}
    for option, value in given.items():
        field = f"spec.serving.engine.{option}"
        if option not in offered:
            return Problem(
                Reason.OPTION_NOT_SUPPORTED,
                f"{field} is set, which ModelRuntime {name!r} does not have; possible: "
                f"{_listed(offered)}. Remove it, or name another in spec.serving.runtimeName.",
            )
        if possible := _lacks(offered[option], value):
            return Problem(
                Reason.OPTION_VALUE_NOT_SUPPORTED,
                f"{field} is {value}, which ModelRuntime {name!r} does not have; possible: "
                f"{possible}.",
            )
    for resource, amount in engine_options.devices(runtime, given).items():
        if problem := _fits(serving, runtime, resource, int(amount), capacity):
            return problem
    return None


def _lacks(option: EngineOption, value: str) -> str:
    """What is possible, where this value is not."""
    if option.values and value not in (known := [each.value for each in option.values]):
        return _listed(known)
    if option.maximum is not None and int(value) > option.maximum:
        return f"at most {option.maximum}"
    return ""


def _fits(
    serving: Serving,
    runtime: ModelRuntimeSpec,
    resource: str,
    needed: int,
    capacity: Capacity | None,
) -> Problem | None:
    """All devices of a replica are those of one pod, and so of one node."""
    given = engine_options.given(serving)
    asked = " x ".join(
        f"{option.name} {given[option.name]}"
        for option in runtime.options
        if option.name in given and resource in option.multiplies
    )
    needs = f"spec.serving.engine: {asked} needs {needed} {resource}"
    for end in (serving.resources.limits, serving.resources.requests):
        if resource in end and to_count(end[resource]) != needed:
            return Problem(
                Reason.OPTION_VALUE_NOT_SUPPORTED,
                f"{needs}, but spec.serving.resources says {end[resource]}: remove it there.",
            )
    largest = capacity.devices.get(resource) if capacity else None
    if largest is not None and needed > largest:
        return Problem(
            Reason.INSUFFICIENT_CAPACITY,
            f"{needs} on one node, and the node with the most has {largest}; no engine spans "
            "nodes. Ask for fewer, quantize to fewer bits, or add a node that has as many.",
        )
    return None


def _listed(names: Iterable[str]) -> str:
    return ", ".join(sorted(names)) or "none"
