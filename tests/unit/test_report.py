"""When a trial is put into the report, and what comes of that."""

from typing import Any

from quantop.api.modelstore import ModelStoreSpec
from quantop.api.quantizedmodel import (
    Candidate,
    Performance,
    QualityStatus,
    QuantizedModelSpec,
    QuantizedModelStatus,
)
from quantop.contract import TASK_VARIABLE, ReportTask
from quantop.reconcile import report
from quantop.reconcile.snapshot import Snapshot
from quantop.settings import Settings

from tests.operator import objects

STORE = ModelStoreSpec.model_validate(objects.store()["spec"])
URI = "s3://models/artifacts/a"
QUALITY = QualityStatus(protocol="windows-v1", report_uri=f"{URI}/quality/page.html")
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


def step(given: Snapshot, **shown: Performance) -> report.ReportStep:
    return report.next_step(given, STORE, "a", QUALITY, shown)


def task_of(told: report.ReportStep) -> ReportTask:
    (job,) = told.apply
    (container,) = job["spec"]["template"]["spec"]["containers"]
    given = {each["name"]: each.get("value") for each in container["env"]}
    return ReportTask.model_validate_json(given[TASK_VARIABLE])


def test_it_is_written_once() -> None:
    begun = step(snapshot(), a=SHOWN)
    (job,) = begun.apply
    name = job["metadata"]["name"]
    assert begun.job_names == {name}
    assert begun.progress
    running = step(snapshot(**{name: job}), a=SHOWN)
    assert (running.apply, running.progress, running.shown) == ([], begun.progress, {"a": SHOWN})
    assert running.job_names == {name}

    job["status"] = {"conditions": [{"type": "Complete", "status": "True"}]}
    done = step(snapshot(**{name: job}), a=SHOWN).shown["a"]
    assert done.report_uri == f"{URI}/trials/default/team-a/tiny.json"
    after = step(snapshot(), a=done)
    assert (after.apply, after.progress, after.shown) == ([], None, {"a": done})
    more = step(snapshot(), a=done, b=SHOWN)
    assert {each.key for each in task_of(more).trials} == {"a", "b"}, "another was tried since"


def test_one_that_failed_is_let_be_while_its_log_is_there() -> None:
    (job,) = step(snapshot(), a=SHOWN).apply
    job["status"] = {"conditions": [{"type": "Failed", "status": "True"}]}
    failed = step(snapshot(**{job["metadata"]["name"]: job}), a=SHOWN)
    assert (failed.apply, failed.progress, failed.shown) == ([], None, {"a": SHOWN})


def test_it_has_all_that_were_tried_and_none_that_failed() -> None:
    other = SHOWN.model_copy(update={"time_to_first_token_milliseconds": "512"})
    broken = SHOWN.model_copy(update={"reason": "TrialFailed", "message": "It ended."})
    listed = [
        candidate("a", SHOWN),
        candidate("b", other),
        candidate("c", broken),
        candidate("d", None),
    ]
    begun = step(snapshot(), **report.tried(listed))
    task = task_of(begun)
    assert (task.key, task.report) == ("a", "quality/page.html")
    times = {each.key: each.time_to_first_token_milliseconds for each in task.trials}
    assert times == {"a": 40.5, "b": 512}
    (job,) = begun.apply
    job["status"] = {"conditions": [{"type": "Complete", "status": "True"}]}
    done = step(snapshot(**{job["metadata"]["name"]: job}), **report.tried(listed))
    kept = {c.key: c.performance and c.performance.report_uri for c in report.marked(listed, done)}
    place = "trials/default/team-a/tiny.json"
    at = {key: f"s3://models/artifacts/{key}/{place}" for key in ("a", "b")}
    assert kept == at | {"c": None, "d": None}


def test_where_nothing_was_measured_there_is_no_page() -> None:
    assert task_of(report.next_step(snapshot(), STORE, "a", None, {"a": SHOWN})).report == ""
