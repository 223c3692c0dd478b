"""Tiny safetensors folders, written byte by byte: the tests need neither torch nor safetensors."""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

LLAMA = {"architectures": ["LlamaForCausalLM"], "model_type": "llama"}
KINDS = ["Transformer", "Pooling", "Normalize"]
"""What most sentence encoders are made of."""


def write_safetensors(path: Path, tensors: Mapping[str, tuple[str, list[int], bytes]]) -> None:
    """Write tensors given as (type, shape, raw bytes)."""
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for name, (dtype, shape, raw) in tensors.items():
        header[name] = {
            "dtype": dtype,
            "shape": shape,
            "data_offsets": [offset, offset + len(raw)],
        }
        offset += len(raw)
    encoded = json.dumps(header).encode()
    body = b"".join(raw for _, _, raw in tensors.values())
    path.write_bytes(struct.pack("<Q", len(encoded)) + encoded + body)


def write_source(folder: Path, config: Mapping[str, object] = LLAMA) -> Path:
    """A checkpoint of one embedding, one layer and one norm in 16-bit floats."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    write_safetensors(
        folder / "model.safetensors",
        {
            "model.embed_tokens.weight": ("BF16", [8, 4], bytes(64)),
            "model.layers.0.mlp.up_proj.weight": ("BF16", [6, 4], bytes(48)),
            "model.norm.weight": ("BF16", [4], bytes(8)),
        },
    )
    return folder


def write_modules(folder: Path, kinds: list[str], pooling: dict[str, Any]) -> None:
    """The files of sentence-transformers."""
    modules = [
        {"path": f"{index}_{kind}" if index else "", "type": f"sentence_transformers.models.{kind}"}
        for index, kind in enumerate(kinds)
    ]
    (folder / "modules.json").write_text(json.dumps(modules))
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling" / "config.json").write_text(json.dumps(pooling))
