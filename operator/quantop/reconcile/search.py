"""Which precision to try next, and which is the answer: the search behind ``precision: Auto``.

Pure, and without a memory of its own: every call plays the search from its start with what was
found so far. So a restart changes nothing, and neither do other limits but in what they decide.
docs/adr/0008 says why it is so.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal

LOOK_DOWN = 3
"""Quality is only nearly monotone in size: so many candidates below the smallest that passes are
tried before it is the answer."""


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
    """Whether its size is within the budget."""

    @property
    def passes(self) -> bool:
        """Whether it may be the answer."""
        return self.keeps and self.fits


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


def next_move(options: Iterable[Option], outcomes: Outcomes) -> Try | Choose:
    """The next move towards the smallest option that keeps the limits and fits the budget.

    What is known from a search with other limits and is not asked for in this one does not count:
    an object with a history chooses as a new one does.
    """
    order = in_order(options)
    asked: dict[str, Outcome | None] = {}
    while option := _next(order, asked):
        if option.precision not in outcomes:
            return Try(option.precision)
        asked[option.precision] = outcomes[option.precision]
    return Choose(_smallest(asked, asked))


def _next(order: Sequence[Option], asked: Outcomes) -> Option | None:
    """The option to ask for next, or None when the search is over.

    Bisect the order of promises; then look at the neighbours of the smallest that passed, as
    quality and size follow the promise only nearly.
    """
    place = {option.precision: at for at, option in enumerate(order)}
    found = {place[name]: outcome for name, outcome in asked.items() if outcome}
    best = _smallest(asked, asked)
    spent = len(found) >= most_tries(len(order))
    if best is not None and spent:
        return None
    # What is too large shows, as what passes does, that the answer lies below.
    high = min((at for at, o in found.items() if o.keeps or not o.fits), default=len(order))
    low = max((at for at in found if at < high), default=-1)
    between = [o for o in order[low + 1 : high] if o.precision not in asked]
    if between:
        return between[len(between) // 2]
    if spent:
        return None
    at = high if best is None else place[best]
    near = [*reversed(order[max(0, at - LOOK_DOWN) : at])]
    if best is not None:
        # The next one above may turn out smaller, where the promises overlap.
        near[1:1] = [o for o in order[at + 1 : at + 2] if o.low < order[at].high]
    return next((o for o in near if o.precision not in asked), None)


def _smallest(names: Iterable[str], outcomes: Outcomes) -> str | None:
    passed = {n: o.size for n in names if (o := outcomes.get(n)) and o.passes}
    return min(passed, key=lambda name: (passed[name], name)) if passed else None
