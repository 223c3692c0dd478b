"""Which draft models are taken, and in what words others are not."""

from typing import Any

import pytest
from quantop.api.base import Condition
from quantop.api.modelruntime import ModelRuntimeSpec
from quantop.api.quantizedmodel import Artifact, QuantizedModelSpec, QuantizedModelStatus
from quantop.reasons import Reason
from quantop.reconcile import draft
from quantop.reconcile.choices import ChosenRuntime
from quantop.reconcile.snapshot import Draft, Problem, Snapshot
from quantop.settings import Settings

from tests.operator import objects

RUNTIME = ChosenRuntime(
    "engine",
    ModelRuntimeSpec.model_validate(
        objects.runtime(
            formats=[
                {"format": "GGUF", "precisions": ["Q4_K_M", "Q8_0"]},
                {"format": "ONNX"},
            ]
        )["spec"]
    ),
)


def artifact(vocabulary: str | None = None, **changes: Any) -> Artifact:
    return Artifact(
        key="4" * 64,
        uri="s3://models/artifacts/" + "4" * 64,
        size_bytes=1,
        source_size_bytes=2,
        format="GGUF",
        precision="Q4_K_M",
        quantizer="llama-cpp",
        quantizer_image="image",
        vocabulary_digest=vocabulary,
    ).model_copy(update=changes)


def drafting(
    made: Artifact | None = None, stalled: str = "", there: bool = True, **spec: Any
) -> Snapshot:
    """A model that drafts with another one, of which this is known."""
    model = objects.model("team-a", serving={"engine": {"draftModel": {"name": "small"}}})
    other = objects.model("team-a", "small", **spec)
    condition = Condition(
        type="Stalled",
        status="True" if stalled else "False",
        last_transition_time="2026-01-01T00:00:00Z",
        reason=stalled or "Healthy",
        message="It says so.",
    )
    status = QuantizedModelStatus(conditions=[condition], artifact=made)
    return Snapshot(
        model=model,
        spec=QuantizedModelSpec.model_validate(model["spec"]),
        status=QuantizedModelStatus(),
        settings=Settings("worker"),
        draft=Draft(QuantizedModelSpec.model_validate(other["spec"]), status) if there else None,
    )


def refused(snapshot: Snapshot) -> Problem:
    problem = draft.choose(snapshot, RUNTIME)
    assert isinstance(problem, Problem), problem
    assert problem.message.startswith("spec.serving.engine.draftModel.name is 'small', ")
    return problem


def test_a_published_artifact_of_the_same_format_and_store_is_taken() -> None:
    made = artifact(precision="Q8_0")
    assert draft.choose(drafting(made), RUNTIME) is made


def test_one_that_is_being_made_anew_serves_on() -> None:
    made = artifact()
    assert draft.choose(drafting(made, stalled="SourceNotFound"), RUNTIME) is made


@pytest.mark.parametrize("runtime", [RUNTIME, None])
def test_without_a_draft_model_there_is_nothing_to_choose(runtime: ChosenRuntime | None) -> None:
    model = objects.model("team-a")
    plain = Snapshot(
        model=model,
        spec=QuantizedModelSpec.model_validate(model["spec"]),
        status=QuantizedModelStatus(),
        settings=Settings("worker"),
    )
    assert draft.choose(plain, runtime) is None


def test_one_that_is_not_there_is_asked_for() -> None:
    problem = refused(drafting(there=False))
    assert problem.reason == Reason.DRAFT_MODEL_NOT_FOUND
    assert "no such QuantizedModel in namespace 'team-a'" in problem.message


def test_one_without_an_artifact_is_waited_for() -> None:
    waiting = draft.choose(drafting(), RUNTIME)
    assert waiting == draft.Waiting("Waiting for the artifact of draft model 'small'.")


def test_one_that_is_stalled_is_not_waited_for() -> None:
    problem = refused(drafting(stalled="SourceNotFound"))
    assert problem.reason == Reason.DRAFT_MODEL_NOT_READY
    assert "is stalled itself (SourceNotFound)" in problem.message
    assert problem.message.endswith("It says: It says so.")


@pytest.mark.parametrize("reason", draft.BLOCKED)
def test_one_that_lost_too_much_is_not_used(reason: str) -> None:
    assert refused(drafting(artifact(), stalled=reason)).reason == Reason.DRAFT_MODEL_NOT_READY


def test_one_of_another_store_is_refused() -> None:
    problem = refused(drafting(artifact(), storage={"storeName": "other"}))
    assert problem.reason == Reason.DRAFT_MODEL_NOT_USABLE
    assert "kept in ModelStore 'other', and this object in 'default'" in problem.message


@pytest.mark.parametrize(
    "changes", [{"precision": "IQ1_S"}, {"format": "ONNX", "precision": "INT4"}]
)
def test_one_that_the_runtime_cannot_serve_beside_is_refused(changes: dict[str, str]) -> None:
    problem = refused(drafting(artifact(**changes)))
    assert problem.reason == Reason.DRAFT_MODEL_NOT_USABLE
    what = f"{changes.get('format', 'GGUF')} {changes['precision']}"
    assert f"is {what}: ModelRuntime 'engine' cannot serve that beside" in problem.message


def test_another_tokenizer_is_refused_where_it_is_known() -> None:
    snapshot = drafting()
    problem = draft.differs(snapshot, artifact("1"), artifact("2"))
    assert problem is not None
    assert problem.reason == Reason.DRAFT_MODEL_NOT_USABLE
    assert "'small', which has another tokenizer than this object's model" in problem.message
    for one, other in ("1", "1"), ("1", None), (None, "2"), (None, None):
        assert draft.differs(snapshot, artifact(one), artifact(other)) is None
