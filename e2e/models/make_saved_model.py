# /// script
# requires-python = ">=3.11"
# dependencies = [
#   "ml-dtypes==0.6.0",
#   "numpy==2.4.6",
#   "tensorflow-cpu==2.21.0",
# ]
# ///
"""Make a TensorFlow SavedModel of a test encoder or classifier of `e2e/models/`.

    uv run --script e2e/models/make_saved_model.py                       # tiny-bert-tensorflow
    uv run --script e2e/models/make_saved_model.py --source DIR --out DIR

It is BERT as TensorFlow's users write it, with the weights of the folder's safetensors in 32 bits;
configuration and tokenizer are copied beside it.
"""

from __future__ import annotations

import argparse
import json
import shutil
import struct
import sys
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy
import tensorflow as tf

HERE = Path(__file__).resolve().parent
COPIED = ("*.json", "1_Pooling/config.json")
MASKED = -1e9
"""What is added to the attention's score of padding."""
IDS = tf.TensorSpec((None, None), tf.int32)


def read_weights(file: Path) -> dict[str, Any]:
    """A safetensors file's tensors, which are in bf16, in 32-bit floats."""
    content = file.read_bytes()
    (length,) = struct.unpack("<Q", content[:8])
    header: dict[str, Any] = json.loads(content[8 : 8 + length])
    header.pop("__metadata__", None)
    found = {}
    for name, entry in header.items():
        start, stop = (8 + length + offset for offset in entry["data_offsets"])
        numbers = numpy.frombuffer(content[start:stop], ml_dtypes.bfloat16)
        found[name.removeprefix("bert.")] = numbers.reshape(entry["shape"]).astype(numpy.float32)
    return found


class Bert(tf.Module):  # type: ignore[misc]
    """BERT: an encoder's states, or a classifier's logits."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        config = json.loads((folder / "config.json").read_text())
        self.numbers = int(config["hidden_size"])
        self.heads = int(config["num_attention_heads"])
        self.layers = int(config["num_hidden_layers"])
        self.epsilon = float(config["layer_norm_eps"])
        self.weights = {
            name: tf.Variable(numbers, name=name)
            for name, numbers in read_weights(folder / "model.safetensors").items()
        }
        self.classifies = "classifier.weight" in self.weights

    @tf.function(input_signature=[IDS, IDS, IDS])  # type: ignore[untyped-decorator]
    def serve(self, input_ids: Any, attention_mask: Any, token_type_ids: Any) -> dict[str, Any]:
        """What is served."""
        states = self.embed(input_ids, token_type_ids)
        mask = (1.0 - tf.cast(attention_mask, tf.float32)) * MASKED
        for index in range(self.layers):
            states = self.layer(states, mask[:, None, None, :], f"encoder.layer.{index}.")
        if not self.classifies:
            return {"last_hidden_state": states}
        pooled = tf.tanh(self.dense(states[:, 0], "pooler.dense"))
        return {"logits": self.dense(pooled, "classifier")}

    @tf.function  # type: ignore[untyped-decorator]
    def embed(self, ids: Any, kinds: Any) -> Any:
        """Token ids (texts, tokens) to states (texts, tokens, numbers)."""
        words, positions, types = (
            self.weights[f"embeddings.{name}_embeddings.weight"]
            for name in ("word", "position", "token_type")
        )
        states = tf.gather(words, ids) + tf.gather(types, kinds)
        return self.norm(states + positions[: tf.shape(ids)[1]], "embeddings.LayerNorm")

    def layer(self, states: Any, mask: Any, name: str) -> Any:
        """Attention, and what follows it."""
        shape = tf.shape(states)
        width = self.numbers // self.heads

        def split(part: str) -> Any:
            found = self.dense(states, f"{name}attention.self.{part}")
            parted = tf.reshape(found, [shape[0], shape[1], self.heads, width])
            return tf.transpose(parted, [0, 2, 1, 3])

        query, key, value = map(split, ("query", "key", "value"))
        scores = tf.matmul(query, key, transpose_b=True) / width**0.5
        seen = tf.matmul(tf.nn.softmax(scores + mask), value)
        seen = tf.reshape(tf.transpose(seen, [0, 2, 1, 3]), [shape[0], shape[1], self.numbers])
        seen = self.dense(seen, f"{name}attention.output.dense")
        states = self.norm(states + seen, f"{name}attention.output.LayerNorm")
        wide = tf.nn.gelu(self.dense(states, f"{name}intermediate.dense"))
        narrow = self.dense(wide, f"{name}output.dense")
        return self.norm(states + narrow, f"{name}output.LayerNorm")

    def dense(self, states: Any, name: str) -> Any:
        """A product, and a sum."""
        product = tf.matmul(states, self.weights[f"{name}.weight"], transpose_b=True)
        return product + self.weights[f"{name}.bias"]

    def norm(self, states: Any, name: str) -> Any:
        """Layer normalization."""
        mean = tf.reduce_mean(states, axis=-1, keepdims=True)
        variance = tf.reduce_mean(tf.math.squared_difference(states, mean), axis=-1, keepdims=True)
        scaled = (states - mean) * tf.math.rsqrt(variance + self.epsilon)
        return scaled * self.weights[f"{name}.weight"] + self.weights[f"{name}.bias"]


def make(source: Path, out: Path) -> None:
    """Write the SavedModel of a checkpoint, readable by everybody."""
    shutil.rmtree(out, ignore_errors=True)
    model = Bert(source)
    tf.saved_model.save(model, str(out), signatures={"serving_default": model.serve})
    for pattern in COPIED:
        for file in source.glob(pattern):
            target = out / file.relative_to(source)
            target.parent.mkdir(exist_ok=True)
            shutil.copyfile(file, target)
    # It is there for assets, and git keeps no empty folder.
    (out / "assets").rmdir()
    for path in (out, *out.rglob("*")):
        path.chmod(0o755 if path.is_dir() else 0o644)


def main(arguments: list[str]) -> None:
    """Make it."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--source", type=Path, default=HERE / "tiny-bert")
    parser.add_argument("--out", type=Path, default=HERE / "tiny-bert-tensorflow")
    options = parser.parse_args(arguments)
    make(options.source, options.out)


if __name__ == "__main__":
    main(sys.argv[1:])
