"""The search for a precision: the choice of trying all, for less than half of the conversions.

`pytest -s tests/unit/test_search.py` prints the comparison.
"""

import math
import random
from collections.abc import Mapping
from dataclasses import dataclass, replace
from decimal import Decimal
from pathlib import Path

import pytest
import yaml
from quantop.api.quantizedmodel import Objective
from quantop.reconcile import search
from quantop.reconcile.search import Choose, Option, Outcome, Try, next_move

ROOT = Path(__file__).parents[2]
CATALOGUE = yaml.safe_load((ROOT / "charts/quantop/values.yaml").read_text())["quantizers"]
BANDS = {
    p["name"]: (Decimal(p["bitsPerWeight"]["min"]), Decimal(p["bitsPerWeight"]["max"]))
    for p in CATALOGUE["llama-cpp"]["spec"]["precisions"]
}

# Published with llama.cpp (tools/perplexity/README.md): size in GiB and perplexity on Wikitext-2,
# with an importance matrix where there are figures for one.
LLAMA_3_8B = (
    6.231636,
    {
        "F16": (14.97, 6.233160),
        "Q8_0": (7.96, 6.234284),
        "Q6_K": (6.14, 6.253382),
        "Q5_1": (5.65, 6.337857),
        "Q5_K_M": (5.33, 6.288607),
        "Q5_K_S": (5.21, 6.336598),
        "Q5_0": (5.21, 6.363224),
        "Q4_1": (4.78, 6.682737),
        "Q4_K_M": (4.58, 6.382937),
        "Q4_K_S": (4.37, 6.409697),
        "IQ4_NL": (4.35, 6.455593),
        "Q4_0": (4.34, 6.700147),
        "IQ4_XS": (4.14, 6.459705),
        "Q3_K_L": (4.03, 6.671223),
        "Q3_K_M": (3.74, 6.734255),
        "IQ3_M": (3.53, 6.898327),
        "IQ3_S": (3.42, 6.965501),
        "Q3_K_S": (3.41, 7.602878),
        "IQ3_XS": (3.28, 7.163043),
        "IQ3_XXS": (3.05, 7.458436),
        "Q2_K": (2.96, 8.647825),
        "Q2_K_S": (2.96, 9.323778),
        "IQ2_M": (2.74, 8.600799),
        "IQ2_S": (2.56, 9.650781),
        "IQ2_XS": (2.43, 10.761424),
        "IQ2_XXS": (2.24, 14.091782),
        "IQ1_M": (2.01, 25.493722),
        "IQ1_S": (1.88, 60.694593),
    },
)
LLAMA_2_70B = (
    3.4313,
    {
        "F16": (128.5, 3.4313),
        "Q6_K": (52.70, 3.4367),
        "Q5_K_M": (45.41, 3.4451),
        "Q5_K_S": (44.20, 3.4483),
        "Q5_0": (44.20, 3.4744),
        "Q4_1": (40.20, 3.5125),
        "Q4_K_M": (38.54, 3.4725),
        "Q4_K_S": (36.39, 3.4852),
        "Q4_0": (36.20, 3.5550),
        "Q3_K_L": (33.67, 3.5617),
        "Q3_K_M": (30.83, 3.5932),
        "Q3_K_S": (27.86, 3.7019),
        "Q2_K": (27.27, 3.7339),
    },
)
MODELS = {"Llama 3 8B": LLAMA_3_8B, "Llama 2 70B": LLAMA_2_70B}


REPACKED = {"Q4_0", "IQ4_NL", "Q4_K_S", "Q4_K_M", "Q5_K_S", "Q5_K_M", "Q6_K", "Q8_0"}
"""What llama.cpp may keep in memory a second time, in the order that a processor likes better."""


@dataclass(frozen=True)
class Case:
    """What every option would show, and the limit."""

    model: str
    losses: Mapping[str, tuple[int, float]]
    """Size in bytes and increase of perplexity in percent, by precision."""
    limit: float
    source: int
    """Bytes of the source, in 16 bits."""
    memory: Mapping[str, int]
    """What the engine takes, in bytes, by precision."""

    @property
    def options(self) -> list[Option]:
        return [Option(name, *BANDS[name]) for name in self.losses]

    @property
    def outcomes(self) -> dict[str, Outcome]:
        return {
            name: Outcome(
                size,
                loss <= self.limit,
                bits=Decimal(16) * size / self.source,
                cost=self.memory.get(name),
            )
            for name, (size, loss) in self.losses.items()
        }

    @property
    def least_memory(self) -> int | None:
        """The memory that trying all would choose."""
        return min((o.cost for o in self.outcomes.values() if o.passes and o.cost), default=None)

    @property
    def smallest(self) -> int | None:
        """The size that trying all would choose."""
        return min((o.size for o in self.outcomes.values() if o.passes), default=None)


def case(seed: int) -> Case:
    """A published curve, made another: some precisions left out, the losses of a model that bears
    more or less, measurements that scatter, embeddings that weigh."""
    rng = random.Random(seed)
    model = rng.choice(list(MODELS))
    baseline, published = MODELS[model]
    names = sorted(published)
    if rng.random() < 0.5:
        names = sorted(rng.sample(names, rng.randint(6, len(names))))
    bears = math.exp(rng.uniform(math.log(0.2), math.log(5)))
    scatter = rng.choice([0, 0.1, 0.3])
    embeddings = rng.choice([0, 0.1, 0.5]) * published["F16"][0]
    losses = {}
    for name in names:
        size, perplexity = published[name]
        loss = (perplexity / baseline - 1) * 100 * bears * math.exp(rng.gauss(0, scatter))
        losses[name] = round((size + embeddings) * 2**30), loss + rng.gauss(0, scatter / 10)
    limit = math.exp(rng.uniform(math.log(0.1), math.log(50)))
    source = round((published["F16"][0] + embeddings) * 2**30)
    takes = memory(losses, source, random.Random(seed + 1_000_000))
    return Case(model, losses, limit, source, takes)


def memory(
    losses: Mapping[str, tuple[int, float]], source: int, rng: random.Random
) -> dict[str, int]:
    """What an engine takes: the artifact, a share of its own that is small or as large as the
    source, with some engines a second time what they repack, and what differs from run to run."""
    own = rng.choice([0.02, 0.1, 0.5, 1]) * source
    repacks = rng.choice([0, 0, 0.3, 0.9])
    return {
        name: round(
            (size * (1 + repacks * (name in REPACKED)) + own) * (1 + abs(rng.gauss(0, 0.01)))
        )
        for name, (size, _) in losses.items()
    }


def searched(case: Case, objective: Objective = Objective.SIZE) -> tuple[str | None, list[str]]:
    """What the search chooses, and what it tried for that."""
    found: dict[str, Outcome | None] = {}
    while isinstance(move := next_move(case.options, found, objective), Try):
        assert move.precision not in found, "nothing is tried twice"
        found[move.precision] = case.outcomes[move.precision]
    return move.precision, list(found)


CASES = [case(seed) for seed in range(400)]


def agreement(cases: list[Case]) -> float:
    """In which part of the cases the search chooses what trying all would."""
    same = 0
    for case in cases:
        name, _ = searched(case)
        same += (case.losses[name][0] if name else None) == case.smallest
    return same / len(cases)


def test_the_search_chooses_as_trying_all_does_for_less_than_half_of_the_conversions() -> None:
    print(f"\n{'model':12} {'cases':>5} {'same choice':>11} {'of conversions':>14}")
    for model in [*MODELS, "all"]:
        cases = [case for case in CASES if model in (case.model, "all")]
        tried = sum(len(searched(case)[1]) for case in cases)
        part = tried / sum(len(case.losses) for case in cases)
        same = agreement(cases)
        print(f"{model:12} {len(cases):5} {same:11.1%} {part:14.1%}")
        assert len(cases) >= 40
        assert same >= 0.95
        assert part <= 0.5
    assert all(len(searched(case)[1]) <= len(case.losses) / 2 for case in CASES)


def test_the_least_memory_is_that_of_trying_all_for_less_than_half_of_the_conversions() -> None:
    print(f"\n{'model':12} {'cases':>5} {'same choice':>11} {'of conversions':>14}")
    for model in [*MODELS, "all"]:
        cases = [case for case in CASES if model in (case.model, "all")]
        runs = [(case, *searched(case, Objective.MEMORY)) for case in cases]
        tried = sum(len(names) for _, _, names in runs)
        part = tried / sum(len(case.losses) for case in cases)
        same = sum(
            (case.memory[name] if name else None) == case.least_memory for case, name, _ in runs
        )
        print(f"{model:12} {len(cases):5} {same / len(cases):11.1%} {part:14.1%}")
        assert len(cases) >= 40
        assert same / len(cases) >= 0.95
        assert part <= 0.5


def test_the_smallest_would_often_not_take_the_least_memory() -> None:
    """Else there would be nothing to search for."""
    names = [name for case in CASES if (name := searched(case)[0])]
    passing = [case for case in CASES if searched(case)[0]]
    right = sum(
        case.memory[name] == case.least_memory for case, name in zip(passing, names, strict=True)
    )
    assert right < len(passing) * 0.9


def test_what_promises_more_than_was_measured_is_proved_out() -> None:
    """Each of thirty takes 100 bytes for a bit, and its engine 50 besides: nothing above the one
    that takes the least is tried, and below it three."""

    def takes(at: int, besides: int = 50) -> Outcome:
        size = 100 * (at + 1)
        return Outcome(size, at >= 10, bits=Decimal(at + 1), cost=size + besides)

    order = [Option(f"{at:02}", Decimal(at) + Decimal("0.9"), Decimal(at + 2)) for at in range(30)]
    found: dict[str, Outcome | None] = {}
    while isinstance(move := next_move(order, found, Objective.MEMORY), Try):
        found[move.precision] = takes(int(move.precision))
    assert move == Choose("10")
    assert found.keys() == {"15", "07", "11", "09", "10", "08"}

    found = {}
    while isinstance(move := next_move(order, found, Objective.MEMORY), Try):
        at = int(move.precision)
        found[move.precision] = takes(at, besides=1000 if at < 12 else 50)
    assert move == Choose("12"), "its engine takes less besides than those below"


def test_the_fastest_is_found_by_trying_all() -> None:
    found: dict[str, Outcome | None] = {}
    speeds = {"a": 300, "b": 90, "c": 200, "d": 100, "e": 150}
    while isinstance(move := next_move(options(5), found, Objective.LATENCY), Try):
        name = move.precision
        found[name] = Outcome(ord(name), keeps=name != "b", cost=speeds[name])
    assert len(found) == 5
    assert move == Choose("d")


def test_of_those_that_are_as_fast_the_smallest_is_chosen() -> None:
    found = {n: Outcome(ord(n), True, cost=c) for n, c in {"a": 106, "b": 104, "c": 100}.items()}
    assert next_move(options(3), found, Objective.LATENCY) == Choose("b")


def test_without_its_figure_none_is_the_answer() -> None:
    found = dict.fromkeys("abc", Outcome(1, True))
    for objective in (Objective.MEMORY, Objective.LATENCY):
        assert next_move(options(3), found, objective) == Choose(None)


def test_what_is_too_slow_is_gone_around() -> None:
    """Smaller ones are mostly faster; where they are not, a larger one may be."""
    slow = {n: Outcome(ord(n), n > "b", quick=False) for n in "abcdef"}
    found: dict[str, Outcome | None] = {}
    while isinstance(move := next_move(options(9), found), Try):
        found[move.precision] = slow.get(move.precision, Outcome(ord(move.precision), True))
    assert "c" in found, "the smallest that keeps the quality"
    assert len(found) == search.most_tries(9)
    found = {}
    quick = {"d"}
    while isinstance(move := next_move(options(9), found), Try):
        name = move.precision
        found[name] = Outcome(ord(name), name > "b", quick=name in quick)
    assert move == Choose("d")


def test_bisecting_alone_would_not_do(monkeypatch: pytest.MonkeyPatch) -> None:
    """The cases are not so easy that any search would pass."""
    monkeypatch.setattr(search, "LOOK_DOWN", 0)
    assert agreement(CASES) < 0.9


def test_the_cases_are_varied() -> None:
    chosen = {searched(case)[0] for case in CASES}
    assert len(chosen) > 20
    assert None in chosen, "in some nothing passes"
    monotone = 0
    for case in CASES:
        by_size = sorted(case.losses.values())
        losses = [loss for _, loss in by_size]
        monotone += losses == sorted(losses, reverse=True)
    assert monotone < len(CASES) / 4, "in most of them a larger one loses more somewhere"


@pytest.mark.parametrize("case", CASES[:40], ids=range(40))
def test_what_is_chosen_passes_and_the_order_of_options_does_not_matter(case: Case) -> None:
    name, tried = searched(case)
    assert name is None or case.outcomes[name].passes
    shuffled = random.Random(1).sample(case.options, len(case.options))
    outcomes = {name: case.outcomes[name] for name in tried}
    assert next_move(shuffled, outcomes) == Choose(name)


def test_what_promises_nothing_comes_last() -> None:
    unknown = Option("a", Decimal(0), Decimal("Infinity"))
    assert search.in_order([unknown, *options(3)[1:]])[-1] == unknown


def options(count: int) -> list[Option]:
    """Options a, b, c... of growing promise, whose bands do not overlap."""
    return [Option(chr(ord("a") + i), Decimal(i), Decimal(i) + 1) for i in range(count)]


def outcomes(passing: str, failing: str, failed: str = "") -> dict[str, Outcome | None]:
    known: dict[str, Outcome | None] = {n: Outcome(ord(n), n in passing) for n in passing + failing}
    return known | dict.fromkeys(failed)


def test_without_options_nothing_passes() -> None:
    assert next_move([], {}) == Choose(None)


def test_the_only_option_is_tried_too() -> None:
    assert next_move(options(1), {}) == Try("a")
    assert next_move(options(1), outcomes("a", "")) == Choose("a")
    assert next_move(options(1), outcomes("", "a")) == Choose(None)


@pytest.mark.parametrize("count", range(1, 30))
def test_the_number_of_tries_is_bounded(count: int) -> None:
    bound = max(count // 2, math.ceil(math.log2(count + 1)))
    for boundary in range(count + 1):
        found: dict[str, Outcome | None] = {}
        while isinstance(move := next_move(options(count), found), Try):
            at = ord(move.precision) - ord("a")
            found[move.precision] = Outcome(at, at >= boundary)
        assert move.precision == (options(count)[boundary].precision if boundary < count else None)
        assert len(found) <= bound


def test_the_search_begins_in_the_middle() -> None:
    assert next_move(options(9), {}) == Try("e")
    assert next_move(options(9), outcomes("e", "")) == Try("c")
    assert next_move(options(9), outcomes("", "e")) == Try("h")


def test_one_that_could_not_be_made_is_gone_around() -> None:
    assert next_move(options(9), outcomes("", "", "e")) == Try("f")
    assert next_move(options(3), outcomes("", "", "abc")) == Choose(None)


def test_what_lies_below_a_rejected_neighbour_is_tried() -> None:
    """Bisecting ends between e, which loses too much, and f; c is smaller, and passes."""
    passing = {"c", *"fghijklmnop"}
    found: dict[str, Outcome] = {}
    while isinstance(move := next_move(options(16), found), Try):
        found[move.precision] = Outcome(ord(move.precision), move.precision in passing)
    assert not found["e"].passes
    assert move == Choose("c")


def test_a_neighbour_above_may_turn_out_smaller() -> None:
    """As long as its promise allows it."""
    order = [*options(8)[:-1], Option("h", Decimal("6.5"), Decimal(8))]
    sizes = {"g": 900, "h": 800}
    for low, answer in ((Decimal("6.5"), "h"), (Decimal(7), "g")):
        order[-1] = Option("h", low, Decimal(8))
        found: dict[str, Outcome | None] = {}
        while isinstance(move := next_move(order, found), Try):
            name = move.precision
            found[name] = Outcome(sizes.get(name, 0), name in sizes)
        assert move == Choose(answer)


def test_a_budget_of_size_bounds_the_search_from_above() -> None:
    """What is larger by promise than one that is too large is not tried."""
    found: dict[str, Outcome] = {}
    while isinstance(move := next_move(options(12), found), Try):
        at = ord(move.precision) - ord("a")
        found[move.precision] = Outcome(at, keeps=at >= 8, fits=at < 6)
    assert move == Choose(None)
    assert max(found) == "g"


def test_other_limits_go_on_from_what_is_known() -> None:
    """Stricter, then as before: the second time nothing is left to try, and the choice is the
    same."""
    curve = CASES[0]
    strict = replace(curve, limit=curve.limit / 3)
    known: dict[str, Outcome | None] = {n: curve.outcomes[n] for n in searched(curve)[1]}
    first = next_move(curve.options, known)
    seen: dict[str, Outcome | None] = {name: strict.outcomes[name] for name in known}
    tried = 0
    while isinstance(move := next_move(strict.options, seen), Try):
        seen[move.precision] = strict.outcomes[move.precision]
        tried += 1
    assert move.precision == searched(strict)[0]
    assert 0 < tried < len(searched(strict)[1])
    assert next_move(curve.options, {n: curve.outcomes[n] for n in seen}) == first


def test_a_history_does_not_change_the_choice() -> None:
    found: dict[str, Outcome | None] = {}
    while isinstance(move := next_move(options(20), found), Try):
        found[move.precision] = Outcome(ord(move.precision), move.precision >= "o")
    assert move == Choose("o")
    assert "b" not in found
    assert next_move(options(20), {**found, "b": Outcome(ord("b"), True)}) == Choose("o")
