"""What a person must put right: said with its fix, and put right without a restart."""

import copy
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from kubernetes import client
from kubernetes.client import ApiException

from tests.operator import objects
from tests.operator.conftest import GROUP, VERSION, Cluster, Operator
from tests.operator.fake_node import Ends, Runs, Waits, refuses

BAD: dict[str, tuple[dict[str, Any], str, list[str]]] = {
    "unknown store": (
        {"storage": {"storeName": "nowhere"}},
        "StoreNotFound",
        ["spec.storage.storeName is 'nowhere'", "there are ModelStores default"],
    ),
    "unknown quantizer": (
        {"quantization": {"format": "GGUF", "precision": "Q4_K_M", "quantizerName": "nobody"}},
        "QuantizerNotFound",
        ["spec.quantization.quantizerName is 'nobody'", "there are Quantizers llama-cpp"],
    ),
    "unknown format": (
        {"quantization": {"format": "MLX", "precision": "4bit"}},
        "QuantizerNotFound",
        ["spec.quantization.format is 'MLX'", "write GGUF"],
    ),
    "precision that the quantizer lacks": (
        {"quantization": {"format": "GGUF", "precision": "Q9"}},
        "PrecisionNotSupported",
        ["spec.quantization.precision is 'Q9'", "possible: IQ1_S, Q4_K_M, Q8_0"],
    ),
    "method that the precision lacks": (
        {"quantization": {"format": "GGUF", "precision": "Q8_0", "method": "GPTQ"}},
        "MethodNotSupported",
        ["spec.quantization.method is 'GPTQ'", "possible: KQuant"],
    ),
    "workflow that the quantizer does not run": (
        {
            "quantization": {
                "format": "GGUF",
                "precision": "Q8_0",
                "workflow": '{"passes": {"a": {"type": "Quantize"}}}',
            }
        },
        "WorkflowNotSupported",
        ["spec.quantization.workflow is set, but Quantizer 'llama-cpp' runs no workflows"],
    ),
    "workflow in the store that the quantizer does not run": (
        {
            "quantization": {
                "format": "GGUF",
                "precision": "Q8_0",
                "workflowFrom": {"uri": "s3://texts/workflow.json"},
            }
        },
        "WorkflowNotSupported",
        ["spec.quantization.workflowFrom is set, but Quantizer 'llama-cpp' runs no workflows"],
    ),
    "calibration that is missing": (
        {"quantization": {"format": "GGUF", "precision": "IQ1_S"}},
        "CalibrationRequired",
        ["set spec.quantization.calibration.uri"],
    ),
    "calibration that is useless": (
        {
            "quantization": {
                "format": "GGUF",
                "precision": "Q8_0",
                "calibration": {"uri": "s3://texts/calibration.txt"},
            }
        },
        "CalibrationIgnored",
        ["remove spec.quantization.calibration"],
    ),
    "unknown runtime": (
        {"serving": {"runtimeName": "nothing"}},
        "RuntimeNotFound",
        ["spec.serving.runtimeName is 'nothing'", "there are ModelRuntimes llama-cpp"],
    ),
    "runtime that cannot read the format": (
        {"serving": {"runtimeName": "other"}},
        "FormatNotServed",
        ["ModelRuntime 'other' serves ONNX (INT4)", "able: llama-cpp"],
    ),
    "option that the runtime lacks": (
        {"serving": {"engine": {"prefixCaching": "Enabled"}}},
        "OptionNotSupported",
        [
            "spec.serving.engine.prefixCaching is set",
            "possible: draftModel, kvCacheType, maxModelLength",
        ],
    ),
    "value that the runtime's option lacks": (
        {"serving": {"engine": {"kvCacheType": "q9"}}},
        "OptionValueNotSupported",
        ["spec.serving.engine.kvCacheType is q9", "possible: f16, q8_0"],
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_spec_is_stalled_and_mended(
    cluster: Cluster, operator: Operator, namespace: str, case: str
) -> None:
    spec, reason, words = BAD[case]
    other = objects.runtime("other", formats=[{"format": "ONNX", "precisions": ["INT4"]}])
    cluster.apply(other)
    good = objects.model(namespace)
    cluster.apply(objects.model(namespace, **spec))
    stalled = cluster.wait_for(namespace, "tiny", "Stalled", "True", reason)
    assert all(word in stalled["message"] for word in words), stalled["message"]
    assert cluster.condition(namespace, "tiny", "Ready")["status"] == "False"
    assert not cluster.batch.list_namespaced_job(namespace).items
    mended: dict[str, Any] = {
        "storage": {"storeName": "default"},
        "quantization": good["spec"]["quantization"]
        | {
            "quantizerName": None,
            "method": None,
            "workflow": None,
            "workflowFrom": None,
            "calibration": None,
        },
        "serving": {"runtimeName": None, "engine": None},
    }
    cluster.patch(namespace, "tiny", mended)
    cluster.wait_for(namespace, "tiny", "Ready")
    assert cluster.condition(namespace, "tiny", "Stalled")["status"] == "False"


def test_a_store_that_appears_is_used(cluster: Cluster, operator: Operator, namespace: str) -> None:
    cluster.apply(objects.model(namespace, storage={"storeName": "late"}))
    cluster.wait_for(namespace, "tiny", "Stalled", "True", "StoreNotFound")
    cluster.apply(objects.store("late"))
    cluster.wait_for(namespace, "tiny", "Ready")


NAMED: dict[str, tuple[dict[str, Any], str, str]] = {
    "ModelStore": (
        {"storage": {"storeName": "older"}},
        "StoreNotReadable",
        "spec.storage.storeName is 'older', a ModelStore that this operator cannot read "
        "(spec.s3.bucket: Field required)",
    ),
    "Quantizer": (
        {"quantization": {"format": "GGUF", "precision": "Q4_K_M", "quantizerName": "older"}},
        "QuantizerNotReadable",
        "spec.quantization.quantizerName is 'older', a Quantizer that this operator cannot read "
        "(spec.image: Field required)",
    ),
    "ModelRuntime": (
        {"serving": {"runtimeName": "older"}},
        "RuntimeNotReadable",
        "spec.serving.runtimeName is 'older', a ModelRuntime that this operator cannot read "
        "(spec.image: Field required)",
    ),
    "Preset": (
        {"quantization": {"presetName": "older"}},
        "PresetNotReadable",
        "spec.quantization.presetName is 'older', a Preset that this operator cannot read "
        "(spec.description: Field required)",
    ),
}
MADE: dict[str, Callable[..., dict[str, Any]]] = {
    "ModelStore": objects.store,
    "Quantizer": objects.quantizer,
    "ModelRuntime": objects.runtime,
    "Preset": objects.preset,
}


def older(kind: str, **spec: Any) -> dict[str, Any]:
    """An object that lacks a field."""
    manifest = MADE[kind]("older", **spec)
    fields = manifest["spec"]["s3"] if kind == "ModelStore" else manifest["spec"]
    del fields[{"ModelStore": "bucket", "Preset": "description"}.get(kind, "image")]
    return manifest


@contextmanager
def another_version(cluster: Cluster, kind: str) -> Iterator[None]:
    """The kind's CRD as one that asks for no field; as it was afterwards."""
    api = client.ApiextensionsV1Api(cluster.core.api_client)
    name = f"{objects.PLURALS[kind]}.{GROUP}"
    read = api.read_custom_resource_definition(name)
    versions = api.api_client.sanitize_for_serialization(read)["spec"]["versions"]
    loose = copy.deepcopy(versions)
    spec = loose[0]["schema"]["openAPIV3Schema"]["properties"]["spec"]
    for each in (spec, *spec["properties"].values()):
        each.pop("required", None)
    api.patch_custom_resource_definition(name, {"spec": {"versions": loose}})
    try:
        yield
    finally:
        api.patch_custom_resource_definition(name, {"spec": {"versions": versions}})


def made(cluster: Cluster, manifest: dict[str, Any]) -> bool:
    """Whether the API server takes an object now."""
    try:
        cluster.apply(copy.deepcopy(manifest))
    except ApiException as error:
        if error.status != 422:
            raise
        return False
    return True


@pytest.mark.parametrize("kind", NAMED)
def test_who_names_what_cannot_be_read_is_told_so_and_so_is_who_wrote_it(
    cluster: Cluster, operator: Operator, namespace: str, kind: str
) -> None:
    spec, reason, message = NAMED[kind]
    with another_version(cluster, kind):
        cluster.wait("it is stored", lambda: made(cluster, older(kind)))
    cluster.apply(objects.model(namespace, **spec))
    stalled = cluster.wait_for(namespace, "tiny", "Stalled", "True", reason)
    assert message in stalled["message"]

    def warnings() -> list[Any]:
        about = f"involvedObject.kind={kind},involvedObject.name=older"
        events = cluster.core.list_namespaced_event("default", field_selector=about).items
        return [(e.type, e.reason, e.message) for e in events]

    ((type_, told, note),) = cluster.wait("it is warned of", warnings)
    assert (type_, told) == ("Warning", reason)
    assert message[message.index("(") :] in note
    time.sleep(1)
    mark = cluster.plane.audit.mark()
    cluster.core.patch_namespace(namespace, {"metadata": {"labels": {"touched": "true"}}})
    time.sleep(2)
    assert cluster.writes(mark) == [], "nothing is said twice"
    operator.kill()
    operator.start()
    cluster.wait("it leads again", operator.leads)
    time.sleep(3)
    assert len(warnings()) == 1, "a restart says nothing again"

    cluster.custom.delete_cluster_custom_object(GROUP, VERSION, objects.PLURALS[kind], "older")
    cluster.apply(MADE[kind]("older"))
    cluster.wait_for(namespace, "tiny", "Ready")
    assert len(warnings()) == 1


def test_what_cannot_be_read_is_named_where_nothing_else_does_it(
    cluster: Cluster, operator: Operator, namespace: str
) -> None:
    with another_version(cluster, "Quantizer"):
        cluster.wait("it is stored", lambda: made(cluster, older("Quantizer", format="Older")))
    cluster.apply(objects.model(namespace, quantization={"format": "Older", "precision": "Q8_0"}))
    stalled = cluster.wait_for(namespace, "tiny", "Stalled", "True", "QuantizerNotFound")
    assert stalled["message"].endswith(
        "Left out, as this operator cannot read it: Quantizer older (spec.image: Field required)."
    )


def test_a_store_is_closed_to_other_namespaces(
    cluster: Cluster, operator: Operator, namespace: str
) -> None:
    allowed = {"from": "Selector", "matchLabels": {"team": "a"}}
    cluster.apply(objects.store("closed", allowedNamespaces=allowed))
    cluster.apply(objects.model(namespace, storage={"storeName": "closed"}))
    stalled = cluster.wait_for(namespace, "tiny", "Stalled", "True", "StoreNotAllowed")
    assert "team=a" in stalled["message"]
    cluster.core.patch_namespace(namespace, {"metadata": {"labels": {"team": "a"}}})
    cluster.wait_for(namespace, "tiny", "Ready")


def test_a_missing_secret_is_named(cluster: Cluster, operator: Operator, namespace: str) -> None:
    cluster.node.behaviours["tiny", "resolve"] = Waits(
        "CreateContainerConfigError", 'secret "writer" not found'
    )
    cluster.apply(objects.model(namespace))
    stalled = cluster.wait_for(namespace, "tiny", "Stalled", "True", "SecretNotFound")
    assert 'secret "writer" not found' in stalled["message"]
    assert namespace in stalled["message"]
    del cluster.node.behaviours["tiny", "resolve"]
    cluster.wait_for(namespace, "tiny", "Ready")


def test_an_image_that_cannot_be_pulled_is_named(
    cluster: Cluster, operator: Operator, namespace: str
) -> None:
    cluster.node.behaviours["tiny", "quantize"] = Waits("ImagePullBackOff", "no such image")
    cluster.apply(objects.model(namespace))
    cluster.wait_for(namespace, "tiny", "Stalled", "True", "ImagePullFailed")
    del cluster.node.behaviours["tiny", "quantize"]
    cluster.wait_for(namespace, "tiny", "Ready")


@pytest.mark.parametrize("stage", ["resolve", "fetch", "quantize", "evaluate", "publish"])
def test_a_refusal_is_final_until_the_recipe_changes(
    cluster: Cluster, operator: Operator, namespace: str, stage: str
) -> None:
    cluster.node.behaviours["tiny", stage] = refuses(
        stage, "PickleRefused", "weights.bin is pickle"
    )
    cluster.apply(objects.model(namespace))
    stalled = cluster.wait_for(namespace, "tiny", "Stalled", "True", "PickleRefused")
    assert "weights.bin is pickle" in stalled["message"]
    cluster.wait(
        "no Job tries again",
        lambda: (
            not [
                j
                for j in cluster.batch.list_namespaced_job(namespace).items
                if not j.status.completion_time and not j.metadata.deletion_timestamp
            ]
        ),
    )
    time.sleep(1)
    mark = cluster.plane.audit.mark()
    time.sleep(2)
    assert cluster.writes(mark, namespace) == []
    del cluster.node.behaviours["tiny", stage]
    cluster.patch(namespace, "tiny", {"source": {"uri": "s3://sources/better"}})
    cluster.wait_for(namespace, "tiny", "Ready")


def test_a_refused_recipe_can_be_asked_for_again(
    cluster: Cluster, operator: Operator, namespace: str
) -> None:
    cluster.node.behaviours["tiny", "resolve"] = refuses("resolve", "AccessDenied", "no access")
    cluster.apply(objects.model(namespace))
    cluster.wait_for(namespace, "tiny", "Stalled", "True", "AccessDenied")
    del cluster.node.behaviours["tiny", "resolve"]
    cluster.ask_again(namespace, "tiny")
    cluster.wait_for(namespace, "tiny", "Ready")


def test_too_little_memory_is_said_so(cluster: Cluster, operator: Operator, namespace: str) -> None:
    cluster.node.behaviours["tiny", "quantize"] = Ends(137, "", "OOMKilled")
    cluster.apply(objects.model(namespace))
    found = cluster.wait(
        "the message says so",
        lambda: (
            "raise spec.quantization.resources.limits.memory"
            in cluster.condition(namespace, "tiny", "Quantized").get("message", "")
        ),
    )
    assert found


def test_a_conversion_that_no_node_can_hold_is_refused_with_figures(
    cluster: Cluster, operator: Operator, namespace: str
) -> None:
    allocatable = {"memory": "1Gi", "ephemeral-storage": "100Gi", "cpu": "2", "pods": "10"}
    cluster.core.create_node(
        {"metadata": {"name": "small"}, "status": {"allocatable": allocatable}}
    )
    cluster.core.patch_node_status("small", {"status": {"allocatable": allocatable}})
    try:
        cluster.apply(
            objects.model(
                namespace,
                quantization={
                    "format": "GGUF",
                    "precision": "Q4_K_M",
                    "resources": {"requests": {"memory": "2Gi"}, "limits": {"memory": "2Gi"}},
                },
            )
        )
        stalled = cluster.wait_for(namespace, "tiny", "Stalled", "True", "InsufficientCapacity")
        assert "2.0 GiB" in stalled["message"]
        assert "1.0 GiB" in stalled["message"]
        allocatable["memory"] = "8Gi"
        cluster.core.patch_node_status("small", {"status": {"allocatable": allocatable}})
        cluster.wait_for(namespace, "tiny", "Ready")
    finally:
        cluster.core.delete_node("small")


def test_a_service_of_somebody_else_is_not_touched(
    cluster: Cluster, operator: Operator, namespace: str
) -> None:
    cluster.core.create_namespaced_service(
        namespace,
        {"metadata": {"name": "tiny"}, "spec": {"ports": [{"port": 1}], "selector": {"app": "x"}}},
    )
    cluster.apply(objects.model(namespace))
    stalled = cluster.wait_for(namespace, "tiny", "Stalled", "True", "NameConflict")
    assert "Service 'tiny' exists already" in stalled["message"]
    assert cluster.core.read_namespaced_service("tiny", namespace).spec.selector == {"app": "x"}


def test_a_bad_recipe_leaves_the_old_revision_serving(
    cluster: Cluster, operator: Operator, namespace: str
) -> None:
    cluster.apply(objects.model(namespace))
    cluster.wait_for(namespace, "tiny", "Reconciling", "False", "Settled")
    before = cluster.apps.read_namespaced_deployment("tiny", namespace)
    cluster.patch(namespace, "tiny", {"quantization": {"precision": "Q9"}})
    cluster.wait_for(namespace, "tiny", "Stalled", "True", "PrecisionNotSupported")
    assert cluster.condition(namespace, "tiny", "Ready")["status"] == "False"
    serving = cluster.condition(namespace, "tiny", "Serving")
    assert serving["status"] == "True"
    assert "Q4_K_M" in serving["message"]
    after = cluster.apps.read_namespaced_deployment("tiny", namespace)
    assert after.metadata.generation == before.metadata.generation
    assert cluster.model(namespace, "tiny")["status"]["endpoint"]
    cluster.patch(namespace, "tiny", {"quantization": {"precision": "Q4_K_M"}})
    cluster.wait_for(namespace, "tiny", "Ready")


def test_an_object_with_a_bad_recipe_is_still_scaled(
    cluster: Cluster, operator: Operator, namespace: str
) -> None:
    cluster.apply(objects.model(namespace))
    cluster.wait_for(namespace, "tiny", "Reconciling", "False", "Settled")
    cluster.patch(namespace, "tiny", {"quantization": {"precision": "Q9"}})
    cluster.wait_for(namespace, "tiny", "Stalled", "True", "PrecisionNotSupported")
    cluster.patch(namespace, "tiny", {"serving": {"replicas": 2}})
    cluster.wait(
        "two pods", lambda: cluster.model(namespace, "tiny")["status"]["readyReplicas"] == 2
    )


def test_a_revision_that_never_becomes_ready_is_rolled_back(
    cluster: Cluster, operator: Operator, namespace: str
) -> None:
    cluster.apply(objects.runtime("impatient", progressDeadlineSeconds=30))
    cluster.apply(objects.model(namespace, serving={"runtimeName": "impatient"}))
    cluster.wait_for(namespace, "tiny", "Reconciling", "False", "Settled")
    cluster.node.behaviours["tiny", "pull Q8_0"] = Runs()
    cluster.patch(namespace, "tiny", {"quantization": {"precision": "Q8_0"}})
    stalled = cluster.wait_for(namespace, "tiny", "Stalled", "True", "RolloutFailed", seconds=120)
    assert "did not become Ready in time" in stalled["message"]
    cluster.wait(
        "only pods of the old revision",
        lambda: cluster.served_precisions(namespace) == {"Q4_K_M"},
    )
    serving = cluster.wait_for(namespace, "tiny", "Serving", "True")
    assert "earlier revision goes on serving: Q4_K_M" in serving["message"]
    time.sleep(1)
    mark = cluster.plane.audit.mark()
    time.sleep(3)
    assert cluster.writes(mark, namespace) == []
    # The cause is mended, and somebody asks for the same again.
    del cluster.node.behaviours["tiny", "pull Q8_0"]
    cluster.ask_again(namespace, "tiny")
    cluster.wait_for(namespace, "tiny", "Ready")
    cluster.wait(
        "only pods of the new revision", lambda: cluster.served_precisions(namespace) == {"Q8_0"}
    )


def test_one_bad_object_delays_no_other(
    cluster: Cluster, operator: Operator, namespace: str
) -> None:
    for i in range(20):
        cluster.apply(objects.model(namespace, f"bad{i}", storage={"storeName": "nowhere"}))
    cluster.apply(objects.model(namespace, "good"))
    cluster.wait_for(namespace, "good", "Ready")


def test_pods_that_cannot_pull_the_artifact_say_why(
    cluster: Cluster, operator: Operator, namespace: str
) -> None:
    cluster.node.behaviours["tiny", "pull"] = refuses(
        "pull", "DigestMismatch", "model.gguf differs"
    )
    cluster.apply(objects.model(namespace))
    stalled = cluster.wait_for(namespace, "tiny", "Stalled", "True", "DigestMismatch")
    assert "model.gguf differs" in stalled["message"]
    del cluster.node.behaviours["tiny", "pull"]
    cluster.wait_for(namespace, "tiny", "Ready")


def test_the_operator_may_not_read_secrets(cluster: Cluster, operator: Operator) -> None:
    """By its RBAC, as the chart grants it."""
    review = client.AuthorizationV1Api(cluster.core.api_client)
    for verb in ("get", "list", "watch", "create", "update", "patch", "delete"):
        answer = review.create_subject_access_review(
            {
                "spec": {
                    "user": "system:serviceaccount:quantop-system:quantop",
                    "resourceAttributes": {"verb": verb, "resource": "secrets", "namespace": "x"},
                }
            }
        )
        assert not answer.status.allowed, verb
