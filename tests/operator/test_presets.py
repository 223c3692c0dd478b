"""Recipes by a Preset's name: what it says is made, measured and served; it may change or go."""

import time
from typing import Any

from tests.operator import objects
from tests.operator.conftest import GROUP, VERSION, Cluster, Operator

EVALUATION = {"uri": "s3://texts/evaluation.txt"}
BAD_PERPLEXITY = 53.9
"""12.058 % above the source's."""


def model(namespace: str, preset: str = "mobile", **spec: Any) -> dict[str, Any]:
    """A QuantizedModel that leaves its recipe to a Preset."""
    quantization = {"presetName": preset, **spec.pop("quantization", {})}
    return objects.model(namespace, quantization=quantization, **spec)


def change(cluster: Cluster, name: str, spec: dict[str, Any]) -> None:
    """Merge into a Preset's spec."""
    cluster.custom.patch_cluster_custom_object(GROUP, VERSION, "presets", name, {"spec": spec})


def settled(cluster: Cluster, namespace: str) -> None:
    cluster.wait_for(namespace, "tiny", "Reconciling", "False", "Settled")


def test_what_the_preset_says_is_served(
    cluster: Cluster, operator: Operator, namespace: str
) -> None:
    cluster.apply(objects.runtime("by-name", priority=-1))
    cluster.apply(objects.preset("mobile", runtimeName="by-name"))
    cluster.apply(model(namespace))
    settled(cluster, namespace)
    found = cluster.model(namespace, "tiny")
    artifact = found["status"]["artifact"]
    assert (artifact["format"], artifact["precision"]) == ("GGUF", "Q4_K_M")
    assert cluster.served_precisions(namespace) == {"Q4_K_M"}
    deployment = cluster.apps.read_namespaced_deployment("tiny", namespace)
    assert deployment.spec.template.metadata.annotations["quantop.dev/runtime"] == "by-name"
    spec = found["spec"]
    assert spec["quantization"] == {"presetName": "mobile"}, "it is not written"
    assert "runtimeName" not in spec["serving"]


def test_the_objects_own_runtime_wins(cluster: Cluster, operator: Operator, namespace: str) -> None:
    cluster.apply(objects.preset("mobile", runtimeName="nothing"))
    cluster.apply(model(namespace))
    stalled = cluster.wait_for(namespace, "tiny", "Stalled", "True", "RuntimeNotFound")
    assert stalled["message"].startswith("With Preset 'mobile': spec.serving.runtimeName is 'noth")
    cluster.patch(namespace, "tiny", {"serving": {"runtimeName": "llama-cpp"}})
    cluster.wait_for(namespace, "tiny", "Ready")


def test_the_presets_limits_are_kept_and_the_objects_own_wins(
    cluster: Cluster, operator: Operator, namespace: str
) -> None:
    cluster.node.perplexities["Q4_K_M"] = BAD_PERPLEXITY
    cluster.apply(objects.preset("mobile", quality={"maxPerplexityIncreasePercent": 5}))
    cluster.apply(model(namespace))
    stalled = cluster.wait_for(namespace, "tiny", "Stalled", "True", "EvaluationRequired")
    assert "set spec.quality.evaluation.uri" in stalled["message"]
    assert not cluster.batch.list_namespaced_job(namespace).items

    cluster.patch(namespace, "tiny", {"quality": {"evaluation": EVALUATION}})
    stalled = cluster.wait_for(namespace, "tiny", "Stalled", "True", "QualityBelowLimit")
    beyond = "With Preset 'mobile': spec.quality.maxPerplexityIncreasePercent is 5, but perplexity"
    assert stalled["message"].startswith(beyond)
    assert cluster.condition(namespace, "tiny", "Verified")["message"].startswith(beyond)
    assert cluster.served_precisions(namespace) == set()

    mark = cluster.plane.audit.mark()
    cluster.patch(namespace, "tiny", {"quality": {"maxPerplexityIncreasePercent": 20}})
    cluster.wait_for(namespace, "tiny", "Ready")
    cluster.patch(namespace, "tiny", {"quality": {"maxPerplexityIncreasePercent": None}})
    cluster.wait_for(namespace, "tiny", "Stalled", "True", "QualityBelowLimit")
    change(cluster, "mobile", {"quality": {"maxPerplexityIncreasePercent": 13}})
    cluster.wait_for(namespace, "tiny", "Ready")
    assert [call for call in cluster.writes(mark, namespace) if call.resource == "jobs"] == []


def test_an_unknown_preset_is_stalled_and_used_when_it_appears(
    cluster: Cluster, operator: Operator, namespace: str
) -> None:
    cluster.apply(objects.preset("desktop", "Q8_0"))
    cluster.apply(model(namespace))
    stalled = cluster.wait_for(namespace, "tiny", "Stalled", "True", "PresetNotFound")
    assert "spec.quantization.presetName is 'mobile'" in stalled["message"]
    assert "there are Presets desktop" in stalled["message"]
    assert not cluster.batch.list_namespaced_job(namespace).items
    cluster.apply(objects.preset("mobile"))
    cluster.wait_for(namespace, "tiny", "Ready")


def test_an_unknown_preset_is_mended_by_another_name(
    cluster: Cluster, operator: Operator, namespace: str
) -> None:
    cluster.apply(objects.preset("desktop", "Q8_0"))
    cluster.apply(model(namespace))
    cluster.wait_for(namespace, "tiny", "Stalled", "True", "PresetNotFound")
    cluster.patch(namespace, "tiny", {"quantization": {"presetName": "desktop"}})
    cluster.wait_for(namespace, "tiny", "Ready")
    assert cluster.served_precisions(namespace) == {"Q8_0"}


def test_a_changed_preset_rolls_over_those_that_name_it(
    cluster: Cluster, operator: Operator, namespace: str
) -> None:
    """Those with calibration text, too, where the new precision makes no use of it."""
    calibration = {"uri": "s3://texts/calibration.txt"}
    cluster.apply(objects.preset("mobile"))
    cluster.apply(model(namespace, quantization={"calibration": calibration}))
    cluster.apply(objects.model(namespace, "other"))
    settled(cluster, namespace)
    cluster.wait_for(namespace, "other", "Reconciling", "False", "Settled")
    before = cluster.model(namespace, "tiny")["status"]["artifact"]
    assert before["method"] == "ImportanceMatrix"
    others = cluster.model(namespace, "other")["metadata"]["resourceVersion"]
    time.sleep(1)  # Nothing but the Preset wakes the object.

    change(cluster, "mobile", {"quantization": {"precision": "Q8_0"}})
    cluster.wait(
        "the other precision is made",
        lambda: cluster.model(namespace, "tiny")["status"]["artifact"]["precision"] == "Q8_0",
    )
    settled(cluster, namespace)
    assert cluster.model(namespace, "tiny")["metadata"]["generation"] == 1, "no spec was written"
    deployment = cluster.apps.read_namespaced_deployment("tiny", namespace)
    assert deployment.spec.template.metadata.labels["quantop.dev/precision"] == "Q8_0"
    assert cluster.model(namespace, "other")["metadata"]["resourceVersion"] == others


def test_a_preset_that_goes_leaves_what_serves(
    cluster: Cluster, operator: Operator, namespace: str
) -> None:
    cluster.apply(objects.preset("mobile"))
    cluster.apply(model(namespace))
    settled(cluster, namespace)
    before = cluster.apps.read_namespaced_deployment("tiny", namespace)
    cluster.custom.delete_cluster_custom_object(GROUP, VERSION, "presets", "mobile")
    stalled = cluster.wait_for(namespace, "tiny", "Stalled", "True", "PresetNotFound")
    assert "there are no Presets" in stalled["message"]
    assert cluster.condition(namespace, "tiny", "Serving")["status"] == "True"
    after = cluster.apps.read_namespaced_deployment("tiny", namespace)
    assert after.metadata.generation == before.metadata.generation
    cluster.patch(namespace, "tiny", {"serving": {"replicas": 2}})
    cluster.wait(
        "it still scales", lambda: cluster.model(namespace, "tiny")["status"]["readyReplicas"] == 2
    )
    cluster.apply(objects.preset("mobile"))
    settled(cluster, namespace)


def test_a_preset_may_leave_the_precision_to_a_search(
    cluster: Cluster, operator: Operator, namespace: str
) -> None:
    cluster.node.perplexities["Q4_K_M"] = BAD_PERPLEXITY
    recipe = {"format": "GGUF", "precision": "Auto", "auto": {"precisions": ["Q4_K_M", "Q8_0"]}}
    limits = {"maxPerplexityIncreasePercent": 5}
    cluster.apply(objects.preset("edge", quantization=recipe, quality=limits))
    cluster.apply(model(namespace, "edge", quality={"evaluation": EVALUATION}))
    settled(cluster, namespace)
    assert cluster.served_precisions(namespace) == {"Q8_0"}
    candidates = cluster.model(namespace, "tiny")["status"]["candidates"]
    states = {c["precision"]: c["state"] for c in candidates}
    assert states == {"Q4_K_M": "Rejected", "Q8_0": "Chosen", "IQ1_S": "Skipped"}


def test_variants_of_one_source_share_what_is_the_same(
    cluster: Cluster, operator: Operator, namespace: str
) -> None:
    """An object for each target; two of the three come to the same recipe."""
    presets = {"phones": "Q4_K_M", "boards": "Q4_K_M", "desks": "Q8_0"}
    source = {"uri": objects.source(namespace, "one")}
    for name, precision in presets.items():
        cluster.apply(objects.preset(name, precision))
        quantization = {"presetName": name}
        cluster.apply(objects.model(namespace, name, source=source, quantization=quantization))
    for name in presets:
        cluster.wait_for(namespace, name, "Ready")
    keys = {n: cluster.model(namespace, n)["status"]["artifact"]["key"] for n in presets}
    assert keys["phones"] == keys["boards"] != keys["desks"]
    selector = "app.kubernetes.io/component=convert"
    jobs = cluster.batch.list_namespaced_job(namespace, label_selector=selector).items
    assert len(jobs) == 2, "one for each artifact"


def test_objects_that_name_a_preset_are_not_written_once_settled(
    cluster: Cluster, operator: Operator, namespace: str
) -> None:
    limits = {"maxPerplexityIncreasePercent": 5}
    cluster.apply(objects.preset("mobile", quality=limits))
    cluster.apply(model(namespace, quality={"evaluation": EVALUATION}))
    settled(cluster, namespace)
    time.sleep(1)
    mark = cluster.plane.audit.mark()
    change(cluster, "mobile", {"description": "Looked at anew, and the same."})
    time.sleep(3)
    assert operator.stop() == 0
    operator.start()
    cluster.wait("it leads again", operator.leads)
    time.sleep(5)
    assert cluster.writes(mark, namespace) == []
