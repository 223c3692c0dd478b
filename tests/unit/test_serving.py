"""The Deployment that serves an artifact."""

import json
from pathlib import Path
from typing import Any

import pytest
from quantop.api.modelruntime import ModelRuntimeSpec, OptionName
from quantop.api.quantizedmodel import Artifact, EngineOptions, Serving
from quantop.builders import serving
from quantop.builders.meta import Manifest
from quantop.contract import PullTask, StoreRef

from tests.operator import objects

PLAIN = Path(__file__).with_name("deployment.json")
ARTIFACT = Artifact(
    key="0" * 64,
    uri="s3://models/artifacts/" + "0" * 64,
    size_bytes=2_500_000,
    source_size_bytes=8_000_000,
    source_uri="s3://sources/tiny",
    bits_per_weight="5.100",
    format="GGUF",
    precision="Q4_K_M",
    method="KQuant",
    quantizer="llama-cpp",
    quantizer_image="registry.example/quantizer@sha256:" + "1" * 64,
    manifest_digest="3" * 64,
)
GPU_RUNTIME: dict[str, Any] = {
    "env": [{"name": "LEVEL", "value": "1"}],
    "drain": {"command": ["quantop-drain", "running"], "gracePeriodSeconds": 320},
    "sharedMemory": "256Mi",
    "nodeSelector": {"nvidia.com/gpu.family": "hopper"},
    "resources": {
        "requests": {"cpu": "1", "memory": "4Gi"},
        "limits": {"memory": "16Gi", "nvidia.com/gpu": 1},
    },
}


def deployment(
    given: dict[str, Any] | None = None, draft: Artifact | None = None, **runtime: Any
) -> Manifest:
    """What is made of a runtime, and of this in `spec.serving`."""
    model = objects.model("team-a", serving=given or {})
    model["metadata"]["uid"] = "00000000-0000-0000-0000-000000000000"
    return serving.deployment(
        model,
        Serving.model_validate(model["spec"]["serving"]),
        2,
        ARTIFACT,
        "llama-cpp",
        ModelRuntimeSpec.model_validate(objects.runtime(**(GPU_RUNTIME | runtime))["spec"]),
        PullTask(store=StoreRef(bucket="models"), key=ARTIFACT.key, manifest_digest="3" * 64),
        serving.Access("registry.example/worker", "default", "reader"),
        draft,
    )


def test_without_options_the_deployment_is_what_it_has_always_been() -> None:
    """Any other byte would replace the pods of everyone who upgrades."""
    assert deployment() == json.loads(PLAIN.read_text())


OPTIONS: list[dict[str, Any]] = [
    {"name": "maxModelLength", "args": ["--ctx-size", "$(MAX_MODEL_LENGTH)"]},
    {"name": "maxConcurrentRequests", "args": ["--parallel", "$(MAX_CONCURRENT_REQUESTS)"]},
    {
        "name": "prefixCaching",
        "values": [
            {"value": "Enabled", "args": ["--cache"]},
            {"value": "Disabled", "args": ["--no-cache"]},
        ],
    },
    {
        "name": "kvCacheType",
        "args": ["--kv=$(KV_CACHE_TYPE)"],
        "values": [{"value": "f16"}, {"value": "q8_0", "args": ["--flash"]}],
    },
    {"name": "tensorParallelSize", "args": ["--tp"], "multiplies": ["nvidia.com/gpu"]},
    {"name": "pipelineParallelSize", "args": ["--pp"], "multiplies": ["nvidia.com/gpu"]},
]
PLAIN_ARGS = ["-m", "$(MODEL_DIR)/model.gguf", "--port", "$(PORT)"]


def engine(given: dict[str, Any], **serving: Any) -> Manifest:
    """The engine's container, with these options."""
    made = deployment({"engine": given, **serving}, options=OPTIONS)
    (container,) = made["spec"]["template"]["spec"]["containers"]
    return dict(container)


@pytest.mark.parametrize("given", [None, {}], ids=["left out", "empty"])
def test_options_that_no_model_sets_change_nothing(given: dict[str, Any] | None) -> None:
    assert deployment({"engine": given} if given else {}, options=OPTIONS) == deployment()


def test_options_become_what_the_runtime_says_behind_its_own_arguments() -> None:
    container = engine(
        {"kvCacheType": "q8_0", "prefixCaching": "Disabled", "maxModelLength": 16384}
    )
    # In the runtime's order, whatever the model's.
    expected = ["--ctx-size", "$(MAX_MODEL_LENGTH)", "--no-cache", "--kv=$(KV_CACHE_TYPE)"]
    assert container["args"] == [*PLAIN_ARGS, *expected, "--flash"]
    environment = {each["name"]: each.get("value") for each in container["env"]}
    assert environment["MAX_MODEL_LENGTH"] == "16384"
    assert environment["KV_CACHE_TYPE"] == "q8_0"
    assert environment["PREFIX_CACHING"] == "Disabled"
    assert "MAX_CONCURRENT_REQUESTS" not in environment


def test_every_option_of_the_api_can_be_a_runtimes() -> None:
    fields = {field.alias for field in EngineOptions.model_fields.values()}
    assert fields == set(OptionName)


@pytest.mark.parametrize(
    ("given", "gpus"),
    [
        ({}, 1),
        ({"tensorParallelSize": 4}, 4),
        ({"pipelineParallelSize": 2}, 2),
        ({"tensorParallelSize": 4, "pipelineParallelSize": 2}, 8),
    ],
)
def test_devices_are_asked_for_as_often_as_the_engine_uses_them(
    given: dict[str, Any], gpus: int
) -> None:
    assert engine(given)["resources"] == {
        "requests": {"cpu": "1", "memory": "4Gi"},
        "limits": {"memory": "16Gi", "nvidia.com/gpu": str(gpus)},
    }


def test_what_the_model_says_of_other_resources_stays() -> None:
    container = engine({"tensorParallelSize": 2}, resources={"limits": {"memory": "64Gi"}})
    assert container["resources"]["limits"] == {"memory": "64Gi", "nvidia.com/gpu": "2"}


def test_a_draft_models_artifact_is_pulled_beside_with_room_for_both() -> None:
    small = ARTIFACT.model_copy(
        update={"key": "5" * 64, "manifest_digest": "6" * 64, "size_bytes": 100 * 2**20}
    )
    pod = deployment(draft=small)["spec"]["template"]["spec"]
    pulls = pod["initContainers"]
    assert [each["name"] for each in pulls] == ["pull", "pull-draft"]
    assert [each["command"][-1] for each in pulls] == ["pull", "pull"]
    requests = [each["resources"]["requests"]["ephemeral-storage"] for each in pulls]
    assert requests == ["103Mi"] * 2
    task = PullTask.model_validate_json(pulls[1]["env"][0]["value"])
    assert (task.key, task.manifest_digest) == (small.key, small.manifest_digest)
    assert task.directory == "/models/draft"
    room = next(each for each in pod["volumes"] if each["name"] == "models")
    assert room["emptyDir"]["sizeLimit"] == "177Mi"
