"""Runs stages against a real S3 server, in the test's process or in one of their own."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import boto3
from botocore.config import Config
from quantop.contract import (
    AllowedPass,
    CalibrationRef,
    ConversionTask,
    DeleteTask,
    EvaluationRef,
    Message,
    PromptsRef,
    PublishResult,
    PullTask,
    Recipe,
    Referrer,
    ReportResult,
    ReportTask,
    ResolveResult,
    SourceRef,
    Stage,
    StoreRef,
    TasksRef,
    Trial,
    WorkflowRef,
)
from quantop_worker.progress import Progress
from quantop_worker.stages import delete, fetch, publish, pull, report, resolve
from quantop_worker.store import Artifact

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

REPOSITORY = Path(__file__).resolve().parents[2]
ACCESS_KEY = "test-access"
SECRET_KEY = "test-secret-that-must-not-show"
REGION = "us-east-1"
RECIPE = Recipe(
    format="GGUF",
    precision="Q4_K_M",
    method="",
    quantizer="llama-cpp",
    quantizer_image="registry.example/quantizer@sha256:" + "ab" * 32,
)
PASSES = (
    AllowedPass(type="Export", settings=("precision",), calibration="Ignored"),
    AllowedPass(type="Calibrate", calibration="Required"),
)
QUALITY = {
    "protocol": "windows-v1",
    "baselinePerplexity": 10.0,
    "perplexity": 10.5,
    "topTokenAgreementPercent": 97.5,
    "meanKLDivergence": 0.02,
    "tokens": 2048,
    "bitsPerWeight": 4.85,
    "parameters": 1000,
    "quantizedLayers": 14,
    "totalLayers": 15,
    "tool": {"name": "llama.cpp", "version": "b1"},
    "evaluationSkipped": False,
}


@dataclass(frozen=True)
class S3Server:
    """A running server."""

    port: int

    @property
    def url(self) -> str:
        """Its endpoint."""
        return f"http://127.0.0.1:{self.port}"

    def client(self) -> "S3Client":
        """A client of the test's own."""
        return boto3.session.Session(ACCESS_KEY, SECRET_KEY, region_name=REGION).client(
            "s3", endpoint_url=self.url, config=Config(s3={"addressing_style": "path"})
        )


@dataclass(frozen=True)
class Ended:
    """How a stage's process ended."""

    code: int
    message: dict[str, Any]
    """Its termination message."""
    output: str
    """stdout and stderr."""

    @property
    def lines(self) -> list[dict[str, Any]]:
        """The JSON lines of its output."""
        return [json.loads(line) for line in self.output.splitlines() if line.startswith("{")]


@dataclass(frozen=True)
class Bench:
    """A bucket, a folder and what a person asked for."""

    server: S3Server
    bucket: str
    folder: Path
    store: StoreRef
    task: ConversionTask
    client: "S3Client" = field(repr=False)

    def upload(self, folder: Path, prefix: str) -> None:
        """Put a folder's files below a prefix of the bucket."""
        for path in folder.rglob("*"):
            if path.is_file():
                self.put(f"{prefix}/{path.relative_to(folder).as_posix()}", path.read_bytes())

    def put(self, key: str, content: bytes) -> None:
        """Put one object."""
        self.client.put_object(Bucket=self.bucket, Key=key, Body=content)

    def objects(self, prefix: str = "") -> list[str]:
        """The keys of all objects below a prefix."""
        pages = self.client.get_paginator("list_objects_v2").paginate(
            Bucket=self.bucket, Prefix=prefix
        )
        return [item["Key"] for page in pages for item in page.get("Contents", ())]

    def uploads(self) -> list[str]:
        """Keys of unfinished multipart uploads."""
        answer = self.client.list_multipart_uploads(Bucket=self.bucket)
        return [item["Key"] for item in answer.get("Uploads", ())]

    def with_task(self, **changes: Any) -> "Bench":
        """The same with another task."""
        return replace(self, task=self.task.model_copy(update=changes))

    def in_folder(self, name: str) -> "Bench":
        """The same with another disk, as another pod has."""
        folder = self.folder / name
        folder.mkdir(exist_ok=True)
        return replace(self, folder=folder)

    def referred_by(self, name: str, namespace: str = "team") -> "Bench":
        """The same for another object."""
        referrer = Referrer(cluster="test", namespace=namespace, name=name)
        return self.with_task(referrer=referrer)

    @property
    def work(self) -> Path:
        """The conversion's disk."""
        return self.folder / "work"

    def resolve(self) -> ResolveResult:
        """Resolve, in this process."""
        return resolve.run(self.task, Progress(Stage.RESOLVE))

    def resolved(self) -> "Bench":
        """The same with the key and identity that resolve found."""
        found = self.resolve()
        return self.with_task(key=found.key, source_identity=found.source_identity)

    def fetch(self) -> fetch.FetchResult:
        """Fetch, in this process."""
        os.environ["WORK_DIR"] = str(self.work)
        return fetch.run(self.task, Progress(Stage.FETCH))

    def quantize(
        self,
        files: dict[str, bytes],
        quality: dict[str, Any] | None = None,
        benchmark: Any = None,
    ) -> None:
        """What the toolchain's stages would leave."""
        for name, content in files.items():
            path = self.work / "artifact" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        (self.work / "state" / "quantize.done").touch()
        (self.work / "state" / "quality.json").write_text(json.dumps(QUALITY | (quality or {})))
        if benchmark is not None:
            (self.work / "state" / "benchmark.json").write_text(json.dumps(benchmark))

    def publish(self) -> PublishResult:
        """Publish, in this process."""
        os.environ["WORK_DIR"] = str(self.work)
        return publish.run(self.task, Progress(Stage.PUBLISH))

    def convert(self, files: dict[str, bytes]) -> PublishResult:
        """The stages of a conversion."""
        self.fetch()
        self.quantize(files)
        return self.publish()

    def pull(self, published: PublishResult, name: str = "model") -> Path:
        """Pull what was published; the folder."""
        target = self.folder / name
        summary = published.published
        task = PullTask(
            store=self.store,
            key=summary.key,
            manifest_digest=summary.manifest_digest,
            directory=str(target),
        )
        pull.run(task, Progress(Stage.PULL))
        return target

    def delete(self, *keys: str) -> delete.DeleteResult:
        """Delete, in this process."""
        task = DeleteTask(store=self.store, keys=keys, referrer=self.task.referrer)
        return delete.run(task, Progress(Stage.DELETE))

    def report(self, published: PublishResult, *trials: Trial, **changes: Any) -> ReportResult:
        """Put an object's trials into the report, in this process."""
        summary = published.published
        task = ReportTask(
            store=self.store,
            referrer=self.task.referrer,
            key=summary.key,
            report=summary.report,
            trials=trials,
            **changes,
        )
        return report.run(task, Progress(Stage.REPORT))

    def artifact(self, key: str | None = None) -> Artifact:
        """The artifact's place in the store."""
        return Artifact(self.store, key or str(self.task.key))

    def start(
        self,
        stage: str,
        task: Message | None = None,
        *,
        program: str | None = None,
        **environment: str,
    ) -> "subprocess.Popen[str]":
        """A stage in a process of its own; ``program`` takes the place of the worker's."""
        how = ["-c", program] if program else ["-m", "quantop_worker"]
        return subprocess.Popen(
            [sys.executable, *how, stage],
            env=os.environ
            | {
                "PYTHONPATH": str(REPOSITORY / "operator"),
                "QUANTOP_TASK": (task or self.task).to_json(),
                "WORK_DIR": str(self.work),
                "TERMINATION_LOG": str(self.folder / f"termination-{stage}"),
            }
            | environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def end(self, stage: str, process: "subprocess.Popen[str]", seconds: float = 60) -> Ended:
        """Wait for a stage's process."""
        output, _ = process.communicate(timeout=seconds)
        log = self.folder / f"termination-{stage}"
        message = json.loads(log.read_text()) if log.exists() else {}
        return Ended(process.returncode, message, output)

    def run(self, stage: str, task: Message | None = None, **environment: str) -> Ended:
        """A stage in a process of its own, to its end."""
        return self.end(stage, self.start(stage, task, **environment))


def wait_until(condition: Callable[[], bool], seconds: float = 30) -> None:
    """Poll until something holds."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError("it did not happen in time")
        time.sleep(0.05)


def source(uri: str, **rest: Any) -> SourceRef:
    """Where a checkpoint is."""
    return SourceRef(uri=uri, **rest)


def calibration(uri: str) -> CalibrationRef:
    """Calibration text."""
    return CalibrationRef(uri=uri, samples=8, sequence_length=64)


def workflow(uri: str, passes: Sequence[AllowedPass] = PASSES) -> WorkflowRef:
    """A workflow in the store, of passes that the Quantizer runs."""
    return WorkflowRef(uri=uri, passes=tuple(passes))


def evaluation(
    uri: str | None,
    max_tokens: int = 1000,
    prompts: PromptsRef | None = None,
    tasks: TasksRef | None = None,
) -> EvaluationRef:
    """Evaluation text."""
    return EvaluationRef(
        uri=uri, sequence_length=64, max_tokens=max_tokens, prompts=prompts, tasks=tasks
    )


def tasks(uri: str, max_samples: int = 8) -> TasksRef:
    """A folder of tasks."""
    return TasksRef(uri=uri, max_samples=max_samples)


def prompts(uri: str, max_prompts: int = 8) -> PromptsRef:
    """Prompts."""
    return PromptsRef(uri=uri, max_prompts=max_prompts, answer_tokens=16)
