"""A QuantizedModel's life, against a real API server."""

import time

from kubernetes import client

from tests.operator import objects
from tests.operator.conftest import Cluster, Operator
from tests.operator.fake_node import Ends, Runs

TYPES = ["Ready", "Quantized", "Verified", "Serving", "Reconciling", "Stalled"]
EVALUATION = {"evaluation": {"uri": "s3://texts/evaluation.txt"}}


def jobs(cluster: Cluster, namespace: str, component: str) -> list[str]:
    selector = f"app.kubernetes.io/component={component}"
    found = cluster.batch.list_namespaced_job(namespace, label_selector=selector)
    return [job.metadata.name for job in found.items]


def test_a_model_becomes_ready(cluster: Cluster, operator: Operator, namespace: str) -> None:
    cluster.apply(objects.model(namespace, quality=EVALUATION))
    cluster.wait_for(namespace, "tiny", "Reconciling", "False")
    status = cluster.model(namespace, "tiny")["status"]
    assert [c["type"] for c in status["conditions"]] == TYPES
    said = {c["type"]: c["status"] for c in status["conditions"]}
    assert said == dict.fromkeys(TYPES, "True") | {"Reconciling": "False", "Stalled": "False"}
    assert status["artifact"]["precision"] == "Q4_K_M"
    assert status["artifact"]["bitsPerWeight"] == "5.100"
    assert status["quality"]["perplexity"] == "48.300"
    assert status["endpoint"]["url"] == f"http://tiny.{namespace}.svc"
    assert status["replicas"] == status["readyReplicas"] == 1


def test_all_conditions_are_there_from_the_first_status(
    cluster: Cluster, operator: Operator, namespace: str
) -> None:
    cluster.node.behaviours["tiny", "resolve"] = Runs()
    cluster.apply(objects.model(namespace))
    cluster.wait_for(namespace, "tiny", "Quantized", "False", "Resolving")
    conditions = cluster.model(namespace, "tiny")["status"]["conditions"]
    assert [c["type"] for c in conditions] == TYPES
    assert all(c["reason"] and c["lastTransitionTime"] for c in conditions)


def test_the_stage_is_visible(cluster: Cluster, operator: Operator, namespace: str) -> None:
    cluster.node.behaviours["tiny", "quantize"] = Runs()
    cluster.apply(objects.model(namespace))
    cluster.wait_for(namespace, "tiny", "Quantized", "False", "Converting")
    cluster.wait(
        "the stage in the message",
        lambda: (
            "quantize is running" in cluster.condition(namespace, "tiny", "Quantized")["message"]
        ),
    )


def test_events_tell_the_story(cluster: Cluster, operator: Operator, namespace: str) -> None:
    cluster.apply(objects.model(namespace))
    cluster.wait_for(namespace, "tiny", "Ready")

    def reasons() -> set[str]:
        return {e.reason for e in cluster.core.list_namespaced_event(namespace).items}

    wanted = {"Resolving", "Converting", "Published", "RollingOut", "Ready"}
    cluster.wait("the events", lambda: wanted <= reasons())


def test_a_published_artifact_is_used_at_once(
    cluster: Cluster, operator: Operator, namespace: str
) -> None:
    cluster.apply(objects.model(namespace))
    cluster.wait_for(namespace, "tiny", "Ready")
    second = objects.model(namespace, "second", source={"uri": objects.source(namespace)})
    cluster.apply(second)
    cluster.wait_for(namespace, "second", "Ready")
    assert len(jobs(cluster, namespace, "convert")) == 1
    first_key = cluster.model(namespace, "tiny")["status"]["artifact"]["key"]
    assert cluster.model(namespace, "second")["status"]["artifact"]["key"] == first_key


def test_a_running_conversion_of_the_same_artifact_is_waited_for(
    cluster: Cluster, operator: Operator, namespace: str
) -> None:
    cluster.node.behaviours["tiny", "quantize"] = Runs()
    cluster.apply(objects.model(namespace))
    cluster.wait("a conversion", lambda: jobs(cluster, namespace, "convert"))
    cluster.apply(objects.model(namespace, "second", source={"uri": objects.source(namespace)}))
    cluster.wait_for(namespace, "second", "Quantized", "False", "WaitingForConversion")
    del cluster.node.behaviours["tiny", "quantize"]
    cluster.wait_for(namespace, "second", "Ready")
    assert len(jobs(cluster, namespace, "convert")) == 1


def test_pods_go_to_the_nodes_that_their_runtime_names(
    cluster: Cluster, operator: Operator, namespace: str
) -> None:
    labels = {"nvidia.com/gpu.family": "hopper"}
    cluster.apply(objects.runtime("hopper", priority=-1, nodeSelector=labels))
    for name, serving in ("anywhere", {}), ("placed", {"runtimeName": "hopper"}):
        cluster.apply(objects.model(namespace, name, serving=serving))
        cluster.wait_for(namespace, name, "Ready")
    placed, anywhere = (
        cluster.apps.read_namespaced_deployment(name, namespace).spec.template.spec.node_selector
        for name in ("placed", "anywhere")
    )
    assert placed == labels
    assert anywhere is None


def test_an_engine_option_rolls_out_without_a_conversion(
    cluster: Cluster, operator: Operator, namespace: str
) -> None:
    cluster.apply(objects.model(namespace))
    cluster.wait_for(namespace, "tiny", "Reconciling", "False", "Settled")
    cluster.patch(namespace, "tiny", {"serving": {"engine": {"maxModelLength": 4096}}})
    cluster.wait_for(namespace, "tiny", "Reconciling", "False", "Settled")
    pod = cluster.apps.read_namespaced_deployment("tiny", namespace).spec.template.spec
    assert pod.containers[0].args[-2:] == ["--ctx-size", "$(MAX_MODEL_LENGTH)"]
    assert {e.name: e.value for e in pod.containers[0].env}["MAX_MODEL_LENGTH"] == "4096"
    assert len(jobs(cluster, namespace, "convert")) == 1


def test_without_serving_the_artifact_is_the_product(
    cluster: Cluster, operator: Operator, namespace: str
) -> None:
    manifest = objects.model(namespace)
    del manifest["spec"]["serving"]
    cluster.apply(manifest)
    cluster.wait_for(namespace, "tiny", "Ready")
    assert cluster.condition(namespace, "tiny", "Serving")["reason"] == "NotRequested"
    assert not cluster.apps.list_namespaced_deployment(namespace).items


def test_serving_taken_away_removes_what_served(
    cluster: Cluster, operator: Operator, namespace: str
) -> None:
    scaling = {"minReplicas": 1, "maxReplicas": 2}
    cluster.apply(objects.model(namespace, serving={"scaling": scaling}))
    cluster.wait_for(namespace, "tiny", "Ready")
    autoscaling = client.AutoscalingV2Api(cluster.core.api_client)
    assert autoscaling.list_namespaced_horizontal_pod_autoscaler(namespace).items
    cluster.patch(namespace, "tiny", {"serving": None})
    cluster.wait(
        "no children",
        lambda: (
            not cluster.apps.list_namespaced_deployment(namespace).items
            and not cluster.core.list_namespaced_service(namespace).items
            and not autoscaling.list_namespaced_horizontal_pod_autoscaler(namespace).items
        ),
    )
    cluster.wait_for(namespace, "tiny", "Ready")


def test_the_scale_subresource_scales(cluster: Cluster, operator: Operator, namespace: str) -> None:
    cluster.apply(objects.model(namespace))
    cluster.wait_for(namespace, "tiny", "Ready")
    cluster.custom.patch_namespaced_custom_object_scale(
        "quantop.dev", "v1alpha1", namespace, "quantizedmodels", "tiny", {"spec": {"replicas": 2}}
    )
    cluster.wait(
        "two pods", lambda: cluster.model(namespace, "tiny")["status"]["readyReplicas"] == 2
    )
    scale = cluster.custom.get_namespaced_custom_object_scale(
        "quantop.dev", "v1alpha1", namespace, "quantizedmodels", "tiny"
    )
    assert scale["status"]["replicas"] == 2
    assert "quantop.dev/model=tiny" in scale["status"]["selector"]


def test_drift_is_put_right(cluster: Cluster, operator: Operator, namespace: str) -> None:
    cluster.apply(objects.model(namespace))
    cluster.wait_for(namespace, "tiny", "Ready")
    cluster.core.patch_namespaced_service("tiny", namespace, {"spec": {"selector": {"a": "b"}}})
    cluster.core.patch_namespaced_service(
        "tiny", namespace, {"spec": {"selector": {"quantop.dev/model": "other"}}}
    )

    def selector() -> dict[str, str]:
        found: dict[str, str] = cluster.core.read_namespaced_service(
            "tiny", namespace
        ).spec.selector
        return found

    cluster.wait("the selector is back", lambda: selector()["quantop.dev/model"] == "tiny")
    cluster.apps.delete_namespaced_deployment("tiny", namespace)
    cluster.wait(
        "the Deployment is back",
        lambda: any(
            not d.metadata.deletion_timestamp
            for d in cluster.apps.list_namespaced_deployment(namespace).items
        ),
    )


def test_a_lost_answer_is_asked_for_again(
    cluster: Cluster, operator: Operator, namespace: str
) -> None:
    """The Job completed, but its pod went before anybody read what it said."""
    cluster.node.behaviours["tiny", "publish"] = Ends(message="")
    cluster.apply(objects.model(namespace))
    cluster.wait(
        "the Job is complete without an answer",
        lambda: (
            "asking again" in cluster.condition(namespace, "tiny", "Quantized").get("message", "")
            or len(jobs(cluster, namespace, "resolve")) == 1
        ),
    )
    del cluster.node.behaviours["tiny", "publish"]
    cluster.wait_for(namespace, "tiny", "Ready")


def test_a_recipe_that_changed_replaces_its_jobs(
    cluster: Cluster, operator: Operator, namespace: str
) -> None:
    cluster.node.behaviours["tiny", "quantize"] = Runs()
    cluster.apply(objects.model(namespace))
    cluster.wait("a conversion", lambda: jobs(cluster, namespace, "convert"))
    old = jobs(cluster, namespace, "convert")
    cluster.patch(namespace, "tiny", {"quantization": {"precision": "Q8_0"}})
    cluster.wait(
        "another conversion in its place",
        lambda: (
            len(jobs(cluster, namespace, "convert")) == 1
            and jobs(cluster, namespace, "convert") != old
        ),
    )
    del cluster.node.behaviours["tiny", "quantize"]
    cluster.wait_for(namespace, "tiny", "Ready")
    assert cluster.model(namespace, "tiny")["status"]["artifact"]["precision"] == "Q8_0"


def test_deletion_removes_the_artifact_only_when_asked(
    cluster: Cluster, operator: Operator, namespace: str
) -> None:
    cluster.apply(objects.model(namespace, storage={"deletionPolicy": "Delete"}))
    cluster.apply(objects.model(namespace, "kept"))
    for name in ("tiny", "kept"):
        cluster.wait_for(namespace, name, "Ready")
    assert "quantop.dev/artifact" in cluster.model(namespace, "tiny")["metadata"]["finalizers"]
    assert "finalizers" not in cluster.model(namespace, "kept")["metadata"]
    cluster.node.behaviours["tiny", "delete"] = Runs()
    cluster.delete(namespace, "tiny")
    cluster.delete(namespace, "kept")
    cluster.wait("a delete Job", lambda: jobs(cluster, namespace, "delete"))
    assert cluster.model(namespace, "tiny")["metadata"]["deletionTimestamp"]
    del cluster.node.behaviours["tiny", "delete"]

    def models() -> list[str]:
        found = cluster.custom.list_namespaced_custom_object(
            "quantop.dev", "v1alpha1", namespace, "quantizedmodels"
        )
        return [m["metadata"]["name"] for m in found["items"]]

    cluster.wait("both are gone", lambda: not models())


def test_a_namespace_that_goes_is_not_held_up(
    cluster: Cluster, operator: Operator, namespace: str
) -> None:
    doomed = cluster.core.create_namespace({"metadata": {"generateName": "doomed-"}}).metadata.name
    cluster.apply(objects.model(doomed, storage={"deletionPolicy": "Delete"}))
    cluster.wait_for(doomed, "tiny", "Ready")
    cluster.core.delete_namespace(doomed)

    def gone() -> bool:
        try:
            cluster.core.read_namespace(doomed)
        except client.ApiException as error:
            return bool(error.status == 404)
        return False

    cluster.wait("the namespace is gone", gone)


def test_settled_objects_are_not_written(
    cluster: Cluster, operator: Operator, namespace: str
) -> None:
    """Many objects, a while of quiet, a restart: no write but the Lease's."""
    count = 100
    for i in range(count):
        cluster.apply(objects.model(namespace, f"m{i}", quality=EVALUATION))
    for i in range(count):
        cluster.wait_for(namespace, f"m{i}", "Reconciling", "False", "Settled", seconds=300)
    time.sleep(3)
    mark = cluster.plane.audit.mark()
    time.sleep(10)
    assert cluster.writes(mark) == []

    # Each object is looked at anew, and found settled.
    cluster.core.patch_namespace(namespace, {"metadata": {"labels": {"touched": "true"}}})
    time.sleep(5)
    assert cluster.writes(mark) == []

    assert operator.stop() == 0
    operator.start()
    cluster.wait("it leads again", operator.leads)
    time.sleep(10)
    assert cluster.writes(mark) == []
    # And it still works.
    cluster.patch(namespace, "m0", {"quantization": {"precision": "Q8_0"}})
    cluster.wait_for(namespace, "m0", "Ready")
    print(f"RSS with {count} objects: {operator.rss_bytes / 2**20:.0f} MiB")
    assert operator.rss_bytes < 200 * 2**20
