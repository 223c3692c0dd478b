"""What serves an artifact: Deployment, Service, PodDisruptionBudget, HorizontalPodAutoscaler."""

from dataclasses import dataclass

from quantop.api.base import API_VERSION
from quantop.api.modelruntime import ModelRuntimeSpec, Probe
from quantop.api.quantizedmodel import Artifact, Scaling, Serving
from quantop.builders import engine_options, meta, pod
from quantop.builders.meta import Manifest
from quantop.contract import DRAFT_MODEL_DIR, MODEL_DIR, PullTask, Stage
from quantop.quantities import mebibytes, to_cores

SERVICE_PORT = 80
DEFAULT_DRAIN_SECONDS = 5
DEFAULT_GRACE_SECONDS = 30
ENGINE = "engine"
"""Name of the engine's container."""

ENGINE_RESOURCES: Manifest = {"requests": {"cpu": "500m", "memory": "1Gi"}}
"""Where neither the model nor its runtime says: an autoscaler needs a request to compare with."""


@dataclass(frozen=True)
class Access:
    """How a serving pod gets at the store."""

    worker_image: str
    service_account: str
    reader_secret: str | None


def selector(model_name: str) -> dict[str, str]:
    """Labels that select an object's serving pods, whatever their revision."""
    return {meta.MODEL_LABEL: model_name, meta.COMPONENT_LABEL: meta.SERVER}


def deployment(
    model: Manifest,
    serving: Serving,
    replicas: int,
    artifact: Artifact,
    runtime_name: str,
    runtime: ModelRuntimeSpec,
    task: PullTask,
    access: Access,
    draft: Artifact | None = None,
) -> Manifest:
    """The Deployment. The old revision serves until a pod of the new one is Ready."""
    name = model["metadata"]["name"]
    revision = {
        meta.KEY_LABEL: meta.short_key(artifact.key),
        meta.PRECISION_LABEL: artifact.precision,
    }
    # Only what the artifact's key decides: anything else would replace pods when it changes.
    described = {
        meta.KEY_ANNOTATION: artifact.key,
        "quantop.dev/format": artifact.format,
        "quantop.dev/precision": artifact.precision,
        "quantop.dev/method": artifact.method,
        "quantop.dev/bits-per-weight": artifact.bits_per_weight,
        "quantop.dev/source": artifact.source_uri,
        "quantop.dev/runtime": runtime_name,
        "quantop.dev/draft-artifact-key": draft.key if draft else "",
    }
    annotations = {key: value for key, value in described.items() if value}
    if runtime.metrics:
        annotations |= {
            "prometheus.io/scrape": "true",
            "prometheus.io/port": str(runtime.port),
            "prometheus.io/path": runtime.metrics.path,
        }
    result = meta.child("apps/v1", "Deployment", model, meta.SERVER, extra_labels=revision)
    result["spec"] = {
        "replicas": replicas,
        "progressDeadlineSeconds": runtime.progress_deadline_seconds,
        "revisionHistoryLimit": 2,
        "selector": {"matchLabels": selector(name)},
        "strategy": {
            "type": "RollingUpdate",
            "rollingUpdate": {"maxUnavailable": 0, "maxSurge": 1},
        },
        "template": {
            "metadata": {
                "labels": meta.labels(name, meta.SERVER, revision),
                "annotations": annotations,
            },
            "spec": pod.pod_spec(
                access.service_account,
                terminationGracePeriodSeconds=(
                    runtime.drain.grace_period_seconds if runtime.drain else DEFAULT_GRACE_SECONDS
                ),
                topologySpreadConstraints=[
                    {
                        "maxSkew": 1,
                        "topologyKey": "kubernetes.io/hostname",
                        "whenUnsatisfiable": "ScheduleAnyway",
                        "labelSelector": {"matchLabels": selector(name)},
                    }
                ],
                initContainers=pulls(artifact, task, access, draft),
                containers=[engine(name, serving, artifact, runtime)],
                volumes=volumes(artifact, runtime, draft),
                **({"nodeSelector": runtime.node_selector} if runtime.node_selector else {}),
            ),
        },
    }
    return result


def service(model: Manifest) -> Manifest:
    """The stable name that clients use; it outlives every revision."""
    result = meta.child("v1", "Service", model, meta.SERVER)
    result["spec"] = {
        "type": "ClusterIP",
        "selector": selector(model["metadata"]["name"]),
        "ports": [{"name": "http", "port": SERVICE_PORT, "targetPort": "http"}],
    }
    return result


def disruption_budget(model: Manifest) -> Manifest:
    """At most one pod at a time is given up to a node's drain."""
    result = meta.child("policy/v1", "PodDisruptionBudget", model, meta.SERVER)
    result["spec"] = {
        "maxUnavailable": 1,
        "selector": {"matchLabels": selector(model["metadata"]["name"])},
    }
    return result


def autoscaler(model: Manifest, scaling: Scaling) -> Manifest:
    """Scales the QuantizedModel itself through its scale subresource: docs/adr/0004."""
    result = meta.child("autoscaling/v2", "HorizontalPodAutoscaler", model, meta.SERVER)
    result["spec"] = {
        "scaleTargetRef": {
            "apiVersion": API_VERSION,
            "kind": "QuantizedModel",
            "name": model["metadata"]["name"],
        },
        "minReplicas": scaling.min_replicas,
        "maxReplicas": scaling.max_replicas,
        "metrics": [
            {
                # The engine's container alone: an init container's use is over before it serves.
                "type": "ContainerResource",
                "containerResource": {
                    "name": "cpu",
                    "container": ENGINE,
                    "target": {
                        "type": "Utilization",
                        "averageUtilization": scaling.target_cpu_utilization_percent,
                    },
                },
            }
        ],
    }
    return result


def pulls(
    artifact: Artifact, task: PullTask, access: Access, draft: Artifact | None
) -> list[Manifest]:
    """What fetches and verifies the artifact, and a draft model's, before the engine starts."""
    # The pod gets the largest of its init containers' requests, and needs room for all.
    size_bytes = artifact.size_bytes + (draft.size_bytes if draft else 0)
    made = [_pull(size_bytes, task, access)]
    if draft:
        beside = PullTask(
            store=task.store,
            key=draft.key,
            manifest_digest=draft.manifest_digest,
            directory=str(DRAFT_MODEL_DIR),
        )
        made.append(_pull(size_bytes, beside, access, name=f"{Stage.PULL}-draft"))
    return made


def _pull(size_bytes: int, task: PullTask, access: Access, name: str = "") -> Manifest:
    """Has the store's credentials, which the engine has not."""
    made = pod.worker(
        Stage.PULL,
        access.worker_image,
        task,
        [pod.mount("models", str(MODEL_DIR.parent))],
        store_secret=access.reader_secret,
        name=name,
    )
    made["resources"] = {
        **pod.WORKER_RESOURCES,
        "requests": {
            **pod.WORKER_RESOURCES["requests"],
            "ephemeral-storage": mebibytes(size_bytes),
        },
    }
    return made


def engine_resources(serving: Serving, runtime: ModelRuntimeSpec) -> Manifest:
    """What the engine's container asks for, and may use at most."""
    default = engine_options.resources(runtime, engine_options.given(serving))
    resources = pod.resources(
        serving.resources, default if any(default.values()) else ENGINE_RESOURCES
    )
    resources.setdefault("requests", {}).setdefault("cpu", ENGINE_RESOURCES["requests"]["cpu"])
    return resources


def engine_cores(resources: Manifest) -> int:
    """How many cores the engine is told to use."""
    return to_cores(resources.get("limits", {}).get("cpu") or resources["requests"]["cpu"])


def engine(name: str, serving: Serving, artifact: Artifact, runtime: ModelRuntimeSpec) -> Manifest:
    """The engine's container."""
    options = engine_options.given(serving)
    resources = engine_resources(serving, runtime)
    cores = str(engine_cores(resources))
    own = {
        "MODEL_DIR": str(MODEL_DIR),
        "MODEL_NAME": name,
        "PORT": str(runtime.port),
        "CPU_LIMIT": cores,
        "OMP_NUM_THREADS": cores,
        "QUANTOP_FORMAT": artifact.format,
        "QUANTOP_PRECISION": artifact.precision,
        "QUANTOP_BITS_PER_WEIGHT": artifact.bits_per_weight or "",
        "QUANTOP_ARTIFACT_KEY": artifact.key,
        "QUANTOP_SOURCE_URI": artifact.source_uri or "",
        **engine_options.environment(options),
    }
    given = {e.name: e.value for e in runtime.env}
    mounts = [
        pod.mount("models", str(MODEL_DIR.parent), read_only=True),
        pod.mount("tmp", "/tmp"),
    ]
    if runtime.shared_memory:
        mounts.append(pod.mount("shm", "/dev/shm"))
    pre_stop: Manifest = (
        {"exec": {"command": list(runtime.drain.command)}}
        if runtime.drain
        else {"sleep": {"seconds": DEFAULT_DRAIN_SECONDS}}
    )
    return pod.container(
        ENGINE,
        runtime.image,
        command=list(runtime.command),
        args=[*runtime.args, *engine_options.arguments(runtime, options)],
        env=[pod.env(key, value) for key, value in {**own, **given}.items()],
        ports=[{"name": "http", "containerPort": runtime.port}],
        resources=resources,
        volumeMounts=mounts,
        startupProbe=_probe(runtime.probes.startup),
        readinessProbe=_probe(runtime.probes.readiness),
        livenessProbe=_probe(runtime.probes.liveness),
        lifecycle={"preStop": pre_stop},
    )


def _probe(probe: Probe) -> Manifest:
    return {
        "httpGet": {"path": probe.path, "port": "http"},
        "periodSeconds": probe.period_seconds,
        "failureThreshold": probe.failure_threshold,
        "timeoutSeconds": probe.timeout_seconds,
    }


def volumes(
    artifact: Artifact, runtime: ModelRuntimeSpec, draft: Artifact | None
) -> list[Manifest]:
    """The volumes of a pod that serves the artifact, with a draft model's beside it."""
    size_bytes = artifact.size_bytes + (draft.size_bytes if draft else 0)
    # A tenth on top and some more for manifest and file system overhead.
    room = mebibytes(size_bytes * 11 // 10 + 64 * 2**20)
    made = [pod.scratch("models", room), pod.scratch("tmp")]
    if runtime.shared_memory:
        made.append(pod.scratch("shm", runtime.shared_memory, medium="Memory"))
    return made
