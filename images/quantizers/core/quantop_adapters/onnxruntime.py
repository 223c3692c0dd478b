"""ONNX of encoders and classifiers by torch's exporter and ONNX Runtime's quantizers, for CPUs.

`model.onnx` and its numbers beside it, with the tokenizer as the `tokenizers` library reads it and
the source's `config.json`. The graph takes token ids and gives embeddings, pooled as the source
says, or a classifier's logits.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import math
import shutil
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from quantop_adapters import checkpoint, encoder, stage, texts
from quantop_adapters.coverage import Coverage, Weight
from quantop_adapters.onnx_graph import ARTIFACT, check_finite, session, stored_bits
from quantop_adapters.refusal import RefusedError

NUMBERS = "model.onnx.data"
RANGES = ("MinMax", "Entropy", "Percentile")
"""How the range of an activation is chosen among what the calibration text gives."""
STATIC = {
    **{f"Static{choice}": ("QDQ", choice, 8) for choice in RANGES},
    **{f"QOperator{choice}": ("QOperator", choice, 8) for choice in RANGES},
    "StaticA16MinMax": ("QDQ", "MinMax", 16),
}
"""Methods with ranges of activations that are known beforehand: how the graph says what is
quantized (by Q and DQ operators around others, or by operators of its own), how the ranges are
chosen, and the activations' bits."""
METHODS: Mapping[str, Mapping[str, bool]] = {
    "FP32": {stage.DEFAULT_METHOD: False},
    "FP16": {stage.DEFAULT_METHOD: False},
    "INT8": {"Dynamic": False, "BlockWise": False, **dict.fromkeys(STATIC, True)},
    "INT4": {"BlockWise": False},
}
"""The methods of each precision, the default one first, and whether they need text."""
BLOCK = 32
"""Numbers that share a scale, block-wise."""
BINS = 2048
"""Of the histograms that ranges are chosen from."""
TRIAL_TEXT = "The quick brown fox jumps over the lazy dog."
"""What an artifact is tried on where no evaluation text is given."""

MATRIX_OPERATORS = ("Gemm", "MatMul", "MatMulInteger", "QLinearMatMul")
# What may lie between a stored matrix and the operator that multiplies by it.
PASSING = ("Cast", "DequantizeLinear", "Reshape", "Transpose")
PARTS = ("_scale", "_zero_point")
"""What ONNX Runtime's quantizers call the rest of a weight that they call `<name>_quantized`."""


class Onnxruntime:
    """ONNX Runtime: encoders and classifiers."""

    name = "onnxruntime"
    format = "ONNXEncoder"
    precisions: tuple[str, ...] = tuple(METHODS)

    def version(self) -> str:
        """The version of the package."""
        return importlib.metadata.version("onnxruntime")

    def quantize(self, task: stage.Task, target: Path, progress: stage.Progress) -> None:
        """Export the source's graph, then quantize that."""
        methods = METHODS[task.precision]
        method = task.method or next(iter(methods))
        if method not in methods:
            raise RefusedError(
                "UnsupportedMethod",
                f"spec.quantization.method is {method}; onnxruntime makes {task.precision} by "
                f"{', '.join(methods)}",
            )
        if methods[method] and not task.calibration:
            raise RefusedError(
                "CalibrationRequired",
                f"{task.precision} by {method} needs text: set spec.quantization.calibration",
            )
        if task.calibration and not methods[method]:
            raise RefusedError(
                "CalibrationNotUsed",
                f"{task.precision} by {method} uses no text: remove "
                "spec.quantization.calibration, or choose a method that does",
            )
        encoder.check(task.source)
        tokenizer = encoder.tokenizer(task.source)
        progress("exporting the graph", 5)
        graph = export(task.source, task.scratch)
        progress("quantizing", 50)
        if method == "Dynamic":
            graph = dynamic(graph, task.scratch)
        elif method in STATIC:
            graph = static(graph, task, method)
        elif task.precision == "INT8":
            # Block-wise, embeddings have 4 bits or none.
            graph = block_wise(dynamic(graph, task.scratch, only="Gather"), 8)
        elif task.precision == "INT4":
            graph = block_wise(graph, 4)
        elif task.precision == "FP16":
            float16: Any = importlib.import_module("onnxruntime.transformers.float16")
            graph = float16.convert_float_to_float16(graph, keep_io_types=True)
        save(graph, target / ARTIFACT)
        tokenizer.save(str(target / "tokenizer.json"))
        shutil.copyfile(task.source / "config.json", target / "config.json")

    def coverage(self, artifact: Path) -> Coverage:
        """Count the graph's initializers."""
        onnx: Any = importlib.import_module("onnx")
        return Coverage(tuple(weights(onnx.load(artifact / ARTIFACT, load_external_data=False))))

    def vocabulary(self, artifact: Path) -> Mapping[str, int]:
        """Read the tokenizer's file."""
        return checkpoint.vocabulary(artifact)

    def measure(self, task: stage.Task, progress: stage.Progress) -> dict[str, object]:
        """Embed, or classify, the evaluation text by the source and by the artifact."""
        numpy: Any = importlib.import_module("numpy")
        check_finite(task.artifact)
        encoder.check_labels(task.source, task.artifact)
        run = session(task.artifact, task.threads)
        names = tuple(entry.name for entry in run.get_inputs())
        tokenizers: Any = importlib.import_module("tokenizers")
        reader = tokenizers.Tokenizer.from_file(str(task.artifact / "tokenizer.json"))

        def artifact(text: str) -> tuple[list[int], Any]:
            encoding = reader.encode(text)
            (found,) = run.run(None, encoder.feed(encoding, names))
            if not numpy.isfinite(found).all():
                raise RefusedError(
                    "NumbersNotFinite",
                    "the artifact computes numbers that are not finite: choose another precision",
                )
            return encoding.ids, found[0]

        if not task.evaluation:
            artifact(TRIAL_TEXT)
            return {"protocol": texts.PROTOCOL, "texts": 0, "tokens": 0}
        length = min(task.evaluation.sequence_length, encoder.max_length(task.source))
        tokenizer = encoder.tokenizer(task.source)
        for each in (tokenizer, reader):
            each.enable_truncation(length)
        given = texts.read(task.evaluation.file)
        lengths = (len(tokenizer.encode(each.text).ids) for each in given)
        given = texts.within(given, lengths, task.evaluation.max_tokens)
        progress("loading the source", 10)
        source = encoder.load(task.source)
        torch: Any = importlib.import_module("torch")
        measured: texts.Measure = (
            texts.Agreement(encoder.labels(task.source))
            if encoder.is_classifier(task.source)
            else texts.Similarity()
        )
        tokens = 0
        for text in progress.through(given, "comparing the artifact with its source", 15, 99):
            encoding = tokenizer.encode(text.text)
            ids, found = artifact(text.text)
            if ids != encoding.ids:
                raise RefusedError(
                    "TokenizerDiffers",
                    "the artifact's tokenizer makes other tokens of the evaluation text than the "
                    "source's: the conversion went wrong",
                )
            fed = encoder.feed(encoding, encoder.inputs(task.source))
            with torch.inference_mode():
                expected = source(*map(torch.from_numpy, fed.values()))[0].numpy()
            if found.shape != expected.shape:
                raise RefusedError(
                    "ArtifactNotLoadable",
                    f"the artifact gives {found.shape[-1]} numbers for a text and its source "
                    f"{expected.shape[-1]}: it is another model's",
                )
            measured.add(text, expected, found)
            tokens += len(ids)
        return {
            "protocol": texts.PROTOCOL,
            **measured.report(),
            "texts": len(given),
            "tokens": tokens,
        }


def export(source: Path, scratch: Path) -> Any:
    """The source's graph in 32-bit floats, for any number of texts of any length.

    Raises:
        RefusedError: transformers cannot load the source, or torch cannot export it.
    """
    torch: Any = importlib.import_module("torch")
    onnx: Any = importlib.import_module("onnx")
    library: Any = importlib.import_module("onnxruntime.quantization.onnx_model")
    model = encoder.load(source)
    names = encoder.inputs(source)
    free = {0: torch.export.Dim("batch"), 1: torch.export.Dim("sequence")}
    output = encoder.LOGITS if encoder.is_classifier(source) else encoder.EMBEDDING
    # Sizes of 0 and 1 would be taken for constants.
    example = tuple(torch.ones(2, 8, dtype=torch.int64) for _ in names)
    try:
        program = torch.onnx.export(
            model,
            example,
            dynamo=True,
            input_names=list(names),
            output_names=[output],
            # `forward` takes them as one variadic argument.
            dynamic_shapes=((free,) * len(names),),
            verbose=False,
        )
    except torch.onnx.OnnxExporterError as error:
        config = checkpoint.read_json(source / "config.json")
        raise RefusedError(
            "UnsupportedArchitecture",
            f"torch cannot export {checkpoint.architecture(config)} as ONNX: "
            f"{checkpoint.first_sentence(error)}",
        ) from error
    program.save(scratch / "exported.onnx", external_data=True)
    # The quantizers know products of matrices; with a sum in them only some do.
    graph = library.ONNXModel(onnx.load(scratch / "exported.onnx"))
    graph.replace_gemm_with_matmul()
    graph.clean_initializers()
    return graph.model


def dynamic(graph: Any, scratch: Path, only: str | None = None) -> Any:
    """8-bit weights; the range of each activation is found while it is computed.

    `only` is the type of the operators whose weights are quantized. Default: all that can be.
    """
    onnx: Any = importlib.import_module("onnx")
    library: Any = importlib.import_module("onnxruntime.quantization")
    library.quantize_dynamic(
        graph,
        scratch / "quantized.onnx",
        op_types_to_quantize=[only] if only else None,
        # Sums of signed ones overflow on CPUs without VNNI, unseen where the artifact is measured
        # on one that has it.
        weight_type=library.QuantType.QUInt8,
        per_channel=True,
        use_external_data_format=True,
    )
    return onnx.load(scratch / "quantized.onnx")


def static(graph: Any, task: stage.Task, method: str) -> Any:
    """8-bit weights, and activations whose ranges the calibration text gives."""
    onnx: Any = importlib.import_module("onnx")
    library: Any = importlib.import_module("onnxruntime.quantization")
    layout, choice, bits = STATIC[method]
    # Embeddings are looked up and need no range; here they would get the activations' bits.
    graph = dynamic(graph, task.scratch, only="Gather")
    stored = {tensor.name for tensor in graph.graph.initializer}
    plain, ranges = task.scratch / "plain.onnx", task.scratch / "ranges.json"
    onnx.save(graph, plain, save_as_external_data=True, location="plain.onnx.data")

    class Reader(library.CalibrationDataReader):  # type: ignore[misc]
        """Gives one text and ends: what was seen of several is kept until then."""

        def __init__(self, feed: Mapping[str, Any]) -> None:
            self.left = [feed]

        def get_next(self) -> Mapping[str, Any] | None:
            return self.left.pop() if self.left else None

    calibrator = library.create_calibrator(
        plain,
        ["MatMul"],
        augmented_model_path=str(task.scratch / "augmented.onnx"),
        calibrate_method=library.CalibrationMethod[choice],
        use_external_data_format=True,
        # With as few bins as by default, Entropy has nothing to choose from.
        extra_options={} if choice == "MinMax" else {"num_bins": BINS, "symmetric": False},
    )
    for feed in calibration(task):
        calibrator.collect_data(Reader(feed))
    library.save_tensors_data(calibrator.compute_data(), ranges)
    library.quantize_static(
        plain,
        task.scratch / "quantized.onnx",
        calibration_cache_path=ranges,
        quant_format=library.QuantFormat[layout],
        calibrate_method=library.CalibrationMethod[choice],
        activation_type=library.QuantType[f"QUInt{bits}"],
        # As in `dynamic`.
        weight_type=library.QuantType.QUInt8,
        per_channel=True,
        op_types_to_quantize=["MatMul"],
        # Products of two activations, as in attention.
        nodes_to_exclude=[
            node.name
            for node in graph.graph.node
            if node.op_type == "MatMul" and not stored.intersection(node.input)
        ],
        use_external_data_format=True,
        # Of 16 bits, ONNX Runtime's own operators are older than ONNX's.
        extra_options={"UseQDQContribOps": bits == 16},
    )
    return onnx.load(task.scratch / "quantized.onnx")


def calibration(task: stage.Task) -> Iterator[dict[str, Any]]:
    """Feeds of one text each, at most `samples`, each cut at `sequence_length` tokens."""
    assert task.calibration is not None
    tokenizer = encoder.tokenizer(task.source)
    names = encoder.inputs(task.source)
    tokenizer.enable_truncation(
        min(task.calibration.sequence_length, encoder.max_length(task.source))
    )
    for each in texts.read(task.calibration.file)[: task.calibration.samples]:
        yield encoder.feed(tokenizer.encode(each.text), names)


def block_wise(graph: Any, bits: int) -> Any:
    """Weights of few bits with a scale and a zero point for each block of numbers in a row; of 4
    bits the embeddings' too."""
    library: Any = importlib.import_module("onnxruntime.quantization.matmul_nbits_quantizer")
    quantizer = library.MatMulNBitsQuantizer(
        graph,
        bits=bits,
        block_size=BLOCK,
        is_symmetric=False,
        # The engine computes with 8-bit activations, block by block: several times as fast.
        accuracy_level=4,
        op_types_to_quantize=("MatMul", "Gather") if bits == 4 else ("MatMul",),
    )
    quantizer.process()
    return quantizer.model.model


def save(graph: Any, file: Path) -> None:
    """Write a graph, and its numbers beside it."""
    onnx: Any = importlib.import_module("onnx")
    onnx.save(graph, file, save_as_external_data=True, location=NUMBERS)


def weights(model: Any) -> Iterator[Weight]:
    """The weights of a graph, each with the scales and zero points that belong to it."""
    onnx: Any = importlib.import_module("onnx")
    types = onnx.TensorProto
    stored = {tensor.name: tensor for tensor in model.graph.initializer}
    readers: dict[str, list[Any]] = {}
    for node in model.graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)

    def multiplies(name: str) -> bool:
        return any(
            node.op_type in MATRIX_OPERATORS
            or (node.op_type in PASSING and any(map(multiplies, node.output)))
            for node in readers.get(name, ())
        )

    def bits(*names: str) -> int:
        return sum(stored_bits(onnx, stored.pop(name)) for name in names if name in stored)

    for node in model.graph.node:
        if node.op_type == "MatMulNBits" and node.input[1] in stored:
            shape = {attribute.name: attribute.i for attribute in node.attribute}
            yield Weight(shape["K"] * shape["N"], bits(*node.input[1:]), True, True)
        if node.op_type == "GatherBlockQuantized" and node.input[0] in stored:
            numbers = math.prod(stored[node.input[0]].dims)
            yield Weight(numbers, bits(node.input[0], *node.input[2:]), False, True)
    for name, tensor in list(stored.items()):
        if name.endswith("_quantized") and tensor.data_type in (types.INT8, types.UINT8):
            base = name.removesuffix("_quantized")
            is_layer = multiplies(name)
            size = bits(name, *(base + part for part in PARTS))
            yield Weight(math.prod(tensor.dims), size, is_layer, True)
    for name, tensor in stored.items():
        # Single numbers are constants and scales of activations, whole ones shapes and positions.
        if math.prod(tensor.dims) > 1 and tensor.data_type in (types.FLOAT, types.FLOAT16):
            is_layer = len(tensor.dims) > 1 and multiplies(name)
            yield Weight(math.prod(tensor.dims), stored_bits(onnx, tensor), is_layer, False)


if __name__ == "__main__":
    sys.exit(stage.main(Onnxruntime()))
