"""From a checkpoint to an artifact in the store, whatever comes in between."""

import json
import os
import threading
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from quantop.contract import PromptsRef, PublishResult
from quantop_worker import checkpoint, transfer
from quantop_worker.digests import BUFFER_BYTES
from quantop_worker.errors import RefusedError, TryAgainError
from quantop_worker.manifest import Manifest
from quantop_worker.s3 import Bucket
from quantop_worker.stages import fetch
from quantop_worker.store import Artifact, Published

from tests.worker.checkpoints import READ, write_checkpoint
from tests.worker.harness import Bench, calibration, evaluation, prompts, tasks
from tests.worker.stalling_proxy import StallingProxy

FILES = {"model.gguf": b"quantized" * 100, "more/tokenizer.json": b"{}", "empty.txt": b""}
MIB = 1 << 20
ONE_AT_A_TIME = (
    "from quantop_worker import __main__, transfer;"
    "transfer.WORKERS = 1;"
    "raise SystemExit(__main__.main())"
)


def test_an_artifact_is_fetched_published_found_and_pulled(bench: Bench) -> None:
    bench = bench.resolved()
    fetched = bench.fetch()
    assert fetched.source_size_bytes == bench.resolve().source_size_bytes
    assert sorted(path.name for path in (bench.work / "source").iterdir()) == READ
    bench.quantize(FILES)
    published = bench.publish()
    assert published.published.size_bytes == sum(map(len, FILES.values()))
    assert published.published.uri == f"s3://{bench.bucket}/models/artifacts/{bench.task.key}"
    found = bench.referred_by("another", namespace="other").resolve()
    assert found.published == published.published
    pulled = bench.pull(published)
    assert {
        path.relative_to(pulled).as_posix(): path.read_bytes()
        for path in pulled.rglob("*")
        if path.is_file()
    } == FILES
    assert sorted(bench.artifact().references()) == [
        "refs/test/other/another",
        "refs/test/team/model",
    ]


def test_the_manifest_lists_what_a_reader_must_trust(bench: Bench) -> None:
    bench = bench.resolved()
    published = bench.convert(FILES).published
    key = f"models/artifacts/{bench.task.key}/manifest.json"
    content = bench.client.get_object(Bucket=bench.bucket, Key=key)["Body"].read()
    assert sha256(content).hexdigest() == published.manifest_digest
    manifest = json.loads(content)
    for file in manifest["files"]:
        assert file["sha256"] == sha256(FILES[file["path"]]).hexdigest()
        assert file["size"] == len(FILES[file["path"]])
    assert {file["path"] for file in manifest["files"]} == FILES.keys()
    assert [file["path"] for file in manifest["source"]["files"]] == READ
    assert manifest["source"]["identity"] == bench.task.source_identity
    assert manifest["coverage"]["bitsPerWeight"] == 4.85
    assert manifest["recipe"]["quantizerImage"] == bench.task.recipe.quantizer_image


def test_provenance_names_every_input_and_output(bench: Bench) -> None:
    bench.put("texts/calibration.txt", b"calibrate on this")
    uri = f"s3://{bench.bucket}/texts/calibration.txt"
    bench = bench.with_task(calibration=calibration(uri))
    bench = bench.resolved()
    bench.convert(FILES)
    published = bench.artifact().read()
    assert published is not None
    name = published.manifest.provenance.object
    content = bench.artifact().bucket.get(bench.artifact().object_key(name), MIB)
    assert content is not None
    statement = json.loads(content)
    assert statement["_type"] == "https://in-toto.io/Statement/v1"
    assert {subject["name"] for subject in statement["subject"]} == FILES.keys()
    materials = {
        material.get("name", material["uri"]): material.get("digest", {}).get("sha256")
        for material in statement["predicate"]["buildDefinition"]["resolvedDependencies"]
    }
    assert set(READ) < materials.keys()
    assert (
        materials["model.safetensors"]
        == sha256((bench.work / "source" / "model.safetensors").read_bytes()).hexdigest()
    )
    assert materials[uri] == sha256(b"calibrate on this").hexdigest()
    assert materials["oci://registry.example/quantizer"] == "ab" * 32


def test_a_second_fetch_takes_up_what_the_first_finished(bench: Bench) -> None:
    bench = bench.resolved()
    bench.fetch()
    (bench.work / "source" / "tokenizer.json").unlink()
    kept = bench.work / "source" / "model.safetensors"
    before = kept.stat().st_mtime_ns, kept.stat().st_ino
    bench.fetch()
    assert (kept.stat().st_mtime_ns, kept.stat().st_ino) == before
    assert (bench.work / "source" / "tokenizer.json").exists()


def test_a_source_that_changed_since_resolve_is_refused(bench: Bench) -> None:
    bench = bench.resolved()
    bench.upload(write_checkpoint(bench.folder / "other", fill=b"\x02"), "checkpoint")
    with pytest.raises(RefusedError, match="changed since it was resolved") as refusal:
        bench.fetch()
    assert refusal.value.reason == "SourceChanged"


def test_a_source_that_changes_while_it_is_fetched_is_refused(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = bench.resolved()

    def look_then_replace(*arguments: Any) -> Any:
        found = checkpoint.inspect(*arguments)
        bench.upload(write_checkpoint(bench.folder / "other", fill=b"\x02"), "checkpoint")
        return found

    monkeypatch.setattr(fetch, "inspect", look_then_replace)
    with pytest.raises(RefusedError, match="changed while it was read") as refusal:
        bench.fetch()
    assert refusal.value.reason == "SourceChanged"
    assert not (bench.work / "source" / "model.safetensors").exists()


def test_the_same_identity_with_other_bytes_is_an_error_not_a_hit(bench: Bench) -> None:
    """A claim's identity is made of sizes and times, which can lie."""
    folder = write_checkpoint(bench.folder / "pvc" / "claim" / "model")
    weights = folder / "model.safetensors"
    bench = bench.with_task(
        source=bench.task.source.model_copy(update={"uri": "pvc://claim/model"})
    ).resolved()
    bench.convert(FILES)
    bench.put("texts/eval.txt", b"evaluate on this")
    text = evaluation(f"s3://{bench.bucket}/texts/eval.txt")
    times = weights.stat().st_atime_ns, weights.stat().st_mtime_ns
    weights.write_bytes(weights.read_bytes().replace(b"\x01\x01", b"\x02\x02"))
    os.utime(weights, ns=times)
    again = bench.in_folder("again").with_task(evaluation=text)
    assert again.resolve().source_identity == bench.task.source_identity
    with pytest.raises(RefusedError, match="with other bytes") as refusal:
        again.fetch()
    assert refusal.value.reason == "SourceChanged"


def test_an_artifact_that_was_not_measured_on_a_text_is_only_measured(bench: Bench) -> None:
    bench = bench.resolved()
    first = bench.convert(FILES).published
    assert first.quality is not None
    assert first.quality.perplexity is None
    bench.put("texts/eval.txt", b"evaluate on this")
    text = evaluation(f"s3://{bench.bucket}/texts/eval.txt")
    bench = bench.in_folder("second").with_task(evaluation=text)
    found = bench.resolve()
    assert found.key == bench.task.key
    assert found.published is None
    bench.fetch()
    assert (bench.work / "state" / "quantize.done").exists()
    assert not (bench.work / "state" / "published.json").exists()
    assert (bench.work / "artifact" / "model.gguf").read_bytes() == FILES["model.gguf"]
    assert (bench.work / "inputs" / "evaluation").read_bytes() == b"evaluate on this"
    bench.quantize({}, quality={"perplexity": 12.25})
    second = bench.publish().published
    assert second.manifest_digest == first.manifest_digest
    assert second.quality is not None
    assert second.quality.perplexity == 12.25
    assert bench.resolve().published == second
    kept = bench.objects(f"models/artifacts/{bench.task.key}/quality/")
    assert [name.rpartition(".")[2] for name in kept] == ["html", "json"]
    other = bench.with_task(evaluation=evaluation(text.uri, max_tokens=500))
    assert other.resolve().published is None


def test_prompts_and_how_many_decide_whether_it_was_measured_before(bench: Bench) -> None:
    bench.put("texts/eval.txt", b"evaluate on this")
    bench.put("texts/prompts.txt", b"answer this")
    asked = prompts(f"s3://{bench.bucket}/texts/prompts.txt")

    def measured_by(given: PromptsRef | None) -> Bench:
        text = evaluation(f"s3://{bench.bucket}/texts/eval.txt", prompts=given)
        return bench.with_task(evaluation=text)

    first = measured_by(asked).resolved()
    first.fetch()
    assert (bench.work / "inputs" / "prompts").read_bytes() == b"answer this"
    first.quantize(FILES, quality={"answerAgreementPercent": 75, "prompts": 1})
    published = first.publish().published
    assert published.quality is not None
    assert published.quality.answer_agreement_percent == 75
    assert first.resolve().published == published
    for other in (None, prompts(asked.uri, max_prompts=9)):
        assert measured_by(other).resolve().published is None
    bench.put("texts/prompts.txt", b"answer that")
    assert first.resolve().published is None


def test_prompts_alone_are_enough_to_measure_by(bench: Bench) -> None:
    bench.put("texts/prompts.txt", b"answer this")
    asked = prompts(f"s3://{bench.bucket}/texts/prompts.txt")
    first = bench.with_task(evaluation=evaluation(None, prompts=asked)).resolved()
    first.fetch()
    assert sorted(path.name for path in (bench.work / "inputs").iterdir()) == ["prompts"]
    figures = {"answerAgreementPercent": 75, "perplexity": None, "meanKLDivergence": None}
    first.quantize(FILES, quality=figures)
    published = first.publish().published
    assert published.report
    assert first.resolve().published == published
    other = evaluation(None, max_tokens=9, prompts=asked)
    assert bench.with_task(evaluation=other).resolve().published == published, "of no text"
    bench.put("texts/prompts.txt", b"answer that")
    assert first.resolve().published is None


def test_tasks_come_whole_and_their_files_decide_whether_it_was_measured_before(
    bench: Bench,
) -> None:
    bench.put("texts/eval.txt", b"evaluate on this")
    bench.put("tasks/one.yaml", b"task: one")
    bench.put("tasks/data/one.jsonl", b"{}")
    bench.put("tasks/.hidden", b"")
    bench.put("tasks-of-others/two.yaml", b"task: two")
    given = tasks(f"s3://{bench.bucket}/tasks")
    text = evaluation(f"s3://{bench.bucket}/texts/eval.txt", tasks=given)
    first = bench.with_task(evaluation=text).resolved()
    folder = bench.work / "inputs" / "tasks"
    folder.mkdir(parents=True)
    (folder / "left-by-an-earlier-attempt.yaml").write_text("task: none")
    first.fetch()
    found = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    assert found == {"one.yaml", "data/one.jsonl"}
    task = {
        "name": "one",
        "metric": "acc",
        "samples": 8,
        "baselinePercent": 50,
        "baselineErrorPercent": 18.898,
        "accuracyPercent": 37.5,
        "errorPercent": 18.298,
    }
    first.quantize(FILES, quality={"taskAccuracyDropPoints": 12.5, "tasks": [task]})
    published = first.publish().published
    assert published.quality is not None
    assert published.quality.task_accuracy_drop_points == 12.5
    assert [each.name for each in published.quality.tasks] == ["one"]
    assert first.resolve().published == published
    other = text.model_copy(update={"tasks": tasks(given.uri, max_samples=9)})
    assert bench.with_task(evaluation=other).resolve().published is None
    bench.put("tasks/data/one.jsonl", b"[]")
    assert first.resolve().published is None


def test_a_conversion_that_comes_second_ends_at_once(bench: Bench) -> None:
    bench = bench.resolved()
    published = bench.convert(FILES)
    late = bench.in_folder("late").referred_by("late")
    assert late.fetch().already_published
    assert not (late.work / "source").exists()
    assert (late.work / "state" / "published.json").exists()
    assert late.publish() == published
    assert "refs/test/team/late" in late.artifact().references()


def test_what_was_deleted_after_fetch_had_found_it_is_not_answered(bench: Bench) -> None:
    bench = bench.resolved()
    bench.convert(FILES)
    late = bench.in_folder("late").referred_by("late")
    late.fetch()
    bench.delete(str(bench.task.key))
    with pytest.raises(TryAgainError) as failure:
        late.publish()
    assert failure.value.reason == "ArtifactDeleted"


def test_a_killed_upload_goes_on_where_it_was_and_shows_nothing_before(bench: Bench) -> None:
    bench = bench.resolved()
    bench.fetch()
    bench.quantize({"model.gguf": os.urandom(5 * 16 * MIB), "small.json": b"{}"})
    # One at a time: the third of 16 MiB is sent when the server has said that it has the second.
    with StallingProxy(bench.server.port, 40 * MIB) as proxy:
        store = bench.store.model_copy(update={"endpoint": proxy.url})
        process = bench.start(
            "publish", bench.task.model_copy(update={"store": store}), program=ONE_AT_A_TIME
        )
        assert proxy.stalled.wait(300)
        process.kill()
        process.communicate(timeout=30)
    assert bench.resolve().published is None
    assert not [key for key in bench.objects() if key.endswith("manifest.json")]
    assert [part["PartNumber"] for part in _parts(bench)] == [1, 2]
    upload = bench.client.list_multipart_uploads(Bucket=bench.bucket)["Uploads"][0]["UploadId"]
    started: list[str] = []
    begin = Bucket.begin_upload

    def count(bucket: Bucket, key: str, metadata: Any) -> str:
        started.append(key)
        return begin(bucket, key, metadata)

    sent: list[int] = []
    put_part = Bucket.put_part

    def note(bucket: Bucket, key: str, upload_id: str, number: int, content: bytes) -> Any:
        assert upload_id == upload
        sent.append(number)
        return put_part(bucket, key, upload_id, number, content)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Bucket, "begin_upload", count)
        patch.setattr(Bucket, "put_part", note)
        published = bench.publish()
    assert started == []
    assert sorted(sent) == [3, 4, 5]
    assert bench.uploads() == []
    pulled = bench.pull(published)
    assert (pulled / "model.gguf").read_bytes() == (
        bench.work / "artifact" / "model.gguf"
    ).read_bytes()


def _parts(bench: Bench) -> list[Any]:
    uploads = bench.client.list_multipart_uploads(Bucket=bench.bucket).get("Uploads", [])
    return [
        part
        for upload in uploads
        for part in bench.client.list_parts(
            Bucket=bench.bucket, Key=upload["Key"], UploadId=upload["UploadId"]
        ).get("Parts", [])
    ]


def test_files_that_are_there_are_not_sent_again(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = bench.resolved()
    bench.fetch()
    bench.quantize(FILES)

    def fail(*arguments: object) -> Published:
        raise TryAgainError("Killed", "before the commit")

    with monkeypatch.context() as patch:
        patch.setattr(Artifact, "commit", fail)
        with pytest.raises(TryAgainError):
            bench.publish()
    assert bench.resolve().published is None
    before = {
        key: bench.client.head_object(Bucket=bench.bucket, Key=key)["LastModified"]
        for key in bench.objects("models/")
        if "/files/" in key
    }
    assert len(before) == len(FILES) + 1
    put = Bucket.put
    names: list[str] = []

    def note(bucket: Bucket, key: str, content: bytes, **rest: Any) -> None:
        names.append(key)
        put(bucket, key, content, **rest)

    monkeypatch.setattr(Bucket, "put", note)
    published = bench.publish()
    assert not [name for name in names if "/files/" in name]
    assert bench.resolve().published == published.published


def test_a_publisher_with_other_bytes_that_comes_second_takes_the_first(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both have uploaded everything when the other one commits."""
    bench = bench.resolved()
    winner, loser = bench.in_folder("winner"), bench.in_folder("loser").referred_by("loser")
    for each, content in ((winner, b"won"), (loser, b"lost")):
        each.fetch()
        each.quantize({"model.gguf": content * 1000})
    commit = Artifact.commit
    won: list[PublishResult] = []

    def let_the_other_win(artifact: Artifact, manifest: Manifest) -> Published:
        monkeypatch.setattr(Artifact, "commit", commit)
        won.append(winner.publish())
        return commit(artifact, manifest)

    monkeypatch.setattr(Artifact, "commit", let_the_other_win)
    lost = loser.publish()
    assert [lost] == won
    pulled = loser.pull(lost)
    assert (pulled / "model.gguf").read_bytes() == b"won" * 1000


def test_a_loser_whose_measurement_is_of_other_bytes_tries_again(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench.put("texts/eval.txt", b"evaluate on this")
    bench = bench.resolved()
    loser = bench.in_folder("loser").with_task(
        evaluation=evaluation(f"s3://{bench.bucket}/texts/eval.txt")
    )
    loser.fetch()
    loser.quantize({"model.gguf": b"lost"})
    bench.in_folder("winner").convert({"model.gguf": b"won"})
    with pytest.raises(TryAgainError) as failure:
        loser.publish()
    assert failure.value.reason == "PublishedByAnother"
    next_pod = loser.in_folder("next")
    next_pod.fetch()
    assert (next_pod.work / "artifact" / "model.gguf").read_bytes() == b"won"
    next_pod.quantize({})
    assert next_pod.publish().published.quality is not None


def test_two_processes_that_race_agree(bench: Bench) -> None:
    bench = bench.resolved()
    racers = [bench.in_folder(name).referred_by(name) for name in ("red", "blue")]
    for racer in racers:
        racer.fetch()
        racer.quantize({"model.gguf": os.urandom(20 * MIB), "same.json": b"{}"})
    processes = [racer.start("publish") for racer in racers]
    ends = [racer.end("publish", each) for racer, each in zip(racers, processes, strict=True)]
    assert [end.code for end in ends] == [0, 0], ends
    assert ends[0].message == ends[1].message
    published = bench.artifact().find()
    assert published is not None
    assert published.manifest_digest == ends[0].message["published"]["manifestDigest"]
    assert len(bench.artifact().references()) == 2


def test_a_publisher_puts_back_files_that_the_store_lost(bench: Bench) -> None:
    bench = bench.resolved()
    published = bench.convert(FILES)
    lost = next(key for key in bench.objects("models/") if key.endswith("model.gguf"))
    bench.client.delete_object(Bucket=bench.bucket, Key=lost)
    assert bench.resolve().published is None
    again = bench.in_folder("again")
    assert again.convert(FILES).published == published.published
    assert again.resolve().published == published.published


def test_a_publisher_that_cannot_put_back_lost_files_says_so(bench: Bench) -> None:
    bench = bench.resolved()
    bench.convert(FILES)
    lost = next(key for key in bench.objects("models/") if key.endswith("model.gguf"))
    bench.client.delete_object(Bucket=bench.bucket, Key=lost)
    again = bench.in_folder("again")
    with pytest.raises(RefusedError, match=r"model\.gguf") as refusal:
        again.convert({"model.gguf": b"other bytes"})
    assert refusal.value.reason == "ArtifactDamaged"


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("weights.pt", b"harmless by content"),
        ("weights.bin", b"\x80\x04\x95 a pickle by content"),
        ("archive.bin", b"PK\x03\x04 a torch archive by content"),
        ("modeling.py", b"print()"),
    ],
)
def test_an_artifact_that_can_run_code_is_refused(bench: Bench, name: str, content: bytes) -> None:
    bench = bench.resolved()
    with pytest.raises(RefusedError, match="can run code") as refusal:
        bench.convert({"model.gguf": b"fine", name: content})
    assert refusal.value.reason == "InvalidArtifact"
    assert bench.objects("models/") == []


def test_an_artifact_with_a_symlink_is_refused(bench: Bench) -> None:
    bench = bench.resolved()
    bench.fetch()
    bench.quantize({"model.gguf": b"fine"})
    (bench.work / "artifact" / "token").symlink_to("/var/run/secrets")
    with pytest.raises(RefusedError, match="no plain file") as refusal:
        bench.publish()
    assert refusal.value.reason == "InvalidArtifact"


def test_an_empty_artifact_is_refused(bench: Bench) -> None:
    bench = bench.resolved()
    bench.fetch()
    bench.quantize({})
    with pytest.raises(RefusedError, match="empty") as refusal:
        bench.publish()
    assert refusal.value.reason == "InvalidArtifact"


@pytest.mark.parametrize(
    "quality",
    [
        {"perplexity": float("nan")},
        {"meanKLDivergence": float("inf")},
        {"bitsPerWeight": "many"},
        {"parameters": None},
    ],
)
def test_a_quality_report_that_is_none_is_refused(bench: Bench, quality: dict[str, Any]) -> None:
    bench = bench.resolved()
    bench.fetch()
    bench.quantize(FILES, quality)
    with pytest.raises(RefusedError) as refusal:
        bench.publish()
    assert refusal.value.reason == "InvalidQualityReport"


def test_a_missing_stage_is_refused(bench: Bench) -> None:
    bench = bench.resolved()
    bench.fetch()
    with pytest.raises(RefusedError, match=r"quality\.json") as refusal:
        bench.publish()
    assert refusal.value.reason == "StageMissing"


@pytest.mark.parametrize(
    "content",
    [b"\xff\xfe\x00", b"cut within a letter: \xc3", b"a" * BUFFER_BYTES + b"\x80"],
    ids=["no text", "cut off", "behind the first buffer"],
)
def test_a_text_that_is_no_text_is_refused(bench: Bench, content: bytes) -> None:
    bench.put("texts/eval.txt", content)
    bench = bench.with_task(evaluation=evaluation(f"s3://{bench.bucket}/texts/eval.txt")).resolved()
    with pytest.raises(RefusedError, match="UTF-8") as refusal:
        bench.fetch()
    assert refusal.value.reason == "InvalidSource"
    assert not (bench.work / "inputs" / "evaluation").exists()


def test_a_letter_may_lie_across_two_buffers(bench: Bench) -> None:
    content = b"a" * (BUFFER_BYTES - 1) + "é".encode() + b"b" * BUFFER_BYTES
    bench.put("texts/eval.txt", content)
    text = evaluation(f"s3://{bench.bucket}/texts/eval.txt")
    bench.with_task(evaluation=text).resolved().fetch()
    assert (bench.work / "inputs" / "evaluation").read_bytes() == content


def test_part_sizes_are_the_same_for_everybody_and_few_enough() -> None:
    assert transfer.part_size(1) == transfer.PART_BYTES
    for size in (transfer.PART_BYTES * transfer.MAX_PARTS, 10**12, 5 * 10**12):
        assert -(-size // transfer.part_size(size)) <= transfer.MAX_PARTS


def test_progress_counts_up_to_the_whole(bench: Bench, capsys: pytest.CaptureFixture[str]) -> None:
    bench = bench.resolved()
    bench.convert(FILES)
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    fetched = [line for line in lines if line["stage"] == "fetch" and "percent" in line]
    assert fetched[-1]["percent"] == 100
    assert fetched[-1]["bytes"] == bench.resolve().source_size_bytes


def test_uploads_of_the_same_content_share_what_they_have_done(
    bench: Bench, tmp_path: Path
) -> None:
    """Two publishers of the same bytes at the same time: the parts of one serve the other."""
    bench = bench.resolved()
    path = tmp_path / "large"
    path.write_bytes(os.urandom(40 * MIB))
    item = transfer.Upload(
        "same/large", path, path.stat().st_size, sha256(path.read_bytes()).hexdigest()
    )
    failures: list[BaseException] = []

    def send() -> None:
        try:
            transfer.upload(bench.artifact().bucket, [item], lambda count: None)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=send) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert failures == []
    assert bench.uploads() == []
    stored = bench.client.get_object(Bucket=bench.bucket, Key="same/large")["Body"].read()
    assert sha256(stored).hexdigest() == item.sha256
