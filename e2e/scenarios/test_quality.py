"""Measured quality decides what is rolled out."""

from decimal import Decimal

from e2e.kubectl import conditions
from e2e.scenarios.load import steady_load
from e2e.scenarios.team import Team, quantized_model
from e2e.scenarios.waiting import until
from e2e.store import Store, text_uri

EVALUATION = {"uri": text_uri("evaluation.txt"), "maxTokens": 4096}


def test_a_precision_that_loses_too_much_is_not_rolled_out(team: Team) -> None:
    quality = {"evaluation": EVALUATION, "maxPerplexityIncreasePercent": "0.5"}
    name = team.apply(quantized_model("gated", ("GGUF", "Q8_0"), quality=quality))
    good = team.ready(name)["status"]
    with steady_load(good["endpoint"]["url"], name, clients=1, tokens=16) as load:
        until("the load runs", lambda: load.completed >= 1, timeout=300)
        team.patch(name, {"quantization": {"precision": "Q2_K"}})
        stalled = team.stalled(name, timeout=900)
        assert stalled["reason"] == "QualityBelowLimit"
        blocked = team.model(name)
        measured = Decimal(blocked["status"]["quality"]["increasePercent"])
        assert measured > Decimal("0.5")
        assert f"rose by {measured} %" in stalled["message"]
        assert conditions(blocked)["Verified"]["status"] == "False"
        assert "Q8_0" in conditions(blocked)["Serving"]["message"]
        answered = load.completed
        until("it goes on answering", lambda: load.completed > answered, timeout=120)

        before = {job["metadata"]["name"] for job in team.jobs(name, "convert")}
        raised = str(measured + 1)
        team.patch(name, {"quality": {"maxPerplexityIncreasePercent": raised}})
        after = team.ready(name)["status"]
        assert after["artifact"]["precision"] == "Q2_K"
        jobs = {job["metadata"]["name"] for job in team.jobs(name, "convert")}
        assert jobs <= before, "other limits need no other conversion"
    assert load.failures == [], f"{len(load.failures)} failed, {load.completed} completed"


def test_a_warning_is_rolled_out_all_the_same(team: Team) -> None:
    quality = {
        "evaluation": EVALUATION,
        "minTopTokenAgreementPercent": 90,
        "maxMeanKLDivergence": "0.02",
        "maxPerplexityIncreasePercent": 100,
        "onFailure": "Warn",
    }
    name = team.apply(quantized_model("warned", ("GGUF", "Q2_K"), quality=quality))
    model = team.ready(name)
    verified = conditions(model)["Verified"]
    assert (verified["status"], verified["reason"]) == ("False", "QualityBelowLimit")
    measured = model["status"]["quality"]
    assert f"most likely at {measured['topTokenAgreementPercent']} %" in verified["message"]
    assert f"mean divergence is {measured['meanKLDivergence']} nats" in verified["message"]
    assert "maxPerplexityIncreasePercent" not in verified["message"], "that limit is kept"
    assert team.answer(name)


def test_the_report_is_a_page_in_the_store(team: Team, store: Store) -> None:
    name = team.apply(quantized_model("reported", quality={"evaluation": EVALUATION}))
    status = team.ready(name)["status"]
    bucket, _, key = status["quality"]["reportURI"].removeprefix("s3://").partition("/")
    found = store.client().get_object(Bucket=bucket, Key=key)
    assert found["ContentType"].startswith("text/html")
    page = found["Body"].read().decode()
    assert status["artifact"]["manifestDigest"] in page
    assert status["artifact"]["precision"] in page
    assert "<svg" in page


def test_answers_and_accuracies_are_compared_without_a_text(team: Team) -> None:
    prompts = {"uri": text_uri("prompts.jsonl"), "answerTokens": 16}
    tasks = {"uri": text_uri("tasks/"), "maxSamples": 40}
    quality = {
        "evaluation": {"prompts": prompts, "tasks": tasks},
        "minAnswerAgreementPercent": 100,
        "maxTaskAccuracyDropPoints": 100,
        "onFailure": "Warn",
    }
    name = team.apply(quantized_model("answering", ("GGUF", "Q4_0"), quality=quality, serving=None))
    model = team.ready(name)
    measured = model["status"]["quality"]
    assert "perplexity" not in measured
    assert measured["prompts"] == 24
    same, prefix = (
        Decimal(measured[figure])
        for figure in ("answerAgreementPercent", "meanAnswerPrefixPercent")
    )
    assert 0 < same < prefix < 100, "it changes some answers, and none from the first token"
    verified = conditions(model)["Verified"]
    assert (verified["status"], verified["reason"]) == ("False", "QualityBelowLimit")
    assert f"the same to {measured['answerAgreementPercent']} % of 24" in verified["message"]
    assert "maxTaskAccuracyDropPoints" not in verified["message"], "that limit is kept"
    assert {task["name"] for task in measured["tasks"]} == {"endings", "next-word"}
    first, second = (
        Decimal(task["baselinePercent"]) - Decimal(task["accuracyPercent"])
        for task in measured["tasks"]
    )
    assert Decimal(measured["taskAccuracyDropPoints"]) == first >= second
    assert all(task["samples"] == 40 for task in measured["tasks"])
