"""resolve: what is there, what is it called, and is the artifact there already?"""

from quantop.contract import ArtifactSummary, ConversionTask, ResolveResult, artifact_key

from quantop_worker.checkpoint import inspect
from quantop_worker.manifest import whole_recipe
from quantop_worker.progress import Progress
from quantop_worker.report import write_report
from quantop_worker.sources import open_source
from quantop_worker.store import Artifact, store_bucket
from quantop_worker.texts import open_texts


def run(task: ConversionTask, progress: Progress) -> ResolveResult:
    """Check a source's shape, compute the artifact's key and look for it in the store."""
    progress.begin(f"reading the listing of {task.source.uri}")
    bucket = store_bucket(task.store)
    source = open_source(task)
    checkpoint = inspect(source, task.architectures, task.max_source_bytes, task.source_files)
    texts = open_texts(task)
    recipe = whole_recipe(task.recipe, texts.read_workflow())
    key = artifact_key(checkpoint.identity, recipe, task.calibration, texts.calibration_identity)
    progress.begin("looking for the artifact in the store")
    artifact = Artifact(task.store, key, bucket)
    published = _referred(artifact, task, texts.evaluation_id)
    return ResolveResult(
        key=key,
        source_identity=checkpoint.identity,
        source_size_bytes=checkpoint.size_bytes,
        architecture=checkpoint.architecture,
        published=published,
    )


def _referred(
    artifact: Artifact, task: ConversionTask, evaluation: str | None
) -> ArtifactSummary | None:
    if artifact.complete(evaluation) is None:
        return None
    artifact.refer(task.referrer)
    # A deletion may have ended between the look and the reference: only this look counts.
    published = artifact.complete(evaluation)
    if published is None:
        artifact.forget(task.referrer)
        return None
    # Written anew: by now other artifacts of the source may have been measured.
    write_report(artifact, published, task)
    return artifact.summary(published)
