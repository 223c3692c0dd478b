"""The way from a published artifact to pods that answer, and back when they never do.

A revision that does not become Ready in its time is rolled back: the pod template that served
before is kept in an annotation of the Deployment from the moment it is replaced.
"""

import json
from dataclasses import dataclass, field, replace

from quantop.api.modelstore import ModelStoreSpec
from quantop.api.quantizedmodel import Artifact, Endpoint, Serving
from quantop.builders import meta, serving
from quantop.builders.meta import Manifest
from quantop.conditions import State
from quantop.contract import PullTask, digest
from quantop.reasons import ConditionType, Reason
from quantop.reconcile import pods
from quantop.reconcile.artifact import serving_access, store_ref
from quantop.reconcile.choices import ChosenRuntime
from quantop.reconcile.drift import contains, needs_apply, with_hash
from quantop.reconcile.snapshot import Problem, Snapshot

LAST_GOOD_ANNOTATION = "quantop.dev/last-good-template"
"""On a Deployment: the pod template, as JSON, that served before the current one."""


@dataclass(frozen=True)
class RolloutStep:
    """Where serving stands."""

    serving: State
    settled: bool
    """Whether nothing is left to roll out."""
    answers: bool = False
    """Whether a pod with the wanted artifact is Ready."""
    problem: Problem | None = None
    endpoint: Endpoint | None = None
    replicas: int = 0
    ready_replicas: int = 0
    rejected_revision: str | None = None
    """Hash of the wanted pod template that never became Ready."""
    apply: list[Manifest] = field(default_factory=list)
    delete: list[Manifest] = field(default_factory=list)


def next_step(
    snapshot: Snapshot,
    artifact: Artifact,
    runtime: ChosenRuntime | None,
    store: ModelStoreSpec,
) -> RolloutStep:
    """What to do next so that ``artifact`` is served, or is served no more."""
    wanted = snapshot.spec.serving
    if wanted is None or runtime is None:
        gone = [child for child in _children(snapshot) if child]
        state = State(False, Reason.NOT_REQUESTED, "spec.serving is not set.")
        return RolloutStep(state, settled=not gone, delete=gone)
    model = snapshot.model
    replicas = effective_replicas(wanted)
    task = PullTask(
        store=store_ref(store), key=artifact.key, manifest_digest=artifact.manifest_digest
    )
    access = serving_access(snapshot, store)
    deployment = serving.deployment(
        model, wanted, replicas, artifact, runtime.name, runtime.spec, task, access
    )
    revision = _revision(model, deployment)
    rejected = snapshot.status.rejected_revision == revision
    live = snapshot.deployment
    if rejected and live and (good := _annotations(live).get(LAST_GOOD_ANNOTATION)):
        return _rolled_back(snapshot, live, json.loads(good), revision)
    if kept := _last_good(live, deployment):
        deployment["metadata"]["annotations"][LAST_GOOD_ANNOTATION] = kept
    desired = [
        (serving.service(model), snapshot.service),
        (deployment, live),
        (serving.disruption_budget(model), snapshot.disruption_budget),
    ]
    delete = []
    if wanted.scaling:
        desired.append((serving.autoscaler(model, wanted.scaling), snapshot.autoscaler))
    elif snapshot.autoscaler:
        delete.append(snapshot.autoscaler)
    apply = [m for m, live in ((with_hash(m), live) for m, live in desired) if needs_apply(m, live)]
    changed = any(m["kind"] == "Deployment" for m in apply)
    step = _judge(snapshot, artifact, runtime, replicas, changed, apply, delete)
    failed = step.problem is not None and step.problem.reason == Reason.ROLLOUT_FAILED
    still = failed or (rejected and not step.settled)
    return replace(step, rejected_revision=revision if still else None)


def _revision(model: Manifest, deployment: Manifest) -> str:
    """Names a wanted pod template; a person may ask for the same one again."""
    again = model["metadata"].get("annotations", {}).get(meta.REQUESTED_AT_ANNOTATION)
    return digest({"template": deployment["spec"]["template"], "requestedAt": again})[:16]


def _last_good(live: Manifest | None, wanted: Manifest) -> str | None:
    """What to go back to while ``wanted`` rolls out: the live template if it served, or what
    was good before it."""
    if live is None:
        return None
    template = live["spec"]["template"]
    if contains(template, wanted["spec"]["template"]) or not _is_rolled_out(live):
        return _annotations(live).get(LAST_GOOD_ANNOTATION)
    return json.dumps(template, sort_keys=True)


def _is_rolled_out(live: Manifest) -> bool:
    status = live.get("status", {})
    return bool(
        status.get("observedGeneration", -1) >= live["metadata"].get("generation", 0)
        and status.get("availableReplicas", 0) >= 1
        and status.get("updatedReplicas", 0) == status.get("replicas", 0)
    )


def _rolled_back(
    snapshot: Snapshot, live: Manifest, template: Manifest, revision: str
) -> RolloutStep:
    """The earlier template in place of one that never became Ready, until the spec changes."""
    said = {c.type: c for c in snapshot.status.conditions}.get(ConditionType.STALLED)
    message = "the new revision did not become Ready in time."
    if said is not None and said.reason == Reason.ROLLOUT_FAILED:
        message = said.message
    step = _leave(snapshot, live, template)
    return replace(
        step,
        problem=Problem(Reason.ROLLOUT_FAILED, message),
        rejected_revision=revision,
    )


def _leave(snapshot: Snapshot, live: Manifest, template: Manifest) -> RolloutStep:
    """What serves now: the Deployment with this pod template, and still scaled."""
    status = live.get("status", {})
    available = int(status.get("availableReplicas", 0))
    wanted = snapshot.spec.serving
    replicas = effective_replicas(wanted) if wanted else int(live["spec"].get("replicas", 1))
    metadata = live["metadata"]
    kept = {
        "apiVersion": live["apiVersion"],
        "kind": live["kind"],
        "metadata": {
            **{k: metadata[k] for k in ("name", "namespace", "labels", "ownerReferences")},
            "annotations": {
                k: v
                for k, v in _annotations(live).items()
                if k.startswith("quantop.dev/") and k != meta.HASH_ANNOTATION
            },
        },
        "spec": {**live["spec"], "replicas": replicas, "template": template},
    }
    annotations = template["metadata"].get("annotations", {})
    what = (
        f"{annotations.get('quantop.dev/precision')} by {annotations.get('quantop.dev/runtime')}, "
        f"artifact {meta.short_key(annotations.get(meta.KEY_ANNOTATION, ''))}"
    )
    state = (
        State(True, Reason.SERVING, f"The earlier revision goes on serving: {what}.")
        if available
        else State(False, Reason.ROLLING_OUT, f"No pod of the earlier revision answers: {what}.")
    )
    return RolloutStep(
        state,
        settled=True,
        endpoint=snapshot.status.endpoint,
        replicas=int(status.get("replicas", 0)),
        ready_replicas=int(status.get("readyReplicas", 0)),
        rejected_revision=snapshot.status.rejected_revision,
        apply=[] if contains(live, kept) else [with_hash(kept)],
    )


def _annotations(live: Manifest) -> dict[str, str]:
    found: dict[str, str] = live["metadata"].get("annotations", {})
    return found


def as_it_is(snapshot: Snapshot) -> RolloutStep:
    """What serves while the spec cannot be fulfilled: left alone, and told."""
    live = snapshot.deployment
    if live is None:
        return RolloutStep(State(False, Reason.PENDING, "Nothing is served yet."), settled=True)
    return _leave(snapshot, live, live["spec"]["template"])


def effective_replicas(wanted: Serving) -> int:
    """``replicas``, within the autoscaler's bounds; zero switches an autoscaler off and stays."""
    if wanted.scaling is None or wanted.replicas == 0:
        return wanted.replicas
    return min(max(wanted.replicas, wanted.scaling.min_replicas), wanted.scaling.max_replicas)


def _judge(
    snapshot: Snapshot,
    artifact: Artifact,
    runtime: ChosenRuntime,
    replicas: int,
    changed: bool,
    apply: list[Manifest],
    delete: list[Manifest],
) -> RolloutStep:
    deployment = snapshot.deployment or {"metadata": {}}
    status = deployment.get("status", {})
    total = int(status.get("replicas", 0))
    available = int(status.get("availableReplicas", 0))
    observed = status.get("observedGeneration", -1) >= deployment["metadata"].get("generation", 0)
    updated = int(status.get("updatedReplicas", 0))
    servers = [
        p
        for p in snapshot.pods
        if p["metadata"].get("labels", {}).get(meta.COMPONENT_LABEL) == meta.SERVER
    ]
    answers = any(
        pods.is_ready(p)
        and p["metadata"]["labels"].get(meta.KEY_LABEL) == meta.short_key(artifact.key)
        for p in servers
    )
    settled = (
        not apply
        and not delete
        and observed
        and updated == replicas == total
        and available >= replicas
    )
    problem = None
    if not settled and not changed:
        problem = pods.blocked(servers) or pods.refusal(servers) or _deadline(status, servers)
    what = f"{artifact.precision} by {runtime.name}"
    if replicas == 0 and settled:
        state = State(False, Reason.SCALED_TO_ZERO, "spec.serving.replicas is 0.")
    elif settled:
        state = State(True, Reason.SERVING, f"{available} of {replicas} pods serve {what}.")
    else:
        state = State(
            available > 0,
            Reason.ROLLING_OUT,
            f"{what}: {updated if not changed else 0} of {replicas} pods are updated, "
            f"{available} of {total} answer." + _crashing(servers),
        )
    name, namespace = snapshot.name, snapshot.namespace
    return RolloutStep(
        state,
        settled,
        answers,
        problem,
        Endpoint(
            url=f"http://{name}.{namespace}.svc",
            protocol=runtime.spec.protocol,
            model_name=name,
        ),
        total,
        int(status.get("readyReplicas", 0)),
        apply=apply,
        delete=delete,
    )


def _deadline(status: Manifest, servers: list[Manifest]) -> Problem | None:
    for condition in status.get("conditions", []):
        if (
            condition.get("type") == "Progressing"
            and condition.get("reason") == "ProgressDeadlineExceeded"
        ):
            last = pods.last_failure(servers)
            return Problem(
                Reason.ROLLOUT_FAILED,
                "the new revision did not become Ready in time"
                + (f": {last.message}" if last else f": {condition.get('message', '')}")
                + " The earlier revision, if there is one, goes on serving. Change the spec, or "
                f"set the annotation {meta.REQUESTED_AT_ANNOTATION} anew to try the same again.",
            )
    return None


def _crashing(servers: list[Manifest]) -> str:
    failing = [p for p in servers if not pods.is_ready(p)]
    last = pods.last_failure(failing)
    return f" A pod failed: {last.message}" if last else ""


def _children(snapshot: Snapshot) -> list[Manifest | None]:
    return [
        snapshot.autoscaler,
        snapshot.disruption_budget,
        snapshot.service,
        snapshot.deployment,
    ]
