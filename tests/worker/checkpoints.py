"""Small checkpoints, as good as real ones to everything that only reads their shape."""

import json
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

CONFIG: dict[str, Any] = {"architectures": ["LlamaForCausalLM"], "hidden_size": 8}


def safetensors(tensors: Mapping[str, int], fill: bytes = b"\x01") -> bytes:
    """A safetensors file: names of tensors and their sizes in bytes, a multiple of two."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, size in tensors.items():
        header[name] = {
            "dtype": "BF16",
            "shape": [size // 2],
            "data_offsets": [end, end + size],
        }
        end += size
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + fill * end


def write_checkpoint(
    folder: Path, *, config: Mapping[str, Any] | None = None, fill: bytes = b"\x01"
) -> Path:
    """A checkpoint in one safetensors file, with a tokenizer and things that are not read."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(CONFIG | dict(config or {})))
    (folder / "model.safetensors").write_bytes(safetensors({"a": 64, "b": 32}, fill))
    (folder / "tokenizer.json").write_text('{"version": "1.0"}')
    (folder / "tokenizer_config.json").write_text('{"model_max_length": 128}')
    (folder / "README.md").write_text("# A checkpoint\n")
    (folder / "modeling_own.py").write_text("raise SystemExit('code of a checkpoint was run')\n")
    (folder / "pytorch_model.bin").write_bytes(b"\x80\x02}q\x00.")
    (folder / ".gitattributes").write_text("*.safetensors filter=lfs\n")
    return folder


READ = ["README.md", "config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"]
"""The files of ``write_checkpoint`` that a conversion reads."""


def write_sharded_checkpoint(folder: Path) -> Path:
    """The same in two shards."""
    write_checkpoint(folder)
    (folder / "model.safetensors").unlink()
    (folder / "model-1.safetensors").write_bytes(safetensors({"a": 64}))
    (folder / "model-2.safetensors").write_bytes(safetensors({"b": 32}))
    write_index(folder, {"a": "model-1.safetensors", "b": "model-2.safetensors"})
    return folder


def write_index(folder: Path, weight_map: Any) -> None:
    """The index of a sharded checkpoint."""
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
