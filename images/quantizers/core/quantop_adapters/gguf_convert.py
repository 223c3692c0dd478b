"""From a Hugging Face checkpoint to a GGUF file in 16-bit floats, by llama.cpp's own converter.

The converter knows a tokenizer by the hash of what it makes of one text, and refuses those it never
saw. A plain byte-level BPE tokenizer is GPT-2's in all but its vocabulary, so it is mapped to that
one, and whether llama.cpp then splits text as the checkpoint's own tokenizer does is tested on the
result (`llama_cpp.check_tokenizer`). WordPiece has no hash that matters: llama.cpp knows one only.
"""

from __future__ import annotations

import importlib
import os
import re
import sys
from pathlib import Path
from typing import Any

from quantop_adapters import checkpoint
from quantop_adapters.refusal import RefusedError

# llama.cpp marks these tokens of any model whose name contains one of PHI3_NAMES, and cannot load
# one without them.
PHI3_NAMES = re.compile(r"(phi)-?3", re.IGNORECASE)
PHI3_TOKENS = frozenset({"</s>", "<unk>", "<s>", "<|endoftext|>"})
ENCODERS = "conversion.bert"
"""The converter's module of models that read a text whole."""


def import_from_llama_cpp(name: str) -> Any:
    """Import a module of llama.cpp's Python sources, which lie in a folder of their own."""
    folder = os.environ.get("LLAMA_CPP_PYTHON", "/opt/llama.cpp/python")
    if folder not in sys.path:
        sys.path.insert(0, folder)
    return importlib.import_module(name)


def is_plain_byte_level(source: Path) -> bool:
    """Whether tokenizer.json is a BPE tokenizer that splits text exactly as GPT-2's does."""
    tokenizer = checkpoint.read_json(source / "tokenizer.json")
    splitter = tokenizer.get("pre_tokenizer") or {}
    return (
        (tokenizer.get("model") or {}).get("type") == "BPE"
        and not tokenizer.get("normalizer")
        and splitter.get("type") == "ByteLevel"
        and splitter.get("use_regex", True) is True
        and splitter.get("add_prefix_space", True) is False
    )


def is_word_piece(source: Path) -> bool:
    """Whether tokenizer.json is a WordPiece tokenizer."""
    model = checkpoint.read_json(source / "tokenizer.json").get("model") or {}
    return bool(model.get("type") == "WordPiece")


def display_name(model_name: str, source: Path) -> str:
    """The name to write into the file: the object's, unless it means something to llama.cpp."""
    tokens = checkpoint.vocabulary(source).keys() | checkpoint.added_tokens(source)
    if PHI3_NAMES.search(model_name) and not tokens >= PHI3_TOKENS:
        return PHI3_NAMES.sub(r"\1", model_name)
    return model_name


def convert(
    source: Path, target: Path, model_name: str, float_type: str, pooling: str | None = None
) -> bool:
    """Write `target` and say whether the tokenizer was mapped to GPT-2's, which wants a check.

    `float_type` is the type of its matrices, F32, F16 or BF16; `pooling`, of a model that makes
    embeddings, is `mean`, `cls` or `last`.

    Raises:
        RefusedError: the converter knows neither the architecture nor the tokenizer, or the model
            reads texts whole and nobody asked for embeddings.
    """
    conversion: Any = import_from_llama_cpp("conversion")
    gguf: Any = import_from_llama_cpp("gguf")
    torch: Any = importlib.import_module("torch")
    config = checkpoint.read_json(source / "config.json")
    mapped = False
    try:
        settings = conversion.ModelBase.load_hparams(source, False)
        architecture = conversion.get_model_architecture(settings, conversion.ModelType.TEXT)
        base: Any = conversion.get_model_class(architecture)
    except (NotImplementedError, ValueError, KeyError) as error:
        raise RefusedError(
            "UnsupportedArchitecture",
            f"the source's config.json says {checkpoint.architecture(config)}, which llama.cpp "
            f"cannot convert ({checkpoint.first_sentence(error)}); choose format "
            "CompressedTensors or ONNX, or another model",
        ) from None
    is_encoder = base.__module__ == ENCODERS
    if is_encoder and pooling is None:
        raise RefusedError(
            "UnsupportedArchitecture",
            f"the source's config.json says {architecture}, which reads a text whole and generates "
            "none: choose format GGUFEncoder or ONNXEncoder",
        )

    def set_vocab(self: Any) -> None:
        plain = not (source / "tokenizer.model").is_file() and is_plain_byte_level(source)
        if plain and not is_encoder:
            self._set_vocab_gpt2()
        else:
            base.set_vocab(self)

    def get_vocab_base_pre(self: Any, tokenizer: Any) -> str:
        nonlocal mapped
        try:
            return str(base.get_vocab_base_pre(self, tokenizer))
        except NotImplementedError:
            if is_word_piece(source):
                return "default"
            if not is_plain_byte_level(source):
                raise
            mapped = True
            return "gpt-2"

    def set_gguf_parameters(self: Any) -> None:
        base.set_gguf_parameters(self)
        if pooling is not None:
            self.gguf_writer.add_pooling_type(gguf.PoolingType[pooling.upper()])

    overrides = {
        "model_arch": base.model_arch,
        "set_vocab": set_vocab,
        "get_vocab_base_pre": get_vocab_base_pre,
        "set_gguf_parameters": set_gguf_parameters,
        # It knows less of what sentence-transformers' files say than who calls.
        "_try_set_pooling_type": lambda self: None,
    }
    converter_type: Any = type("Converter", (base,), overrides)
    with torch.inference_mode():
        converter = converter_type(
            source,
            gguf.LlamaFileType.ALL_F32
            if float_type == "F32"
            else getattr(gguf.LlamaFileType, f"MOSTLY_{float_type}"),
            target,
            model_name=display_name(model_name, source),
        )
        # The vocabulary first and alone: what cannot be tokenized should not be converted for an
        # hour before.
        try:
            converter.set_vocab()
        except (
            NotImplementedError,
            ValueError,
            KeyError,
            FileNotFoundError,
            AssertionError,
        ) as error:
            raise RefusedError(
                "UnsupportedTokenizer",
                "llama.cpp cannot take over the source's tokenizer "
                f"({checkpoint.first_sentence(error)}); it knows SentencePiece models, plain "
                "byte-level BPE and those of well-known models: choose format CompressedTensors "
                "or ONNX",
            ) from None
        converter.set_vocab = lambda: None
        converter.write()
    return mapped
