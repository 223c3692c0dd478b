"""What asks for another Job, and what does not."""

from typing import Any

import pytest
from quantop.api.modelstore import ModelStoreSpec
from quantop.api.quantizedmodel import QuantizedModelSpec, QuantizedModelStatus
from quantop.api.quantizer import QuantizerSpec
from quantop.contract import (
    ConversionTask,
    EvaluationRef,
    PromptsRef,
    Recipe,
    Referrer,
    SourceRef,
    StoreRef,
    TasksRef,
)
from quantop.reconcile import choices
from quantop.reconcile.artifact import conversion_task, inputs_hash
from quantop.reconcile.snapshot import Snapshot
from quantop.settings import Settings

from tests.operator import objects

TASK = ConversionTask(
    store=StoreRef(bucket="artifacts"),
    source=SourceRef(uri="s3://models/tiny"),
    recipe=Recipe(format="GGUF", precision="Q4_0", quantizer="llama-cpp", quantizer_image="image"),
    referrer=Referrer(cluster="c", namespace="n", name="m"),
    evaluation=EvaluationRef(uri="s3://texts/e.txt", sequence_length=256, max_tokens=4096),
    max_source_bytes=1,
)


def hashed(**changes: Any) -> str:
    model = objects.model("n")
    snapshot = Snapshot(
        model=model,
        spec=QuantizedModelSpec.model_validate(model["spec"]),
        status=QuantizedModelStatus(),
        settings=Settings("worker"),
    )
    return inputs_hash(snapshot, TASK.model_copy(update=changes))


def test_another_limit_needs_no_other_job() -> None:
    assert hashed(max_mean_kl_divergence="0.05") == hashed()


@pytest.mark.parametrize("reads", [[], ["SavedModel"], ["Safetensors", "SavedModel"]])
def test_the_stages_are_told_what_the_quantizer_reads(reads: list[str]) -> None:
    model = objects.model("n")
    spec: dict[str, Any] = {"sourceFiles": reads} if reads else {}
    quantizer = objects.quantizer(**spec)
    snapshot = Snapshot(
        model=model,
        spec=QuantizedModelSpec.model_validate(model["spec"]),
        status=QuantizedModelStatus(),
        settings=Settings("worker"),
        quantizers={"llama-cpp": QuantizerSpec.model_validate(quantizer["spec"])},
    )
    chosen = choices.choose_quantizer(snapshot)
    assert isinstance(chosen, choices.ChosenQuantizer)
    store = ModelStoreSpec.model_validate(objects.store()["spec"])
    told = conversion_task(snapshot, store, chosen).to_json()
    read = ConversionTask.model_validate_json(told).source_files
    assert read == tuple(reads or ["Safetensors"])


def test_what_the_quantizer_reads_asks_anew_where_it_is_not_what_all_read() -> None:
    """A refused source is looked at again when the Quantizer reads more."""
    assert hashed(source_files=("Safetensors",)) == hashed()
    assert hashed(source_files=("SavedModel",)) != hashed()


@pytest.mark.parametrize(
    "more",
    [
        {"prompts": PromptsRef(uri="s3://texts/p.jsonl", max_prompts=8, answer_tokens=16)},
        {"tasks": TasksRef(uri="s3://texts/tasks/", max_samples=8)},
        {"uri": None},
    ],
)
def test_what_else_is_measured_by_does(more: dict[str, Any]) -> None:
    assert TASK.evaluation is not None
    assert hashed(evaluation=TASK.evaluation.model_copy(update=more)) != hashed()
