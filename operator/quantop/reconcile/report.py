"""What a trial showed, kept in the store beside what was measured.

Pure. Neither the engine nor who asks it in a trial has credentials, so that a Job of its own
writes; docs/adr/0013 says why it is so. It keeps nothing else waiting, and failing stalls nothing.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field, replace

from quantop.api.modelstore import ModelStoreSpec
from quantop.api.quantizedmodel import Candidate, Performance
from quantop.builders import jobs, meta
from quantop.builders.meta import Manifest
from quantop.contract import ReportTask, Trial, digest, trial_object
from quantop.reasons import Reason
from quantop.reconcile import artifact as artifacts
from quantop.reconcile import pods
from quantop.reconcile.artifact import ArtifactStep
from quantop.reconcile.snapshot import Snapshot


@dataclass(frozen=True)
class ReportStep:
    """Where the report stands. Without ``progress`` it is written, or has failed for now."""

    performance: Performance
    """What the trial showed, with where that is kept."""
    progress: tuple[Reason, str] | None = None
    job_names: frozenset[str] = frozenset()
    apply: list[Manifest] = field(default_factory=list)


def next_step(
    snapshot: Snapshot,
    store: ModelStoreSpec,
    step: ArtifactStep,
    candidates: Iterable[Candidate],
    shown: Performance,
) -> ReportStep:
    """What to do next so that the store has what the trials showed."""
    assert step.artifact is not None
    if shown.report_uri:
        return ReportStep(shown)
    task = _task(snapshot, store, step, candidates, shown)
    name = meta.job_name(snapshot.name, meta.REPORT, digest(task.model_dump(mode="json")))
    progress = (Reason.REPORTING, "Writing what the trial showed into the report.")
    job = snapshot.jobs.get(name)
    if job is None:
        made = jobs.report_job(snapshot.model, name, task, artifacts.job_access(snapshot, store))
        return ReportStep(shown, progress, frozenset({name}), [made])
    if pods.has_ended(job, "Complete"):
        uri = f"{step.artifact.uri}/{trial_object(task.referrer)}"
        return ReportStep(shown.model_copy(update={"report_uri": uri}))
    if pods.has_ended(job, "Failed"):
        # Another one is made once this one is gone.
        return ReportStep(shown)
    return ReportStep(shown, progress, frozenset({name}))


def _task(
    snapshot: Snapshot,
    store: ModelStoreSpec,
    step: ArtifactStep,
    candidates: Iterable[Candidate],
    shown: Performance,
) -> ReportTask:
    artifact, quality, limits = step.artifact, step.quality, snapshot.spec.quality
    assert artifact is not None
    tried = {c.key: c.performance for c in candidates if c.key and c.performance}
    tried[artifact.key] = shown
    page = quality.report_uri if quality else None
    return ReportTask(
        store=artifacts.store_ref(store),
        referrer=artifacts.referrer(snapshot),
        key=artifact.key,
        report=page.removeprefix(f"{artifact.uri}/") if page else "",
        trials=tuple(_trial(key, each) for key, each in sorted(tried.items()) if not each.reason),
        max_mean_kl_divergence=limits.max_mean_kl_divergence if limits else None,
    )


def _trial(key: str, shown: Performance) -> Trial:
    return Trial.model_validate({"key": key, **shown.model_dump()})


def joined(step: ArtifactStep, told: ReportStep) -> ArtifactStep:
    """The artifact's step with the report's Job among its own."""
    return replace(
        step, job_names=step.job_names | told.job_names, apply=[*step.apply, *told.apply]
    )
