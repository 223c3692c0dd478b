"""Conditions of a QuantizedModel: all present from the first pass, each change kept in time."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from quantop.api.base import Condition
from quantop.reasons import ConditionType, Reason

MESSAGE_LENGTH = 4096


@dataclass(frozen=True)
class State:
    """What a condition says now."""

    status: bool
    reason: str
    message: str


PENDING = State(False, Reason.PENDING, "Waiting for the steps before it.")


def merge(
    before: Sequence[Condition],
    states: Mapping[ConditionType, State],
    generation: int,
    now: datetime,
) -> list[Condition]:
    """All conditions, in the order of ConditionType. ``lastTransitionTime`` moves only when the
    status does, so that an unchanged condition is an unchanged object."""
    known = {c.type: c for c in before}
    stamp = now.strftime("%Y-%m-%dT%H:%M:%SZ")
    merged = []
    for type_ in ConditionType:
        state = states.get(type_, PENDING)
        status = "True" if state.status else "False"
        old = known.get(type_)
        merged.append(
            Condition(
                type=type_,
                status=status,
                observed_generation=generation,
                last_transition_time=(
                    old.last_transition_time if old and old.status == status else stamp
                ),
                reason=state.reason,
                message=state.message[:MESSAGE_LENGTH],
            )
        )
    return merged
