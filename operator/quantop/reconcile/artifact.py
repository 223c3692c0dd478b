"""The way from a spec to a published artifact: resolve, wait, convert.

Pure: looks at the snapshot, says which Jobs should be and what the status should say.
"""

from dataclasses import dataclass, field, replace
from typing import Any

from pydantic import ValidationError

from quantop.api.modelstore import HubSources, ModelStoreSpec
from quantop.api.quantizedmodel import (
    MAX_BENCHMARK_CANDIDATES,
    MAX_TASKS,
    Artifact,
    ArtifactState,
    Benchmark,
    BenchmarkCandidate,
    BenchmarkFigure,
    BenchmarkState,
    Failure,
    QualityStatus,
    Resolution,
    TaskAccuracy,
)
from quantop.builders import jobs, meta, serving
from quantop.builders.meta import Manifest
from quantop.contract import (
    ArtifactSummary,
    CalibrationRef,
    ConversionTask,
    EvaluationRef,
    Override,
    PromptsRef,
    PublishResult,
    QualityReport,
    Recipe,
    Referrer,
    ResolveResult,
    SourceRef,
    Stage,
    StoreRef,
    TaskReport,
    TasksRef,
    WorkflowRef,
    digest,
)
from quantop.quantities import to_bytes
from quantop.reasons import Reason
from quantop.reconcile import estimate, pods
from quantop.reconcile.choices import ChosenQuantizer, allowed_passes
from quantop.reconcile.snapshot import Problem, Snapshot


@dataclass(frozen=True)
class ArtifactStep:
    """Where the artifact stands. Without ``problem`` and ``progress`` it is published."""

    artifact: Artifact | None = None
    quality: QualityStatus | None = None
    resolution: Resolution | None = None
    failure: Failure | None = None
    problem: Problem | None = None
    progress: tuple[Reason, str] | None = None
    job_names: frozenset[str] = frozenset()
    """Names of the Jobs of current recipes; empty where the recipe is not known."""
    apply: list[Manifest] = field(default_factory=list)
    delete: list[Manifest] = field(default_factory=list)


def next_step(
    snapshot: Snapshot, store: ModelStoreSpec, quantizer: ChosenQuantizer
) -> ArtifactStep:
    """What to do next for the artifact of the current spec."""
    task = conversion_task(snapshot, store, quantizer)
    inputs = inputs_hash(snapshot, task)
    step = _step(snapshot, task, inputs, store, quantizer)
    return replace(step, job_names=job_names(snapshot, inputs))


def job_names(snapshot: Snapshot, inputs: str) -> frozenset[str]:
    """Names of the Jobs that may be made for these inputs."""
    return frozenset(meta.job_name(snapshot.name, c, inputs) for c in (meta.RESOLVE, meta.CONVERT))


def _step(
    snapshot: Snapshot,
    task: ConversionTask,
    inputs: str,
    store: ModelStoreSpec,
    quantizer: ChosenQuantizer,
) -> ArtifactStep:
    failure = snapshot.status.failure
    if failure is not None and failure.inputs_hash == inputs:
        problem = Problem(failure.reason, failure.message, failure.stage)
        return ArtifactStep(failure=failure, problem=problem)
    access = job_access(snapshot, store)
    resolution = snapshot.status.resolution
    if resolution is None or resolution.inputs_hash != inputs:
        return _resolve(snapshot, task, inputs, access)
    status = snapshot.status
    if (
        resolution.state is ArtifactState.PUBLISHED
        and status.artifact is not None
        and status.artifact.key == resolution.key
    ):
        return ArtifactStep(status.artifact, status.quality, resolution)
    return _convert(snapshot, task, inputs, resolution, quantizer, access)


def store_ref(store: ModelStoreSpec) -> StoreRef:
    """A ModelStore as pods are told it."""
    return StoreRef.of(store.s3.model_dump(mode="json", by_alias=True))


def referrer(snapshot: Snapshot) -> Referrer:
    """The object as a store's references name it."""
    return Referrer(
        cluster=snapshot.settings.cluster_name,
        namespace=snapshot.namespace,
        name=snapshot.name,
    )


def job_access(snapshot: Snapshot, store: ModelStoreSpec) -> jobs.Access:
    """How the object's Jobs get at the store and the source."""
    return jobs.Access(
        worker_image=snapshot.settings.worker_image,
        service_account=store.service_account_name,
        store_secret=store.credentials.writer_secret_name if store.credentials else None,
        source_secret=snapshot.spec.source.credentials_secret_name,
    )


def serving_access(snapshot: Snapshot, store: ModelStoreSpec) -> serving.Access:
    """How the object's engines get at the store."""
    return serving.Access(
        worker_image=snapshot.settings.worker_image,
        service_account=store.service_account_name,
        reader_secret=store.credentials.reader_secret_name if store.credentials else None,
    )


def conversion_task(
    snapshot: Snapshot, store: ModelStoreSpec, quantizer: ChosenQuantizer
) -> ConversionTask:
    """The task that resolve, fetch and publish share; its key is not known yet."""
    spec = snapshot.spec
    calibration, stored = spec.quantization.calibration, spec.quantization.workflow_from
    evaluation = spec.quality.evaluation if spec.quality else None
    prompts = evaluation.prompts if evaluation else None
    tasks = evaluation.tasks if evaluation else None
    return ConversionTask(
        store=store_ref(store),
        source=SourceRef(
            uri=spec.source.uri,
            revision=spec.source.revision,
            hub_endpoint=snapshot.settings.hub_endpoint,
            mirrored=store.hub_sources is HubSources.MIRRORED
            and spec.source.uri.startswith("hf://"),
        ),
        recipe=Recipe(
            format=snapshot.format,
            precision=snapshot.precision,
            method=quantizer.method.name,
            quantizer=quantizer.name,
            quantizer_image=quantizer.spec.image,
            toolchain_digest=digest(
                {
                    "command": quantizer.spec.command,
                    "env": {each.name: each.value for each in quantizer.spec.env},
                }
            ),
            overrides=tuple(
                Override(tensors=each.tensors, precision=each.precision)
                for each in spec.quantization.overrides
            ),
            max_file_bytes=to_bytes(most) if (most := spec.quantization.max_file_size) else None,
            workflow=quantizer.workflow,
        ),
        referrer=referrer(snapshot),
        calibration=calibration
        and CalibrationRef(
            uri=calibration.uri,
            samples=calibration.samples,
            sequence_length=calibration.sequence_length,
        ),
        workflow=stored and WorkflowRef(uri=stored.uri, passes=allowed_passes(quantizer.spec)),
        evaluation=evaluation
        and EvaluationRef(
            uri=evaluation.uri,
            sequence_length=evaluation.sequence_length,
            max_tokens=evaluation.max_tokens,
            prompts=prompts
            and PromptsRef(
                uri=prompts.uri,
                max_prompts=prompts.max_prompts,
                answer_tokens=prompts.answer_tokens,
            ),
            tasks=tasks and TasksRef(uri=tasks.uri, max_samples=tasks.max_samples),
        ),
        architectures=tuple(quantizer.spec.architectures),
        source_files=tuple(quantizer.spec.source_files),
        max_source_bytes=snapshot.settings.max_source_bytes,
        max_mean_kl_divergence=spec.quality.max_mean_kl_divergence if spec.quality else None,
    )


def inputs_hash(snapshot: Snapshot, task: ConversionTask) -> str:
    """Hash over all that resolve's answer follows from; the annotation lets a person ask again.
    What is left at its default does not count, so that a new version asks nothing anew; nor does a
    limit, which needs no other Job."""
    again = snapshot.model["metadata"].get("annotations", {}).get(meta.REQUESTED_AT_ANNOTATION)
    unasked: dict[str, Any] = {"source": {"mirrored"}, "max_mean_kl_divergence": True}
    asked = task.model_dump(mode="json", exclude_defaults=True, exclude=unasked)
    return digest({"task": asked, "requestedAt": again})


def _resolve(
    snapshot: Snapshot, task: ConversionTask, inputs: str, access: jobs.Access
) -> ArtifactStep:
    name = meta.job_name(snapshot.name, meta.RESOLVE, inputs)
    job = snapshot.jobs.get(name)
    if job is None:
        return ArtifactStep(
            progress=(Reason.RESOLVING, "Asking what the source is and whether the store has it."),
            apply=[jobs.resolve_job(snapshot.model, name, task, access)],
        )
    mine = pods.of_job(snapshot.pods, job)
    if said := pods.result(mine, Stage.RESOLVE):
        try:
            answer = ResolveResult.model_validate(said)
        except ValidationError as error:
            return _failed(inputs, unreadable(Stage.RESOLVE, error), [job])
        state = ArtifactState.PUBLISHED if answer.published else ArtifactState.MISSING
        resolution = Resolution(
            inputs_hash=inputs,
            key=answer.key,
            state=state,
            source_identity=answer.source_identity[:256],
            source_size_bytes=answer.source_size_bytes,
            architecture=answer.architecture[:256],
        )
        if answer.published is None:
            return ArtifactStep(
                resolution=resolution,
                progress=(Reason.CONVERTING, "The store does not have it: preparing a conversion."),
            )
        return ArtifactStep(
            artifact_status(answer.published),
            quality_status(answer.published.quality, report_uri(answer.published)),
            resolution,
        )
    return unfinished(job, mine, inputs, Reason.RESOLVING, "Asking what the source is")


def _convert(
    snapshot: Snapshot,
    task: ConversionTask,
    inputs: str,
    resolution: Resolution,
    quantizer: ChosenQuantizer,
    access: jobs.Access,
) -> ArtifactStep:
    name = meta.job_name(snapshot.name, meta.CONVERT, inputs)
    job = snapshot.jobs.get(name)
    if job is None:
        if snapshot.peers:
            peer = snapshot.peers[0]
            return ArtifactStep(
                resolution=resolution.model_copy(
                    update={"awaited_job": f"{peer.namespace}/{peer.name}"}
                ),
                progress=(
                    Reason.WAITING_FOR_CONVERSION,
                    f"Job {peer.name} in namespace {peer.namespace} makes the same artifact.",
                ),
            )
        if resolution.awaited_job:
            # The other Job has ended: ask the store again, which also writes our reference.
            old = snapshot.jobs.get(meta.job_name(snapshot.name, meta.RESOLVE, inputs))
            return ArtifactStep(
                progress=(
                    Reason.RESOLVING,
                    "The awaited conversion ended: asking the store again.",
                ),
                delete=[old] if old else [],
            )
        wants = estimate.estimate(
            quantizer.spec,
            snapshot.spec.quantization.resources,
            resolution.source_size_bytes,
            compares=task.evaluation is not None,
        )
        if problem := estimate.exceeds(wants, resolution.source_size_bytes, snapshot.capacity):
            return ArtifactStep(resolution=resolution, problem=problem)
        keyed = task.model_copy(
            update={"key": resolution.key, "source_identity": resolution.source_identity}
        )
        return ArtifactStep(
            resolution=resolution,
            progress=(Reason.CONVERTING, "Starting the conversion."),
            apply=[
                jobs.conversion_job(
                    snapshot.model,
                    name,
                    keyed,
                    access,
                    quantizer.spec,
                    quantizer.precision,
                    wants,
                )
            ],
        )
    mine = pods.of_job(snapshot.pods, job)
    if said := pods.result(mine, Stage.PUBLISH):
        try:
            answer = PublishResult.model_validate(said)
        except ValidationError as error:
            return _failed(inputs, unreadable(Stage.PUBLISH, error), [job])
        return ArtifactStep(
            artifact_status(answer.published),
            quality_status(answer.published.quality, report_uri(answer.published)),
            resolution.model_copy(update={"state": ArtifactState.PUBLISHED, "awaited_job": ""}),
        )
    step = unfinished(job, mine, inputs, Reason.CONVERTING, "Converting")
    if step.failure is None and step.delete:
        # Finished, and its answer is lost with its pod: the store knows.
        old = snapshot.jobs.get(meta.job_name(snapshot.name, meta.RESOLVE, inputs))
        return ArtifactStep(progress=step.progress, delete=[*step.delete, *([old] if old else [])])
    return ArtifactStep(
        resolution=resolution,
        failure=step.failure,
        problem=step.problem,
        progress=step.progress,
        delete=step.delete,
    )


def unfinished(
    job: Manifest,
    mine: list[Manifest],
    inputs: str,
    reason: Reason,
    doing: str,
) -> ArtifactStep:
    """A Job whose answer is not there: refused, failed, ended without a word, blocked, or going
    on."""
    if refused := pods.refusal(mine):
        return _failed(inputs, refused, [job])
    ended = {
        c["type"]: c
        for c in job.get("status", {}).get("conditions", [])
        if c.get("status") == "True"
    }
    if "Failed" in ended:
        why = pods.last_failure(mine) or Problem(
            Reason.JOB_FAILED,
            f"{job['metadata']['name']}: {ended['Failed'].get('message', 'failed')}",
        )
        return _failed(inputs, why, [])
    if "Complete" in ended:
        return ArtifactStep(
            progress=(reason, "The Job ended, but its answer was lost with its pod: asking again."),
            delete=[job],
        )
    if problem := pods.blocked(mine):
        return ArtifactStep(problem=problem)
    return ArtifactStep(progress=(reason, _progress(mine, doing)))


def _progress(mine: list[Manifest], doing: str) -> str:
    if stage := pods.running_stage(mine):
        return f"{doing}: {stage} is running."
    if why := pods.unschedulable(mine):
        return f"{doing}: no node can take the pod yet: {why}"
    if problem := pods.last_failure(mine):
        return f"{doing}: trying again after {problem.message}"
    return f"{doing}: its pod is starting."


def _failed(inputs: str, problem: Problem, delete: list[Manifest]) -> ArtifactStep:
    """Given up until the inputs change; a Job that would only try again is deleted."""
    return ArtifactStep(
        failure=Failure(
            inputs_hash=inputs,
            stage=problem.stage,
            reason=problem.reason[:128],
            message=problem.message[:4096],
        ),
        problem=problem,
        delete=delete,
    )


def unreadable(stage: Stage, error: ValidationError) -> Problem:
    """The Problem that a stage's answer is of another version."""
    return Problem(
        Reason.JOB_FAILED,
        f"{stage}: its answer is not what this operator understands ({error.error_count()} "
        "errors): use worker and operator images of the same version.",
    )


def artifact_status(summary: ArtifactSummary) -> Artifact:
    """A published artifact as the status shows it."""
    return Artifact(
        key=summary.key,
        uri=summary.uri,
        size_bytes=summary.size_bytes,
        source_size_bytes=summary.source_size_bytes,
        source_uri=summary.source_uri or None,
        bits_per_weight=decimal(summary.quality.bits_per_weight) if summary.quality else None,
        format=summary.recipe.format,
        precision=summary.recipe.precision,
        method=summary.recipe.method,
        quantizer=summary.recipe.quantizer,
        quantizer_image=summary.recipe.quantizer_image,
        manifest_digest=summary.manifest_digest,
        vocabulary_digest=summary.quality.vocabulary_digest if summary.quality else None,
        benchmark=benchmark_status(summary),
    )


def benchmark_status(summary: ArtifactSummary) -> Benchmark | None:
    """What the toolchain measured itself, as the status shows it."""
    found = summary.benchmark
    if found is None:
        return None
    return Benchmark(
        node=found.node,
        processor=found.processor[:256],
        threads=found.threads,
        candidates=[
            BenchmarkCandidate(
                name=each.name,
                state=BenchmarkState(each.state),
                figures=[
                    BenchmarkFigure(name=name, value=short(value))
                    for name, value in each.figures.items()
                ],
            )
            for each in found.candidates[:MAX_BENCHMARK_CANDIDATES]
        ],
        report_uri=f"{summary.uri}/{found.report}",
    )


def report_uri(summary: ArtifactSummary) -> str | None:
    """Where the page about a published artifact's quality is, if there is one."""
    return f"{summary.uri}/{summary.report}" if summary.report else None


def quality_status(
    report: QualityReport | None, report_uri: str | None = None
) -> QualityStatus | None:
    """What was measured, as the status shows it."""
    if report is None:
        return None
    increase: float | None = None
    if report.perplexity is not None and report.baseline_perplexity:
        increase = (report.perplexity / report.baseline_perplexity - 1) * 100
    return QualityStatus(
        protocol=report.protocol,
        baseline_perplexity=decimal(report.baseline_perplexity),
        perplexity=decimal(report.perplexity),
        increase_percent=decimal(increase),
        increase_percent_low=decimal(report.increase_percent_low),
        increase_percent_high=decimal(report.increase_percent_high),
        top_token_agreement_percent=decimal(report.top_token_agreement_percent),
        mean_kl_divergence=decimal(report.mean_kl_divergence, 6),
        p99_kl_divergence=decimal(report.p99_kl_divergence, 6),
        mean_cosine_similarity=decimal(report.mean_cosine_similarity, 6),
        p1_cosine_similarity=decimal(report.p1_cosine_similarity, 6),
        label_agreement_percent=decimal(report.label_agreement_percent),
        baseline_accuracy_percent=decimal(report.baseline_accuracy_percent),
        accuracy_percent=decimal(report.accuracy_percent),
        answer_agreement_percent=decimal(report.answer_agreement_percent),
        mean_answer_prefix_percent=decimal(report.mean_answer_prefix_percent),
        prompts=report.prompts,
        task_accuracy_drop_points=decimal(report.task_accuracy_drop_points),
        tasks=[task_status(task) for task in report.tasks[:MAX_TASKS]],
        texts=report.texts,
        tokens=report.tokens,
        report_uri=report_uri,
    )


def task_status(report: TaskReport) -> TaskAccuracy:
    """The accuracies in one task, as the status shows them."""
    return TaskAccuracy(
        name=report.name[:32],
        metric=report.metric[:32],
        samples=report.samples,
        baseline_percent=fixed(report.baseline_percent),
        baseline_error_percent=fixed(report.baseline_error_percent),
        accuracy_percent=fixed(report.accuracy_percent),
        error_percent=fixed(report.error_percent),
    )


def decimal(value: Any, digits: int = 3) -> str | None:
    """The same of what may not have been measured."""
    return None if value is None else fixed(value, digits)


def fixed(value: float, digits: int = 3) -> str:
    """A number as a decimal string with so many digits behind the point."""
    return f"{value:.{digits}f}"


def short(value: float) -> str:
    """A number as a decimal string of six digits behind the point, less zeros at the end."""
    # Without a sign where nothing is left of the number.
    return fixed(round(value, 6) + 0.0, 6).rstrip("0").rstrip(".")
