"""``precision: Auto``: the smallest precision that keeps the limits is found, said and served."""

import json
import time
from typing import Any

import pytest

from tests.operator import objects
from tests.operator.conftest import GROUP, VERSION, Cluster, Operator
from tests.operator.fake_node import FakeNode, Runs, refuses

BASELINE = 48.1
INCREASES = {1: 80.0, 2: 30.0, 3: 10.0, 4: 4.0, 5: 2.0, 6: 1.0, 7: 0.3, 8: 0.1, 9: 0.05}
"""What a precision of so many bits loses, in percent."""
MIB = 2**20
EVALUATION = {"uri": "s3://texts/evaluation.txt"}
FORMAT = "Ladder"


def ladder() -> list[dict[str, Any]]:
    """A Quantizer of B1 to B9, one for each number of bits, and a runtime that lacks B6. B1 needs
    calibration text, B2 to B4 can use it."""

    def precision(bits: int) -> dict[str, Any]:
        methods = [{"name": "Plain"}] if bits > 1 else []
        methods += [{"name": "Calibrated", "calibration": "Required"}] if bits < 5 else []
        band = {"min": str(bits), "max": f"{bits}.9"}
        return {"name": f"B{bits}", "bitsPerWeight": band, "methods": methods}

    precisions = [precision(bits) for bits in INCREASES]
    served = [p["name"] for p in precisions if p["name"] != "B6"]
    return [
        objects.quantizer("ladder", format=FORMAT, precisions=precisions),
        objects.runtime("ladder", formats=[{"format": FORMAT, "precisions": served}]),
    ]


@pytest.fixture
def node(cluster: Cluster) -> FakeNode:
    """A node on which fewer bits are smaller, and lose more."""
    for manifest in ladder():
        cluster.apply(manifest)
    for bits, increase in INCREASES.items():
        cluster.node.perplexities[f"B{bits}"] = BASELINE * (1 + increase / 100)
        cluster.node.sizes[f"B{bits}"] = bits * MIB
    return cluster.node


def auto(namespace: str, limit: int | str = 5, **options: Any) -> dict[str, Any]:
    """A QuantizedModel whose precision is to be found."""
    quality = {"evaluation": EVALUATION, "maxPerplexityIncreasePercent": limit}
    return objects.model(
        namespace,
        quantization={"format": FORMAT, "precision": "Auto", **options.pop("quantization", {})},
        quality={**quality, **options.pop("quality", {})},
        **options,
    )


def states(cluster: Cluster, namespace: str) -> dict[str, str]:
    """The candidates and the state of each."""
    candidates = cluster.model(namespace, "tiny").get("status", {}).get("candidates", [])
    return {c["precision"]: c["state"] for c in candidates}


def candidate(cluster: Cluster, namespace: str, precision: str) -> dict[str, Any]:
    """One candidate."""
    candidates = cluster.model(namespace, "tiny")["status"]["candidates"]
    found: dict[str, Any] = next(c for c in candidates if c["precision"] == precision)
    return found


def conversions(cluster: Cluster, namespace: str) -> set[str]:
    """Names of the conversion Jobs that were made and did not fail."""
    selector = "app.kubernetes.io/component=convert"
    jobs = cluster.batch.list_namespaced_job(namespace, label_selector=selector).items
    return {job.metadata.name for job in jobs}


def settled(cluster: Cluster, namespace: str) -> None:
    cluster.wait_for(namespace, "tiny", "Reconciling", "False", "Settled")


def limit_to(cluster: Cluster, namespace: str, limit: int | str) -> None:
    cluster.patch(namespace, "tiny", {"quality": {"maxPerplexityIncreasePercent": limit}})


def test_the_smallest_that_keeps_the_limits_is_served(
    cluster: Cluster, operator: Operator, namespace: str, node: FakeNode
) -> None:
    cluster.apply(auto(namespace))
    settled(cluster, namespace)
    assert cluster.served_precisions(namespace) == {"B4"}
    status = cluster.model(namespace, "tiny")["status"]
    assert status["artifact"]["precision"] == "B4"
    assert status["quality"]["increasePercent"] == "4.000"
    assert states(cluster, namespace) == {
        "B1": "Skipped",
        "B2": "Skipped",
        "B3": "Rejected",
        "B4": "Chosen",
        "B5": "Passed",
        "B6": "Skipped",
        "B7": "Skipped",
        "B8": "Skipped",
        "B9": "Skipped",
    }
    assert len(conversions(cluster, namespace)) == 3, "of seven that could be tried"
    reasons = {c["precision"]: c["reason"] for c in status["candidates"]}
    assert reasons["B1"] == "CalibrationRequired"
    assert reasons["B2"] == reasons["B9"] == "NotNeeded"
    assert reasons["B3"] == "QualityBelowLimit"
    assert reasons["B6"] == "RuntimeNotFound"
    rejected = candidate(cluster, namespace, "B3")
    assert "rose by 10.000 %" in rejected["message"]
    assert (rejected["sizeBytes"], rejected["bitsPerWeight"]) == (3 * MIB, "5.100")
    assert rejected["quality"]["increasePercent"] == "10.000"
    assert (rejected["quantizer"], rejected["method"]) == ("ladder", "Plain")
    tried = {c["key"] for c in status["candidates"] if "key" in c}
    assert len(tried) == 3
    assert tried == set(status["publishedKeys"])

    def told() -> set[str]:
        events = cluster.core.list_namespaced_event(namespace).items
        return {f"{e.reason} {e.message[:2]}" for e in events if e.reason.startswith("Candidate")}

    cluster.wait("Events", lambda: told() == {"CandidateRejected B3", "CandidateChosen B4"})


def test_a_settled_choice_is_not_written(
    cluster: Cluster, operator: Operator, namespace: str, node: FakeNode
) -> None:
    cluster.apply(auto(namespace))
    settled(cluster, namespace)
    time.sleep(1)
    mark = cluster.plane.audit.mark()
    cluster.core.patch_namespace(namespace, {"metadata": {"labels": {"touched": "true"}}})
    time.sleep(3)
    assert operator.stop() == 0
    operator.start()
    cluster.wait("it leads again", operator.leads)
    time.sleep(5)
    assert cluster.writes(mark, namespace) == []


def test_other_limits_judge_what_was_measured_anew(
    cluster: Cluster, operator: Operator, namespace: str, node: FakeNode
) -> None:
    cluster.apply(auto(namespace))
    settled(cluster, namespace)
    first = conversions(cluster, namespace)

    limit_to(cluster, namespace, "12.5")
    settled(cluster, namespace)
    assert cluster.served_precisions(namespace) == {"B3"}
    assert states(cluster, namespace)["B2"] == "Rejected"
    second = conversions(cluster, namespace)
    assert len(second - first) == 1, "B2 alone was not measured"

    limit_to(cluster, namespace, "0.5")
    settled(cluster, namespace)
    assert cluster.served_precisions(namespace) == {"B7"}
    assert states(cluster, namespace)["B4"] == "Rejected"
    third = conversions(cluster, namespace)
    assert len(third - second) == 2, "B8 and B7"

    limit_to(cluster, namespace, 5)
    settled(cluster, namespace)
    assert cluster.served_precisions(namespace) == {"B4"}
    assert conversions(cluster, namespace) == third


def test_what_serves_goes_on_serving_while_a_precision_is_searched(
    cluster: Cluster, operator: Operator, namespace: str, node: FakeNode
) -> None:
    cluster.apply(auto(namespace, quantization={"precision": "B9"}))
    settled(cluster, namespace)
    before = cluster.apps.read_namespaced_deployment("tiny", namespace)
    node.behaviours["tiny", "quantize B3"] = Runs()
    cluster.patch(namespace, "tiny", {"quantization": {"precision": "Auto"}})
    cluster.wait("B3 is tried", lambda: states(cluster, namespace).get("B3") == "Trying")
    quantized = cluster.wait_for(namespace, "tiny", "Quantized", "False", "Converting")
    assert quantized["message"].startswith("Trying B3, candidate 2: ")
    assert states(cluster, namespace)["B5"] == "Passed"
    assert states(cluster, namespace)["B4"] == "Pending"
    assert cluster.condition(namespace, "tiny", "Serving")["status"] == "True"
    after = cluster.apps.read_namespaced_deployment("tiny", namespace)
    assert after.metadata.generation == before.metadata.generation
    assert cluster.served_precisions(namespace) == {"B9"}
    del node.behaviours["tiny", "quantize B3"]
    settled(cluster, namespace)
    assert cluster.served_precisions(namespace) == {"B4"}


def test_a_restart_goes_on_where_the_search_was(
    cluster: Cluster, operator: Operator, namespace: str, node: FakeNode
) -> None:
    node.behaviours["tiny", "quantize B3"] = Runs()
    cluster.apply(auto(namespace))
    cluster.wait("B3 is tried", lambda: states(cluster, namespace).get("B3") == "Trying")
    cluster.wait("its conversion", lambda: len(conversions(cluster, namespace)) == 2)
    operator.kill()
    del node.behaviours["tiny", "quantize B3"]
    operator.start()
    settled(cluster, namespace)
    assert states(cluster, namespace)["B4"] == "Chosen"
    assert len(conversions(cluster, namespace)) == 3


def test_when_nothing_passes_the_object_says_what_to_do(
    cluster: Cluster, operator: Operator, namespace: str, node: FakeNode
) -> None:
    cluster.apply(auto(namespace, limit="0.01"))
    stalled = cluster.wait_for(namespace, "tiny", "Stalled", "True", "NoCandidatePasses")
    assert "The best is B9 (5.100 bits per weight, 9.0 MiB)" in stalled["message"]
    assert "rose by 0.050 %" in stalled["message"]
    assert "loosen the limit" in stalled["message"]
    assert cluster.condition(namespace, "tiny", "Ready")["reason"] == "NoCandidatePasses"
    assert states(cluster, namespace)["B9"] == "Rejected"
    assert cluster.served_precisions(namespace) == set()
    time.sleep(1)
    mark = cluster.plane.audit.mark()
    time.sleep(2)
    assert cluster.writes(mark, namespace) == [], "a search without an answer is settled"
    limit_to(cluster, namespace, "0.06")
    settled(cluster, namespace)
    assert cluster.served_precisions(namespace) == {"B9"}


def test_with_warn_the_best_is_served_when_nothing_passes(
    cluster: Cluster, operator: Operator, namespace: str, node: FakeNode
) -> None:
    cluster.apply(auto(namespace, limit="0.01", quality={"onFailure": "Warn"}))
    settled(cluster, namespace)
    assert cluster.served_precisions(namespace) == {"B9"}
    verified = cluster.condition(namespace, "tiny", "Verified")
    assert (verified["status"], verified["reason"]) == ("False", "QualityBelowLimit")
    chosen = candidate(cluster, namespace, "B9")
    assert (chosen["state"], chosen["reason"]) == ("Chosen", "QualityBelowLimit")
    assert "None of the 3 tried passes" in chosen["message"]


def test_an_artifact_above_its_budget_is_not_chosen_even_with_warn(
    cluster: Cluster, operator: Operator, namespace: str, node: FakeNode
) -> None:
    quantization = {"auto": {"maxSize": "3Mi"}}
    manifest = auto(namespace, quantization=quantization)
    cluster.apply(manifest)
    stalled = cluster.wait_for(namespace, "tiny", "Stalled", "True", "NoCandidatePasses")
    assert (
        "spec.quantization.auto.maxSize is 3Mi, but the artifact has 4.0 MiB"
        in (stalled["message"])
    )
    reasons = {p: candidate(cluster, namespace, p)["reason"] for p in ("B4", "B5", "B9")}
    assert reasons == {"B4": "TooLarge", "B5": "TooLarge", "B9": "TooLarge"}
    assert states(cluster, namespace)["B9"] == "Skipped"
    cluster.patch(namespace, "tiny", {"quality": {"onFailure": "Warn"}})
    settled(cluster, namespace)
    assert cluster.served_precisions(namespace) == {"B3"}, "the best that fits"
    cluster.patch(namespace, "tiny", {"quantization": {"auto": {"maxSize": "4Mi"}}})
    cluster.wait("the choice", lambda: states(cluster, namespace)["B4"] == "Chosen")


def test_calibration_text_is_for_those_that_use_it(
    cluster: Cluster, operator: Operator, namespace: str, node: FakeNode
) -> None:
    quantization = {"calibration": {"uri": "s3://texts/calibration.txt"}}
    cluster.apply(auto(namespace, limit=90, quantization=quantization))
    settled(cluster, namespace)
    assert cluster.served_precisions(namespace) == {"B1"}
    assert candidate(cluster, namespace, "B1")["method"] == "Calibrated"
    plain = [c for c in cluster.model(namespace, "tiny")["status"]["candidates"] if "key" in c]
    assert "Plain" in {c["method"] for c in plain}, "those without use for it are tried, too"


def test_a_candidate_that_cannot_be_made_does_not_end_the_search(
    cluster: Cluster, operator: Operator, namespace: str, node: FakeNode
) -> None:
    node.behaviours["tiny", "evaluate B5"] = refuses(
        "evaluate", "NothingQuantized", "none of the layers is quantized"
    )
    cluster.apply(auto(namespace))
    settled(cluster, namespace)
    assert cluster.served_precisions(namespace) == {"B4"}
    failed = candidate(cluster, namespace, "B5")
    assert (failed["state"], failed["reason"]) == ("Failed", "NothingQuantized")
    assert "none of the layers is quantized" in failed["message"]
    assert "failure" not in cluster.model(namespace, "tiny")["status"]


@pytest.mark.parametrize(
    ("stage", "reason"),
    [
        ("resolve", "SourceNotFound"),
        ("fetch", "SourceChanged"),
        ("quantize", "UnsupportedArchitecture"),
    ],
)
def test_what_is_wrong_with_the_source_ends_the_search_at_once(
    cluster: Cluster, operator: Operator, namespace: str, node: FakeNode, stage: str, reason: str
) -> None:
    node.behaviours["tiny", stage] = refuses(stage, reason, "no good")
    cluster.apply(auto(namespace))
    cluster.wait_for(namespace, "tiny", "Stalled", "True", reason)
    assert list(states(cluster, namespace).values()).count("Failed") == 0
    del node.behaviours["tiny", stage]
    cluster.ask_again(namespace, "tiny")
    settled(cluster, namespace)
    assert states(cluster, namespace)["B4"] == "Chosen"


def test_only_listed_precisions_are_tried(
    cluster: Cluster, operator: Operator, namespace: str, node: FakeNode
) -> None:
    listed = {"auto": {"precisions": ["B3", "B5", "B7", "B99"]}}
    cluster.apply(auto(namespace, quantization=listed))
    settled(cluster, namespace)
    assert cluster.served_precisions(namespace) == {"B5"}
    assert candidate(cluster, namespace, "B4")["reason"] == "NotListed"
    assert candidate(cluster, namespace, "B99")["reason"] == "PrecisionNotSupported"
    assert len(conversions(cluster, namespace)) == 2


def test_when_no_candidate_can_be_tried_each_says_why(
    cluster: Cluster, operator: Operator, namespace: str, node: FakeNode
) -> None:
    listed = {"auto": {"precisions": ["B1", "B6"]}}
    cluster.apply(auto(namespace, quantization=listed))
    stalled = cluster.wait_for(namespace, "tiny", "Stalled", "True", "NoCandidatePasses")
    assert "B1: B1 by Calibrated needs calibration text" in stalled["message"]
    assert "B6: no ModelRuntime of this cluster serves Ladder B6" in stalled["message"]
    assert conversions(cluster, namespace) == set()


def test_another_source_or_image_starts_another_search(
    cluster: Cluster, operator: Operator, namespace: str, node: FakeNode
) -> None:
    cluster.apply(auto(namespace))
    settled(cluster, namespace)
    before = candidate(cluster, namespace, "B4")["key"]
    node.behaviours["tiny", "quantize"] = Runs()
    cluster.patch(namespace, "tiny", {"source": {"uri": objects.source(namespace, "other")}})
    cluster.wait("the search begins", lambda: states(cluster, namespace)["B5"] == "Trying")
    assert set(states(cluster, namespace).values()) == {"Trying", "Pending", "Skipped"}
    assert cluster.served_precisions(namespace) == {"B4"}, "of the old source"
    del node.behaviours["tiny", "quantize"]
    settled(cluster, namespace)
    assert candidate(cluster, namespace, "B4")["key"] != before


def test_what_is_known_outlives_a_quantizer_that_is_away_for_a_while(
    cluster: Cluster, operator: Operator, namespace: str, node: FakeNode
) -> None:
    cluster.apply(auto(namespace))
    settled(cluster, namespace)
    before = states(cluster, namespace)
    cluster.custom.delete_cluster_custom_object(GROUP, VERSION, "quantizers", "ladder")
    cluster.wait_for(namespace, "tiny", "Stalled", "True", "QuantizerNotFound")
    assert states(cluster, namespace) == before
    assert cluster.served_precisions(namespace) == {"B4"}
    mark = cluster.plane.audit.mark()
    cluster.apply(ladder()[0])
    cluster.wait_for(namespace, "tiny", "Stalled", "False")
    settled(cluster, namespace)
    assert states(cluster, namespace) == before
    assert [call for call in cluster.writes(mark, namespace) if call.resource == "jobs"] == []


def test_what_the_store_has_is_not_converted_again(
    cluster: Cluster, operator: Operator, namespace: str, node: FakeNode
) -> None:
    cluster.apply(auto(namespace))
    settled(cluster, namespace)
    made = conversions(cluster, namespace)
    second = auto(namespace, source={"uri": objects.source(namespace)})
    second["metadata"]["name"] = "second"
    cluster.apply(second)
    cluster.wait_for(namespace, "second", "Reconciling", "False", "Settled")
    assert cluster.model(namespace, "second")["status"]["artifact"]["precision"] == "B4"
    assert conversions(cluster, namespace) == made


def test_deletion_gives_up_everything_that_was_tried(
    cluster: Cluster, operator: Operator, namespace: str, node: FakeNode
) -> None:
    cluster.apply(auto(namespace, storage={"deletionPolicy": "Delete"}))
    settled(cluster, namespace)
    tried = cluster.model(namespace, "tiny")["status"]["publishedKeys"]
    assert len(tried) == 3
    node.behaviours["tiny", "delete"] = Runs()
    cluster.delete(namespace, "tiny")
    selector = "app.kubernetes.io/component=delete"

    def jobs() -> list[Any]:
        found: list[Any] = cluster.batch.list_namespaced_job(
            namespace, label_selector=selector
        ).items
        return found

    (job,) = cluster.wait("a delete Job", jobs)
    environment = job.spec.template.spec.containers[0].env
    task = json.loads(next(e.value for e in environment if e.name == "QUANTOP_TASK"))
    assert task["keys"] == tried
    del node.behaviours["tiny", "delete"]
