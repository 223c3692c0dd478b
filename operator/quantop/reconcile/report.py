"""What trials showed, kept in the store beside what was measured.

Pure. Neither the engine nor who asks it in a trial has credentials, so that a Job of its own
writes; docs/adr/0013 says why it is so. It keeps nothing else waiting, and failing stalls nothing.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

from quantop.api.modelstore import ModelStoreSpec
from quantop.api.quantizedmodel import Candidate, Performance, QualityStatus
from quantop.builders import jobs, meta
from quantop.builders.meta import Manifest
from quantop.contract import ReportTask, Trial, artifact_prefix, digest, trial_object
from quantop.reasons import Reason
from quantop.reconcile import artifact as artifacts
from quantop.reconcile import pods
from quantop.reconcile.artifact import ArtifactStep
from quantop.reconcile.snapshot import Snapshot


@dataclass(frozen=True)
class ReportStep:
    """Where the report stands. Without ``progress`` it is written, or has failed for now."""

    shown: Mapping[str, Performance]
    """What the trials showed, by the artifact's key, with where that is kept."""
    progress: tuple[Reason, str] | None = None
    job_names: frozenset[str] = frozenset()
    apply: list[Manifest] = field(default_factory=list)


def tried(candidates: Iterable[Candidate]) -> dict[str, Performance]:
    """What the candidates' trials showed, by the artifact's key."""
    return {
        c.key: c.performance
        for c in candidates
        if c.key and c.performance and not c.performance.reason
    }


def marked(candidates: Iterable[Candidate], told: ReportStep) -> list[Candidate]:
    """The candidates with where what their trials showed is kept."""
    return [
        c.model_copy(update={"performance": shown}) if (shown := told.shown.get(c.key or "")) else c
        for c in candidates
    ]


def next_step(
    snapshot: Snapshot,
    store: ModelStoreSpec,
    key: str,
    quality: QualityStatus | None,
    shown: Mapping[str, Performance],
) -> ReportStep:
    """What to do next so that the store has what the trials showed, with the page about the
    artifact of that key and quality written anew."""
    if all(each.report_uri for each in shown.values()):
        return ReportStep(shown)
    task = _task(snapshot, store, key, quality, shown)
    name = meta.job_name(snapshot.name, meta.REPORT, digest(task.model_dump(mode="json")))
    progress = (Reason.REPORTING, "Writing what the trial showed into the report.")
    job = snapshot.jobs.get(name)
    if job is None:
        made = jobs.report_job(snapshot.model, name, task, artifacts.job_access(snapshot, store))
        return ReportStep(shown, progress, frozenset({name}), [made])
    if pods.has_ended(job, "Complete"):
        place = trial_object(task.referrer)
        return ReportStep(
            {
                each: its.model_copy(update={"report_uri": f"{_uri(task, each)}/{place}"})
                for each, its in shown.items()
            }
        )
    if pods.has_ended(job, "Failed"):
        # Another one is made once this one is gone.
        return ReportStep(shown)
    return ReportStep(shown, progress, frozenset({name}))


def joined(step: ArtifactStep, told: ReportStep) -> ArtifactStep:
    """The artifact's step with the report's Job among its own."""
    return replace(
        step, job_names=step.job_names | told.job_names, apply=[*step.apply, *told.apply]
    )


def _task(
    snapshot: Snapshot,
    store: ModelStoreSpec,
    key: str,
    quality: QualityStatus | None,
    shown: Mapping[str, Performance],
) -> ReportTask:
    limits = snapshot.spec.quality
    task = ReportTask(
        store=artifacts.store_ref(store),
        referrer=artifacts.referrer(snapshot),
        key=key,
        trials=tuple(_trial(each, its) for each, its in sorted(shown.items())),
        max_mean_kl_divergence=limits.max_mean_kl_divergence if limits else None,
    )
    page = quality.report_uri if quality else None
    if page is None:
        return task
    return task.model_copy(update={"report": page.removeprefix(f"{_uri(task, key)}/")})


def _uri(task: ReportTask, key: str) -> str:
    """Where an artifact is, as who published it says."""
    return f"s3://{task.store.bucket}/{artifact_prefix(task.store, key)}"


def _trial(key: str, shown: Performance) -> Trial:
    return Trial.model_validate({"key": key, **shown.model_dump()})
