"""What only the cluster can decide: Stalled, with the fix in the message; fixed, it goes on."""

from dataclasses import dataclass
from typing import Any

import pytest

from e2e.install import WRITER_SECRET, put_store_secrets
from e2e.kubectl import Object
from e2e.scenarios.operator import Operator
from e2e.scenarios.team import Team, quantized_model
from e2e.store import Store


@dataclass(frozen=True)
class Mistake:
    """A spec with a mistake, what is said of it, and the patch that mends it."""

    model: Object
    reason: str
    names: str
    """Part of the message that names the fix."""
    fix: dict[str, Any]


MISTAKES = {
    "unknown store": Mistake(
        quantized_model("bad", storage={"storeName": "nowhere"}),
        "StoreNotFound",
        "default",
        {"storage": {"storeName": "default"}},
    ),
    "unknown quantizer": Mistake(
        quantized_model("bad", quantization={"quantizerName": "nobody"}),
        "QuantizerNotFound",
        "llama-cpp",
        {"quantization": {"quantizerName": None}},
    ),
    "missing precision": Mistake(
        quantized_model("bad", ("GGUF", "Q3_X")),
        "PrecisionNotSupported",
        "Q8_0",
        {"quantization": {"precision": "Q8_0"}},
    ),
    "runtime that cannot read the format": Mistake(
        quantized_model("bad", serving={"runtimeName": "vllm"}),
        "FormatNotServed",
        "llama-cpp",
        {"serving": {"runtimeName": "llama-cpp"}},
    ),
    "unknown runtime": Mistake(
        quantized_model("bad", serving={"runtimeName": "nothing"}),
        "RuntimeNotFound",
        "llama-cpp",
        {"serving": {"runtimeName": None}},
    ),
    "source that is not there": Mistake(
        quantized_model("bad", source="s3://models/absent"),
        "SourceNotFound",
        "s3://models/absent",
        {"source": {"uri": "s3://models/tiny-llama"}},
    ),
}


@pytest.mark.parametrize("mistake", MISTAKES.values(), ids=MISTAKES.keys())
def test_a_mistake_is_named_and_its_fix_is_enough(
    team: Team, operator: Operator, mistake: Mistake
) -> None:
    before = {pod["metadata"]["uid"] for pod in operator.pods()}
    name = team.apply(mistake.model)
    stalled = team.stalled(name)
    assert stalled["reason"] == mistake.reason
    assert mistake.names in stalled["message"]

    team.patch(name, mistake.fix)
    team.ready(name)
    assert {pod["metadata"]["uid"] for pod in operator.pods()} == before


def test_a_missing_secret_is_named_and_creating_it_is_enough(team: Team, store: Store) -> None:
    team.kubectl.delete("secret", WRITER_SECRET, team.namespace)
    name = team.apply(quantized_model("no-secret", serving=None))
    stalled = team.stalled(name)
    assert stalled["reason"] == "SecretNotFound"
    assert WRITER_SECRET in stalled["message"]

    put_store_secrets(team.kubectl, team.namespace, store)
    team.ready(name, recovering=True)


def test_one_bad_object_does_not_delay_another(team: Team) -> None:
    team.apply(MISTAKES["unknown store"].model)
    team.apply(quantized_model("good"))
    team.ready("good")
    team.stalled("bad")


def test_a_bad_recipe_leaves_the_old_revision_serving(team: Team) -> None:
    name = team.apply(quantized_model("changing"))
    old = team.ready(name)["status"]["artifact"]["key"]
    pods = {pod["metadata"]["uid"] for pod in team.pods(name, "server")}

    team.patch(name, {"quantization": {"precision": "Q3_X"}})
    team.stalled(name)
    assert team.answer(name)
    assert {pod["metadata"]["uid"] for pod in team.pods(name, "server")} == pods
    (pod,) = team.pods(name, "server")
    assert pod["metadata"]["annotations"]["quantop.dev/artifact-key"] == old
