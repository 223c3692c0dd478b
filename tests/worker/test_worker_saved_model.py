"""A TensorFlow SavedModel as a source: who reads it, which of its files are read, and what is
refused before it is fetched."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from quantop.contract import Referrer
from quantop_worker import checkpoint
from quantop_worker.checkpoint import SAFETENSORS, SAVED_MODEL, Checkpoint, inspect
from quantop_worker.errors import RefusedError
from quantop_worker.sources.pvc import PvcSource

from tests.worker.checkpoints import READ, write_checkpoint

MODEL = Path(__file__).resolve().parents[2] / "e2e" / "models" / "tiny-bert-tensorflow"
DATA = "variables/variables.data-00000-of-00001"
NEEDED = ["saved_model.pb", "variables/variables.index", DATA]
URI = "pvc://claim/model"
REFERRER = Referrer(cluster="test", namespace="team", name="model")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The test model on a claim, to be spoilt."""
    monkeypatch.setenv("PVC_DIR", str(tmp_path / "pvc"))
    return shutil.copytree(MODEL, tmp_path / "pvc" / "claim" / "model")


def look(*source_files: str) -> Checkpoint:
    """What a conversion by a Quantizer that reads these would read."""
    source = PvcSource(URI, URI.removeprefix("pvc://"), REFERRER)
    return inspect(source, (), 1 << 24, source_files)


def test_the_graph_its_variables_and_what_lies_beside_them_are_read(folder: Path) -> None:
    (folder / "model.h5").write_bytes(b"no")
    (folder / "variables" / "checkpoint").write_text("no")
    found = look(SAVED_MODEL)
    assert [file.path for file in found.files] == sorted(
        [
            *NEEDED,
            *("config.json", "tokenizer.json", "tokenizer_config.json"),
            *("modules.json", "sentence_bert_config.json", "1_Pooling/config.json"),
        ]
    )
    assert found.architecture == "BertModel"
    assert found.size_bytes == sum((folder / file.path).stat().st_size for file in found.files)


def test_the_identity_follows_the_graph(folder: Path) -> None:
    first = look(SAVED_MODEL).identity
    (folder / "saved_model.pb").write_bytes(b"other")
    assert look(SAVED_MODEL).identity != first


def test_who_does_not_read_it_says_so_and_what_to_do(folder: Path) -> None:
    with pytest.raises(RefusedError, match=r"saved as SavedModel.*quantizerName") as refusal:
        look(SAFETENSORS)
    assert refusal.value.reason == "UnsupportedSource"
    assert "reads Safetensors" in refusal.value.message


def test_who_reads_nothing_else_refuses_safetensors(folder: Path) -> None:
    shutil.rmtree(folder)
    write_checkpoint(folder)
    with pytest.raises(RefusedError, match="saved as Safetensors") as refusal:
        look(SAVED_MODEL)
    assert refusal.value.reason == "UnsupportedSource"


def test_of_both_each_quantizer_reads_its_own_and_who_can_read_both_safetensors(
    folder: Path,
) -> None:
    write_checkpoint(folder)
    for source_files in ([SAFETENSORS], [SAVED_MODEL, SAFETENSORS]):
        paths = {file.path for file in look(*source_files).files}
        assert set(READ) <= paths
        assert not set(NEEDED) & paths
    paths = {file.path for file in look(SAVED_MODEL).files}
    assert set(NEEDED) <= paths
    assert "model.safetensors" not in paths


def without(name: str) -> Callable[[Path], object]:
    return lambda folder: (folder / name).unlink()


def with_file(name: str, content: bytes = b"x") -> Callable[[Path], object]:
    def write(folder: Path) -> None:
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(content)

    return write


POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n"


@pytest.mark.parametrize(
    ("spoil", "reason", "sentence"),
    [
        (without("saved_model.pb"), "InvalidSource", r"lacks saved_model\.pb"),
        (without("config.json"), "InvalidSource", r"lacks config\.json: .* beside"),
        (without("tokenizer.json"), "InvalidSource", r"lacks tokenizer\.json"),
        (without("variables/variables.index"), "InvalidSource", r"lacks variables/variables\.ind"),
        (without(DATA), "InvalidSource", "only none"),
        (
            lambda folder: (folder / DATA).rename(folder / DATA.replace("of-00001", "of-00002")),
            "InvalidSource",
            r"not all files of the variables, only variables/variables\.data-00000-of-00002",
        ),
        (with_file("variables/variables.data-00001-of-00002"), "InvalidSource", "not all files"),
        (with_file("assets/vocab.txt"), "SavedModelRefused", r"has assets/vocab\.txt"),
        (with_file("saved_model.pb", POINTER), "InvalidSource", "git lfs pull"),
        (with_file(DATA, POINTER), "InvalidSource", "git lfs pull"),
        (
            with_file("config.json", b'{"architectures": ["B"], "auto_map": {"A": "own.A"}}'),
            "RemoteCodeRefused",
            r"config\.json asks",
        ),
    ],
)
def test_what_is_not_whole_or_would_read_files_is_refused(
    folder: Path, spoil: Callable[[Path], object], reason: str, sentence: str
) -> None:
    look(SAVED_MODEL)
    spoil(folder)
    with pytest.raises(RefusedError, match=sentence) as refusal:
        look(SAVED_MODEL)
    assert refusal.value.reason == reason
    assert "spec.source.uri" in refusal.value.message


def test_a_graph_larger_than_a_message_is_refused(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkpoint, "MESSAGE_LIMIT_BYTES", 9)
    with pytest.raises(RefusedError, match=r"saved_model\.pb of"):
        look(SAVED_MODEL)
