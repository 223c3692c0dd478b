"""A manifest that nobody has seen before becomes a model that answers."""

from collections.abc import Callable

from e2e.kubectl import conditions
from e2e.scenarios.team import Team, quantized_model
from e2e.store import text_uri

CONDITIONS = {"Ready", "Quantized", "Verified", "Serving", "Reconciling", "Stalled"}


def test_an_unseen_manifest_ends_ready_and_answers(
    team: Team, new_checkpoint: Callable[[str], str]
) -> None:
    """Another checkpoint, another architecture, another name, another namespace."""
    evaluation = {"evaluation": {"uri": text_uri("evaluation.txt"), "maxTokens": 2048}}
    name = team.apply(
        quantized_model(
            "never-seen", ("GGUF", "Q4_K_M"), new_checkpoint("tiny-phi3"), quality=evaluation
        )
    )
    model = team.ready(name)

    assert team.answer(name)
    status = model["status"]
    assert status["artifact"]["sizeBytes"] < status["artifact"]["sourceSizeBytes"]
    assert 4 < float(status["artifact"]["bitsPerWeight"]) < 7
    baseline, perplexity = (
        float(status["quality"][each]) for each in ("baselinePerplexity", "perplexity")
    )
    assert 1 < baseline < perplexity < 2 * baseline
    assert 80 < float(status["quality"]["topTokenAgreementPercent"]) < 100
    assert 0 < float(status["quality"]["meanKLDivergence"]) < 0.1
    assert set(conditions(model)) == CONDITIONS


def test_without_serving_the_artifact_is_the_product(team: Team) -> None:
    name = team.apply(quantized_model("artifact-only", serving=None))
    model = team.ready(name)
    assert model["status"]["artifact"]["uri"].startswith("s3://")
    assert team.pods(name, "server") == []
    assert "endpoint" not in model["status"]
