"""Deletion counts references and never harms whoever comes in between."""

import threading
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from quantop_worker import store
from quantop_worker.errors import TryAgainError
from quantop_worker.s3 import Bucket
from quantop_worker.store import Artifact

from tests.worker.harness import Bench, wait_until

FILES = {"model.gguf": b"quantized" * 100, "tokenizer.json": b"{}"}


def everything(bench: Bench) -> list[str]:
    """All that is in the store."""
    return bench.objects("models/")


def test_the_last_referrer_takes_the_artifact_with_it(bench: Bench) -> None:
    first = bench.resolved()
    published = first.convert(FILES).published
    second = first.referred_by("second", namespace="other")
    assert second.resolve().published == published
    key = published.key
    assert first.delete(key).model_dump() == {"stage": "delete", "deleted": 0, "kept": 1}
    assert second.resolve().published == published
    assert second.artifact().references() == ["refs/test/other/second"]
    assert second.delete(key).model_dump() == {"stage": "delete", "deleted": 1, "kept": 0}
    assert everything(bench) == []
    assert bench.resolve().published is None


def test_deleting_twice_is_harmless(bench: Bench) -> None:
    bench = bench.resolved()
    key = bench.convert(FILES).published.key
    bench.delete(key)
    assert bench.delete(key).deleted == 1
    assert everything(bench) == []


def test_other_artifacts_stay(bench: Bench) -> None:
    one = bench.resolved()
    one.convert(FILES)
    recipe = bench.task.recipe.model_copy(update={"precision": "Q8_0"})
    other = bench.in_folder("other").with_task(recipe=recipe).resolved()
    published = other.convert(FILES).published
    one.delete(str(one.task.key))
    assert other.resolve().published == published


def test_unfinished_uploads_are_aborted(bench: Bench) -> None:
    bench = bench.resolved()
    key = bench.convert(FILES).published.key
    bench.artifact().bucket.begin_upload(bench.artifact().object_key("files/x/left"), {})
    assert bench.uploads()
    bench.delete(key)
    assert bench.uploads() == []


def test_a_bucket_that_is_gone_holds_nothing(bench: Bench) -> None:
    gone = replace(bench, store=bench.store.model_copy(update={"bucket": "absent"}))
    assert gone.delete("0" * 64).deleted == 0


def test_the_manifest_goes_first(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed at any moment, a deletion leaves no manifest without its files."""
    bench = bench.resolved()
    key = bench.convert(FILES).published.key
    delete = Bucket.delete
    removed: list[str] = []

    def die(bucket: Bucket, name: str) -> None:
        delete(bucket, name)
        removed.append(name)
        if name.endswith("manifest.json"):
            raise TryAgainError("Killed", "right after the manifest")

    with monkeypatch.context() as patch:
        patch.setattr(Bucket, "delete", die)
        with pytest.raises(TryAgainError):
            bench.delete(key)
    names = [name.rpartition("/")[2] for name in removed]
    assert names == ["model", "model.json", "manifest.json"], "reference and trial come before"
    assert bench.artifact().read() is None
    assert len([name for name in everything(bench) if "/files/" in name]) == 3
    assert bench.delete(key).deleted == 1
    assert everything(bench) == []


def test_a_reference_before_the_look_keeps_the_artifact(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another object resolves after the last referrer has gone, before the deletion looks."""
    bench = bench.resolved()
    published = bench.convert(FILES).published
    forget = Artifact.forget

    def and_another_comes(artifact: Artifact, referrer: Any) -> None:
        forget(artifact, referrer)
        assert bench.referred_by("newcomer").resolve().published == published

    monkeypatch.setattr(Artifact, "forget", and_another_comes)
    assert bench.delete(published.key).deleted == 0
    assert bench.artifact().find() is not None


def test_a_reference_after_the_look_is_told_that_nothing_is_there(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The newcomer has seen the manifest; its reference comes too late to be counted."""
    bench = bench.resolved()
    key = bench.convert(FILES).published.key
    references = Artifact.references
    newcomer = bench.referred_by("newcomer")
    answers: list[object] = []
    thread = threading.Thread(target=lambda: answers.append(newcomer.resolve().published))

    def look_then_let_the_newcomer_in(artifact: Artifact) -> list[str]:
        found = references(artifact)
        thread.start()
        wait_until(lambda: bool(artifact.sizes("refs/")))
        return found

    monkeypatch.setattr(Artifact, "references", look_then_let_the_newcomer_in)
    assert bench.delete(key).deleted == 1
    thread.join(60)
    assert answers == [None]
    assert everything(bench) == []


def test_a_publisher_whose_files_a_deletion_took_sends_them_again(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The publisher has uploaded all and refers to nothing yet when a deletion passes by."""
    bench = bench.resolved()
    key = bench.convert(FILES).published.key
    bench.delete(key)
    other = bench.in_folder("other").referred_by("other")
    other.fetch()
    other.quantize(FILES)
    refer = Artifact.refer

    def a_deletion_passes(artifact: Artifact, referrer: Any) -> None:
        monkeypatch.setattr(Artifact, "refer", refer)
        assert bench.delete(key).deleted == 1
        assert everything(bench) == []
        refer(artifact, referrer)

    monkeypatch.setattr(Artifact, "refer", a_deletion_passes)
    published = other.publish()
    assert other.resolve().published == published.published
    assert (other.pull(published) / "model.gguf").read_bytes() == FILES["model.gguf"]


def test_a_deletion_under_way_is_waited_for_and_a_dead_one_is_not(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = bench.resolved()
    bench.convert(FILES)
    mark = bench.artifact().object_key("deleting/test/team/dead")
    bench.put(mark, b"{}")
    monkeypatch.setattr(store, "WAIT_SECONDS", 0.1)
    newcomer = bench.referred_by("newcomer")
    with pytest.raises(TryAgainError) as failure:
        newcomer.resolve()
    assert failure.value.reason == "DeletionUnderWay"
    monkeypatch.setattr(store, "DELETION_COUNTS_FOR", timedelta(0))
    assert newcomer.resolve().published is not None


def test_a_slow_deletion_stops_before_its_mark_expires(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert store.DELETION_ENDS_WITHIN < store.DELETION_COUNTS_FOR / 2
    bench = bench.resolved()
    key = bench.convert(FILES).published.key
    with monkeypatch.context() as patch:
        patch.setattr(store, "DELETION_ENDS_WITHIN", timedelta(seconds=-1))
        with pytest.raises(TryAgainError) as failure:
            bench.delete(key)
    assert failure.value.reason == "DeletionSlow"
    assert bench.artifact().find() is not None
    assert bench.delete(key).deleted == 1
