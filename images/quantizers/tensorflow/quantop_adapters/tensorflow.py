"""ONNX of encoders and classifiers that are there as a TensorFlow SavedModel, by tf2onnx; what the
Quantizer `onnxruntime` does with a graph of torch's is done with that.

TensorFlow never runs the model: what an artifact is compared with is its graph in 32 bits.
"""

from __future__ import annotations

import importlib
import math
import re
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from quantop_adapters import checkpoint, encoder, onnxruntime, saved_model, stage
from quantop_adapters.onnx_graph import ARTIFACT, session, weights
from quantop_adapters.refusal import RefusedError

METHODS = onnxruntime.METHODS
INPUTS = {
    "input_ids": ("input_ids", "input_word_ids", "token_ids"),
    "attention_mask": ("attention_mask", "input_mask", "padding_mask"),
    "token_type_ids": ("token_type_ids", "input_type_ids", "segment_ids"),
}
"""What a graph is fed, and what signatures call it: transformers, TensorFlow's models, KerasHub."""
STATES = ("last_hidden_state", "sequence_output")
"""What they call an encoder's states."""
ANY_SIZES = (-1, -1)
OPSET = 18
"""The last that tf2onnx writes."""


class OnnxruntimeTensorflow(onnxruntime.Onnxruntime):
    """ONNX Runtime: encoders and classifiers of TensorFlow."""

    name = "onnxruntime-tensorflow"

    def __init__(self) -> None:
        self.converted: Path | None = None

    def check_source(self, source: Path) -> None:
        """Refuse what lacks a file."""
        checkpoint.check_config(source)
        needed = (saved_model.FILE, f"{saved_model.VARIABLES}.index", "tokenizer.json")
        missing = [name for name in needed if not (source / name).is_file()]
        if missing:
            raise RefusedError(
                "InvalidSource",
                f"the source has no {', '.join(missing)}: a TensorFlow SavedModel is read, with "
                "its variables, config.json and tokenizer.json beside it",
            )

    def export(self, task: stage.Task) -> Any:
        """The source's graph, from which the artifact is made."""
        return convert(task.source, task.scratch)

    def graph_in_32_bits(self, task: stage.Task) -> Path:
        """A folder with the source's graph, which the stage converts once."""
        if self.converted is None:
            shutil.rmtree(task.scratch, ignore_errors=True)
            task.scratch.mkdir()
            onnxruntime.save(convert(task.source, task.scratch), task.scratch / ARTIFACT)
            self.converted = task.scratch
        return self.converted

    def layer_numbers(self, task: stage.Task) -> int:
        """Counted from the graph: a checkpoint of TensorFlow's does not say what multiplies."""
        onnx: Any = importlib.import_module("onnx")
        file = self.graph_in_32_bits(task) / ARTIFACT
        graph = onnx.load(file, load_external_data=False)
        return sum(weight.numbers for weight in weights(graph) if weight.is_layer)

    def load_source(self, task: stage.Task) -> encoder.Run:
        """The source's graph in 32 bits, run by ONNX Runtime."""
        return onnxruntime.runner(self.graph_in_32_bits(task), task.threads)

    def measure(self, task: stage.Task, progress: stage.Progress) -> dict[str, object]:
        """Embed, or classify, the evaluation text by the source's graph and by the artifact."""
        found = super().measure(task, progress)
        shutil.rmtree(task.scratch, ignore_errors=True)
        return {**found, "baseline": "the source's graph in 32 bits, converted to ONNX"}


def convert(source: Path, scratch: Path) -> Any:
    """The SavedModel's graph in 32-bit floats as ONNX, for any number of texts of any length.

    The variables are put in where the graph is ONNX's: TensorFlow and tf2onnx would copy each one
    some forty times.

    Raises:
        RefusedError: the SavedModel does more than compute an encoder's embeddings or a
            classifier's logits, or tf2onnx cannot convert it.
    """
    tensorflow: Any = importlib.import_module("tensorflow")
    program = saved_model.read(source)
    fed = inputs(program)
    name, tensor = output(program, encoder.is_classifier(source))
    with tensorflow.Graph().as_default() as graph:
        given = {
            ours: tensorflow.compat.v1.placeholder(tensorflow.int64, [None, None], name=ours)
            for ours in fed
        }
        fitting = {
            f"{each.placeholder}:0": tensorflow.cast(given[ours], tensorflow.as_dtype(each.dtype))
            for ours, each in fed.items()
        }
        try:
            (found,) = tensorflow.import_graph_def(program.graph, fitting, [tensor], name="source")
        except ValueError as error:
            raise RefusedError(
                "InvalidSource",
                "TensorFlow does not take the graph of the source's SavedModel: "
                f"{checkpoint.first_sentence(error)}",
            ) from error
        result = head(source, name, found, given["attention_mask"])
        result = tensorflow.identity(result, name="result")
        made = encoder.LOGITS if encoder.is_classifier(source) else encoder.EMBEDDING
        variables = {f"source/{placeholder}": placeholder for placeholder in program.variables}
        converted = to_onnx(graph, {**{name: name for name in given}, **variables}, result=made)
    check_converted(converted)
    fill(converted, program.variables)
    return onnxruntime.quantizable(folded(converted, scratch))


def check_converted(graph: Any) -> None:
    """Refuse what tf2onnx left of TensorFlow's: it says so in its log, and gives the graph.

    Raises:
        RefusedError: an operator is none of ONNX's, or has not its attributes.
    """
    onnx: Any = importlib.import_module("onnx")
    left = sorted(
        {
            node.op_type
            for node in graph.graph.node
            if node.domain or not onnx.defs.has(node.op_type)
        }
    )
    try:
        if not left:
            onnx.checker.check_model(graph)
            return
        said = f"it has no operator for {', '.join(left)}"
    except onnx.checker.ValidationError as error:
        said = checkpoint.first_sentence(error)
    raise RefusedError(
        "UnsupportedGraph",
        f"tf2onnx cannot convert the graph of the source's SavedModel: {said}; save one without",
    )


def inputs(program: saved_model.Program) -> dict[str, saved_model.Input]:
    """The signature's inputs by the names of what they are fed.

    Raises:
        RefusedError: it takes something else, or texts of one length only.
    """
    known = {theirs: ours for ours, names in INPUTS.items() for theirs in names}
    found = {known[name]: each for name, each in program.inputs.items() if name in known}
    needed = ("input_ids", "attention_mask")
    if len(found) < len(program.inputs) or not all(name in found for name in needed):
        raise RefusedError(
            "UnsupportedGraph",
            f"{saved_model.SIGNATURE} of the source's SavedModel takes "
            f"{', '.join(sorted(program.inputs)) or 'nothing'}; it must take input_ids and "
            "attention_mask, may take token_type_ids, and nothing else",
        )
    for name, each in program.inputs.items():
        if each.shape not in (None, ANY_SIZES):
            raise RefusedError(
                "UnsupportedGraph",
                f"{saved_model.SIGNATURE} of the source's SavedModel takes {name} of shape "
                f"{each.shape}, where texts of any number and length are given: save it with the "
                "shape (None, None)",
            )
    # In the order in which the Quantizer `onnxruntime` has them.
    return {ours: found[ours] for ours in INPUTS if ours in found}


def output(program: saved_model.Program, classifies: bool) -> tuple[str, str]:
    """The signature's output that holds logits, or embeddings or states: its name and tensor.

    Raises:
        RefusedError: there is none that can be told.
    """
    wanted = (encoder.LOGITS,) if classifies else (encoder.EMBEDDING, *STATES)
    known = [name for name in wanted if name in program.outputs]
    # Keras calls the only one output_0.
    only = [name for name in program.outputs if classifies or name != encoder.LOGITS]
    if not known and len(program.outputs) == len(only) == 1:
        known = only
    if not known:
        raise RefusedError(
            "UnsupportedGraph",
            f"{saved_model.SIGNATURE} of the source's SavedModel gives "
            f"{', '.join(sorted(program.outputs)) or 'nothing'}; of a model that config.json calls "
            f"{'a classifier' if classifies else 'an encoder'} it must give {' or '.join(wanted)}",
        )
    return known[0], program.outputs[known[0]]


def head(source: Path, name: str, found: Any, mask: Any) -> Any:
    """Logits as they are, and an encoder's states pooled as the source says, as one row for each
    text.

    Raises:
        RefusedError: the output has another shape.
    """
    tensorflow: Any = importlib.import_module("tensorflow")
    ranks = (2,) if encoder.is_classifier(source) else (2, 3)
    if found.shape.rank not in ranks or found.shape[-1] is None:
        raise RefusedError(
            "UnsupportedGraph",
            f"{saved_model.SIGNATURE} of the source's SavedModel gives {name} of shape "
            f"{found.shape}; of a classifier it must be (texts, labels), and of an encoder (texts, "
            "numbers) or (texts, tokens, numbers)",
        )
    if encoder.is_classifier(source):
        check_labels(source, name, found)
        return tensorflow.cast(found, tensorflow.float32)
    mode, normalized = encoder.pooling(source)
    states = tensorflow.cast(found, tensorflow.float32)
    embedding = states if states.shape.rank == 2 else pool(states, mask, mode)
    return tensorflow.math.l2_normalize(embedding, axis=-1) if normalized else embedding


def check_labels(source: Path, name: str, found: Any) -> None:
    """Refuse a classifier whose output are not logits of the labels that config.json names.

    Raises:
        RefusedError: they are not.
    """
    names = encoder.labels(source)
    if found.shape[-1] != len(names):
        raise RefusedError(
            "LabelsDiffer",
            f"the source's config.json names {len(names)} labels (id2label), and {name} of its "
            f"SavedModel has {found.shape[-1]} numbers",
        )
    made = found.op
    while made.type == "Identity":
        made = made.inputs[0].op
    if made.type == "Softmax":
        raise RefusedError(
            "UnsupportedHead",
            f"{name} of the source's SavedModel are probabilities, by a Softmax; logits are "
            "needed: save the model without it",
        )


def pool(states: Any, mask: Any, mode: str) -> Any:
    """States (texts, tokens, numbers) to embeddings (texts, numbers), as `encoder.load` does."""
    tensorflow: Any = importlib.import_module("tensorflow")
    if mode == "cls":
        return states[:, 0]
    if mode == "last":
        last = tensorflow.one_hot(
            tensorflow.reduce_sum(mask, axis=1) - 1, tensorflow.shape(mask)[1], axis=-1
        )
        return tensorflow.reduce_sum(states * last[:, :, None], axis=1)
    weight = tensorflow.cast(mask, tensorflow.float32)[:, :, None]
    if mode == "max":
        return tensorflow.reduce_max(states - 1e9 * (1 - weight), axis=1)
    return tensorflow.reduce_sum(states * weight, axis=1) / tensorflow.reduce_sum(weight, axis=1)


def to_onnx(graph: Any, given: Mapping[str, str], **made: str) -> Any:
    """A graph of TensorFlow's as ONNX; its inputs and outputs by their operators' names, and what
    they are called in ONNX's."""
    # Its own handlers first, which ours replace.
    library: Any = importlib.import_module("tf2onnx.convert")
    handler: Any = importlib.import_module("tf2onnx.handler")
    handler.tf_op("Einsum")(Einsum)
    handler.tf_op("Erfc")(Erfc)
    model, _ = library.from_graph_def(
        graph.as_graph_def(),
        input_names=[f"{name}:0" for name in given],
        output_names=[f"{name}:0" for name in made],
        opset=OPSET,
        tensors_to_rename={f"{name}:0": called for name, called in {**given, **made}.items()},
    )
    return model


def fill(graph: Any, variables: Mapping[str, Any]) -> None:
    """Put numbers in place of inputs."""
    onnx: Any = importlib.import_module("onnx")
    inputs = [each for each in graph.graph.input if each.name not in variables]
    del graph.graph.input[:]
    graph.graph.input.extend(inputs)
    graph.graph.initializer.extend(
        onnx.numpy_helper.from_array(numbers, name) for name, numbers in variables.items()
    )


def folded(graph: Any, scratch: Path) -> Any:
    """The graph with what follows from constants computed: matrices lie as they are multiplied by,
    and are in 32 bits.

    Raises:
        RefusedError: onnxruntime cannot load it.
    """
    onnx: Any = importlib.import_module("onnx")
    library: Any = importlib.import_module("onnxruntime")
    plain, file = scratch / "converted.onnx", scratch / "folded.onnx"
    onnx.save(graph, plain, save_as_external_data=True, location="converted.onnx.data")
    options = library.SessionOptions()
    options.graph_optimization_level = library.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.optimized_model_filepath = str(file)
    options.add_session_config_entry(
        "session.optimized_model_external_initializers_file_name", "folded.onnx.data"
    )
    session(scratch, 1, plain.name, options)
    return onnx.load(file)


class Einsum:
    """A product with a matrix, where it is one: Keras writes those of attention so, with matrices
    of three dimensions. tf2onnx's parts of it are none that a quantizer knows."""

    @classmethod
    def version_12(cls, ctx: Any, node: Any, **options: Any) -> None:
        """What tf2onnx asks for from this version of ONNX's operators on."""
        found = matrix_product(node.attr["equation"].s.decode())
        sizes = ctx.get_shape(node.input[1])
        if found is None or sizes is None or -1 in sizes:
            theirs: Any = importlib.import_module("tf2onnx.onnx_opset.math")
            theirs.Einsum.version_12(ctx, node, **options)
            return
        kept, order, columns = found
        numpy: Any = importlib.import_module("numpy")
        utils: Any = importlib.import_module("tf2onnx.utils")
        sizes = [sizes[index] for index in order]
        summed, last = math.prod(sizes[: len(order) - columns]), sizes[len(order) - columns :]

        def reshaped(tensor: str, shape: Sequence[int], **options: Any) -> str:
            name = utils.make_name(f"{node.name}_shape")
            given = ctx.make_const(name, numpy.array(shape, numpy.int64)).output[0]
            return str(ctx.make_node("Reshape", [tensor, given], **options).output[0])

        # A size of 0 stays as it was.
        rows = reshaped(node.input[0], [*[0] * kept, summed])
        weight = ctx.make_node("Transpose", [node.input[1]], attr={"perm": order}).output[0]
        matrix = reshaped(weight, [summed, math.prod(last)])
        product = ctx.make_node("MatMul", [rows, matrix]).output[0]
        made = {
            "outputs": node.output,
            "shapes": node.output_shapes,
            "dtypes": node.output_dtypes,
        }
        ctx.remove_node(node.name)
        reshaped(product, [*[0] * kept, *last], **made)


def matrix_product(equation: str) -> tuple[int, list[int], int] | None:
    """An Einsum as a product of rows with a matrix: how many dimensions of the first operand are
    kept, the order of the second's in which those that are summed over come first, and how many
    follow these. None where it is none."""
    match = re.fullmatch(r"(\w+),(\w+)->(\w+)", equation.replace(" ", ""))
    if not match:
        return None
    rows, weight, result = match.groups()
    if any(len(set(each)) < len(each) for each in match.groups()):
        return None
    summed = [label for label in rows if label in weight]
    kept = len(rows) - len(summed)
    columns = [label for label in weight if label not in summed]
    columns.sort(key=result.find)
    if not kept or [*rows[:kept], *summed] != [*rows] or [*rows[:kept], *columns] != [*result]:
        return None
    return kept, [weight.index(label) for label in (*summed, *columns)], len(columns)


class Erfc:
    """1 - Erf: tf.nn.gelu has Erfc, which ONNX and tf2onnx do not know."""

    @classmethod
    def version_9(cls, ctx: Any, node: Any, **_: Any) -> None:
        """What tf2onnx asks for from this version of ONNX's operators on."""
        numpy: Any = importlib.import_module("numpy")
        utils: Any = importlib.import_module("tf2onnx.utils")
        kind = utils.map_onnx_to_numpy_type(ctx.get_dtype(node.output[0]))
        one = ctx.make_const(utils.make_name(f"{node.name}_one"), numpy.array(1, kind))
        erf = ctx.make_node("Erf", [node.input[0]])
        node.type = "Sub"
        ctx.replace_inputs(node, [one.output[0], erf.output[0]])


if __name__ == "__main__":
    sys.exit(stage.main(OnnxruntimeTensorflow()))
