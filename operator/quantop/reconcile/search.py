"""Which precision to try next, and which is the answer: the search behind ``precision: Auto``.

Pure, and without a memory of its own: every call plays the search from its start with what was
found so far. So a restart changes nothing, and neither do other limits but in what they decide.
docs/adr/0008 says why it is so.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal

from quantop.api.quantizedmodel import Objective

LOOK_DOWN = 3
"""Quality is only nearly monotone in size: so many candidates below the smallest that passes are
tried before it is the answer."""


ALIKE = Decimal("1.05")
"""Latencies that differ by less are alike: the next run of the same artifact differs by as much."""


@dataclass(frozen=True)
class Option:
    """A precision that can be tried, and the band of bits per weight that it promises."""

    precision: str
    low: Decimal
    high: Decimal


@dataclass(frozen=True)
class Outcome:
    """What trying an option showed: an artifact of a size."""

    size: int
    keeps: bool
    """Whether its quality is within the limits."""
    fits: bool = True
    """Whether its size, and the memory that it takes, are within the budget."""
    quick: bool = True
    """Whether it is within the limits on how an engine does with it. Nothing is known of that where
    its quality is not within the limits."""
    bits: Decimal | None = None
    """Bits per weight."""
    cost: int | None = None
    """What the objective Latency or Memory compares, in a unit of its own."""

    @property
    def passes(self) -> bool:
        """Whether it may be the answer."""
        return self.keeps and self.fits and self.quick


@dataclass(frozen=True)
class Try:
    """This one has to be made and measured next."""

    precision: str


@dataclass(frozen=True)
class Choose:
    """This one is the answer; None: none passes."""

    precision: str | None


Outcomes = Mapping[str, Outcome | None]
"""By precision; None: it could not be made."""


def in_order(options: Iterable[Option]) -> list[Option]:
    """The options from the smallest promise, the middle of the band, to the largest."""
    return sorted(options, key=lambda o: ((o.low + o.high) / 2, o.precision))


def most_tries(count: int) -> int:
    """How many of ``count`` options are measured at most: half, or what bisecting takes where that
    is more, as it is for fewer than six. One that cannot be made does not count."""
    return max(count // 2, count.bit_length())


def next_move(
    options: Iterable[Option], outcomes: Outcomes, objective: Objective = Objective.SIZE
) -> Try | Choose:
    """The next move towards the option with the least of the objective that keeps the limits and
    fits the budget.

    What is known from a search with other limits and is not asked for in this one does not count:
    an object with a history chooses as a new one does.
    """
    order = in_order(options)
    following = {
        Objective.SIZE: _next,
        Objective.LATENCY: _next_of_all,
        Objective.MEMORY: _next_by_memory,
    }[objective]
    asked: dict[str, Outcome | None] = {}
    while option := following(order, asked):
        if option.precision not in outcomes:
            return Try(option.precision)
        asked[option.precision] = outcomes[option.precision]
    return Choose(_least(asked, objective))


def _next(order: Sequence[Option], asked: Outcomes) -> Option | None:
    """The option to ask for next, or None when the search is over.

    Bisect the order of promises; then look at the neighbours of the smallest that passed, as
    quality and size follow the promise only nearly.
    """
    place = {option.precision: at for at, option in enumerate(order)}
    found = {place[name]: outcome for name, outcome in asked.items() if outcome}
    best = _least(asked, Objective.SIZE)
    spent = _spent(order, asked)
    if best is not None and spent:
        return None
    high, between = _bracket(order, asked)
    if between:
        return between[len(between) // 2]
    if spent:
        return None
    at = high if best is None else place[best]
    near = [*reversed(order[max(0, at - LOOK_DOWN) : at])]
    if best is not None:
        # The next one above may turn out smaller, where the promises overlap.
        near[1:1] = [o for o in order[at + 1 : at + 2] if o.low < order[at].high]
    elif any(o.fits and not o.quick for o in found.values()):
        # What is too slow is not so for its size alone: a larger one may do, and keeps the quality
        # more likely than a smaller one.
        too_large = min((at for at, o in found.items() if not o.fits), default=len(order))
        near = [*order[at + 1 : too_large], *near]
    return next((o for o in near if o.precision not in asked), None)


def _next_of_all(order: Sequence[Option], asked: Outcomes) -> Option | None:
    """Nothing but trying tells how fast an engine is with an artifact."""
    return next((o for o in order if o.precision not in asked), None)


def _next_by_memory(order: Sequence[Option], asked: Outcomes) -> Option | None:
    """The option to ask for next, or None when none can be less than the least that passed.

    Branch and bound. Quality is bisected as for the size. Then the neighbours below, which may keep
    the limits, too, and all above that could take less by what they promise, are tried.
    """
    place = {option.precision: at for at, option in enumerate(order)}
    high, between = _bracket(order, asked)
    if between:
        return between[len(between) // 2]
    too_large = (place[name] for name, o in asked.items() if o and not o.fits)
    above = order[high + 1 : min(too_large, default=len(order))]
    best = _least(asked, Objective.MEMORY)
    if best is not None and _spent(order, asked):
        return None
    least = asked[best] if best is not None else None
    if least is not None and least.cost is not None:
        bound = _memory_bound(asked)
        above = [option for option in above if bound(option) < least.cost]
    near = [*reversed(order[max(0, high - LOOK_DOWN) : high]), *above]
    return next((o for o in near if o.precision not in asked), None)


def _bracket(order: Sequence[Option], asked: Outcomes) -> tuple[int, list[Option]]:
    """The place of the smallest that keeps the limits, as far as that is known, and what lies
    between it and the largest below it that does not."""
    place = {option.precision: at for at, option in enumerate(order)}
    found = {place[name]: outcome for name, outcome in asked.items() if outcome}
    # What is too large shows, as what passes does, that the answer lies below.
    high = min((at for at, o in found.items() if o.keeps or not o.fits), default=len(order))
    low = max((at for at in found if at < high), default=-1)
    return high, [o for o in order[low + 1 : high] if o.precision not in asked]


def _spent(order: Sequence[Option], asked: Outcomes) -> bool:
    """Whether as many are measured as may be."""
    return sum(1 for outcome in asked.values() if outcome) >= most_tries(len(order))


def _memory_bound(asked: Outcomes) -> Callable[[Option], Decimal]:
    """The least memory that an option may take: the bytes that it promises, of which the engine
    holds all, and the least that any took besides its own."""
    known = [o for o in asked.values() if o and o.cost is not None]
    weight = min((o.size / o.bits for o in known if o.bits), default=Decimal(0))
    besides = min((o.cost - o.size for o in known if o.cost is not None), default=0)
    return lambda option: option.low * weight + besides


def _least(outcomes: Outcomes, objective: Objective) -> str | None:
    """The one with the least of the objective of those that pass."""
    passed = {n: o for n, o in outcomes.items() if o and o.passes}
    if objective is Objective.SIZE:
        return min(passed, key=lambda name: (passed[name].size, name), default=None)
    costs = {name: o.cost for name, o in passed.items() if o.cost is not None}
    if not costs:
        return None
    spread = ALIKE if objective is Objective.LATENCY else Decimal(1)
    alike = [name for name, cost in costs.items() if cost <= min(costs.values()) * spread]
    return min(alike, key=lambda name: (passed[name].size, name))
