"""``precision: Auto`` chooses what trying all would, with the real toolchain, for half the work."""

from collections.abc import Callable
from decimal import Decimal

from e2e.kubectl import Object
from e2e.scenarios.team import Team, quantized_model
from e2e.scenarios.waiting import until
from e2e.store import text_uri

PRECISIONS = ["Q2_K", "Q3_K_M", "Q4_K_S", "Q4_K_M", "Q5_K_M", "Q8_0"]
LIMIT = "0.5"
EVALUATION = {"uri": text_uri("evaluation.txt"), "maxTokens": 4096}


def test_the_choice_is_that_of_trying_all(team: Team, new_checkpoint: Callable[[str], str]) -> None:
    source = new_checkpoint("tiny-llama")
    name = team.apply(
        quantized_model(
            "auto",
            ("GGUF", "Auto"),
            source,
            quantization={"auto": {"precisions": PRECISIONS}},
            quality={"evaluation": EVALUATION, "maxPerplexityIncreasePercent": LIMIT},
        )
    )
    model = team.ready(name, timeout=1800)
    candidates = listed(model)
    assert team.answer(name)
    tried = [c for c in candidates.values() if "sizeBytes" in c]
    assert 1 < len(tried) <= len(PRECISIONS) / 2
    assert len(team.jobs(name, "convert")) == len(tried)
    assert {c["precision"] for c in candidates.values() if c["reason"] != "NotListed"} == set(
        PRECISIONS
    )

    measured = all_measured(team, source)
    print(f"\n{'precision':10} {'bytes':>8} {'rose %':>8} state")
    for precision, (size, increase) in measured.items():
        print(f"{precision:10} {size:8} {increase:>8} {candidates[precision]['state']}")
    assert chosen(model) == smallest(measured, Decimal(LIMIT))

    # The other half is in the store now: a stricter limit is decided without a conversion.
    before = {job["metadata"]["name"] for job in team.jobs(name, "convert")}
    _, increase = measured[model["status"]["artifact"]["precision"]]
    stricter = max(increase - Decimal("0.001"), Decimal(0))
    team.patch(name, {"quality": {"maxPerplexityIncreasePercent": str(stricter)}})
    wanted = smallest(measured, stricter)
    assert wanted is not None, "Q8_0 loses next to nothing"
    until("the other choice", lambda: chosen(team.model(name)) == wanted, timeout=600)
    assert team.ready(name)["status"]["artifact"]["precision"] == wanted
    assert {job["metadata"]["name"] for job in team.jobs(name, "convert")} <= before


def listed(model: Object) -> dict[str, Object]:
    """The candidates, by precision."""
    return {c["precision"]: c for c in model["status"]["candidates"]}


def chosen(model: Object) -> str | None:
    """The precision that was chosen, if one was."""
    return next((n for n, c in listed(model).items() if c["state"] == "Chosen"), None)


def all_measured(team: Team, source: str) -> dict[str, tuple[int, Decimal]]:
    """Size and increase of every precision, each made by an object that names it."""
    names = {
        precision: team.apply(
            quantized_model(
                precision.lower().replace("_", "-"),
                ("GGUF", precision),
                source,
                quality={"evaluation": EVALUATION},
                serving=None,
            )
        )
        for precision in PRECISIONS
    }
    found = {precision: team.ready(name)["status"] for precision, name in names.items()}
    return {
        precision: (status["artifact"]["sizeBytes"], Decimal(status["quality"]["increasePercent"]))
        for precision, status in found.items()
    }


def smallest(measured: dict[str, tuple[int, Decimal]], limit: Decimal) -> str | None:
    """The smallest within a limit."""
    passing = {n: size for n, (size, increase) in measured.items() if increase <= limit}
    return min(passing, key=lambda name: (passing[name], name)) if passing else None
