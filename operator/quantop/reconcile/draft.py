"""The draft model that a spec names: whether its artifact can be used. Pure."""

from dataclasses import dataclass

from quantop.api.base import Condition
from quantop.api.quantizedmodel import Artifact, Serving
from quantop.reasons import ConditionType, Reason
from quantop.reconcile.choices import ChosenRuntime, serves
from quantop.reconcile.snapshot import Draft, Problem, Snapshot

BLOCKED = (Reason.QUALITY_BELOW_LIMIT, Reason.QUALITY_NOT_MEASURED)
"""Why a published artifact is not rolled out."""


@dataclass(frozen=True)
class Waiting:
    """What is waited for: nobody has to act."""

    message: str


def name_of(serving: Serving | None) -> str | None:
    """The draft model that `spec.serving` names."""
    named = serving.engine.draft_model if serving and serving.engine else None
    return named.name if named else None


def choose(
    snapshot: Snapshot, runtime: ChosenRuntime | None, artifact: Artifact | None = None
) -> Artifact | Waiting | Problem | None:
    """The draft model's artifact, if it can be used, beside this one of the object's own where that
    is there already; None where no draft model is asked for."""
    found = _choose(snapshot, runtime)
    if artifact and isinstance(found, Artifact):
        return differs(snapshot, artifact, found) or found
    return found


def _choose(
    snapshot: Snapshot, runtime: ChosenRuntime | None
) -> Artifact | Waiting | Problem | None:
    name = name_of(snapshot.spec.serving)
    if name is None or runtime is None:
        return None
    named = f"spec.serving.engine.draftModel.name is {name!r}"
    draft = snapshot.draft
    if draft is None:
        return Problem(
            Reason.DRAFT_MODEL_NOT_FOUND,
            f"{named}, but there is no such QuantizedModel in namespace {snapshot.namespace!r}. "
            "Create it, name another, or remove draftModel.",
        )
    stores = draft.spec.storage.store_name, snapshot.spec.storage.store_name
    if stores[0] != stores[1]:
        return Problem(
            Reason.DRAFT_MODEL_NOT_USABLE,
            f"{named}, which is kept in ModelStore {stores[0]!r}, and this object in "
            f"{stores[1]!r}: keep both in one.",
        )
    stalled = _stalled(draft)
    blocked = stalled is not None and stalled.reason in BLOCKED
    artifact = None if blocked else draft.status.artifact
    if artifact is None and stalled is not None:
        return Problem(
            Reason.DRAFT_MODEL_NOT_READY,
            f"{named}, which is stalled itself ({stalled.reason}): put that right there, or remove "
            f"draftModel here. It says: {stalled.message}",
        )
    if artifact is None:
        return Waiting(f"Waiting for the artifact of draft model {name!r}.")
    quantizer = snapshot.quantizers.get(artifact.quantizer)
    hardware = quantizer.hardware if quantizer else ""
    if artifact.format != snapshot.format or not serves(
        runtime.spec.formats, artifact.format, artifact.precision, hardware
    ):
        return Problem(
            Reason.DRAFT_MODEL_NOT_USABLE,
            f"{named}, which is {artifact.format} {artifact.precision}: ModelRuntime "
            f"{runtime.name!r} cannot serve that beside {snapshot.format} {snapshot.precision}. "
            "Name one that it can, or remove draftModel.",
        )
    return artifact


def differs(snapshot: Snapshot, artifact: Artifact, draft: Artifact) -> Problem | None:
    """The Problem that the two read text differently, where that is known. What one guesses would
    be other tokens to the other."""
    digests = {artifact.vocabulary_digest, draft.vocabulary_digest}
    if None in digests or len(digests) == 1:
        return None
    return Problem(
        Reason.DRAFT_MODEL_NOT_USABLE,
        f"spec.serving.engine.draftModel.name is {name_of(snapshot.spec.serving)!r}, which has "
        "another tokenizer than this object's model: name a smaller model of the same family, or "
        "remove draftModel.",
    )


def _stalled(draft: Draft) -> Condition | None:
    return next(
        (
            condition
            for condition in draft.status.conditions
            if condition.type == ConditionType.STALLED and condition.status == "True"
        ),
        None,
    )
