"""ONNX of encoders and classifiers by torch's exporter and ONNX Runtime's quantizers, for CPUs.

`model.onnx` and its numbers beside it, with the tokenizer as the `tokenizers` library reads it and
the source's `config.json`. The graph takes token ids and gives embeddings, pooled as the source
says, or a classifier's logits.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from quantop_adapters import checkpoint, encoder, stage
from quantop_adapters.coverage import Coverage
from quantop_adapters.onnx_graph import ARTIFACT, check_finite, session, weights

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
        method = stage.choose_method(task, METHODS[task.precision], self.name)
        encoder.check(task.source)
        tokenizer = encoder.tokenizer(task.source)
        progress("exporting the graph", 5)
        graph = self.export(task)
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

    def export(self, task: stage.Task) -> Any:
        """The source's graph, from which the artifact is made."""
        return export(task.source, task.scratch)

    def load_source(self, task: stage.Task) -> encoder.Run:
        """What the artifact is compared with."""
        return encoder.by_torch(task.source)

    def coverage(self, artifact: Path) -> Coverage:
        """Count the graph's initializers."""
        onnx: Any = importlib.import_module("onnx")
        return Coverage(tuple(weights(onnx.load(artifact / ARTIFACT, load_external_data=False))))

    def vocabulary(self, artifact: Path) -> Mapping[str, int]:
        """Read the tokenizer's file."""
        return checkpoint.vocabulary(artifact)

    def measure(self, task: stage.Task, progress: stage.Progress) -> dict[str, object]:
        """Embed, or classify, the evaluation text by the source and by the artifact."""
        check_finite(task.artifact)
        return encoder.measure(
            task,
            progress,
            runner(task.artifact, task.threads),
            encoder.max_length(task.source),
            lambda: self.load_source(task),
        )


def runner(folder: Path, threads: int) -> encoder.Run:
    """The graph in a folder, run by ONNX Runtime.

    Raises:
        RefusedError: onnxruntime cannot load it.
    """
    run = session(folder, threads)
    names = tuple(entry.name for entry in run.get_inputs())

    def read(encoding: Any) -> Any:
        (found,) = run.run(None, encoder.feed(encoding, names))
        return found

    return read


def export(source: Path, scratch: Path) -> Any:
    """The source's graph in 32-bit floats, for any number of texts of any length.

    Raises:
        RefusedError: transformers cannot load the source, or torch cannot export it.
    """
    torch: Any = importlib.import_module("torch")
    onnx: Any = importlib.import_module("onnx")
    model = encoder.load(source)
    names = encoder.inputs(source)
    free = {0: torch.export.Dim("batch"), 1: torch.export.Dim("sequence")}
    # Sizes of 0 and 1 would be taken for constants.
    example = tuple(torch.ones(2, 8, dtype=torch.int64) for _ in names)
    program = encoder.exported(
        source,
        model,
        example,
        input_names=list(names),
        # `forward` takes them as one variadic argument.
        dynamic_shapes=((free,) * len(names),),
    )
    program.save(scratch / "exported.onnx", external_data=True)
    return quantizable(onnx.load(scratch / "exported.onnx"))


def quantizable(graph: Any) -> Any:
    """The graph as the quantizers take it."""
    library: Any = importlib.import_module("onnxruntime.quantization.onnx_model")
    model = library.ONNXModel(graph)
    # They know products of matrices; with a sum in them only some do.
    model.replace_gemm_with_matmul()
    model.clean_initializers()
    return model.model


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
    names = tuple(each.name for each in graph.graph.input)
    for encoding in encoder.calibration(task):
        calibrator.collect_data(Reader(encoder.feed(encoding, names)))
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


if __name__ == "__main__":
    sys.exit(stage.main(Onnxruntime()))
