"""report: what an object's trials showed, kept beside its artifacts and shown on their page."""

from dataclasses import replace

from quantop.contract import ReportResult, ReportTask

from quantop_worker.progress import Progress
from quantop_worker.report import write_report
from quantop_worker.store import Artifact, store_bucket


def run(task: ReportTask, progress: Progress) -> ReportResult:
    """Keep each trial with its artifact, then write the page about the one that was chosen."""
    bucket = store_bucket(task.store)
    for trial in task.trials:
        artifact = Artifact(task.store, trial.key, bucket)
        progress.begin(f"keeping a trial of {artifact.uri}")
        artifact.put_trial(task.referrer, trial)
    artifact = Artifact(task.store, task.key, bucket)
    published = artifact.read()
    quality = artifact.quality_of(task.report) if task.report else None
    if published and quality:
        write_report(artifact, replace(published, quality=quality), task)
    return ReportResult(trials=len(task.trials))
