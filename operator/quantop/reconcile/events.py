"""Events on an object: what a person would want to know, once per change."""

import uuid
from collections.abc import Iterator
from datetime import datetime

from quantop.api.base import API_VERSION
from quantop.api.quantizedmodel import CandidateState, QuantizedModelStatus
from quantop.builders.meta import Manifest
from quantop.contract import digest
from quantop.reasons import NOT_READABLE, ConditionType, Reason

TOLD = (
    ConditionType.STALLED,
    ConditionType.QUANTIZED,
    ConditionType.VERIFIED,
    ConditionType.SERVING,
    ConditionType.READY,
)
QUALITY = {
    Reason.QUALITY_BELOW_LIMIT,
    Reason.QUALITY_NOT_MEASURED,
    Reason.PERFORMANCE_BELOW_LIMIT,
    Reason.PERFORMANCE_NOT_MEASURED,
}
"""Warned of also where the artifact is rolled out all the same."""
TOLD_CANDIDATES = {CandidateState.REJECTED, CandidateState.FAILED, CandidateState.CHOSEN}
"""States of a candidate that are worth an Event."""
QUIET = {Reason.PENDING, Reason.HEALTHY, Reason.NOT_REQUESTED, Reason.SETTLED}
COMPONENT = "quantop-operator"
NOTE_LENGTH = 1024
"""The API's bound on an Event's note."""
NAME_LENGTH = 200
"""What of an object's name an Event's has; the API's bound is 253."""
OF_CLUSTER_SCOPED = "default"
"""The namespace in which Kubernetes has the Events of what has none."""


def transitions(
    model: Manifest, before: QuantizedModelStatus, after: QuantizedModelStatus, now: datetime
) -> Iterator[Manifest]:
    """An Event for each candidate that was decided on, and for each condition whose status or
    reason changed; a problem is told once."""
    decided = {c.precision: (c.state, c.inputs_hash) for c in before.candidates}
    for c in after.candidates:
        if c.state in TOLD_CANDIDATES and decided.get(c.precision) != (c.state, c.inputs_hash):
            failed = c.state is CandidateState.FAILED
            note = f"{c.precision}: {c.message}"
            yield _event(model, f"Candidate{c.state}", "Search", note, failed, now)
    old = {c.type: c for c in before.conditions}
    is_stalled = any(
        c.type == ConditionType.STALLED and c.status == "True" for c in after.conditions
    )
    told: set[str] = set()
    for condition in after.conditions:
        if condition.type not in TOLD or condition.reason in QUIET or condition.reason in told:
            continue
        previous = old.get(condition.type)
        if previous and (previous.status, previous.reason) == (condition.status, condition.reason):
            continue
        told.add(condition.reason)
        warning = is_stalled and condition.type != ConditionType.SERVING
        warning = warning or condition.reason in QUALITY
        yield _event(model, condition.reason, condition.type, condition.message, warning, now)


def unreadable(found: Manifest, why: str, now: datetime) -> Manifest:
    """An Event on an object of a cluster-scoped kind that cannot be read. Of the same version of
    it the name is always the same, so that the API server keeps one."""
    note = (
        f"This operator cannot read it ({why}) and works as if it were not there: it was written "
        "for another version. Apply it again in the shape of this one, which the installed CRD "
        "has, or run the operator that it was written for."
    )
    metadata = found["metadata"]
    mark = digest([metadata["uid"], metadata["resourceVersion"]])
    return _event(found, NOT_READABLE[found["kind"]], "Read", note, True, now, mark)


def _event(
    regarding: Manifest,
    reason: str,
    action: str,
    note: str,
    warning: bool,
    now: datetime,
    mark: str | None = None,
) -> Manifest:
    metadata = regarding["metadata"]
    of = {key: metadata[key] for key in ("namespace",) if key in metadata}
    return {
        "apiVersion": "events.k8s.io/v1",
        "kind": "Event",
        "metadata": {
            "name": f"{metadata['name'][:NAME_LENGTH]}.{(mark or uuid.uuid4().hex)[:16]}",
            "namespace": metadata.get("namespace", OF_CLUSTER_SCOPED),
        },
        "eventTime": now.strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
        "type": "Warning" if warning else "Normal",
        "reason": reason,
        "action": action,
        "note": note[:NOTE_LENGTH],
        "reportingController": f"quantop.dev/{COMPONENT}",
        "reportingInstance": COMPONENT,
        "regarding": {
            "apiVersion": API_VERSION,
            "kind": regarding["kind"],
            "name": metadata["name"],
            **of,
            "uid": metadata["uid"],
            "resourceVersion": metadata["resourceVersion"],
        },
    }
