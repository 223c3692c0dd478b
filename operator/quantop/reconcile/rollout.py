"""The way from a published artifact to pods that answer."""

from dataclasses import dataclass, field

from quantop.api.modelstore import ModelStoreSpec
from quantop.api.quantizedmodel import Artifact, Endpoint, Serving
from quantop.builders import meta, serving
from quantop.builders.meta import Manifest
from quantop.conditions import State
from quantop.contract import PullTask
from quantop.reasons import Reason
from quantop.reconcile import pods
from quantop.reconcile.artifact import store_ref
from quantop.reconcile.choices import ChosenRuntime
from quantop.reconcile.drift import needs_apply, with_hash
from quantop.reconcile.snapshot import Problem, Snapshot


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
    access = serving.Access(
        worker_image=snapshot.settings.worker_image,
        service_account=store.service_account_name,
        reader_secret=store.credentials.reader_secret_name if store.credentials else None,
    )
    desired = [
        (serving.service(model), snapshot.service),
        (
            serving.deployment(
                model, wanted, replicas, artifact, runtime.name, runtime.spec, task, access
            ),
            snapshot.deployment,
        ),
        (serving.disruption_budget(model), snapshot.disruption_budget),
    ]
    delete = []
    if wanted.scaling:
        desired.append((serving.autoscaler(model, wanted.scaling), snapshot.autoscaler))
    elif snapshot.autoscaler:
        delete.append(snapshot.autoscaler)
    apply = [m for m, live in ((with_hash(m), live) for m, live in desired) if needs_apply(m, live)]
    changed = any(m["kind"] == "Deployment" for m in apply)
    return _judge(snapshot, artifact, runtime, replicas, changed, apply, delete)


def as_it_is(snapshot: Snapshot) -> RolloutStep:
    """What serves while the spec cannot be fulfilled: left alone, and told."""
    deployment = snapshot.deployment
    if deployment is None:
        return RolloutStep(State(False, Reason.PENDING, "Nothing is served yet."), settled=True)
    status = deployment.get("status", {})
    available = int(status.get("availableReplicas", 0))
    annotations = deployment["spec"]["template"]["metadata"].get("annotations", {})
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
    )


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
        apply,
        delete,
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
                + " The earlier one goes on serving.",
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
