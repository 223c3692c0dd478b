"""Identities, keys, and what resolve refuses in a store or a source."""

from typing import Any

import pytest
from quantop.contract import StoreRef
from quantop_worker import s3
from quantop_worker.errors import RefusedError, TryAgainError

from tests.worker.checkpoints import write_checkpoint
from tests.worker.harness import (
    ACCESS_KEY,
    SECRET_KEY,
    Bench,
    calibration,
    evaluation,
    prompts,
    source,
    tasks,
)


def test_the_same_checkpoint_has_the_same_key(bench: Bench) -> None:
    first = bench.resolve()
    assert first.published is None
    assert first.architecture == "LlamaForCausalLM"
    assert bench.resolve() == first
    assert bench.referred_by("another", namespace="other").resolve() == first
    bench.put("checkpoint/pytorch_model.bin", b"not read")
    assert bench.resolve() == first


def test_resolve_leaves_nothing_in_the_store(bench: Bench) -> None:
    bench.resolve()
    assert bench.objects("models/") == []


def test_other_content_has_another_key(bench: Bench) -> None:
    first = bench.resolve()
    bench.upload(write_checkpoint(bench.folder / "other", fill=b"\x02"), "checkpoint")
    assert bench.resolve().key != first.key


def test_a_version_of_an_object_is_part_of_its_identity(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where buckets keep versions, equal ETags alone prove nothing."""
    first = bench.resolve()
    head = s3.Bucket.head

    def versioned(bucket: s3.Bucket, key: str) -> s3.StoredObject | None:
        found = head(bucket, key)
        return found and s3.StoredObject(
            found.key, found.size, found.etag, found.modified, version="2"
        )

    monkeypatch.setattr(s3.Bucket, "head", versioned)
    assert bench.resolve().source_identity != first.source_identity


def test_what_another_server_lists_is_not_what_the_store_lists(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever runs a server of their own can claim any ETag."""
    first = bench.resolve()
    monkeypatch.setenv(
        "SOURCE_AWS_ENDPOINT_URL", bench.server.url.replace("127.0.0.1", "localhost")
    )
    monkeypatch.setenv("SOURCE_AWS_ACCESS_KEY_ID", ACCESS_KEY)
    monkeypatch.setenv("SOURCE_AWS_SECRET_ACCESS_KEY", SECRET_KEY)
    second = bench.resolve()
    assert second.source_size_bytes == first.source_size_bytes
    assert second.source_identity != first.source_identity


def test_calibration_decides_the_key_and_evaluation_does_not(bench: Bench) -> None:
    bench.put("texts/one.txt", b"one")
    bench.put("texts/two.txt", b"two")
    one, two = (f"s3://{bench.bucket}/texts/{name}.txt" for name in ("one", "two"))
    plain = bench.resolve().key
    keys = [
        bench.with_task(calibration=calibration(one)).resolve().key,
        bench.with_task(calibration=calibration(two)).resolve().key,
        plain,
    ]
    assert len(set(keys)) == 3
    assert bench.with_task(evaluation=evaluation(one)).resolve().key == plain
    bench.put("texts/one.txt", b"another one")
    assert bench.with_task(calibration=calibration(one)).resolve().key not in keys


def test_texts_on_a_claim_are_read(bench: Bench) -> None:
    text = bench.folder / "pvc" / "texts" / "calibration.txt"
    text.parent.mkdir(parents=True)
    text.write_text("calibrate on this")
    bench = bench.with_task(calibration=calibration("pvc://texts/calibration.txt")).resolved()
    bench.fetch()
    assert (bench.work / "inputs" / "calibration").read_text() == "calibrate on this"


def test_a_missing_bucket_of_the_store_is_refused(bench: Bench) -> None:
    bench = bench.with_task(store=bench.store.model_copy(update={"bucket": "absent"}))
    with pytest.raises(RefusedError, match=r"bucket absent.*create the bucket") as refusal:
        bench.resolve()
    assert refusal.value.reason == "StoreNotFound"


@pytest.mark.parametrize(
    ("variable", "value"),
    [("STORE_AWS_ACCESS_KEY_ID", "stranger"), ("STORE_AWS_SECRET_ACCESS_KEY", "wrong")],
)
def test_wrong_keys_are_refused(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, variable: str, value: str
) -> None:
    monkeypatch.setenv(variable, value)
    with pytest.raises(RefusedError, match="check the keys") as refusal:
        bench.resolve()
    assert refusal.value.reason == "AccessDenied"
    assert value not in refusal.value.message


def test_no_credentials_at_all_are_refused(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("STORE_AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("STORE_AWS_SECRET_ACCESS_KEY")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(bench.folder / "none"))
    with pytest.raises(RefusedError, match="no credentials") as refusal:
        bench.resolve()
    assert refusal.value.reason == "AccessDenied"


@pytest.mark.parametrize(
    "uri", ["s3://absent-bucket/checkpoint", "s3://{bucket}/absent", "s3://Not_A Bucket/x"]
)
def test_a_source_that_is_not_there_is_refused(bench: Bench, uri: str) -> None:
    uri = uri.format(bucket=bench.bucket)
    with pytest.raises(RefusedError, match=r"spec\.source\.uri") as refusal:
        bench.with_task(source=source(uri)).resolve()
    assert refusal.value.reason == "SourceNotFound"


def test_an_unknown_scheme_is_refused(bench: Bench) -> None:
    with pytest.raises(RefusedError) as refusal:
        bench.with_task(source=source("ftp://somewhere/model")).resolve()
    assert refusal.value.reason == "InvalidSource"


@pytest.mark.parametrize(
    ("change", "reason", "field"),
    [
        ("calibration", "CalibrationNotFound", r"spec\.quantization\.calibration\.uri"),
        ("evaluation", "EvaluationNotFound", r"spec\.quality\.evaluation\.uri"),
        ("prompts", "PromptsNotFound", r"spec\.quality\.evaluation\.prompts\.uri"),
        ("tasks", "TasksNotFound", r"spec\.quality\.evaluation\.tasks\.uri"),
    ],
)
@pytest.mark.parametrize("uri", ["s3://{bucket}/absent.txt", "pvc://absent/text.txt"])
def test_a_text_that_is_not_there_is_refused(
    bench: Bench, change: str, reason: str, field: str, uri: str
) -> None:
    address = uri.format(bucket=bench.bucket)
    bench.put("texts/eval.txt", b"evaluate on this")
    there = f"s3://{bench.bucket}/texts/eval.txt"
    changes: dict[str, Any] = {
        "calibration": {"calibration": calibration(address)},
        "evaluation": {"evaluation": evaluation(address)},
        "prompts": {"evaluation": evaluation(there, prompts=prompts(address))},
        "tasks": {"evaluation": evaluation(there, tasks=tasks(address))},
    }
    with pytest.raises(RefusedError, match=field) as refusal:
        bench.with_task(**changes[change]).resolve()
    assert refusal.value.reason == reason


def test_an_empty_text_is_refused(bench: Bench) -> None:
    bench.put("texts/empty.txt", b"")
    text = calibration(f"s3://{bench.bucket}/texts/empty.txt")
    with pytest.raises(RefusedError, match="0 bytes"):
        bench.with_task(calibration=text).resolve()


def test_a_server_that_does_not_answer_is_tried_again(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(s3, "ATTEMPTS", 1)
    store = StoreRef(endpoint="http://127.0.0.1:9", bucket="bucket")
    with pytest.raises(TryAgainError) as failure:
        bench.with_task(store=store).resolve()
    assert failure.value.reason == "Unreachable"


def test_a_key_outside_the_prefix_is_not_taken_for_the_checkpoint(bench: Bench) -> None:
    """checkpoint-2 begins like checkpoint, but is another."""
    first = bench.resolve()
    bench.put("checkpoint-2/config.json", b"{}")
    bench.put("checkpoint.json", b"{}")
    assert bench.resolve() == first
