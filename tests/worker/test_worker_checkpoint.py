"""Which files of a checkpoint are read, and every checkpoint that is refused."""

import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from quantop.contract import Referrer
from quantop_worker import checkpoint
from quantop_worker.checkpoint import Checkpoint, inspect
from quantop_worker.errors import RefusedError
from quantop_worker.sources.base import SourceFile
from quantop_worker.sources.pvc import PvcSource

from tests.worker.checkpoints import (
    READ,
    safetensors,
    write_checkpoint,
    write_index,
    write_sharded_checkpoint,
)

URI = "pvc://claim/model"
REFERRER = Referrer(cluster="test", namespace="team", name="model")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A good checkpoint on a claim, to be spoilt."""
    monkeypatch.setenv("PVC_DIR", str(tmp_path / "pvc"))
    return write_checkpoint(tmp_path / "pvc" / "claim" / "model")


def look(uri: str = URI, architectures: tuple[str, ...] = (), limit: int = 1 << 20) -> Checkpoint:
    """What a conversion would read."""
    return inspect(PvcSource(uri, uri.removeprefix("pvc://"), REFERRER), architectures, limit)


def test_only_listed_kinds_of_files_are_read(folder: Path) -> None:
    (folder / "chat_template.jinja").write_text("{{ messages }}")
    (folder / "spiece.model").write_bytes(b"pieces")
    (folder / "LICENSE").write_text("Apache-2.0")
    (folder / "consolidated.safetensors").write_bytes(b"the same once more")
    (folder / "model.gguf").write_bytes(b"no")
    (folder / "training_args.bin").write_bytes(b"\x80\x04")
    (folder / "pytorch_model.bin.index.json").write_text("{}")
    (folder / "deep" / "er").mkdir(parents=True)
    (folder / "deep" / "er" / "extra.json").write_text("{}")
    found = look()
    assert [file.path for file in found.files] == sorted(
        [*READ, "LICENSE", "chat_template.jinja", "deep/er/extra.json", "spiece.model"]
    )
    assert found.size_bytes == sum((folder / file.path).stat().st_size for file in found.files)
    assert found.architecture == "LlamaForCausalLM"


def test_the_shards_that_the_index_names_are_read(folder: Path) -> None:
    write_sharded_checkpoint(folder)
    (folder / "model-9.safetensors").write_bytes(b"a stranger")
    assert {file.path for file in look().files if file.path.startswith("model")} == {
        "model-1.safetensors",
        "model-2.safetensors",
        "model.safetensors.index.json",
    }


def test_the_identity_follows_what_is_read_and_nothing_else(folder: Path) -> None:
    first = look().identity
    (folder / "pytorch_model.bin").write_bytes(b"not read")
    assert look().identity == first
    (folder / "tokenizer.json").write_text('{"version": "2.0"}')
    second = look().identity
    assert second != first
    other_namespace = Referrer(cluster="test", namespace="other", name="model")
    source = PvcSource(URI, "claim/model", other_namespace)
    assert inspect(source, (), 1 << 20).identity != second


def drop(name: str) -> Callable[[Path], None]:
    """Without a file."""
    return lambda folder: (folder / name).unlink()


def text(name: str, content: str) -> Callable[[Path], object]:
    """With another text."""
    return lambda folder: (folder / name).write_text(content)


def config(**entries: Any) -> Callable[[Path], object]:
    """With another config.json."""
    return text("config.json", json.dumps({"architectures": ["LlamaForCausalLM"]} | entries))


def weights(content: bytes) -> Callable[[Path], object]:
    """With other weights."""
    return lambda folder: (folder / "model.safetensors").write_bytes(content)


def header(value: Any) -> bytes:
    """A safetensors file of a header alone."""
    content = value if isinstance(value, bytes) else json.dumps(value).encode()
    return struct.pack("<Q", len(content)) + content


def sharded(weight_map: Any) -> Callable[[Path], None]:
    """In shards, with another index."""

    def spoil(folder: Path) -> None:
        write_sharded_checkpoint(folder)
        write_index(folder, weight_map)

    return spoil


def link(name: str, target: str) -> Callable[[Path], None]:
    """With a symbolic link."""

    def spoil(folder: Path) -> None:
        (folder / name).unlink(missing_ok=True)
        (folder / name).symlink_to(target)

    return spoil


@pytest.mark.parametrize(
    ("spoil", "reason", "sentence"),
    [
        (drop("config.json"), "InvalidSource", "no config.json"),
        (text("config.json", "{"), "InvalidSource", "no JSON object"),
        (text("config.json", "[]"), "InvalidSource", "no JSON object"),
        (text("config.json", ""), "InvalidSource", "no JSON object"),
        (text("config.json", "[" * 100_000), "InvalidSource", "no JSON object"),
        (config(architectures=[]), "InvalidSource", "names no architectures"),
        (config(architectures="Llama"), "InvalidSource", "names no architectures"),
        (config(architectures=[7]), "InvalidSource", "names no architectures"),
        (config(auto_map={"AutoModel": "own.Own"}), "RemoteCodeRefused", r"config\.json asks"),
        (
            text("tokenizer_config.json", '{"auto_map": {"AutoTokenizer": ["own.Own", null]}}'),
            "RemoteCodeRefused",
            r"tokenizer_config\.json asks",
        ),
        (drop("model.safetensors"), "PickleRefused", r"pytorch_model\.bin.*convert them"),
        (
            lambda folder: (drop("model.safetensors")(folder), drop("pytorch_model.bin")(folder)),
            "InvalidSource",
            r"neither model\.safetensors nor",
        ),
        (sharded({}), "InvalidSource", "without a weight_map"),
        (sharded([]), "InvalidSource", "without a weight_map"),
        (sharded({"a": "absent.safetensors"}), "InvalidSource", r"lacks absent\.safetensors"),
        (sharded({"a": "pytorch_model.bin"}), "InvalidSource", "as weights"),
        (sharded({"a": ["model-1.safetensors"]}), "InvalidSource", "as weights"),
        (sharded({"a": "../../x.safetensors"}), "PathEscapeRefused", "inside the folder"),
        (sharded({"a": "/etc/x.safetensors"}), "PathEscapeRefused", "inside the folder"),
        (sharded({"z": "model-1.safetensors"}), "InvalidSource", "lacks z"),
        (weights(b""), "InvalidSource", "too small"),
        (weights(struct.pack("<Q", 1 << 60)), "InvalidSource", "header of 1152921504606846976"),
        (weights(struct.pack("<Q", 4096) + b"{}"), "InvalidSource", "ends within its header"),
        (weights(header(b"\xff\xfe")), "InvalidSource", "no readable header"),
        (weights(header([])), "InvalidSource", "no readable header"),
        (weights(header({"a": 1})), "InvalidSource", "no readable header"),
        (weights(header({"a": {"data_offsets": [8, 0]}})), "InvalidSource", "no readable header"),
        (weights(header({"a": {"data_offsets": [0, 1e9]}})), "InvalidSource", "no readable"),
        (weights(safetensors({"a": 64})[:-1]), "InvalidSource", "header promises"),
        (weights(safetensors({"a": 64}) + b"more"), "InvalidSource", "header promises"),
        (
            weights(b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n"),
            "InvalidSource",
            "git lfs pull",
        ),
        (link("model.safetensors", "../../blobs/abc"), "PathEscapeRefused", "symbolic link"),
        (link("tokenizer.json", "/etc/passwd"), "PathEscapeRefused", "symbolic link"),
        (link("folder", "/etc"), "PathEscapeRefused", "symbolic link"),
        (text("odd\nname.json", "{}"), "PathEscapeRefused", "printable"),
    ],
)
def test_a_spoilt_checkpoint_is_refused(
    folder: Path, spoil: Callable[[Path], object], reason: str, sentence: str
) -> None:
    look()
    spoil(folder)
    with pytest.raises(RefusedError, match=sentence) as refusal:
        look()
    assert refusal.value.reason == reason
    assert "spec.source.uri" in refusal.value.message


def test_an_architecture_that_the_quantizer_does_not_read_is_refused(folder: Path) -> None:
    assert look(architectures=("LlamaForCausalLM", "Phi3ForCausalLM"))
    with pytest.raises(RefusedError, match="Phi3ForCausalLM") as refusal:
        look(architectures=("Phi3ForCausalLM",))
    assert refusal.value.reason == "UnsupportedArchitecture"


def test_a_checkpoint_beyond_the_limit_is_refused_with_figures(folder: Path) -> None:
    size = look().size_bytes
    assert look(limit=size).size_bytes == size
    with pytest.raises(RefusedError, match=f"{size} bytes, more than the {size - 1}") as refusal:
        look(limit=size - 1)
    assert refusal.value.reason == "SourceTooLarge"


@pytest.mark.parametrize(
    ("uri", "reason"),
    [
        ("pvc://claim/absent", "SourceNotFound"),
        ("pvc://absent/model", "SourceNotFound"),
        ("pvc://claim/../claim/model", "PathEscapeRefused"),
        ("pvc://claim//model", "PathEscapeRefused"),
        ("pvc://../etc", "PathEscapeRefused"),
        ("pvc://claim/linked", "PathEscapeRefused"),
        ("pvc://claim/linked/pki", "PathEscapeRefused"),
    ],
)
def test_a_path_that_is_no_folder_of_the_claim_is_refused(
    folder: Path, uri: str, reason: str
) -> None:
    (folder.parent / "linked").symlink_to("/etc")
    with pytest.raises(RefusedError) as refusal:
        look(uri)
    assert refusal.value.reason == reason


@pytest.mark.parametrize(
    "path", ["/etc/x.json", "../x.json", "a/../../x.json", "a\\b.json", "a//b"]
)
def test_a_listing_with_names_that_lead_outside_is_refused(
    folder: Path, monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    """A bucket or a hub can list any name."""
    files = PvcSource(URI, "claim/model", REFERRER).files()
    monkeypatch.setattr(PvcSource, "files", lambda self: [*files, SourceFile(path, 2, "v")])
    with pytest.raises(RefusedError) as refusal:
        look()
    assert refusal.value.reason == "PathEscapeRefused"


def test_a_listing_without_end_is_refused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoint, "FILES_LIMIT", 3)
    with pytest.raises(RefusedError, match="name a folder with less in it"):
        look()


def test_a_list_that_is_called_like_a_config_is_none(folder: Path) -> None:
    """Sentence encoders have one of the texts that they were trained on."""
    (folder / "data_config.json").write_text('[{"name": "auto_map"}]')
    assert "data_config.json" in {file.path for file in look().files}
    (folder / "data_config.json").write_text("{")
    with pytest.raises(RefusedError, match=r"data_config\.json that is no JSON object"):
        look()


def test_a_huge_config_is_not_read(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoint, "CONFIG_LIMIT_BYTES", 8)
    with pytest.raises(RefusedError, match="more than 8"):
        look()
