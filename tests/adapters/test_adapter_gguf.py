"""What decides how a checkpoint's tokenizer becomes GGUF's."""

import json
from pathlib import Path
from typing import Any

import pytest
from quantop_adapters import gguf_convert

BYTE_LEVEL = {"type": "ByteLevel", "add_prefix_space": False, "use_regex": True}


def write_tokenizer(folder: Path, **changes: Any) -> Path:
    """A tokenizer.json of byte-level BPE, or one that differs from it."""
    tokenizer = {
        "model": {"type": "BPE", "vocab": {"a": 0, "b": 1}},
        "normalizer": None,
        "pre_tokenizer": BYTE_LEVEL,
        "added_tokens": [{"content": "<s>"}, {"content": "</s>"}],
    }
    (folder / "tokenizer.json").write_text(json.dumps({**tokenizer, **changes}))
    return folder


def test_plain_byte_level_bpe_splits_as_gpt2_does(tmp_path: Path) -> None:
    assert gguf_convert.is_plain_byte_level(write_tokenizer(tmp_path))


@pytest.mark.parametrize(
    "changes",
    [
        {"model": {"type": "Unigram"}},
        {"normalizer": {"type": "NFC"}},
        {"pre_tokenizer": {"type": "Sequence", "pretokenizers": [BYTE_LEVEL]}},
        {"pre_tokenizer": {**BYTE_LEVEL, "use_regex": False}},
        {"pre_tokenizer": {**BYTE_LEVEL, "add_prefix_space": True}},
        {"pre_tokenizer": None},
    ],
)
def test_any_other_tokenizer_is_not_taken_for_gpt2s(tmp_path: Path, changes: Any) -> None:
    assert not gguf_convert.is_plain_byte_level(write_tokenizer(tmp_path, **changes))


def test_a_checkpoint_without_tokenizer_json_is_not_taken_for_gpt2s(tmp_path: Path) -> None:
    assert not gguf_convert.is_plain_byte_level(tmp_path)


@pytest.mark.parametrize("name", ["my-phi3", "Phi-3-mini", "phi-3"])
def test_a_name_that_llama_cpp_reads_a_meaning_into_is_changed(tmp_path: Path, name: str) -> None:
    found = gguf_convert.display_name(name, write_tokenizer(tmp_path))
    assert "phi" in found.lower()
    assert not gguf_convert.PHI3_NAMES.search(found)


def test_such_a_name_stays_where_the_vocabulary_is_phi3s(tmp_path: Path) -> None:
    tokens = [{"content": token} for token in sorted(gguf_convert.PHI3_TOKENS)]
    source = write_tokenizer(tmp_path, added_tokens=tokens)
    assert gguf_convert.display_name("phi-3-mini", source) == "phi-3-mini"


def test_any_other_name_stays(tmp_path: Path) -> None:
    assert gguf_convert.display_name("llama-3", write_tokenizer(tmp_path)) == "llama-3"
