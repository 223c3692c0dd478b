"""The plan of one pass: pure, without I/O and without a clock of its own."""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from datetime import datetime

from quantop.api.modelstore import ModelStoreSpec
from quantop.api.quantizedmodel import (
    AUTO,
    AcceptedArtifact,
    Candidate,
    DeletionPolicy,
    OnFailure,
    Performance,
    QualityStatus,
    QuantizedModelStatus,
)
from quantop.builders import jobs, meta, serving
from quantop.builders.meta import Manifest
from quantop.conditions import PENDING, State, merge
from quantop.contract import DeleteTask, digest
from quantop.quantities import human
from quantop.reasons import ConditionType, Reason
from quantop.reconcile import (
    artifact,
    auto,
    choices,
    draft,
    gate,
    pods,
    presets,
    report,
    rollout,
    trial,
)
from quantop.reconcile.artifact import ArtifactStep
from quantop.reconcile.drift import needs_apply, with_hash
from quantop.reconcile.rollout import RolloutStep
from quantop.reconcile.snapshot import Problem, Snapshot

MAX_PUBLISHED_KEYS = 256
"""Bound of ``status.publishedKeys``; the oldest is forgotten, and its artifact retained."""


@dataclass(frozen=True)
class Plan:
    """The writes that lead from what is to what should be.

    ``apply`` are whole manifests for server-side apply, ``delete`` live objects, ``finalizers`` the
    new list where it changes, ``status`` what the status should be.
    """

    status: QuantizedModelStatus
    apply: list[Manifest] = field(default_factory=list)
    delete: list[Manifest] = field(default_factory=list)
    finalizers: list[str] | None = None


@dataclass(frozen=True)
class Steps:
    """Where the parts of the chain stand."""

    artifact: ArtifactStep
    rollout: RolloutStep
    problem: Problem | None = None
    candidates: list[Candidate] = field(default_factory=list)
    performance: Performance | None = None
    """What a trial of the artifact showed."""
    measuring: tuple[Reason, str] | None = None
    """Where a trial of the artifact stands that is going on."""
    reporting: tuple[Reason, str] | None = None
    """Where the report on that trial stands that is being written."""
    is_search: bool = False
    """Whether the artifact is one that a search tries, and not what the spec asks for."""


def plan(snapshot: Snapshot, now: datetime) -> Plan:
    """What one pass over an object should write; nothing at all when the object is settled."""
    if snapshot.deleting:
        return _plan_deletion(snapshot, now)
    if snapshot.namespace_terminating:
        # Nothing can be made in it any more, and everything in it is about to be deleted.
        return Plan(snapshot.status)
    spelt_out = presets.spelt_out(snapshot)
    if isinstance(spelt_out, Problem):
        steps = _stopped(snapshot, spelt_out)
    else:
        snapshot = spelt_out
        steps = _next(snapshot)
    step, rolled = steps.artifact, steps.rollout
    apply = [m for m in map(with_hash, step.apply) if needs_apply(m, None)] + rolled.apply
    delete = [*step.delete, *rolled.delete, *_superseded_jobs(snapshot, step)]
    return Plan(
        status=_status(snapshot, now, steps),
        apply=apply,
        delete=_unique(delete),
        finalizers=_finalizers(snapshot),
    )


def stalled(snapshot: Snapshot, problem: Problem, now: datetime) -> Plan:
    """The plan when something outside planning failed for good, for example because the API
    server refuses a child: what serves is left alone."""
    spelt_out = presets.spelt_out(snapshot)
    if not isinstance(spelt_out, Problem):
        snapshot = spelt_out
    step = ArtifactStep(
        artifact=snapshot.status.artifact,
        quality=snapshot.status.quality,
        resolution=snapshot.status.resolution,
    )
    steps = Steps(
        step,
        rollout.as_it_is(snapshot),
        problem,
        list(snapshot.status.candidates),
        snapshot.status.performance,
    )
    return Plan(_status(snapshot, now, steps))


def _stopped(snapshot: Snapshot, problem: Problem) -> Steps:
    """A Problem before anything was chosen: what is known and what serves is left as it is."""
    status = snapshot.status
    unchanged = ArtifactStep(resolution=status.resolution, failure=status.failure)
    return Steps(unchanged, rollout.as_it_is(snapshot), problem, list(status.candidates))


def _next(snapshot: Snapshot) -> Steps:
    """The chain: store, search, quantizer, runtime, artifact, quality, trial, rollout. The first
    Problem ends it, and what serves is left as it is."""
    status, as_it_is = snapshot.status, rollout.as_it_is(snapshot)
    unchanged = ArtifactStep(resolution=status.resolution, failure=status.failure)
    store = choices.choose_store(snapshot)
    if isinstance(store, Problem):
        return _stopped(snapshot, store)
    if problem := trial.needs_serving(snapshot.spec):
        return _stopped(snapshot, problem)
    found, tries = None, trial.is_wanted(snapshot.spec)
    if snapshot.precision == AUTO:
        found = auto.next_step(snapshot, store)
        if found.chosen is None:
            step = found.step
            steps = Steps(step, as_it_is, step.problem, found.candidates, is_search=True)
            nearest = found.nearest if tries else None
            return _reported(steps, snapshot, store, nearest) if nearest else steps
        snapshot = found.chosen
    quantizer = choices.choose_quantizer(snapshot)
    if isinstance(quantizer, Problem):
        return Steps(unchanged, as_it_is, quantizer)
    runtime = choices.choose_runtime(snapshot)
    if isinstance(runtime, Problem):
        return Steps(unchanged, as_it_is, runtime)
    step = found.step if found else artifact.next_step(snapshot, store, quantizer)
    candidates = found.candidates if found else []
    drafted = draft.choose(snapshot, runtime, step.artifact)
    if isinstance(drafted, Problem):
        return Steps(step if step.artifact else unchanged, as_it_is, drafted, candidates)
    if step.artifact is None:
        return Steps(step, as_it_is, step.problem, candidates)
    limits = snapshot.spec.quality
    # In status it is the one that says where it is kept; what a search without an answer kept is
    # not on the page about this artifact.
    searched = found.performance if found else None
    unkept = searched and searched.model_copy(update={"report_uri": None})
    known = (status.performance, unkept)
    recalled = (trial.recalled(snapshot, runtime, step.artifact.key, each) for each in known)
    shown = next((each for each in recalled if each), None)
    if not tries and trial.failure(shown):
        # Nobody asks any more whether its engine can do it.
        shown = None
    before = Steps(step, as_it_is, None, candidates, shown)
    blocks = limits is not None and limits.on_failure is OnFailure.BLOCK
    if (fault := gate.check(limits, step.quality)) and blocks:
        return replace(before, problem=fault)
    if isinstance(drafted, draft.Waiting):
        waits = rollout.waiting(snapshot, Reason.WAITING_FOR_DRAFT_MODEL, drafted.message)
        return replace(before, rollout=waits)
    if tries and runtime:
        tried = trial.next_step(snapshot, store, runtime, step.artifact, shown)
        shown = tried.performance
        before = replace(before, artifact=trial.joined(step, tried), performance=shown)
        if shown is None:
            held = (Reason.MEASURING, tried.problem.message) if tried.problem else None
            return replace(before, problem=tried.problem, measuring=tried.progress or held)
        if fault := trial.failure(shown):
            return replace(before, problem=fault)
        key = step.artifact.key
        tried_all = report.tried(candidates) | {key: shown}
        told = report.next_step(snapshot, store, key, step.quality, tried_all)
        before = replace(
            before,
            artifact=report.joined(before.artifact, told),
            candidates=report.marked(candidates, told),
            performance=told.shown[key],
            reporting=told.progress,
        )
        if (fault := gate.check_performance(limits, shown)) and blocks:
            return replace(before, problem=fault)
    rolled = rollout.next_step(snapshot, step.artifact, runtime, store, drafted)
    return replace(before, rollout=rolled, problem=rolled.problem)


def _reported(steps: Steps, snapshot: Snapshot, store: ModelStoreSpec, nearest: Candidate) -> Steps:
    """A search without an answer, whose trials are kept all the same: what was too slow is what
    the next one who asks wants to know."""
    assert nearest.key is not None
    shown = report.tried(steps.candidates)
    told = report.next_step(snapshot, store, nearest.key, nearest.quality, shown)
    # Its own Jobs are kept for their logs, though nothing is asked of them any more.
    step = replace(steps.artifact, apply=[*steps.artifact.apply, *told.apply])
    return replace(steps, artifact=step, candidates=report.marked(steps.candidates, told))


def _status(snapshot: Snapshot, now: datetime, steps: Steps) -> QuantizedModelStatus:
    before = snapshot.status
    problem, step, rolled = steps.problem, steps.artifact, steps.rollout
    if problem is not None:
        problem = presets.attributed(snapshot, problem)
    published = step.artifact or before.artifact
    made = [c.key for c in steps.candidates if c.key]
    if step.artifact and step.artifact.key not in made:
        made.append(step.artifact.key)
    # Last, so that none that is in use is the oldest.
    keys = [*(key for key in before.published_keys if key not in made), *made]
    selected = serving.selector(snapshot.name)
    states = _states(snapshot, problem, steps)
    return QuantizedModelStatus(
        observed_generation=snapshot.generation,
        conditions=merge(before.conditions, states, snapshot.generation, now),
        resolution=step.resolution,
        failure=step.failure,
        artifact=published,
        accepted_artifact=_accepted(snapshot, steps, states) or before.accepted_artifact,
        quality=step.quality if step.artifact else before.quality,
        performance=steps.performance if step.artifact else before.performance,
        candidates=steps.candidates,
        endpoint=rolled.endpoint,
        replicas=rolled.replicas,
        ready_replicas=rolled.ready_replicas,
        selector=",".join(f"{key}={value}" for key, value in sorted(selected.items())),
        rejected_revision=rolled.rejected_revision,
        published_keys=keys[-MAX_PUBLISHED_KEYS:],
    )


def _accepted(
    snapshot: Snapshot, steps: Steps, states: dict[ConditionType, State]
) -> AcceptedArtifact | None:
    """What this pass lets through: what keeps all limits, or is rolled out with a warning."""
    made, limits = steps.artifact.artifact, snapshot.spec.quality
    warned = limits is not None and limits.on_failure is OnFailure.WARN
    warned &= steps.problem is None and steps.measuring is None
    if made is None or steps.is_search or not (states[ConditionType.VERIFIED].status or warned):
        return None
    return AcceptedArtifact(key=made.key, manifest_digest=made.manifest_digest)


def _states(
    snapshot: Snapshot, problem: Problem | None, steps: Steps
) -> dict[ConditionType, State]:
    step, rolled, measuring = steps.artifact, steps.rollout, steps.measuring
    made = None if steps.is_search else step.artifact
    wants_serving = snapshot.spec.serving is not None
    if made is not None:
        quantized = State(True, Reason.PUBLISHED, f"The artifact is at {made.uri}.")
        verified = _verified(snapshot, steps)
    else:
        verified = PENDING
        if problem is not None:
            quantized = State(False, problem.reason, problem.message)
        else:
            reason, message = step.progress or (Reason.PENDING, PENDING.message)
            quantized = State(False, reason, message)
    rolled_out = made is not None and measuring is None and rolled.settled and not rolled.apply
    if problem is not None:
        ready = State(False, problem.reason, problem.message)
    elif made is None:
        ready = quantized
    elif measuring is not None:
        ready = State(False, *measuring)
    elif not wants_serving:
        ready = State(True, Reason.READY, f"The artifact is at {made.uri}.")
    elif rolled.answers:
        url = rolled.endpoint.url if rolled.endpoint else ""
        ready = State(True, Reason.READY, f"{made.precision} answers at {url}.")
    else:
        ready = State(False, rolled.serving.reason, rolled.serving.message)
    if problem is not None:
        reconciling = State(False, problem.reason, "Waiting for a person: see Stalled.")
        stalled_ = State(True, problem.reason, problem.message)
    else:
        stalled_ = State(False, Reason.HEALTHY, "Nothing is wrong.")
        if rolled_out and steps.reporting:
            reconciling = State(True, *steps.reporting)
        elif rolled_out:
            reconciling = State(False, Reason.SETTLED, "Everything is as the spec says.")
        else:
            under_way = ready if made is None or measuring else rolled.serving
            reconciling = State(True, under_way.reason, under_way.message)
    return {
        ConditionType.READY: ready,
        ConditionType.QUANTIZED: quantized,
        ConditionType.VERIFIED: verified,
        ConditionType.SERVING: rolled.serving,
        ConditionType.RECONCILING: reconciling,
        ConditionType.STALLED: stalled_,
    }


def _verified(snapshot: Snapshot, steps: Steps) -> State:
    """Published means that every byte was hashed and the coverage check passed."""
    step, shown, limits = steps.artifact, steps.performance, snapshot.spec.quality
    assert step.artifact is not None
    fault = gate.check(limits, step.quality) or trial.failure(shown)
    if fault is None and steps.measuring:
        return State(False, *steps.measuring)
    if fault is None and gate.limits_performance(limits):
        fault = gate.check_performance(limits, shown)
    if fault:
        fault = presets.attributed(snapshot, fault)
        return State(False, fault.reason, fault.message)
    bits = step.artifact.bits_per_weight
    found = told(step.quality)
    tried = f" {told_of_a_trial(shown)}" if shown else ""
    if found is None:
        return State(
            True,
            Reason.COVERED,
            f"{bits or 'Unknown'} bits per weight. Nothing is given to measure quality by.{tried}",
        )
    return State(True, Reason.MEASURED, f"{found}, {bits} bits per weight.{tried}")


def told_of_a_trial(shown: Performance) -> str:
    """What a trial showed, in short."""
    figures = [f"the first token came after {shown.time_to_first_token_milliseconds} ms"]
    if shown.tokens_per_second:
        figures.append(f"{shown.tokens_per_second} tokens a second followed")
    if shown.peak_memory_bytes:
        figures.append(f"the engine took {human(shown.peak_memory_bytes)}")
    return f"In a trial on node {shown.node} {', '.join(figures)}."


def told(quality: QualityStatus | None) -> str | None:
    """What was measured, in short."""
    if quality is None:
        return None
    if quality.mean_cosine_similarity:
        return (
            f"Cosine similarity of embeddings {quality.mean_cosine_similarity} over "
            f"{quality.texts} texts (1st percentile {quality.p1_cosine_similarity})"
        )
    if quality.label_agreement_percent:
        accuracy = (
            f", accuracy {quality.baseline_accuracy_percent} % -> {quality.accuracy_percent} %"
            if quality.accuracy_percent
            else ""
        )
        return (
            f"The same label most likely for {quality.label_agreement_percent} % of "
            f"{quality.texts} texts{accuracy}"
        )
    found = [*_told_of_text(quality), *_told_of_answers(quality)]
    said = ", ".join(found)
    return said[:1].upper() + said[1:] if found else None


def _told_of_text(quality: QualityStatus) -> Iterator[str]:
    if quality.perplexity:
        change = f" ({float(quality.increase_percent):+.2f} %)" if quality.increase_percent else ""
        yield (
            f"perplexity {quality.baseline_perplexity} -> {quality.perplexity}{change} over "
            f"{quality.tokens} tokens"
        )
    if quality.top_token_agreement_percent:
        yield f"the same token most likely at {quality.top_token_agreement_percent} %"


def _told_of_answers(quality: QualityStatus) -> Iterator[str]:
    if quality.answer_agreement_percent:
        yield (
            f"the same answer to {quality.answer_agreement_percent} % of {quality.prompts} prompts"
        )
    if quality.task_accuracy_drop_points:
        yield (
            f"{quality.task_accuracy_drop_points} points of accuracy lost in "
            f"{len(quality.tasks)} tasks at most"
        )


def _superseded_jobs(snapshot: Snapshot, step: ArtifactStep) -> list[Manifest]:
    """Unfinished Jobs of an earlier recipe: nobody waits for them any more."""
    if not step.job_names:
        return []
    return [
        job
        for name, job in snapshot.jobs.items()
        if name not in step.job_names and not _finished(job)
    ]


def _finished(job: Manifest) -> bool:
    return any(
        c.get("type") in ("Complete", "Failed", "SuccessCriteriaMet", "FailureTarget")
        and c.get("status") == "True"
        for c in job.get("status", {}).get("conditions", [])
    )


def _finalizers(snapshot: Snapshot) -> list[str] | None:
    """The finalizer is there exactly while deleting the object must delete its artifacts."""
    wanted = snapshot.spec.storage.deletion_policy is DeletionPolicy.DELETE
    others = [f for f in snapshot.finalizers if f != meta.FINALIZER]
    there = meta.FINALIZER in snapshot.finalizers
    if wanted == there:
        return None
    return [*others, meta.FINALIZER] if wanted else others


def _plan_deletion(snapshot: Snapshot, now: datetime) -> Plan:
    """Remove the artifacts that only this object refers to, then let the object go."""
    status = snapshot.status
    if meta.FINALIZER not in snapshot.finalizers:
        return Plan(status)
    release = Plan(status, finalizers=[f for f in snapshot.finalizers if f != meta.FINALIZER])
    keeps = snapshot.spec.storage.deletion_policy is DeletionPolicy.RETAIN
    # No Job can be made in a namespace that is going: the artifact stays, the object must not.
    if keeps or not status.published_keys or snapshot.namespace_terminating:
        return release
    if snapshot.drafts_for:
        return stalled(
            snapshot,
            Problem(
                Reason.DRAFT_MODEL_IN_USE,
                f"it is the draft model of {', '.join(snapshot.drafts_for)}, whose new pods could "
                "not start without its artifact: remove spec.serving.engine.draftModel there, "
                "delete those too, or set spec.storage.deletionPolicy to Retain here.",
            ),
            now,
        )
    store = choices.choose_store(snapshot)
    if isinstance(store, Problem):
        hint = " Or set spec.storage.deletionPolicy to Retain to let the object go."
        return stalled(snapshot, Problem(store.reason, store.message + hint), now)
    task = DeleteTask(
        store=artifact.store_ref(store),
        keys=tuple(status.published_keys),
        referrer=artifact.referrer(snapshot),
    )
    name = meta.job_name(snapshot.name, meta.DELETE, digest(task.model_dump(mode="json")))
    running = [
        job for job_name, job in snapshot.jobs.items() if job_name != name and not _finished(job)
    ]
    job = snapshot.jobs.get(name)
    if job is None:
        made = jobs.delete_job(snapshot.model, name, task, artifact.job_access(snapshot, store))
        return Plan(_deleting(snapshot, now), apply=[with_hash(made)], delete=running)
    conditions = {
        c["type"] for c in job.get("status", {}).get("conditions", []) if c.get("status") == "True"
    }
    if "Complete" in conditions:
        return release
    mine = pods.of_job(snapshot.pods, job)
    refused = pods.refusal(mine) or (pods.last_failure(mine) if "Failed" in conditions else None)
    if refused is None and "Failed" in conditions:
        refused = Problem(Reason.DELETION_FAILED, f"Job {name} failed; delete it to try again.")
    problem = refused or pods.blocked(mine)
    if problem:
        hint = (
            f" Put that right and delete Job {name} to try again, or set "
            "spec.storage.deletionPolicy to Retain to let the object go."
        )
        return stalled(snapshot, Problem(Reason.DELETION_FAILED, problem.message + hint), now)
    return Plan(_deleting(snapshot, now))


def _deleting(snapshot: Snapshot, now: datetime) -> QuantizedModelStatus:
    state = State(False, Reason.DELETING, "Removing the artifacts that nothing else refers to.")
    states = dict.fromkeys(ConditionType, state) | {
        ConditionType.RECONCILING: State(True, state.reason, state.message),
        ConditionType.STALLED: State(False, Reason.HEALTHY, "Nothing is wrong."),
    }
    conditions = merge(snapshot.status.conditions, states, snapshot.generation, now)
    return snapshot.status.model_copy(
        update={"conditions": conditions, "observed_generation": snapshot.generation}
    )


def _unique(objects: list[Manifest]) -> list[Manifest]:
    return list({o["metadata"]["uid"]: o for o in objects}.values())
