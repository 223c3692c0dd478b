"""SavedModels that TensorFlow makes: ``python saved_models.py OUT FILE``, where TensorFlow is.

Each function below is one, in a folder of its name below OUT; those that reach for a file reach for
FILE when TensorFlow loads or asks them.
"""

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy
import tensorflow as tf

MODELS = Path(__file__).resolve().parents[2] / "e2e" / "models"
CONFIG = {
    "architectures": ["BertModel"],
    "model_type": "bert",
    "hidden_size": 64,
    "max_position_embeddings": 512,
    "type_vocab_size": 1,
}
CLASSIFIER = {"architectures": ["BertForSequenceClassification"]}
IDS = tf.TensorSpec((None, None), tf.int32)
RANDOM = numpy.random.default_rng(0)


def numbers(*shape: int) -> Any:
    return RANDOM.standard_normal(shape).astype(numpy.float32) / 8


class Encoder(tf.Module):  # type: ignore[misc]
    """An embedding and a matrix; `change` is put behind them."""

    def __init__(
        self,
        change: Callable[[Any], Any] = lambda states: states,
        output: str = "last_hidden_state",
    ) -> None:
        super().__init__()
        self.table = tf.Variable(numbers(2048, 64))
        self.matrix = tf.Variable(numbers(64, 64))
        self.change = change
        self.output = output

    def serve(self, input_ids: Any, attention_mask: Any) -> dict[str, Any]:
        states = tf.matmul(tf.gather(self.table, input_ids), self.matrix)
        return {self.output: self.change(states)}


def save(out: Path, model: Any, *, spec: Any = IDS, **config: Any) -> None:
    """With one input for ids and one for the mask."""
    served = tf.function(model.serve).get_concrete_function(
        tf.TensorSpec(spec.shape, spec.dtype, "input_ids"),
        tf.TensorSpec(spec.shape, spec.dtype, "attention_mask"),
    )
    tf.saved_model.save(model, str(out), signatures={"serving_default": served})
    beside(out, **config)


def beside(out: Path, **config: Any) -> None:
    (out / "config.json").write_text(json.dumps({**CONFIG, **config}))
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copyfile(MODELS / "tiny-bert" / name, out / name)


def writes_when_loaded(out: Path, file: str) -> None:
    """By the initializer of a resource."""

    class Writer(tf.saved_model.experimental.TrackableResource):  # type: ignore[misc]
        def _create_resource(self) -> Any:
            return tf.raw_ops.MutableHashTableV2(key_dtype=tf.string, value_dtype=tf.int64)

        def _initialize(self) -> None:
            tf.io.write_file(file, "written")

    model = Encoder()
    model.writer = Writer()
    save(out, model)


def reads(out: Path, file: str) -> None:
    """A file of a constant name."""

    def change(states: Any) -> Any:
        return states + tf.cast(tf.strings.length(tf.io.read_file(file)), tf.float32)

    save(out, Encoder(change))


def writes_beside(out: Path, file: str) -> None:
    """What is written has no part in the output."""

    def change(states: Any) -> Any:
        tf.io.write_file(file, "written")
        return states

    save(out, Encoder(change))


def writes_in_a_function_that_is_called(out: Path, file: str) -> None:
    @tf.function  # type: ignore[untyped-decorator]
    def inner(states: Any) -> Any:
        tf.io.write_file(file, "written")
        return states

    save(out, Encoder(tf.function(lambda states: inner(states))))


def calls_python(out: Path, _: str) -> None:
    def change(states: Any) -> Any:
        return tf.ensure_shape(
            tf.numpy_function(lambda x: x, [states], tf.float32), [None, None, 64]
        )

    save(out, Encoder(change))


def loops(out: Path, _: str) -> None:
    save(
        out,
        Encoder(
            lambda x: tf.while_loop(lambda i, _: i < 3, lambda i, s: (i + 1, s * 2), (0, x))[1]
        ),
    )


def looks_up(out: Path, _: str) -> None:
    """In a table."""
    pairs = tf.lookup.KeyValueTensorInitializer([1, 2], [3, 4])
    table = tf.lookup.StaticHashTable(pairs, 0)
    model = Encoder(lambda states: states * tf.cast(table.lookup(tf.constant([1])), tf.float32))
    model.lookup = table
    save(out, model)


def has_assets(out: Path, _: str) -> None:
    vocabulary = out.with_name("vocabulary.txt")
    vocabulary.write_text("a\n")
    model = Encoder()
    model.vocabulary = tf.saved_model.Asset(str(vocabulary))
    save(out, model)
    # A fetch brings no assets: the graph names them still.
    shutil.rmtree(out / "assets")


def not_finite(out: Path, _: str) -> None:
    model = Encoder()
    model.matrix.assign(tf.fill([64, 64], float("nan")))
    save(out, model)


def one_length(out: Path, _: str) -> None:
    save(out, Encoder(), spec=tf.TensorSpec((1, 8), tf.int32))


def another_output(out: Path, _: str) -> None:
    """Predictions of tokens, by an encoder that was saved with its head."""
    save(out, Encoder(output="logits"))


def probabilities(out: Path, _: str) -> None:
    save(out, Encoder(lambda x: tf.nn.softmax(x[:, 0, :2]), "logits"), **CLASSIFIER)


def fewer_labels(out: Path, _: str) -> None:
    labels = {str(index): f"label {index}" for index in range(3)}
    save(out, Encoder(lambda x: x[:, 0, :2], "logits"), id2label=labels, **CLASSIFIER)


def constants(out: Path, _: str) -> None:
    """One that the function found outside of it; and text in 64 bits."""
    outside = tf.constant(numbers(64, 64))
    save(out, Encoder(lambda x: tf.matmul(x, outside)), spec=tf.TensorSpec(IDS.shape, tf.int64))


def embeds(out: Path, _: str) -> None:
    """The pooled embedding, by KerasHub's names of inputs."""
    model = Encoder(lambda states: tf.reduce_mean(states, axis=1), "embedding")
    served = tf.function(lambda token_ids, padding_mask: model.serve(token_ids, padding_mask))
    tf.saved_model.save(
        model,
        str(out),
        signatures={
            "serving_default": served.get_concrete_function(
                tf.TensorSpec(IDS.shape, tf.int32, "token_ids"),
                tf.TensorSpec(IDS.shape, tf.bool, "padding_mask"),
            )
        },
    )
    beside(out)


def keras(out: Path, _: str) -> None:
    """Attention as Keras has it, whose matrices have three dimensions."""
    layers = tf.keras.layers
    ids = layers.Input((None,), dtype="int32", name="input_ids")
    mask = layers.Input((None,), dtype="int32", name="attention_mask")
    states = layers.Embedding(2048, 64)(ids)
    seen = layers.MultiHeadAttention(4, 16)(
        states, states, attention_mask=tf.keras.ops.cast(mask, "bool")[:, None, :]
    )
    states = layers.LayerNormalization(epsilon=1e-6)(states + seen)
    wide = layers.Dense(256, activation="gelu")(states)
    states = layers.LayerNormalization(epsilon=1e-6)(states + layers.Dense(64)(wide))
    model = tf.keras.Model([ids, mask], states)
    model.export(str(out))
    beside(out)


ALL = (
    *(writes_when_loaded, reads, writes_beside, writes_in_a_function_that_is_called),
    *(calls_python, loops, looks_up, has_assets, not_finite, one_length, another_output),
    *(probabilities, fewer_labels, constants, embeds, keras),
)

if __name__ == "__main__":
    for make in ALL:
        make(Path(sys.argv[1]) / make.__name__, sys.argv[2])
