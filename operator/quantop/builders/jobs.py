"""Jobs: resolve, convert, report, delete."""

from dataclasses import dataclass

from quantop.api.quantizer import QuantizerPrecision, QuantizerSpec
from quantop.builders import meta, pod
from quantop.builders.meta import Manifest
from quantop.contract import (
    ARTIFACT_DIR,
    CALIBRATION_FILE,
    EVALUATION_FILE,
    PROMPTS_FILE,
    QUALITY_FILE,
    SOURCE_DIR,
    TASKS_DIR,
    WORK_DIR,
    WORKFLOW_FILE,
    ConversionTask,
    DeleteTask,
    Message,
    ReportTask,
    Stage,
)
from quantop.quantities import to_bytes, to_cores

BACKOFF_LIMIT = 4
"""Tries beyond the first. A container restarts in its pod and goes on where it was."""
TTL_SECONDS = 3600
"""How long a finished Job is kept for its logs."""


@dataclass(frozen=True)
class Access:
    """How a pod gets at the store and the source."""

    worker_image: str
    service_account: str
    store_secret: str | None
    source_secret: str | None = None


@dataclass(frozen=True)
class Needs:
    """Resources of the toolchain's stages, and the size of the shared work folder."""

    quantize: Manifest
    evaluate: Manifest
    disk: str


def resolve_job(model: Manifest, name: str, task: ConversionTask, access: Access) -> Manifest:
    """The Job that turns a source into an artifact key and looks whether the store has it."""
    names = _task_claims(task)
    return job(
        model,
        name,
        meta.RESOLVE,
        {},
        pod.pod_spec(
            access.service_account,
            restartPolicy="OnFailure",
            containers=[
                pod.worker(
                    Stage.RESOLVE,
                    access.worker_image,
                    task,
                    pod.claim_mounts(names),
                    store_secret=access.store_secret,
                    source_secret=access.source_secret,
                )
            ],
            volumes=[pod.scratch("tmp"), *pod.claim_volumes(names)],
        ),
    )


def conversion_job(
    model: Manifest,
    name: str,
    task: ConversionTask,
    access: Access,
    quantizer: QuantizerSpec,
    precision: QuantizerPrecision,
    needs: Needs,
) -> Manifest:
    """The Job that makes, measures and publishes an artifact, one stage per container.

    Only fetch sees the source's credentials, only fetch and publish the store's, the toolchain
    none.
    """
    assert task.key is not None
    names = _task_claims(task)
    work = pod.mount("work", str(WORK_DIR))
    fetch = pod.worker(
        Stage.FETCH,
        access.worker_image,
        task,
        [work, *pod.claim_mounts(names)],
        store_secret=access.store_secret,
        source_secret=access.source_secret,
    )
    fetch["resources"] = fetch_resources(needs)
    cores = to_cores(needs.quantize.get("limits", {}).get("cpu", "1"))
    environment = _toolchain_environment(model, task, precision, cores)
    stages = [
        pod.container(
            stage,
            quantizer.image,
            command=[*quantizer.command, stage],
            env=[*environment, *(pod.env(e.name, e.value) for e in quantizer.env)],
            resources=resources,
            volumeMounts=[work, pod.mount("tmp", "/tmp")],
        )
        for stage, resources in (
            (Stage.QUANTIZE, needs.quantize),
            (Stage.EVALUATE, needs.evaluate),
        )
    ]
    publish = pod.worker(
        Stage.PUBLISH, access.worker_image, task, [work], store_secret=access.store_secret
    )
    # A toolchain may have measured how fast its candidates are.
    publish["env"].append(pod.node())
    return job(
        model,
        name,
        meta.CONVERT,
        {meta.KEY_LABEL: meta.short_key(task.key)},
        pod.pod_spec(
            access.service_account,
            restartPolicy="OnFailure",
            initContainers=[fetch, *stages],
            containers=[publish],
            volumes=[
                pod.scratch("work", needs.disk),
                pod.scratch("tmp"),
                *pod.claim_volumes(names),
            ],
        ),
    )


def report_job(model: Manifest, name: str, task: ReportTask, access: Access) -> Manifest:
    """The Job that keeps what trials showed, and writes the page about the artifact anew."""
    return _store_job(model, name, meta.REPORT, Stage.REPORT, task, access)


def delete_job(model: Manifest, name: str, task: DeleteTask, access: Access) -> Manifest:
    """The Job that gives up an object's references and removes what nobody refers to."""
    return _store_job(model, name, meta.DELETE, Stage.DELETE, task, access)


def _store_job(
    model: Manifest, name: str, component: str, stage: Stage, task: Message, access: Access
) -> Manifest:
    """A Job of one stage, which needs the store and nothing else."""
    return job(
        model,
        name,
        component,
        {},
        pod.pod_spec(
            access.service_account,
            restartPolicy="OnFailure",
            containers=[
                pod.worker(stage, access.worker_image, task, [], store_secret=access.store_secret)
            ],
            volumes=[pod.scratch("tmp")],
        ),
    )


def job(
    model: Manifest, name: str, component: str, extra_labels: dict[str, str], spec: Manifest
) -> Manifest:
    """A Job whose pod has this spec, and the Job's labels."""
    made = meta.child("batch/v1", "Job", model, component, name=name, extra_labels=extra_labels)
    made["spec"] = {
        "backoffLimit": BACKOFF_LIMIT,
        "ttlSecondsAfterFinished": TTL_SECONDS,
        "template": {
            "metadata": {"labels": dict(made["metadata"]["labels"])},
            "spec": spec,
        },
    }
    return made


def fetch_resources(needs: Needs) -> Manifest:
    """Those of a worker, with the disk, which is there for each stage: the scheduler takes the
    largest request of all.

    The files stay in the page cache within the limit of memory of whoever wrote them, so that the
    toolchain need not read from the disk what its own limit has room for.
    """
    requests, limits = pod.WORKER_RESOURCES["requests"], pod.WORKER_RESOURCES["limits"]
    toolchain = needs.quantize.get("limits", {}).get("memory", limits["memory"])
    return {
        "requests": {**requests, "ephemeral-storage": needs.disk},
        "limits": {**limits, "memory": max(toolchain, limits["memory"], key=to_bytes)},
    }


def _task_claims(task: ConversionTask) -> list[str]:
    evaluation = task.evaluation
    measured_by = (evaluation, evaluation.prompts, evaluation.tasks) if evaluation else ()
    uris = (each.uri for each in (task.calibration, task.workflow, *measured_by) if each)
    return pod.claims(task.source.uri, *(uri for uri in uris if uri))


def _toolchain_environment(
    model: Manifest, task: ConversionTask, precision: QuantizerPrecision, cores: int
) -> list[Manifest]:
    """The variables of the adapter contract, docs/reference/adapter-contract.md."""
    calibration, evaluation, band = task.calibration, task.evaluation, precision.bits_per_weight
    prompts = evaluation.prompts if evaluation else None
    tasks = evaluation.tasks if evaluation else None
    text = evaluation if evaluation and evaluation.uri else None
    variables = {
        "WORK_DIR": str(WORK_DIR),
        "SOURCE_DIR": str(SOURCE_DIR),
        "ARTIFACT_DIR": str(ARTIFACT_DIR),
        "QUALITY_FILE": str(QUALITY_FILE),
        "MODEL_NAME": model["metadata"]["name"],
        "FORMAT": task.recipe.format,
        "PRECISION": task.recipe.precision,
        "METHOD": task.recipe.method,
        "WORKFLOW": task.recipe.workflow or "",
        "WORKFLOW_FILE": str(WORKFLOW_FILE) if task.workflow else "",
        "OVERRIDES": task.recipe.overrides_text,
        "MAX_FILE_BYTES": str(task.recipe.max_file_bytes or ""),
        "CALIBRATION_FILE": str(CALIBRATION_FILE) if calibration else "",
        "CALIBRATION_SAMPLES": str(calibration.samples) if calibration else "",
        "CALIBRATION_SEQUENCE_LENGTH": str(calibration.sequence_length) if calibration else "",
        "EVALUATION_FILE": str(EVALUATION_FILE) if text else "",
        "EVALUATION_SEQUENCE_LENGTH": str(text.sequence_length) if text else "",
        "EVALUATION_MAX_TOKENS": str(text.max_tokens) if text else "",
        "EVALUATION_PROMPTS_FILE": str(PROMPTS_FILE) if prompts else "",
        "EVALUATION_MAX_PROMPTS": str(prompts.max_prompts) if prompts else "",
        "EVALUATION_ANSWER_TOKENS": str(prompts.answer_tokens) if prompts else "",
        "EVALUATION_TASKS_DIR": str(TASKS_DIR) if tasks else "",
        "EVALUATION_MAX_SAMPLES": str(tasks.max_samples) if tasks else "",
        "BITS_PER_WEIGHT_MIN": band.min if band else "",
        "BITS_PER_WEIGHT_MAX": band.max if band else "",
        # More threads than the limit has cores spin against each other: libgomp's barriers made
        # a contended run twenty times slower.
        "OMP_NUM_THREADS": str(cores),
    }
    return [pod.env(name, value) for name, value in variables.items()]
