"""Limits on quality: what exceeds them is not rolled out, and what serves goes on serving."""

import time
from typing import Any

import pytest
from quantop.contract import Benchmark, BenchmarkCandidate, BenchmarkState

from tests.operator import objects
from tests.operator.conftest import Cluster, Operator
from tests.operator.fake_node import FakeNode

EVALUATION = {"uri": "s3://texts/evaluation.txt"}
BAD_PERPLEXITY = 53.9
"""12.058 % above the source's."""


def limited(percent: int | str = 5, **quality: Any) -> dict[str, Any]:
    return {"evaluation": EVALUATION, "maxPerplexityIncreasePercent": percent, **quality}


@pytest.fixture
def node(cluster: Cluster) -> FakeNode:
    """A node on which Q8_0 turns out bad."""
    cluster.node.perplexities["Q8_0"] = BAD_PERPLEXITY
    return cluster.node


def test_what_a_toolchain_measured_itself_is_shown_and_leaves_the_object_settled(
    cluster: Cluster, operator: Operator, namespace: str
) -> None:
    figures = {"latencyMilliseconds": 2.25, "sizeBytes": 1234567, "lossPercent": -0.5}
    candidates = tuple(
        BenchmarkCandidate(name=f"Round bits={bits}", state=state, figures=figures)
        for bits, state in enumerate(BenchmarkState)
    )
    cluster.node.benchmarks["Q4_K_M"] = Benchmark(
        node="node-7", processor="Fake CPU", threads=2, candidates=candidates, report="b/f.json"
    )
    cluster.apply(objects.model(namespace))
    cluster.wait_for(namespace, "tiny", "Reconciling", "False", "Settled")
    artifact = cluster.model(namespace, "tiny")["status"]["artifact"]
    shown = artifact["benchmark"]
    assert (shown["node"], shown["threads"]) == ("node-7", 2)
    assert shown["reportURI"] == f"{artifact['uri']}/b/f.json"
    assert [each["state"] for each in shown["candidates"]] == [*BenchmarkState]
    told = {each["name"]: each["value"] for each in shown["candidates"][1]["figures"]}
    assert told == {"latencyMilliseconds": "2.25", "sizeBytes": "1234567", "lossPercent": "-0.5"}
    mark = cluster.plane.audit.mark()
    time.sleep(2)
    assert cluster.writes(mark, namespace) == []


def test_an_artifact_beyond_its_limit_leaves_the_old_revision_serving(
    cluster: Cluster, operator: Operator, namespace: str, node: FakeNode
) -> None:
    cluster.apply(objects.model(namespace, quality=limited()))
    cluster.wait_for(namespace, "tiny", "Reconciling", "False", "Settled")
    assert cluster.condition(namespace, "tiny", "Verified")["status"] == "True"
    status = cluster.model(namespace, "tiny")["status"]
    assert status["quality"]["reportURI"] == f"{status['artifact']['uri']}/quality/fake.html"
    accepted = status["acceptedArtifact"]
    assert accepted["key"] == status["artifact"]["key"]
    assert accepted["manifestDigest"] == status["artifact"]["manifestDigest"]
    before = cluster.apps.read_namespaced_deployment("tiny", namespace)

    cluster.patch(namespace, "tiny", {"quantization": {"precision": "Q8_0"}})
    stalled = cluster.wait_for(namespace, "tiny", "Stalled", "True", "QualityBelowLimit")
    assert "rose by 12.058 % (48.100 -> 53.900, 19890 tokens)" in stalled["message"]
    verified = cluster.condition(namespace, "tiny", "Verified")
    assert (verified["status"], verified["reason"]) == ("False", "QualityBelowLimit")
    assert cluster.condition(namespace, "tiny", "Quantized")["status"] == "True"
    assert cluster.condition(namespace, "tiny", "Ready")["status"] == "False"
    assert "Q4_K_M" in cluster.condition(namespace, "tiny", "Serving")["message"]
    after = cluster.apps.read_namespaced_deployment("tiny", namespace)
    assert after.metadata.generation == before.metadata.generation
    assert cluster.served_precisions(namespace) == {"Q4_K_M"}
    status = cluster.model(namespace, "tiny")["status"]
    assert status["acceptedArtifact"] == accepted, "what is pulled by name is what serves"
    assert status["artifact"]["key"] != accepted["key"]
    time.sleep(1)
    mark = cluster.plane.audit.mark()
    time.sleep(2)
    assert cluster.writes(mark, namespace) == [], "a blocked object is settled"


def test_another_limit_is_held_against_the_same_figures_without_a_job(
    cluster: Cluster, operator: Operator, namespace: str, node: FakeNode
) -> None:
    quantization = {"format": "GGUF", "precision": "Q8_0"}
    cluster.apply(objects.model(namespace, quantization=quantization, quality=limited()))
    cluster.wait_for(namespace, "tiny", "Stalled", "True", "QualityBelowLimit")
    assert cluster.served_precisions(namespace) == set()
    assert "acceptedArtifact" not in cluster.model(namespace, "tiny")["status"]
    mark = cluster.plane.audit.mark()
    cluster.patch(namespace, "tiny", {"quality": {"maxPerplexityIncreasePercent": "12.1"}})
    cluster.wait_for(namespace, "tiny", "Ready")
    assert cluster.served_precisions(namespace) == {"Q8_0"}
    cluster.patch(namespace, "tiny", {"quality": {"maxPerplexityIncreasePercent": 12}})
    cluster.wait_for(namespace, "tiny", "Stalled", "True", "QualityBelowLimit")
    assert cluster.served_precisions(namespace) == {"Q8_0"}, "what serves goes on serving"
    assert [call for call in cluster.writes(mark, namespace) if call.resource == "jobs"] == []


def test_a_warning_is_rolled_out_and_said(
    cluster: Cluster, operator: Operator, namespace: str, node: FakeNode
) -> None:
    quantization = {"format": "GGUF", "precision": "Q8_0"}
    quality = limited(onFailure="Warn")
    cluster.apply(objects.model(namespace, quantization=quantization, quality=quality))
    cluster.wait_for(namespace, "tiny", "Ready")
    verified = cluster.wait_for(namespace, "tiny", "Verified", "False", "QualityBelowLimit")
    assert "rose by 12.058 %" in verified["message"]
    assert cluster.condition(namespace, "tiny", "Stalled")["status"] == "False"
    status = cluster.model(namespace, "tiny")["status"]
    assert status["acceptedArtifact"]["key"] == status["artifact"]["key"]

    def warned() -> bool:
        return any(
            event.type == "Warning" and event.reason == "QualityBelowLimit"
            for event in cluster.core.list_namespaced_event(namespace).items
        )

    cluster.wait("a Warning event", warned)


def test_each_limit_is_held_against_its_own_figure(
    cluster: Cluster, operator: Operator, namespace: str, node: FakeNode
) -> None:
    """The fake finds 94.2 % agreement, and divergences of 0.12 and 1.2 nats."""
    quantization = {"format": "GGUF", "precision": "Q8_0"}
    quality = limited(
        20,
        minTopTokenAgreementPercent="94.3",
        maxMeanKLDivergence="0.12",
        maxP99KLDivergence="1.3",
    )
    cluster.apply(objects.model(namespace, quantization=quantization, quality=quality))
    stalled = cluster.wait_for(namespace, "tiny", "Stalled", "True", "QualityBelowLimit")
    assert "minTopTokenAgreementPercent is 94.3" in stalled["message"]
    assert "most likely at 94.200 % of 19890 positions" in stalled["message"]
    assert "maxMeanKLDivergence is 0.12, but the mean divergence is 0.120582" in stalled["message"]
    assert "maxP99KLDivergence" not in stalled["message"]
    looser = {"minTopTokenAgreementPercent": 94, "maxMeanKLDivergence": "0.13"}
    cluster.patch(namespace, "tiny", {"quality": looser})
    cluster.wait_for(namespace, "tiny", "Ready")


def test_what_was_not_measured_is_not_rolled_out(
    cluster: Cluster, operator: Operator, namespace: str
) -> None:
    cluster.node.perplexities["Q8_0"] = None
    quantization = {"format": "GGUF", "precision": "Q8_0"}
    cluster.apply(objects.model(namespace, quantization=quantization, quality=limited()))
    cluster.wait_for(namespace, "tiny", "Stalled", "True", "QualityNotMeasured")
    assert cluster.served_precisions(namespace) == set()


def test_pods_say_what_they_serve_and_stay_when_only_the_text_changes(
    cluster: Cluster, operator: Operator, namespace: str
) -> None:
    cluster.apply(objects.model(namespace, quality=limited()))
    cluster.wait_for(namespace, "tiny", "Reconciling", "False", "Settled")
    before = cluster.apps.read_namespaced_deployment("tiny", namespace)
    template = before.spec.template
    status = cluster.model(namespace, "tiny")["status"]
    said = {
        "QUANTOP_FORMAT": "GGUF",
        "QUANTOP_PRECISION": "Q4_K_M",
        "QUANTOP_BITS_PER_WEIGHT": "5.100",
        "QUANTOP_ARTIFACT_KEY": status["artifact"]["key"],
        "QUANTOP_SOURCE_URI": objects.source(namespace),
    }
    given = {each.name: each.value for each in template.spec.containers[0].env}
    assert {name: given[name] for name in said} == said
    assert (
        template.metadata.annotations.items()
        >= {
            "quantop.dev/format": "GGUF",
            "quantop.dev/precision": "Q4_K_M",
            "quantop.dev/method": "KQuant",
            "quantop.dev/bits-per-weight": "5.100",
            "quantop.dev/artifact-key": status["artifact"]["key"],
            "quantop.dev/source": objects.source(namespace),
            "quantop.dev/runtime": "llama-cpp",
        }.items()
    )

    cluster.patch(namespace, "tiny", {"quality": {"evaluation": {"uri": "s3://texts/other.txt"}}})

    def resolved_again() -> bool:
        found = cluster.model(namespace, "tiny")["status"].get("resolution")
        return found not in (None, status["resolution"])

    cluster.wait("another resolution", resolved_again)
    cluster.wait_for(namespace, "tiny", "Reconciling", "False", "Settled")
    after = cluster.apps.read_namespaced_deployment("tiny", namespace)
    assert after.metadata.generation == before.metadata.generation
