"""How an artifact was made, as an in-toto statement with SLSA provenance."""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from quantop.contract import ConversionTask, canonical_json

from quantop_worker.digests import FileRecord
from quantop_worker.manifest import FetchRecord, MeasuredQuality

STATEMENT_TYPE = "https://in-toto.io/Statement/v1"
PREDICATE_TYPE = "https://slsa.dev/provenance/v1"
BUILD_TYPE = "https://quantop.dev/conversion/v1"
BUILDER = "https://quantop.dev/conversion-job"
FILE_NAME = "provenance.intoto.jsonl"


def statement(
    task: ConversionTask,
    fetched: FetchRecord,
    files: Sequence[FileRecord],
    report: MeasuredQuality,
    finished: float,
) -> str:
    """One line of JSON: subjects are the artifact's files, materials the source's files, the
    calibration text, a workflow out of the store and the quantizer's image. ``finished`` is in
    seconds since the epoch."""
    return (
        canonical_json(
            {
                "_type": STATEMENT_TYPE,
                "subject": [_descriptor(file.path, file.sha256) for file in files],
                "predicateType": PREDICATE_TYPE,
                "predicate": {
                    "buildDefinition": {
                        "buildType": BUILD_TYPE,
                        "externalParameters": _parameters(task),
                        "internalParameters": {"artifactKey": task.key},
                        "resolvedDependencies": _materials(task, fetched),
                    },
                    "runDetails": {
                        "builder": {
                            "id": BUILDER,
                            "version": {report.tool.name or "tool": report.tool.version},
                        },
                        "metadata": {
                            "invocationId": f"{task.referrer.cluster}/{task.referrer.namespace}/"
                            f"{task.referrer.name}",
                            "startedOn": fetched.source.fetched_at,
                            "finishedOn": timestamp(finished),
                        },
                    },
                },
            }
        )
        + "\n"
    )


def timestamp(seconds: float) -> str:
    """RFC 3339 in UTC, to the second."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _parameters(task: ConversionTask) -> dict[str, Any]:
    parameters: dict[str, Any] = {
        "source": {"uri": task.source.uri, "revision": task.source.revision},
        "recipe": task.recipe.model_dump(mode="json", by_alias=True),
    }
    if task.calibration is not None:
        parameters["calibration"] = task.calibration.model_dump(mode="json", by_alias=True)
    return parameters


def _materials(task: ConversionTask, fetched: FetchRecord) -> list[dict[str, Any]]:
    source = fetched.source
    materials: list[dict[str, Any]] = [
        {
            "uri": source.uri,
            "digest": {"sha256": source.digest},
            "annotations": {"identity": source.identity, "sizeBytes": source.size_bytes},
        }
    ]
    materials += [
        {"uri": f"{source.uri}/{file.path}"} | _descriptor(file.path, file.sha256)
        for file in source.files
    ]
    materials += [
        {"uri": text.uri, "digest": {"sha256": text.sha256}}
        for text in (fetched.calibration, fetched.workflow)
        if text is not None
    ]
    image, _, image_digest = task.recipe.quantizer_image.partition("@sha256:")
    image_material: dict[str, Any] = {"uri": f"oci://{image}"}
    if image_digest:
        image_material["digest"] = {"sha256": image_digest}
    return [*materials, image_material]


def _descriptor(name: str, sha256: str) -> dict[str, Any]:
    return {"name": name, "digest": {"sha256": sha256}}
