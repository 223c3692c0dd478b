"""The Job that tries a published artifact in its engine before it is rolled out: docs/adr/0013."""

from quantop.api.modelruntime import ModelRuntimeSpec
from quantop.api.quantizedmodel import Artifact, Serving
from quantop.builders import jobs, meta, pod, serving
from quantop.builders.meta import Manifest
from quantop.builders.serving import Access
from quantop.contract import PullTask, Stage, TrialTask

GRACE_SECONDS = 5
"""Nobody waits for an answer of this engine any more when it is told to end."""
CLIENT_RESOURCES: Manifest = {
    "requests": {"cpu": "50m", "memory": "64Mi"},
    "limits": {"cpu": "1", "memory": "256Mi"},
}
"""The client mostly waits, and should cost the node little beside the engine."""


def trial_job(
    model: Manifest,
    name: str,
    wanted: Serving,
    artifact: Artifact,
    runtime: ModelRuntimeSpec,
    pull: PullTask,
    access: Access,
    draft: Artifact | None,
) -> Manifest:
    """A pod as it would serve, and beside its engine a client that asks and measures.

    The engine is a sidecar: the kubelet starts the client once its startup probe succeeds, and ends
    it with the client. Their processes see each other, as the client reads the engine's memory;
    neither has credentials, and what pulled the artifact with some has ended by then.
    """
    task = TrialTask(
        protocol=runtime.protocol, port=runtime.port, model_name=model["metadata"]["name"]
    )
    client = pod.worker(Stage.TRIAL, access.worker_image, task, [], store_secret=None)
    client["env"].append(pod.node())
    client["resources"] = CLIENT_RESOURCES
    return jobs.job(
        model,
        name,
        meta.TRIAL,
        {meta.PRECISION_LABEL: artifact.precision},
        pod.pod_spec(
            access.service_account,
            restartPolicy="OnFailure",
            shareProcessNamespace=True,
            terminationGracePeriodSeconds=GRACE_SECONDS,
            initContainers=[
                *serving.pulls(artifact, pull, access, draft),
                _sidecar(serving.engine(model["metadata"]["name"], wanted, artifact, runtime)),
            ],
            containers=[client],
            volumes=serving.volumes(artifact, runtime, draft),
            **({"nodeSelector": runtime.node_selector} if runtime.node_selector else {}),
        ),
    )


def _sidecar(engine: Manifest) -> Manifest:
    """The engine without what is for clients that come and go."""
    left_out = ("lifecycle", "readinessProbe", "livenessProbe")
    kept = {key: value for key, value in engine.items() if key not in left_out}
    # Its last lines are all that is left of an engine that does not start.
    return kept | {"restartPolicy": "Always", "terminationMessagePolicy": "FallbackToLogsOnError"}
