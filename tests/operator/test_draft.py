"""A model that drafts with another one, against a real API server."""

from typing import Any

from quantop.contract import TASK_VARIABLE, PullTask

from tests.operator import objects
from tests.operator.conftest import Cluster, Operator
from tests.operator.fake_node import Runs

EVALUATION = {"evaluation": {"uri": "s3://texts/evaluation.txt"}}
DRAFTING = {"engine": {"draftModel": {"name": "draft"}}}


def served(namespace: str, **spec: Any) -> dict[str, Any]:
    """A model that drafts with the one below."""
    return objects.model(namespace, "served", **({"serving": DRAFTING} | spec))


def drafter(namespace: str, **spec: Any) -> dict[str, Any]:
    """A model that is not served for itself."""
    manifest = objects.model(namespace, "draft", **spec)
    del manifest["spec"]["serving"]
    return manifest


def settled(cluster: Cluster, namespace: str) -> Any:
    """The Deployment, once nothing is left to do."""
    cluster.wait_for(namespace, "served", "Reconciling", "False", "Settled")
    return cluster.apps.read_namespaced_deployment("served", namespace)


def pulled(deployment: Any) -> list[PullTask]:
    """What the pods of a Deployment pull."""
    return pulled_by(deployment.spec.template.spec.init_containers)


def pulled_by(containers: list[Any]) -> list[PullTask]:
    """What these containers pull."""
    return [
        PullTask.model_validate_json(next(e.value for e in each.env if e.name == TASK_VARIABLE))
        for each in containers
    ]


def key(cluster: Cluster, namespace: str, name: str) -> str:
    return str(cluster.model(namespace, name)["status"]["artifact"]["key"])


def is_gone(cluster: Cluster, namespace: str, name: str) -> bool:
    items = cluster.custom.list_namespaced_custom_object(
        "quantop.dev", "v1alpha1", namespace, "quantizedmodels"
    )["items"]
    return name not in {item["metadata"]["name"] for item in items}


def test_the_drafts_artifact_lies_beside_the_served_one(
    cluster: Cluster, operator: Operator, namespace: str
) -> None:
    cluster.apply(drafter(namespace, quantization={"format": "GGUF", "precision": "Q8_0"}))
    cluster.apply(served(namespace))
    deployment = settled(cluster, namespace)
    draft_key = key(cluster, namespace, "draft")
    assert [(task.key, task.directory) for task in pulled(deployment)] == [
        (key(cluster, namespace, "served"), "/models/current"),
        (draft_key, "/models/draft"),
    ]
    template = deployment.spec.template
    assert [each.name for each in template.spec.init_containers] == ["pull", "pull-draft"]
    assert template.metadata.annotations["quantop.dev/draft-artifact-key"] == draft_key
    (engine,) = template.spec.containers
    assert engine.args[-2:] == ["--draft", "$(DRAFT_MODEL_DIR)"]
    assert {e.name: e.value for e in engine.env}["DRAFT_MODEL_DIR"] == "/models/draft"
    assert not cluster.core.list_namespaced_service(
        namespace, field_selector="metadata.name=draft"
    ).items


def test_the_drafts_artifact_is_waited_for(
    cluster: Cluster, operator: Operator, namespace: str
) -> None:
    cluster.node.behaviours["draft", "quantize"] = Runs()
    cluster.apply(served(namespace))
    said = cluster.wait_for(namespace, "served", "Stalled", "True", "DraftModelNotFound")
    assert f"no such QuantizedModel in namespace '{namespace}'" in said["message"]
    cluster.apply(drafter(namespace))
    said = cluster.wait_for(namespace, "served", "Serving", "False", "WaitingForDraftModel")
    assert "Waiting for the artifact of draft model 'draft'." in said["message"]
    cluster.wait_for(namespace, "served", "Quantized", "True")
    assert cluster.condition(namespace, "served", "Stalled")["status"] == "False"
    assert not cluster.apps.list_namespaced_deployment(namespace).items
    del cluster.node.behaviours["draft", "quantize"]
    cluster.wait_for(namespace, "served", "Ready")


def test_another_artifact_of_the_draft_rolls_out_while_the_old_one_serves(
    cluster: Cluster, operator: Operator, namespace: str
) -> None:
    cluster.apply(drafter(namespace))
    cluster.apply(served(namespace))
    settled(cluster, namespace)
    first = key(cluster, namespace, "draft")
    cluster.node.behaviours["draft", "quantize"] = Runs()
    cluster.patch(namespace, "draft", {"quantization": {"precision": "Q8_0"}})
    cluster.wait_for(namespace, "draft", "Quantized", "False", "Converting")
    assert pulled(settled(cluster, namespace))[1].key == first
    assert cluster.condition(namespace, "served", "Ready")["status"] == "True"
    del cluster.node.behaviours["draft", "quantize"]
    cluster.wait_for(namespace, "draft", "Ready")
    cluster.wait("a rollout", lambda: pulled(settled(cluster, namespace))[1].key not in ("", first))
    assert pulled(settled(cluster, namespace))[1].key == key(cluster, namespace, "draft")


def test_a_draft_that_reads_text_otherwise_is_refused(
    cluster: Cluster, operator: Operator, namespace: str
) -> None:
    for name, digest in ("served", "1" * 64), ("draft", "2" * 64):
        cluster.node.vocabularies[objects.source(namespace, name)] = digest
    cluster.apply(drafter(namespace, quality=EVALUATION))
    cluster.apply(served(namespace, quality=EVALUATION))
    said = cluster.wait_for(namespace, "served", "Stalled", "True", "DraftModelNotUsable")
    assert "'draft', which has another tokenizer than this object's model" in said["message"]
    assert cluster.condition(namespace, "served", "Quantized")["status"] == "True"
    cluster.patch(namespace, "served", {"serving": {"engine": None}})
    cluster.wait_for(namespace, "served", "Ready")


def test_a_draft_that_cannot_be_made_is_named(
    cluster: Cluster, operator: Operator, namespace: str
) -> None:
    cluster.apply(drafter(namespace, quantization={"format": "GGUF", "precision": "Q9"}))
    cluster.apply(served(namespace))
    said = cluster.wait_for(namespace, "served", "Stalled", "True", "DraftModelNotReady")
    assert "'draft', which is stalled itself (PrecisionNotSupported)" in said["message"]
    cluster.patch(namespace, "draft", {"quantization": {"precision": "Q8_0"}})
    cluster.wait_for(namespace, "served", "Ready")


def test_a_draft_in_use_keeps_its_artifact_until_nobody_drafts_with_it(
    cluster: Cluster, operator: Operator, namespace: str
) -> None:
    cluster.apply(drafter(namespace, storage={"deletionPolicy": "Delete"}))
    cluster.apply(served(namespace))
    before = settled(cluster, namespace).metadata.generation
    cluster.delete(namespace, "draft")
    said = cluster.wait_for(namespace, "draft", "Stalled", "True", "DraftModelInUse")
    assert "it is the draft model of served" in said["message"]
    assert not [
        job.metadata.name
        for job in cluster.batch.list_namespaced_job(namespace).items
        if "-delete-" in job.metadata.name
    ]
    assert settled(cluster, namespace).metadata.generation == before
    cluster.patch(namespace, "served", {"serving": {"engine": None}})
    cluster.wait("the draft is gone", lambda: is_gone(cluster, namespace, "draft"))
    cluster.wait_for(namespace, "served", "Ready")


def test_a_draft_goes_with_the_model_that_drafted_with_it(
    cluster: Cluster, operator: Operator, namespace: str
) -> None:
    cluster.apply(drafter(namespace, storage={"deletionPolicy": "Delete"}))
    cluster.apply(served(namespace, storage={"deletionPolicy": "Delete"}))
    settled(cluster, namespace)
    cluster.delete(namespace, "draft")
    cluster.wait_for(namespace, "draft", "Stalled", "True", "DraftModelInUse")
    cluster.delete(namespace, "served")
    cluster.wait("the served one is gone", lambda: is_gone(cluster, namespace, "served"))
    cluster.wait("the draft is gone", lambda: is_gone(cluster, namespace, "draft"))


def test_a_trial_is_made_with_the_draft_and_anew_with_another_one_or_other_options(
    cluster: Cluster, operator: Operator, namespace: str
) -> None:
    quality = {**EVALUATION, "minTokensPerSecond": 1}
    cluster.apply(drafter(namespace))
    cluster.apply(served(namespace, quality=quality))
    deployment = settled(cluster, namespace)

    def trials() -> list[Any]:
        selector = "app.kubernetes.io/component=trial"
        return list(cluster.batch.list_namespaced_job(namespace, label_selector=selector).items)

    (trial,) = trials()
    containers = trial.spec.template.spec.init_containers
    assert [each.name for each in containers] == ["pull", "pull-draft", "engine"]
    assert containers[-1].args == deployment.spec.template.spec.containers[0].args
    assert pulled_by(containers[:2]) == pulled(deployment)
    hashes = {cluster.model(namespace, "served")["status"]["performance"]["inputsHash"]}
    cluster.patch(namespace, "draft", {"quantization": {"precision": "Q8_0"}})
    cluster.wait_for(namespace, "draft", "Ready")
    cluster.wait(
        "the other draft",
        lambda: (
            pulled(settled(cluster, namespace))[1].key == key(cluster, namespace, "draft")
            and cluster.condition(namespace, "draft", "Ready")["status"] == "True"
        ),
    )
    hashes.add(cluster.model(namespace, "served")["status"]["performance"]["inputsHash"])
    cluster.patch(namespace, "served", {"serving": {"engine": {"kvCacheType": "q8_0"}}})
    settled(cluster, namespace)
    hashes.add(cluster.model(namespace, "served")["status"]["performance"]["inputsHash"])
    assert len(hashes) == 3
