"""The source: a Hugging Face checkpoint in safetensors, and what every toolchain asks of it."""

from __future__ import annotations

import hashlib
import importlib
import json
import math
import shutil
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from quantop_adapters.refusal import RefusedError

TOKENIZER_FILES = (
    "added_tokens.json",
    "chat_template.jinja",
    "merges.txt",
    "special_tokens_map.json",
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "vocab.json",
)
# Bytes of one number of each safetensors type; types below a byte do not occur in checkpoints to be
# quantized.
TYPE_BYTES = {
    "BOOL": 1,
    "U8": 1,
    "I8": 1,
    "F8_E4M3": 1,
    "F8_E5M2": 1,
    "F8_E8M0": 1,
    "I16": 2,
    "U16": 2,
    "F16": 2,
    "BF16": 2,
    "I32": 4,
    "U32": 4,
    "F32": 4,
    "I64": 8,
    "U64": 8,
    "F64": 8,
}

# Parts of names of tensors that no text format quantizes: the output layer, which some leave as it
# is, what looks at images or listens, and heads that an encoder was trained with.
NOT_QUANTIZED = ("lm_head", "vision", "visual", "audio", "pooler", "predictions", "vocab_")


@dataclass(frozen=True)
class Tensor:
    """A tensor in a safetensors file; `offset` is where its bytes start in `file`."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    file: Path
    offset: int

    @property
    def numbers(self) -> int:
        """How many numbers it holds."""
        return math.prod(self.shape)

    @property
    def bits(self) -> int:
        """How many bits store it."""
        return self.numbers * TYPE_BYTES[self.dtype] * 8

    def read_int64(self) -> tuple[int, ...]:
        """The values of a small tensor of type I64."""
        with self.file.open("rb") as handle:
            handle.seek(self.offset)
            return struct.unpack(f"<{self.numbers}q", handle.read(8 * self.numbers))


def tensors(folder: Path) -> dict[str, Tensor]:
    """Every tensor of a folder's safetensors files by name, read from their headers.

    Raises:
        ValueError: two files hold a tensor of the same name; which one a reader takes is chance.
    """
    found: dict[str, Tensor] = {}
    for file in sorted(folder.glob("*.safetensors")):
        with file.open("rb") as handle:
            (length,) = struct.unpack("<Q", handle.read(8))
            header = json.loads(handle.read(length))
        for name, entry in header.items():
            if name in found:
                raise ValueError(f"{name} is in {found[name].file.name} and in {file.name}")
            if name != "__metadata__":
                start = 8 + length + entry["data_offsets"][0]
                found[name] = Tensor(name, entry["dtype"], tuple(entry["shape"]), file, start)
    return found


def is_layer(tensor: Tensor) -> bool:
    """Whether it is a matrix to multiply by, or a stack of them; embeddings are looked up."""
    return len(tensor.shape) in (2, 3) and "embed" not in tensor.name


def layer_numbers(folder: Path) -> int:
    """How many numbers the layers of the language model hold, without its output layer.

    Towers for other media are not counted: text formats leave them out.
    """
    return sum(
        tensor.numbers
        for tensor in tensors(folder).values()
        if is_layer(tensor) and not any(part in tensor.name for part in NOT_QUANTIZED)
    )


def vocabulary(folder: Path) -> dict[str, int]:
    """The tokens of a folder's tokenizer and their ids; empty where no file tells them."""
    tokenizer = read_json(folder / "tokenizer.json")
    entries = (tokenizer.get("model") or {}).get("vocab") or {}
    if isinstance(entries, list):
        entries = {entry[0]: index for index, entry in enumerate(entries)}
    if not entries and (folder / "tokenizer.model").is_file():
        sentencepiece: Any = importlib.import_module("sentencepiece")
        model = sentencepiece.SentencePieceProcessor(str(folder / "tokenizer.model"))
        entries = {model.id_to_piece(index): index for index in range(model.get_piece_size())}
    return dict(entries)


def added_tokens(folder: Path) -> frozenset[str]:
    """The tokens that were added to the tokenizer's own."""
    added = read_json(folder / "tokenizer.json").get("added_tokens") or []
    return frozenset(token["content"] for token in added)


def check_vocabulary(source: Path, found: Mapping[str, int]) -> None:
    """Refuse an artifact that has another tokenizer than its source.

    Added tokens are left out: llama.cpp writes some of them otherwise, to the same effect.

    Raises:
        RefusedError: a token is missing or has another id.
    """
    added = added_tokens(source)
    wrong = [
        token
        for token, index in vocabulary(source).items()
        if token not in added and found.get(token) != index
    ]
    if wrong:
        raise RefusedError(
            "TokenizerDiffers",
            f"{len(wrong)} of the source's tokens are not what they were in the artifact, first "
            f"{wrong[0]!r}: served, it would read other text than it was sent; the conversion "
            "went wrong",
        )


def vocabulary_digest(source: Path) -> str | None:
    """Names the tokens and their ids, added ones left out; None where no file tells them."""
    tokens = vocabulary(source)
    for added in added_tokens(source):
        tokens.pop(added, None)
    text = json.dumps(sorted(tokens.items()))
    return hashlib.sha256(text.encode()).hexdigest() if tokens else None


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file; empty when there is no such file."""
    value = json.loads(path.read_text()) if path.is_file() else {}
    return value if isinstance(value, dict) else {}


def architecture(config: Mapping[str, Any]) -> str:
    """The first architecture that config.json names."""
    return str((config.get("architectures") or ["(none)"])[0])


def first_sentence(error: Exception) -> str:
    """What a library's error says before it goes on to advise, or its type when it says nothing."""
    return (str(error).strip() or type(error).__name__).splitlines()[0].split(". ")[0]


def check(folder: Path) -> None:
    """Refuse what is no checkpoint, what would run code of its own, and what is quantized already.

    Raises:
        RefusedError: with the reason.
    """
    check_config(folder)
    if not any(folder.glob("*.safetensors")):
        raise RefusedError(
            "InvalidSource", "the source has no *.safetensors: save its weights as safetensors"
        )


def check_config(folder: Path) -> None:
    """The same, as far as the files beside the weights tell it.

    Raises:
        RefusedError: with the reason.
    """
    config = read_json(folder / "config.json")
    if not config:
        raise RefusedError(
            "InvalidSource",
            "the source has no config.json: spec.source must name a checkpoint's folder",
        )
    for name in ("config.json", "tokenizer_config.json"):
        if "auto_map" in read_json(folder / name):
            raise RefusedError(
                "CustomCode",
                f"the source's {name} has auto_map, which runs the checkpoint's own code",
            )
    if "quantization_config" in config:
        raise RefusedError(
            "SourceQuantized",
            "the source is quantized already (config.json has quantization_config): name the "
            "original checkpoint",
        )


def check_length(folder: Path, field: str, length: int) -> None:
    """Refuse sequences longer than the model was made for.

    Raises:
        RefusedError: `length`, which `field` of the spec asks for, exceeds the model's context.
    """
    context = read_json(folder / "config.json").get("max_position_embeddings")
    if isinstance(context, int) and length > context:
        raise RefusedError(
            "SequenceTooLong",
            f"{field} is {length}, but the source's model holds {context} tokens: set it to "
            f"{context} or less",
        )


def check_widths(folder: Path, precision: str, group: int) -> None:
    """Refuse a layer whose columns do not come to whole groups, before hours of work.

    Raises:
        RefusedError: `group` columns share a scale in `precision`, and a layer's are no multiple.
    """
    for tensor in tensors(folder).values():
        if (
            is_layer(tensor)
            and not any(part in tensor.name for part in NOT_QUANTIZED)
            and tensor.shape[-1] % group
        ):
            raise RefusedError(
                "UnsupportedShape",
                f"spec.quantization.precision {precision} shares a scale among {group} columns, "
                f"and the source's {tensor.name} has {tensor.shape[-1]}, which is no multiple: "
                "choose a precision with smaller groups or another format",
            )


def copy_tokenizer(source: Path, target: Path) -> None:
    """Copy the tokenizer's files as they are."""
    for name in TOKENIZER_FILES:
        if (source / name).is_file():
            shutil.copyfile(source / name, target / name)


def load_causal_model(folder: Path) -> Any:
    """The checkpoint as transformers' language model, in its own type.

    Raises:
        RefusedError: transformers has no such architecture.
    """
    transformers: Any = importlib.import_module("transformers")
    try:
        return transformers.AutoModelForCausalLM.from_pretrained(
            folder, dtype="auto", trust_remote_code=False, use_safetensors=True
        )
    except (ValueError, KeyError) as error:
        config = read_json(folder / "config.json")
        raise RefusedError(
            "UnsupportedArchitecture",
            f"the source's config.json says {architecture(config)}, which transformers cannot load "
            f"as a causal language model ({first_sentence(error)})",
        ) from None


def load_tokenizer(folder: Path) -> Any:
    """The checkpoint's tokenizer by transformers.

    Raises:
        RefusedError: transformers cannot read it.
    """
    transformers: Any = importlib.import_module("transformers")
    try:
        return transformers.AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    except (ValueError, KeyError, OSError) as error:
        raise RefusedError(
            "UnsupportedTokenizer",
            f"transformers cannot read the source's tokenizer: {first_sentence(error)}",
        ) from None


def token_ids(folder: Path, text: str) -> list[int]:
    """The beginning-of-text token, if the checkpoint has one, and the text's ordinary tokens."""
    tokenizer = load_tokenizer(folder)
    first = tokenizer.bos_token_id
    if first is None:
        first = read_json(folder / "config.json").get("bos_token_id")
    ids = list(tokenizer(text, add_special_tokens=False).input_ids)
    return ids if first is None else [int(first), *ids]
