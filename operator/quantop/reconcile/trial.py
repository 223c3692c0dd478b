"""The trial of a published artifact: in its engine, on a node, before it is rolled out.

Pure. What a trial showed is kept in status with a hash of what was tried, and never tried again for
the same; docs/adr/0013 says why it is so.
"""

from dataclasses import dataclass, field, replace
from typing import Any

from pydantic import ValidationError

from quantop.api.modelstore import ModelStoreSpec
from quantop.api.quantizedmodel import (
    AUTO,
    Artifact,
    Objective,
    Performance,
    QuantizedModelSpec,
)
from quantop.builders import engine_options, meta, serving
from quantop.builders import trial as builder
from quantop.builders.meta import Manifest
from quantop.contract import PullTask, Stage, TrialResult, digest
from quantop.reasons import Reason
from quantop.reconcile import artifact as artifacts
from quantop.reconcile import draft, gate, pods
from quantop.reconcile.artifact import ArtifactStep, decimal, store_ref
from quantop.reconcile.choices import ChosenRuntime
from quantop.reconcile.snapshot import Problem, Snapshot

MESSAGE_LENGTH = 2048


@dataclass(frozen=True)
class TrialStep:
    """Where the trial stands. Without ``performance`` it is going on, or a person must act."""

    performance: Performance | None = None
    """What it showed; with a ``reason`` where that is that the engine does not work."""
    problem: Problem | None = None
    progress: tuple[Reason, str] | None = None
    job_names: frozenset[str] = frozenset()
    apply: list[Manifest] = field(default_factory=list)
    delete: list[Manifest] = field(default_factory=list)


def is_wanted(spec: QuantizedModelSpec) -> bool:
    """Whether a limit or an objective needs figures that only a trial gives."""
    recipe = spec.quantization
    auto = recipe.auto if recipe.precision == AUTO else None
    compares = auto is not None and auto.minimize is not Objective.SIZE
    return compares or gate.limits_performance(spec.quality)


def needs_serving(spec: QuantizedModelSpec) -> Problem | None:
    """The Problem that a Preset asks for a trial where nothing is to be served."""
    if spec.serving is not None or not is_wanted(spec):
        return None
    return Problem(
        Reason.SERVING_REQUIRED,
        "a limit or an objective is measured in the engine that serves, and nothing is served: set "
        "spec.serving, or name another Preset.",
    )


def inputs_hash(snapshot: Snapshot, runtime: ChosenRuntime, key: str) -> str:
    """Hash over what decides how an artifact does, as far as it is known before a node is; the
    annotation lets a person ask again."""
    assert snapshot.spec.serving is not None
    spec = runtime.spec
    options = engine_options.given(snapshot.spec.serving)
    drafted = draft.choose(snapshot, runtime)
    again = snapshot.model["metadata"].get("annotations", {}).get(meta.REQUESTED_AT_ANNOTATION)
    return digest(
        {
            "artifact": key,
            "engine": spec.model_dump(
                mode="json",
                include={
                    "image",
                    "protocol",
                    "port",
                    "command",
                    "args",
                    "env",
                    "shared_memory",
                    "node_selector",
                },
            ),
            "startup": spec.probes.startup.model_dump(mode="json"),
            "resources": serving.engine_resources(snapshot.spec.serving, spec),
            "requestedAt": again,
            **({"options": [options, engine_options.arguments(spec, options)]} if options else {}),
            **({"draft": drafted.key} if isinstance(drafted, Artifact) else {}),
        }
    )


def recalled(
    snapshot: Snapshot, runtime: ChosenRuntime | None, key: str, known: Performance | None
) -> Performance | None:
    """What is known, if it is of this artifact in this engine."""
    if known is None or runtime is None or snapshot.spec.serving is None:
        return None
    return known if known.inputs_hash == inputs_hash(snapshot, runtime, key) else None


def failure(performance: Performance | None) -> Problem | None:
    """Why a trial has no figures, if it has none."""
    if performance is None or performance.reason is None:
        return None
    return Problem(performance.reason, performance.message or "")


def joined(step: ArtifactStep, tried: TrialStep) -> ArtifactStep:
    """The artifact's step with the trial's Jobs among its own."""
    return replace(
        step,
        job_names=step.job_names | tried.job_names,
        apply=[*step.apply, *tried.apply],
        delete=[*step.delete, *tried.delete],
    )


def next_step(
    snapshot: Snapshot,
    store: ModelStoreSpec,
    runtime: ChosenRuntime,
    artifact: Artifact,
    known: Performance | None,
) -> TrialStep:
    """What to do next so that the artifact is tried as it would be served."""
    inputs = inputs_hash(snapshot, runtime, artifact.key)
    name = meta.job_name(snapshot.name, meta.TRIAL, inputs)
    names = frozenset({name})
    if known is not None and known.inputs_hash == inputs:
        return TrialStep(known, job_names=names)
    drafted = draft.choose(snapshot, runtime, artifact)
    if isinstance(drafted, Problem):
        return TrialStep(problem=drafted, job_names=names)
    if isinstance(drafted, draft.Waiting):
        progress = (Reason.WAITING_FOR_DRAFT_MODEL, drafted.message)
        return TrialStep(progress=progress, job_names=names)
    job = snapshot.jobs.get(name)
    if job is None:
        return TrialStep(
            progress=(Reason.MEASURING, "Starting a trial of the artifact in its engine."),
            job_names=names,
            apply=[_job(snapshot, store, runtime, artifact, drafted, name)],
        )
    mine = pods.of_job(snapshot.pods, job)
    about = _about(snapshot, runtime, inputs)
    if said := pods.result(mine, Stage.TRIAL):
        try:
            shown = _performance(TrialResult.model_validate(said), about)
        except ValidationError as error:
            problem = artifacts.unreadable(Stage.TRIAL, error)
            return TrialStep(_failed(problem, about), job_names=names, delete=[job])
        return TrialStep(shown, job_names=names)
    if crash := pods.crash(mine, serving.ENGINE):
        problem = Problem(
            crash.reason if crash.reason == Reason.OUT_OF_MEMORY else Reason.TRIAL_FAILED,
            f"{crash.message}: it has to answer {runtime.spec.probes.startup.path} within "
            f"{_patience(runtime)} s, and the requests of the trial. Another precision, or more in "
            "spec.serving.resources, may do.",
        )
        return TrialStep(_failed(problem, about), job_names=names, delete=[job])
    # That the engine is ended with the client is no failure of its own.
    others = pods.without(mine, serving.ENGINE)
    step = artifacts.unfinished(job, others, inputs, Reason.MEASURING, "A trial in the engine")
    if step.failure:
        return TrialStep(
            _failed(Problem(step.failure.reason, step.failure.message), about),
            job_names=names,
            delete=step.delete,
        )
    blocked = step.problem or pods.blocked(mine)
    going_on = None if blocked else step.progress
    return TrialStep(None, blocked, going_on, names, delete=step.delete)


def _job(
    snapshot: Snapshot,
    store: ModelStoreSpec,
    runtime: ChosenRuntime,
    artifact: Artifact,
    drafted: Artifact | None,
    name: str,
) -> Manifest:
    assert snapshot.spec.serving is not None
    pull = PullTask(
        store=store_ref(store), key=artifact.key, manifest_digest=artifact.manifest_digest
    )
    return builder.trial_job(
        snapshot.model,
        name,
        snapshot.spec.serving,
        artifact,
        runtime.spec,
        pull,
        artifacts.serving_access(snapshot, store),
        drafted,
    )


def _about(snapshot: Snapshot, runtime: ChosenRuntime, inputs: str) -> dict[str, Any]:
    """What is known of a trial before it has shown anything."""
    assert snapshot.spec.serving is not None
    return {
        "inputs_hash": inputs,
        "runtime": runtime.name,
        "image": runtime.spec.image,
        "cpus": serving.engine_cores(serving.engine_resources(snapshot.spec.serving, runtime.spec)),
    }


def _performance(result: TrialResult, about: dict[str, Any]) -> Performance:
    return Performance(
        **about,
        protocol=result.protocol[:64],
        time_to_first_token_milliseconds=decimal(result.time_to_first_token_milliseconds),
        tokens_per_second=decimal(result.tokens_per_second),
        answer_milliseconds=decimal(result.answer_milliseconds),
        peak_memory_bytes=result.peak_memory_bytes,
        runs=result.runs,
        prompt_tokens=result.prompt_tokens,
        output_tokens=result.output_tokens,
        node=result.node[:253],
        processor=result.processor[:256],
    )


def _failed(problem: Problem, about: dict[str, Any]) -> Performance:
    return Performance(
        **about, reason=problem.reason[:128], message=problem.message[:MESSAGE_LENGTH]
    )


def _patience(runtime: ChosenRuntime) -> int:
    """Seconds that the engine may take to load."""
    startup = runtime.spec.probes.startup
    return startup.period_seconds * startup.failure_threshold
