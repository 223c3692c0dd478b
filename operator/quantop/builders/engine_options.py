"""A model's engine options as its ModelRuntime has them: arguments, variables, devices."""

import math
from collections.abc import Mapping

from quantop.api.modelruntime import EngineOption, ModelRuntimeSpec, OptionName
from quantop.api.quantizedmodel import Serving
from quantop.builders.meta import Manifest
from quantop.contract import DRAFT_MODEL_DIR
from quantop.quantities import to_count

Options = Mapping[OptionName, str]
"""The options that a model sets, with their values; the name of a draft model."""


def given(serving: Serving) -> Options:
    """The options that a model sets."""
    if serving.engine is None:
        return {}
    found = serving.engine.model_dump(mode="json", by_alias=True, exclude_none=True)
    if draft := serving.engine.draft_model:
        found[OptionName.DRAFT_MODEL] = draft.name
    return {OptionName(name): str(value) for name, value in found.items()}


def arguments(runtime: ModelRuntimeSpec, options: Options) -> list[str]:
    """What the options become on the engine's command line, in the runtime's order."""
    found: list[str] = []
    for option in _set(runtime, options):
        found += option.args
        found += [
            argument
            for value in option.values
            if value.value == options[option.name]
            for argument in value.args
        ]
    return found


def environment(options: Options) -> dict[str, str]:
    """The variables that the arguments name."""
    variables = {name.variable: value for name, value in options.items()}
    if OptionName.DRAFT_MODEL in options:
        variables[OptionName.DRAFT_MODEL.variable] = str(DRAFT_MODEL_DIR)
    return variables


def devices(runtime: ModelRuntimeSpec, options: Options) -> dict[str, str]:
    """How many of the runtime's extended resources a replica needs, where options say so."""
    multipliers: dict[str, list[int]] = {}
    for option in _set(runtime, options):
        for resource in option.multiplies:
            multipliers.setdefault(resource, []).append(int(options[option.name]))
    return {
        resource: str(to_count(runtime.resources.limits[resource]) * math.prod(factors))
        for resource, factors in multipliers.items()
    }


def resources(runtime: ModelRuntimeSpec, options: Options) -> Manifest:
    """The runtime's resources, for as many devices as the options ask for."""
    more = devices(runtime, options)

    def each(of: dict[str, str]) -> dict[str, str]:
        return {resource: more.get(resource, amount) for resource, amount in of.items()}

    return {
        "requests": each(runtime.resources.requests),
        "limits": each(runtime.resources.limits),
    }


def _set(runtime: ModelRuntimeSpec, options: Options) -> list[EngineOption]:
    return [option for option in runtime.options if option.name in options]
