"""A hub's files kept in the store: the real huggingface_hub, the fake hub, a real S3 server."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from quantop_worker.errors import RefusedError, TryAgainError

from e2e.fakes.hub import DEFAULT_BRANCH, FakeHub
from tests.worker.checkpoints import READ, safetensors, write_checkpoint
from tests.worker.harness import Bench, source

NAME = "owner/tiny"
WEIGHTS = "model.safetensors"


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[FakeHub]:
    """A hub with one model, larger than one request."""
    folder = write_checkpoint(tmp_path / "hub" / "owner" / "tiny")
    (folder / WEIGHTS).write_bytes(safetensors({"a": 3 << 20}))
    with FakeHub(tmp_path / "hub") as running:
        yield running


@pytest.fixture
def asked(bench: Bench, hub: FakeHub) -> Bench:
    """A model of the hub, in a store that keeps what is fetched."""
    return ask(bench, hub, commit(hub))


def ask(bench: Bench, hub: FakeHub, revision: str | None) -> Bench:
    return bench.with_task(
        source=source(f"hf://{NAME}", revision=revision, hub_endpoint=hub.url, mirrored=True)
    )


def commit(hub: FakeHub) -> str:
    return hub.model(NAME, DEFAULT_BRANCH, None).commit()


def copies(bench: Bench) -> dict[str, str]:
    """The keys of the copied files by name, and of the manifest."""
    return {key.rpartition("/")[2]: key for key in bench.objects("models/sources/")}


def weights_asked_for(hub: FakeHub) -> int:
    """How often the whole weights were asked for: a GET follows a HEAD of what is downloaded."""
    return sum(line.startswith("HEAD") and line.endswith(WEIGHTS) for line in hub.requests)


def test_what_was_fetched_is_kept_and_read_there_by_the_next(asked: Bench, hub: FakeHub) -> None:
    asked.in_folder("first").resolved().fetch()
    assert sorted(copies(asked)) == sorted([*READ, "manifest.json"])
    assert weights_asked_for(hub) == 1
    second = asked.in_folder("second").resolved()
    second.fetch()
    assert weights_asked_for(hub) == 1
    for name in READ:
        original = hub.root / "owner" / "tiny" / name
        assert (second.work / "source" / name).read_bytes() == original.read_bytes()


def test_nothing_is_kept_where_that_is_not_asked_for(bench: Bench, hub: FakeHub) -> None:
    plain = bench.with_task(source=source(f"hf://{NAME}", hub_endpoint=hub.url)).resolved()
    plain.fetch()
    assert not copies(plain)


def test_a_copied_commit_needs_no_hub(asked: Bench, hub: FakeHub) -> None:
    before = asked.in_folder("before").resolve()
    asked.in_folder("before").resolved().fetch()
    hub.failures = 1000
    after = asked.in_folder("after")
    assert after.resolve() == before
    after.resolved().fetch()
    weights = hub.root / "owner" / "tiny" / WEIGHTS
    assert (after.work / "source" / WEIGHTS).read_bytes() == weights.read_bytes()


def test_a_branch_needs_the_hub(bench: Bench, hub: FakeHub) -> None:
    """What a branch is now, only the hub knows."""
    branch = ask(bench, hub, None)
    branch.in_folder("before").resolved().fetch()
    hub.failures = 1000
    with pytest.raises(TryAgainError) as failure:
        branch.in_folder("after").resolve()
    assert failure.value.reason == "Unreachable"


@pytest.mark.parametrize("marker", [".gated", ".private"])
def test_a_copy_is_only_for_those_who_may_read_the_model(
    asked: Bench, hub: FakeHub, monkeypatch: pytest.MonkeyPatch, marker: str
) -> None:
    (hub.root / "owner" / "tiny" / marker).write_text("good-token\n")
    monkeypatch.setenv("SOURCE_HF_TOKEN", "good-token")
    asked.in_folder("first").resolved().fetch()
    allowed = asked.in_folder("second").resolved()
    allowed.fetch()
    assert weights_asked_for(hub) == 1
    monkeypatch.setenv("SOURCE_HF_TOKEN", "other-token")
    with pytest.raises(RefusedError) as refusal:
        allowed.in_folder("third").fetch()
    assert refusal.value.reason in ("AccessDenied", "SourceNotFound")
    hub.failures = 1000
    with pytest.raises(TryAgainError):
        allowed.in_folder("fourth").fetch()


def test_an_expired_copy_is_fetched_and_kept_again(asked: Bench, hub: FakeHub) -> None:
    asked.in_folder("first").resolved().fetch()
    asked.client.delete_object(Bucket=asked.bucket, Key=copies(asked)[WEIGHTS])
    asked.in_folder("second").resolved().fetch()
    assert weights_asked_for(hub) == 2
    assert WEIGHTS in copies(asked)
    asked.client.delete_object(Bucket=asked.bucket, Key=copies(asked)[WEIGHTS])
    hub.failures = 1000
    with pytest.raises(TryAgainError):
        asked.in_folder("third").resolve()


def test_an_altered_copy_is_replaced(asked: Bench, hub: FakeHub) -> None:
    """Equal in size, it must not be taken for the right one when the files are kept again."""
    asked.in_folder("first").resolved().fetch()
    size = (hub.root / "owner" / "tiny" / WEIGHTS).stat().st_size
    asked.put(copies(asked)[WEIGHTS], b"\0" * size)
    second = asked.in_folder("second").resolved()
    with pytest.raises(TryAgainError, match="altered") as failure:
        second.fetch()
    assert failure.value.reason == "Corrupted"
    second.fetch()
    asked.in_folder("third").resolved().fetch()
    assert weights_asked_for(hub) == 2
