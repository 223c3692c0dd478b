"""The committed test models are what the toolchains and the README count on.

Only the standard library reads them here, so that a broken file is found without any toolchain.
"""

import json
import math
import struct
from pathlib import Path
from typing import Any

import pytest

MODELS = Path(__file__).resolve().parents[2] / "e2e" / "models"
ARCHITECTURES = {"tiny-llama": "LlamaForCausalLM", "tiny-phi3": "Phi3ForCausalLM"}
# llama.cpp looks these up by name in every model that is called something with "phi3".
NAMED_TOKENS = {"<unk>", "<s>", "</s>", "<|endoftext|>"}
CHAT_TOKENS = {"<|system|>", "<|user|>", "<|assistant|>", "<|end|>"}

pytestmark = pytest.mark.parametrize("name", sorted(ARCHITECTURES))


def read_json(name: str, file: str) -> dict[str, Any]:
    document: dict[str, Any] = json.loads((MODELS / name / file).read_text(encoding="utf-8"))
    return document


def read_tensors(name: str) -> dict[str, dict[str, Any]]:
    """The header of a safetensors file: eight bytes of length, then JSON; checked to its end."""
    path = MODELS / name / "model.safetensors"
    with path.open("rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        header: dict[str, dict[str, Any]] = json.loads(file.read(length))
    header.pop("__metadata__", None)
    assert path.stat().st_size == 8 + length + max(t["data_offsets"][1] for t in header.values())
    return header


def test_weights_are_four_million_bf16_parameters_in_ten_megabytes(name: str) -> None:
    tensors = read_tensors(name)
    assert {tensor["dtype"] for tensor in tensors.values()} == {"BF16"}
    assert 3_500_000 < sum(math.prod(tensor["shape"]) for tensor in tensors.values()) < 5_000_000
    assert (MODELS / name / "model.safetensors").stat().st_size <= 10_000_000


def test_rows_divide_into_the_blocks_of_every_format(name: str) -> None:
    matrices = [
        tensor["shape"] for tensor in read_tensors(name).values() if len(tensor["shape"]) > 1
    ]
    assert len(matrices) > 10
    assert [shape for shape in matrices if shape[1] % 256] == []


def test_output_head_is_a_matrix_of_its_own(name: str) -> None:
    assert "lm_head.weight" in read_tensors(name)
    assert read_json(name, "config.json")["tie_word_embeddings"] is False


def test_config_names_a_known_architecture_and_no_code(name: str) -> None:
    config = read_json(name, "config.json")
    assert config["architectures"] == [ARCHITECTURES[name]]
    assert config["dtype"] == "bfloat16"
    for file in ("config.json", "tokenizer_config.json", "generation_config.json"):
        assert "auto_map" not in read_json(name, file)


def test_tokenizer_splits_with_the_regex_of_gpt2(name: str) -> None:
    tokenizer = read_json(name, "tokenizer.json")
    assert tokenizer["normalizer"] is None
    pre_tokenizer = tokenizer["pre_tokenizer"]
    assert pre_tokenizer["type"] == "ByteLevel"
    assert pre_tokenizer["use_regex"] is True
    assert pre_tokenizer["add_prefix_space"] is False
    assert tokenizer["model"]["type"] == "BPE"


def test_vocabulary_fits_the_model_and_has_the_tokens_that_engines_look_up(name: str) -> None:
    tokenizer = read_json(name, "tokenizer.json")
    config = read_json(name, "config.json")
    vocabulary = tokenizer["model"]["vocab"]
    assert sorted(vocabulary.values()) == list(range(config["vocab_size"]))
    special = {token["content"] for token in tokenizer["added_tokens"] if token["special"]}
    assert special == NAMED_TOKENS | CHAT_TOKENS
    assert special <= vocabulary.keys()
    assert vocabulary["<s>"] == config["bos_token_id"]
    assert vocabulary["</s>"] == config["eos_token_id"]


def test_generation_ends_with_an_answer_as_well_as_with_a_document(name: str) -> None:
    vocabulary = read_json(name, "tokenizer.json")["model"]["vocab"]
    ends = read_json(name, "generation_config.json")["eos_token_id"]
    assert set(ends) == {vocabulary[token] for token in ("</s>", "<|endoftext|>", "<|end|>")}


def test_chat_template_uses_the_special_tokens(name: str) -> None:
    config = read_json(name, "tokenizer_config.json")
    assert "<|end|>" in config["chat_template"]
    assert "<|assistant|>" in config["chat_template"]
    assert "bos_token" in config["chat_template"]
    if name == "tiny-phi3":
        # Under any other class llama.cpp's converter asks a Phi-3 for a SentencePiece model.
        assert config["tokenizer_class"] == "GPT2Tokenizer"


def test_everybody_may_read_every_file(name: str) -> None:
    files = [path for path in (MODELS / name).iterdir() if path.is_file()]
    assert len(files) == 5
    assert [path.name for path in files if not path.stat().st_mode & 0o004] == []
