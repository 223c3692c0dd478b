"""What decides how a checkpoint's tokenizer becomes GGUF's, and what llama.cpp's tools say."""

import json
from pathlib import Path
from typing import Any

import pytest
from quantop_adapters import gguf_convert, llama_cpp, stage

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


def fake_tool(folder: Path, *runs: str) -> list[str]:
    """A command of shell words for each run, the last of which is repeated."""
    count = folder / "count"
    cases = "".join(f"{number}) {run} ;;\n" for number, run in enumerate(runs[:-1]))
    script = f"""
n=$(cat {count} 2>/dev/null || echo 0); echo $((n + 1)) > {count}
case $n in
{cases}*) {runs[-1]} ;;
esac
"""
    return ["sh", "-c", script]


def asked(folder: Path) -> int:
    """How often the fake tool was run."""
    return int((folder / "count").read_text())


REASON = "echo '0.00.018.672 E llama_model_load_from_file_impl: failed to load model'; exit 1"


def test_a_tool_that_failed_without_a_word_is_asked_again_why(tmp_path: Path) -> None:
    tool = fake_tool(tmp_path, "exit 1", "echo '0.00.001 I loading'; exit 1", REASON)
    with pytest.raises(stage.ToolError, match=r"exited with 1: .*failed to load model"):
        llama_cpp.ask(tool)
    assert asked(tmp_path) == 3


def test_a_tool_that_never_says_why_fails_all_the_same(tmp_path: Path) -> None:
    with pytest.raises(stage.ToolError, match="exited with 1"):
        llama_cpp.ask(fake_tool(tmp_path, "exit 1"))
    assert asked(tmp_path) == llama_cpp.TRIES


@pytest.mark.parametrize("patience", [60.0, 0.0])
def test_a_tool_that_was_ended_or_took_long_is_not_asked_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, patience: float
) -> None:
    monkeypatch.setattr(llama_cpp, "QUICK_SECONDS", patience)
    with pytest.raises(stage.ToolError):
        llama_cpp.ask(fake_tool(tmp_path, "kill -9 $$" if patience else "exit 1"))
    assert asked(tmp_path) == 1


def test_a_tool_is_asked_again_for_what_it_did_not_tell(tmp_path: Path) -> None:
    tool = fake_tool(tmp_path, "echo loading", "echo Mean KLD: 0.5")
    assert llama_cpp.ask(tool, lambda said: "KLD" in said) == "Mean KLD: 0.5"
    assert asked(tmp_path) == 2
    with pytest.raises(stage.ToolError, match="did not tell, 20 times: Mean KLD"):
        llama_cpp.ask(tool, lambda said: "PPL" in said)


def test_a_tool_that_ends_well_without_a_word_has_said_all(tmp_path: Path) -> None:
    assert llama_cpp.ask(fake_tool(tmp_path, "true")) == ""
    assert asked(tmp_path) == 1
