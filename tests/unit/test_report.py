"""When a trial is put into the report, and what comes of that."""

from dataclasses import replace
from typing import Any

from quantop.api.modelstore import ModelStoreSpec
from quantop.api.quantizedmodel import (
    Artifact,
    Candidate,
    Performance,
    QualityStatus,
    QuantizedModelSpec,
    QuantizedModelStatus,
)
from quantop.contract import TASK_VARIABLE, ReportTask
from quantop.reconcile import report
from quantop.reconcile.artifact import ArtifactStep
from quantop.reconcile.snapshot import Snapshot
from quantop.settings import Settings

from tests.operator import objects

STORE = ModelStoreSpec.model_validate(objects.store()["spec"])
URI = "s3://models/artifacts/a"
STEP = ArtifactStep(
    Artifact(
        key="a",
        uri=URI,
        size_bytes=1,
        source_size_bytes=2,
        format="GGUF",
        precision="Q4_K_M",
        quantizer="llama-cpp",
        quantizer_image="image",
    ),
    QualityStatus(protocol="windows-v1", report_uri=f"{URI}/quality/page.html"),
)
SHOWN = Performance(
    inputs_hash="0",
    protocol="trial-v1",
    time_to_first_token_milliseconds="40.500",
    peak_memory_bytes=1024,
    runs=5,
    node="node-a",
    runtime="llama-cpp",
    image="engine",
)


def snapshot(**jobs: Any) -> Snapshot:
    model = objects.model("team-a")
    model["metadata"]["uid"] = "1"
    return Snapshot(
        model=model,
        spec=QuantizedModelSpec.model_validate(model["spec"]),
        status=QuantizedModelStatus(),
        settings=Settings("worker"),
        jobs=jobs,
    )


def candidate(key: str, shown: Performance | None) -> Candidate:
    return Candidate.model_validate(
        {
            "precision": key.upper(),
            "state": "Passed",
            "key": key,
            "performance": shown,
            "reason": "WithinLimits",
            "message": "",
        }
    )


def step(given: Snapshot, *candidates: Candidate, shown: Performance = SHOWN) -> report.ReportStep:
    return report.next_step(given, STORE, STEP, candidates, shown)


def test_it_is_written_once() -> None:
    begun = step(snapshot())
    (job,) = begun.apply
    name = job["metadata"]["name"]
    assert begun.job_names == {name}
    assert begun.progress
    running = step(snapshot(**{name: job}))
    assert (running.apply, running.progress, running.performance) == ([], begun.progress, SHOWN)
    assert running.job_names == {name}

    job["status"] = {"conditions": [{"type": "Complete", "status": "True"}]}
    done = step(snapshot(**{name: job})).performance
    assert done.report_uri == f"{URI}/trials/default/team-a/tiny.json"
    after = step(snapshot(), shown=done)
    assert (after.apply, after.progress, after.performance) == ([], None, done)


def test_one_that_failed_is_let_be_while_its_log_is_there() -> None:
    (job,) = step(snapshot()).apply
    job["status"] = {"conditions": [{"type": "Failed", "status": "True"}]}
    failed = step(snapshot(**{job["metadata"]["name"]: job}))
    assert (failed.apply, failed.progress, failed.performance) == ([], None, SHOWN)


def test_it_has_all_that_were_tried_and_none_that_failed() -> None:
    other = SHOWN.model_copy(update={"time_to_first_token_milliseconds": "512"})
    broken = SHOWN.model_copy(update={"reason": "TrialFailed", "message": "It ended."})
    (job,) = step(
        snapshot(),
        candidate("a", None),
        candidate("b", other),
        candidate("c", broken),
        candidate("d", None),
    ).apply
    (container,) = job["spec"]["template"]["spec"]["containers"]
    given = {each["name"]: each.get("value") for each in container["env"]}
    task = ReportTask.model_validate_json(given[TASK_VARIABLE])
    assert (task.key, task.report) == ("a", "quality/page.html")
    times = {each.key: each.time_to_first_token_milliseconds for each in task.trials}
    assert times == {"a": 40.5, "b": 512}


def test_where_nothing_was_measured_there_is_no_page() -> None:
    (job,) = report.next_step(snapshot(), STORE, replace(STEP, quality=None), (), SHOWN).apply
    (container,) = job["spec"]["template"]["spec"]["containers"]
    given = {each["name"]: each.get("value") for each in container["env"]}
    assert ReportTask.model_validate_json(given[TASK_VARIABLE]).report == ""
