"""A checkpoint as large as a benchmark needs: Llama's architecture, random weights.

Nothing is learnt from what it says, only from how long it takes.
"""

import json
import math
import shutil
import struct
from pathlib import Path

import numpy as np

from e2e.store import MODELS

HIDDEN = 1024
INTERMEDIATE = 4096
HEADS = 16
KEY_VALUE_HEADS = 4
TOKENIZER = MODELS / "tiny-llama"


def shapes(layers: int, vocabulary: int) -> dict[str, tuple[int, ...]]:
    """The tensors of a checkpoint, by name."""
    key_value = HIDDEN // HEADS * KEY_VALUE_HEADS
    found: dict[str, tuple[int, ...]] = {
        "model.embed_tokens.weight": (vocabulary, HIDDEN),
        "model.norm.weight": (HIDDEN,),
        "lm_head.weight": (vocabulary, HIDDEN),
    }
    for layer in range(layers):
        prefix = f"model.layers.{layer}"
        found |= {
            f"{prefix}.self_attn.q_proj.weight": (HIDDEN, HIDDEN),
            f"{prefix}.self_attn.k_proj.weight": (key_value, HIDDEN),
            f"{prefix}.self_attn.v_proj.weight": (key_value, HIDDEN),
            f"{prefix}.self_attn.o_proj.weight": (HIDDEN, HIDDEN),
            f"{prefix}.mlp.gate_proj.weight": (INTERMEDIATE, HIDDEN),
            f"{prefix}.mlp.up_proj.weight": (INTERMEDIATE, HIDDEN),
            f"{prefix}.mlp.down_proj.weight": (HIDDEN, INTERMEDIATE),
            f"{prefix}.input_layernorm.weight": (HIDDEN,),
            f"{prefix}.post_attention_layernorm.weight": (HIDDEN,),
        }
    return found


def write_checkpoint(folder: Path, layers: int) -> int:
    """Write a checkpoint of so many layers (30 MB each) with the test model's tokenizer; the
    bytes of its weights."""
    folder.mkdir(parents=True, exist_ok=True)
    for path in TOKENIZER.iterdir():
        if path.suffix != ".safetensors":
            shutil.copy(path, folder)
    config = json.loads((TOKENIZER / "config.json").read_text())
    config |= {
        "hidden_size": HIDDEN,
        "intermediate_size": INTERMEDIATE,
        "num_attention_heads": HEADS,
        "num_key_value_heads": KEY_VALUE_HEADS,
        "head_dim": HIDDEN // HEADS,
        "num_hidden_layers": layers,
        "tie_word_embeddings": False,
    }
    (folder / "config.json").write_text(json.dumps(config, indent=2))
    return _write_tensors(folder / "model.safetensors", shapes(layers, config["vocab_size"]))


def _write_tensors(path: Path, tensors: dict[str, tuple[int, ...]]) -> int:
    """Write random bfloat16 tensors in safetensors' format; the bytes of their data.

    https://github.com/huggingface/safetensors#format: the header's length (8 bytes, little-endian),
    the header (JSON), the data.
    """
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for name, shape in tensors.items():
        size = 2 * math.prod(shape)
        header[name] = {
            "dtype": "BF16",
            "shape": shape,
            "data_offsets": [offset, offset + size],
        }
        offset += size
    encoded = json.dumps(header).encode()
    encoded += b" " * (-len(encoded) % 8)
    generator = np.random.default_rng(0)
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(encoded)) + encoded)
        for shape in tensors.values():
            weights = generator.standard_normal(math.prod(shape), dtype=np.float32) * 0.02
            # bfloat16 is float32's upper half.
            file.write((weights.view(np.uint32) >> 16).astype(np.uint16).tobytes())
    return offset
