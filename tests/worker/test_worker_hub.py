"""A hub as a source: the real huggingface_hub against the fake hub of e2e/fakes."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from quantop_worker.errors import RefusedError, TryAgainError
from quantop_worker.sources import hub as hub_source

from e2e.fakes.hub import DEFAULT_BRANCH, FakeHub
from tests.worker.checkpoints import READ, safetensors, write_checkpoint
from tests.worker.harness import Bench, source

NAME = "owner/tiny"


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[FakeHub]:
    """A hub with one model."""
    write_checkpoint(tmp_path / "hub" / "owner" / "tiny")
    with FakeHub(tmp_path / "hub") as running:
        yield running


@pytest.fixture
def asked(bench: Bench, hub: FakeHub) -> Bench:
    """A model of the hub is asked for."""
    return ask(bench, hub)


def ask(bench: Bench, hub: FakeHub, name: str = NAME, revision: str | None = None) -> Bench:
    """Ask for a model."""
    return bench.with_task(source=source(f"hf://{name}", revision=revision, hub_endpoint=hub.url))


def test_a_model_of_the_hub_is_resolved_fetched_and_published(asked: Bench, hub: FakeHub) -> None:
    bench = asked.resolved()
    commit = hub.model(NAME, DEFAULT_BRANCH, None).commit()
    assert bench.task.source_identity == f"git:{commit}"
    bench.fetch()
    original = hub.root / "owner" / "tiny"
    assert sorted(path.name for path in (bench.work / "source").iterdir()) == READ
    for name in READ:
        assert (bench.work / "source" / name).read_bytes() == (original / name).read_bytes()
    assert not (bench.work / "source.hub").exists()
    bench.quantize({"model.gguf": b"quantized"})
    published = bench.publish()
    assert bench.resolve().published == published.published
    found = bench.artifact().find()
    assert found is not None
    assert found.manifest.source.revision == commit


def test_resolve_reads_only_what_is_small(asked: Bench, hub: FakeHub) -> None:
    weights = hub.root / "owner" / "tiny" / "model.safetensors"
    weights.write_bytes(safetensors({"a": 8 << 20}))
    size = weights.stat().st_size
    assert asked.resolve().source_size_bytes > size
    assert asked.resolve().key == asked.resolve().key


def test_a_branch_is_resolved_to_a_commit_and_stays_there(bench: Bench, hub: FakeHub) -> None:
    other = write_checkpoint(hub.root / "owner" / "tiny@v2", fill=b"\x02")
    main = ask(bench, hub).resolve()
    branch = ask(bench, hub, revision="v2").resolved()
    assert branch.task.source_identity != main.source_identity
    commit = str(branch.task.source_identity).removeprefix("git:")
    assert ask(bench, hub, revision=commit).resolve().source_identity == f"git:{commit}"
    # The branch moves on; its old commit stays under another name.
    other.rename(hub.root / "owner" / "tiny@old")
    write_checkpoint(hub.root / "owner" / "tiny@v2", fill=b"\x03")
    assert ask(bench, hub, revision="v2").resolve().source_identity != f"git:{commit}"
    branch.fetch()
    fetched = branch.work / "source" / "model.safetensors"
    assert fetched.read_bytes() == safetensors({"a": 64, "b": 32}, b"\x02")


def test_an_unknown_revision_is_refused(bench: Bench, hub: FakeHub) -> None:
    with pytest.raises(RefusedError, match=r"correct spec\.source\.revision") as refusal:
        ask(bench, hub, revision="absent").resolve()
    assert refusal.value.reason == "SourceNotFound"


def test_a_commit_that_vanished_is_refused(asked: Bench, hub: FakeHub) -> None:
    bench = asked.resolved()
    write_checkpoint(hub.root / "owner" / "tiny", fill=b"\x09")
    with pytest.raises(RefusedError, match="no revision") as refusal:
        bench.fetch()
    assert refusal.value.reason == "SourceNotFound"


@pytest.mark.parametrize("token", [None, "some-token"])
def test_an_unknown_model_is_refused(
    bench: Bench, hub: FakeHub, monkeypatch: pytest.MonkeyPatch, token: str | None
) -> None:
    """The hub says 401 to strangers and 404 to people it knows."""
    if token:
        monkeypatch.setenv("SOURCE_HF_TOKEN", token)
    with pytest.raises(RefusedError, match="does not have or does not show") as refusal:
        ask(bench, hub, "owner/absent").resolve()
    assert refusal.value.reason == "SourceNotFound"


@pytest.mark.parametrize("token", [None, "wrong-token"])
def test_a_gated_model_without_the_right_token_is_refused(
    asked: Bench, hub: FakeHub, monkeypatch: pytest.MonkeyPatch, token: str | None
) -> None:
    (hub.root / "owner" / "tiny" / ".gated").write_text("good-token\n")
    if token:
        monkeypatch.setenv("SOURCE_HF_TOKEN", token)
    with pytest.raises(RefusedError, match=r"gated: .*HF_TOKEN") as refusal:
        asked.resolve()
    assert refusal.value.reason == "AccessDenied"
    assert "wrong-token" not in refusal.value.message


@pytest.mark.parametrize("marker", [".gated", ".private"])
def test_the_right_token_opens_a_model(
    asked: Bench, hub: FakeHub, monkeypatch: pytest.MonkeyPatch, marker: str
) -> None:
    (hub.root / "owner" / "tiny" / marker).write_text("good-token\n")
    with pytest.raises(RefusedError):
        asked.resolve()
    monkeypatch.setenv("SOURCE_HF_TOKEN", "good-token")
    bench = asked.resolved()
    assert bench.fetch().source_size_bytes > 0


def test_a_token_of_the_machine_is_never_used(asked: Bench, hub: FakeHub) -> None:
    """Only what the object's Secret gives. In a process: the client reads its token once."""
    assert asked.run("resolve", HF_TOKEN="machine-token").code == 0
    assert hub.tokens == {None}
    assert asked.run("resolve", HF_TOKEN="machine-token", SOURCE_HF_TOKEN="own").code == 0
    assert hub.tokens == {None, "own"}


def test_a_hub_that_is_down_is_tried_again(asked: Bench, hub: FakeHub) -> None:
    hub.failures = 1
    with pytest.raises(TryAgainError, match="503") as failure:
        asked.resolve()
    assert failure.value.reason == "Unreachable"
    assert asked.resolve().key


def test_a_hub_that_is_not_there_is_tried_again(bench: Bench, hub: FakeHub) -> None:
    absent = source(f"hf://{NAME}", hub_endpoint="http://127.0.0.1:9")
    with pytest.raises(TryAgainError) as failure:
        bench.with_task(source=absent).resolve()
    assert failure.value.reason == "Unreachable"


def test_a_name_that_is_none_is_refused(bench: Bench, hub: FakeHub) -> None:
    with pytest.raises(RefusedError) as refusal:
        ask(bench, hub, "owner/..bad..").resolve()
    assert refusal.value.reason == "InvalidSource"


def test_bytes_that_are_not_what_the_hub_promised_are_fetched_again(
    asked: Bench, hub: FakeHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = asked.resolved()
    monkeypatch.setattr(hub_source, "sha256_of", lambda path: "0" * 64)
    with pytest.raises(TryAgainError, match="damaged") as failure:
        bench.fetch()
    assert failure.value.reason == "Corrupted"
    assert not (bench.work / "source" / "model.safetensors").exists()
    monkeypatch.undo()


def test_the_fake_says_that_it_is_one(hub: FakeHub) -> None:
    import httpx

    for path in ("/", f"/api/models/{NAME}", "/absent"):
        assert "FAKE" in httpx.get(hub.url + path).headers["X-Fake"]
