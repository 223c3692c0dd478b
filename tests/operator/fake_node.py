"""A fake of a node: runs no containers, but answers for them as the worker would.

The API server, etcd and the controllers of these tests are real; only what a kubelet and the
containers would do is played here. The real thing is in e2e/.
"""

import json
import threading
import time
from dataclasses import dataclass, field
from typing import Any

from kubernetes import client
from quantop.builders.meta import COMPONENT_LABEL, MODEL_LABEL, PRECISION_LABEL, SERVER
from quantop.contract import (
    TASK_VARIABLE,
    ArtifactSummary,
    Benchmark,
    ConversionTask,
    PublishResult,
    QualityReport,
    ResolveResult,
    Stage,
    TrialResult,
    artifact_key,
)

SOURCE_BYTES = 8_000_000
ARTIFACT_BYTES = 2_500_000
POLL_SECONDS = 0.05
TRIAL = {
    "protocol": "trial-v1",
    "timeToFirstTokenMilliseconds": 40.5,
    "tokensPerSecond": 25,
    "answerMilliseconds": 2560.5,
    "peakMemoryBytes": 20 * 2**20,
    "runs": 5,
    "promptTokens": 200,
    "outputTokens": 64,
    "node": "fake-node",
    "processor": "Fake CPU",
}


@dataclass(frozen=True)
class Ends:
    """A container that ends."""

    exit_code: int = 0
    message: str = ""
    reason: str = "Completed"


@dataclass(frozen=True)
class Waits:
    """A container that does not start."""

    reason: str
    message: str


@dataclass(frozen=True)
class Runs:
    """A container that goes on."""


@dataclass(frozen=True)
class Crashed:
    """A container that ended, and was started again."""

    exit_code: int
    message: str = ""
    reason: str = "Error"


Behaviour = Ends | Waits | Runs | Crashed
Pod = dict[str, Any]


def refuses(stage: str, reason: str, message: str) -> Ends:
    """A stage that refuses for good."""
    said = json.dumps({"stage": stage, "reason": reason, "message": message})
    return Ends(3, said, "Error")


@dataclass
class FakeNode:
    """Plays every pod of quantop. ``behaviours`` overrides what a stage of a model does, keyed by
    (model, stage), or (model, "STAGE PRECISION") for one precision only."""

    api: client.CoreV1Api
    published: dict[str, ArtifactSummary] = field(default_factory=dict)
    behaviours: dict[tuple[str, str], Behaviour] = field(default_factory=dict)
    perplexities: dict[str, float | None] = field(default_factory=dict)
    """What evaluate finds, by precision; 48.3, 0.4 % above the source's, where there is none."""
    sizes: dict[str, int] = field(default_factory=dict)
    """Bytes of the artifact, by precision; ARTIFACT_BYTES where there is none."""
    trials: dict[str, dict[str, Any]] = field(default_factory=dict)
    """What a trial shows, by precision, over what TRIAL says."""
    benchmarks: dict[str, Benchmark] = field(default_factory=dict)
    """What the toolchain measured itself, by precision; nothing where there is none."""
    vocabularies: dict[str, str] = field(default_factory=dict)
    """Digest of the artifact's tokens, by the source's uri; unknown where there is none."""
    _stop: threading.Event = field(default_factory=threading.Event)
    _thread: threading.Thread | None = None

    def start(self) -> None:
        """Begin to play."""
        self._thread = threading.Thread(target=self._play, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End playing."""
        self._stop.set()
        if self._thread:
            self._thread.join()

    def _play(self) -> None:
        selector = "app.kubernetes.io/managed-by=quantop"
        while not self._stop.is_set():
            # As JSON: the client's model instances of a few hundred pods would take seconds.
            answer = self.api.list_pod_for_all_namespaces(
                label_selector=selector, _preload_content=False
            )
            for pod in json.loads(answer.data)["items"]:
                try:
                    self._step(pod)
                except client.ApiException as error:
                    if error.status not in (404, 409):
                        raise
            time.sleep(POLL_SECONDS)

    def _step(self, pod: Pod) -> None:
        metadata = pod["metadata"]
        if "deletionTimestamp" in metadata:
            self._remove(metadata)
        elif pod["status"].get("phase") not in ("Succeeded", "Failed"):
            model = metadata["labels"][MODEL_LABEL]
            if metadata["labels"][COMPONENT_LABEL] == SERVER:
                self._serve(pod, model)
            else:
                self._work(pod, model)

    def _remove(self, metadata: Pod) -> None:
        self.api.delete_namespaced_pod(
            metadata["name"], metadata["namespace"], grace_period_seconds=0
        )

    def _serve(self, pod: Pod, model: str) -> None:
        precision = pod["metadata"]["labels"][PRECISION_LABEL]
        behaviour = self._behaviour(model, Stage.PULL, precision)
        ready = behaviour is None
        status: dict[str, Any] = {
            "phase": "Running" if ready else "Pending",
            "conditions": [{"type": "Ready", "status": "True" if ready else "False"}],
        }
        if behaviour is not None:
            status["initContainerStatuses"] = [_status(Stage.PULL, behaviour)]
        self._write(pod, status)

    def _work(self, pod: Pod, model: str) -> None:
        init, main = pod["spec"].get("initContainers", []), pod["spec"]["containers"]
        task = next(e["value"] for c in main for e in c["env"] if e["name"] == TASK_VARIABLE)
        precision = json.loads(task).get("recipe", {}).get("precision", "")
        precision = precision or pod["metadata"]["labels"].get(PRECISION_LABEL, "")
        ended = True
        statuses: list[list[dict[str, Any]]] = [[], []]
        for group, containers in enumerate((init, main)):
            for container in containers:
                if not ended:
                    continue
                name = container["name"]
                is_sidecar = container.get("restartPolicy") == "Always"
                behaviour = self._behaviour(model, name, precision) or (
                    Runs() if is_sidecar else self._done(name, task, precision)
                )
                statuses[group].append(_status(name, behaviour))
                ended = isinstance(behaviour, Ends) and behaviour.exit_code == 0
                ended = ended or (is_sidecar and isinstance(behaviour, Runs))
        self._write(
            pod,
            {
                "phase": "Succeeded" if ended else "Pending",
                "initContainerStatuses": statuses[0],
                "containerStatuses": statuses[1],
            },
        )

    def _behaviour(self, model: str, stage: str, precision: str) -> Behaviour | None:
        return self.behaviours.get((model, stage)) or self.behaviours.get(
            (model, f"{stage} {precision}")
        )

    def _done(self, stage: str, task_json: str, precision: str) -> Ends:
        if stage == Stage.RESOLVE:
            task = ConversionTask.model_validate_json(task_json)
            key = _key(task)
            result = ResolveResult(
                key=key,
                source_identity=f"fake:{task.source.uri}",
                source_size_bytes=SOURCE_BYTES,
                architecture="LlamaForCausalLM",
                published=self.published.get(key),
            )
            return Ends(message=result.to_json())
        if stage == Stage.PUBLISH:
            task = ConversionTask.model_validate_json(task_json)
            summary = _summary(
                task,
                self.perplexities.get(precision, 48.3),
                self.sizes.get(precision, ARTIFACT_BYTES),
                self.vocabularies.get(task.source.uri),
            )
            summary = summary.model_copy(update={"benchmark": self.benchmarks.get(precision)})
            self.published[summary.key] = summary
            return Ends(message=PublishResult(published=summary).to_json())
        if stage == Stage.TRIAL:
            shown = TrialResult.model_validate({**TRIAL, **self.trials.get(precision, {})})
            return Ends(message=shown.to_json())
        return Ends(message=json.dumps({"stage": stage}))

    def _write(self, pod: Pod, status: dict[str, Any]) -> None:
        if any(pod["status"].get(key) != value for key, value in status.items() if value):
            metadata = pod["metadata"]
            self.api.patch_namespaced_pod_status(
                metadata["name"], metadata["namespace"], {"status": status}, _preload_content=False
            )


def _key(task: ConversionTask) -> str:
    identity = task.calibration.uri if task.calibration else None
    return artifact_key(f"fake:{task.source.uri}", task.recipe, task.calibration, identity)


def _summary(
    task: ConversionTask, perplexity: float | None, size_bytes: int, vocabulary: str | None
) -> ArtifactSummary:
    key = _key(task)
    return ArtifactSummary(
        key=key,
        uri=f"s3://{task.store.bucket}/artifacts/{key}",
        manifest_digest="0" * 64,
        size_bytes=size_bytes,
        source_size_bytes=SOURCE_BYTES,
        source_uri=task.source.uri,
        recipe=task.recipe,
        quality=QualityReport(
            protocol="windows-v1",
            baseline_perplexity=48.1,
            perplexity=perplexity,
            top_token_agreement_percent=None if perplexity is None else 148.1 - perplexity,
            mean_kl_divergence=None if perplexity is None else perplexity / 48.1 - 1,
            p99_kl_divergence=None if perplexity is None else 10 * (perplexity / 48.1 - 1),
            tokens=19_890,
            bits_per_weight=5.1,
            parameters=4_200_000,
            quantized_layers=28,
            total_layers=30,
            vocabulary_digest=vocabulary,
        )
        if task.evaluation
        else None,
        report="quality/fake.html" if task.evaluation else "",
    )


def _status(name: str, behaviour: Behaviour) -> dict[str, Any]:
    match behaviour:
        case Ends(exit_code, message, reason):
            terminated = {"exitCode": exit_code, "reason": reason, "message": message}
            state: dict[str, Any] = {
                "terminated": {k: v for k, v in terminated.items() if v != ""},
            }
        case Waits(reason, message):
            state = {"waiting": {"reason": reason, "message": message}}
        case Runs():
            state = {"running": {}}
        case Crashed(exit_code, message, reason):
            state = {"running": {}}
            last = {"exitCode": exit_code, "reason": reason, "message": message}
    return {
        "name": name,
        "image": "fake",
        "imageID": "",
        "ready": False,
        "restartCount": 0,
        "state": state,
        **({"lastState": {"terminated": last}} if isinstance(behaviour, Crashed) else {}),
    }
