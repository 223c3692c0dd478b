"""Two objects with the same recipe share one artifact, in other namespaces too."""

from collections.abc import Callable

from e2e.scenarios.team import Team, quantized_model


def test_the_same_recipe_elsewhere_needs_no_conversion(
    make_team: Callable[[], Team], new_checkpoint: Callable[[str], str]
) -> None:
    first, second = make_team(), make_team()
    source = new_checkpoint("tiny-llama")
    first.apply(quantized_model("first", source=source))
    made = first.ready("first")
    second.apply(quantized_model("second", source=source))
    shared = second.ready("second")

    assert shared["status"]["artifact"]["key"] == made["status"]["artifact"]["key"]
    assert len(first.jobs("first", "convert")) == 1
    assert second.jobs("second", "convert") == []
    assert second.answer("second") == first.answer("first")


def test_two_at_the_same_time_convert_once(
    make_team: Callable[[], Team], new_checkpoint: Callable[[str], str]
) -> None:
    teams = [make_team(), make_team()]
    source = new_checkpoint("tiny-llama")
    for team in teams:
        team.apply(quantized_model("same", source=source, serving=None))
    keys = {team.ready("same")["status"]["artifact"]["key"] for team in teams}
    assert len(keys) == 1
    assert sum(len(team.jobs("same", "convert")) for team in teams) == 1
