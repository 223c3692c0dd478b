"""What a serving pod accepts from a store."""

import os
import shutil
from collections import namedtuple
from pathlib import Path

import pytest
from quantop.contract import PublishResult, PullTask
from quantop_worker.errors import RefusedError, TryAgainError
from quantop_worker.s3 import Bucket

from tests.worker.harness import Bench, wait_until
from tests.worker.stalling_proxy import StallingProxy

MIB = 1 << 20
FILES = {"model.gguf": os.urandom(20 * MIB + 17), "tokenizer.json": b"{}"}


@pytest.fixture
def published(bench: Bench) -> PublishResult:
    """An artifact that is to be pulled."""
    return bench.resolved().convert(FILES)


def stored(bench: Bench, name: str) -> str:
    """The key of an artifact's file."""
    return next(key for key in bench.objects("models/") if key.endswith(f"/{name}"))


def content(folder: Path) -> dict[str, bytes]:
    """What lies in a folder."""
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_every_byte_arrives(bench: Bench, published: PublishResult) -> None:
    assert content(bench.pull(published)) == FILES
    assert not (bench.folder / "model.tmp").exists()


@pytest.mark.parametrize("name", ["model.gguf", "tokenizer.json"])
def test_an_altered_object_is_refused(bench: Bench, published: PublishResult, name: str) -> None:
    altered = bytearray(FILES[name])
    altered[-1] ^= 1
    bench.put(stored(bench, name), bytes(altered))
    with pytest.raises(RefusedError, match=f"{name}.*altered in the store") as refusal:
        bench.pull(published)
    assert refusal.value.reason == "ArtifactDamaged"
    assert not (bench.folder / "model").exists()


def test_a_truncated_object_is_refused(bench: Bench, published: PublishResult) -> None:
    bench.put(stored(bench, "model.gguf"), FILES["model.gguf"][:-1])
    with pytest.raises(RefusedError, match=r"model\.gguf") as refusal:
        bench.pull(published)
    assert refusal.value.reason == "ArtifactDamaged"
    assert not (bench.folder / "model").exists()


def test_a_missing_object_is_refused(bench: Bench, published: PublishResult) -> None:
    bench.client.delete_object(Bucket=bench.bucket, Key=stored(bench, "tokenizer.json"))
    with pytest.raises(RefusedError, match="no bytes") as refusal:
        bench.pull(published)
    assert refusal.value.reason == "ArtifactDamaged"


def test_a_replaced_manifest_is_refused(bench: Bench, published: PublishResult) -> None:
    key = stored(bench, "manifest.json")
    original = bench.client.get_object(Bucket=bench.bucket, Key=key)["Body"].read()
    bench.put(key, original + b" ")
    with pytest.raises(RefusedError, match="was replaced") as refusal:
        bench.pull(published)
    assert refusal.value.reason == "ManifestMismatch"


@pytest.mark.parametrize("text", [b"{}", b"not json", b'{"schemaVersion": 2}'])
def test_a_manifest_that_is_none_is_refused(
    bench: Bench, published: PublishResult, text: bytes
) -> None:
    bench.put(stored(bench, "manifest.json"), text)
    with pytest.raises(RefusedError) as refusal:
        bench.pull(published)
    assert refusal.value.reason == "ManifestUnreadable"


def test_a_manifest_of_another_artifact_is_refused(bench: Bench, published: PublishResult) -> None:
    own = stored(bench, "manifest.json")
    other = own.replace(published.published.key, "0" * 64)
    bench.put(other, bench.client.get_object(Bucket=bench.bucket, Key=own)["Body"].read())
    with pytest.raises(RefusedError, match="another artifact"):
        bench.artifact("0" * 64).read()


def test_a_missing_manifest_is_tried_again(bench: Bench, published: PublishResult) -> None:
    bench.client.delete_object(Bucket=bench.bucket, Key=stored(bench, "manifest.json"))
    with pytest.raises(TryAgainError) as failure:
        bench.pull(published)
    assert failure.value.reason == "ManifestNotFound"


def test_a_pull_that_finished_fetches_nothing_again(
    bench: Bench, published: PublishResult, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = bench.pull(published)

    def fail(*arguments: object, **rest: object) -> None:
        raise AssertionError("nothing was to be fetched")

    monkeypatch.setattr(Bucket, "stream", fail)
    assert content(bench.pull(published)) == FILES
    assert folder.exists()


def test_a_folder_that_does_not_verify_is_fetched_again(
    bench: Bench, published: PublishResult
) -> None:
    folder = bench.pull(published)
    with (folder / "model.gguf").open("r+b") as file:
        file.write(b"spoilt")
    assert content(bench.pull(published)) == FILES


def test_a_killed_pull_goes_on_and_leaves_nothing_of_its_own(
    bench: Bench, published: PublishResult
) -> None:
    draft = bench.folder / "model.tmp"
    draft.mkdir()
    (draft / "tokenizer.json").write_bytes(FILES["tokenizer.json"])
    (draft / "model.gguf.quantop.part").write_bytes(b"half")
    (draft / "stranger.gguf").write_bytes(b"of another artifact")
    assert content(bench.pull(published)) == FILES


def test_an_engine_sees_nothing_before_all_is_verified(
    bench: Bench, published: PublishResult
) -> None:
    """The server stands still in the middle, and the pod is killed."""
    with StallingProxy(bench.server.port, 1 << 30, answers=8 * MIB) as proxy:
        task = PullTask(
            store=bench.store.model_copy(update={"endpoint": proxy.url}),
            key=published.published.key,
            manifest_digest=published.published.manifest_digest,
            directory=str(bench.folder / "model"),
        )
        process = bench.start("pull", task)
        assert proxy.stalled.wait(60)
        wait_until((bench.folder / "model.tmp").exists)
        assert not (bench.folder / "model").exists()
        process.kill()
        process.communicate(timeout=30)
    assert not (bench.folder / "model").exists()
    assert content(bench.pull(published)) == FILES


def test_too_small_a_disk_is_said_with_figures(
    bench: Bench, published: PublishResult, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = namedtuple("usage", ("total", "used", "free"))
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(100, 99, 1))
    size = sum(map(len, FILES.values()))
    with pytest.raises(TryAgainError, match=f"{size} bytes .* 1 are free") as failure:
        bench.pull(published)
    assert failure.value.reason == "InsufficientDisk"
