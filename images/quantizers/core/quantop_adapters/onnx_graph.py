"""A graph in ONNX: its file, the numbers in it and a session that runs it."""

from __future__ import annotations

import importlib
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from quantop_adapters.coverage import Weight
from quantop_adapters.refusal import RefusedError

ARTIFACT = "model.onnx"
MATRIX_OPERATORS = ("Gemm", "MatMul", "MatMulInteger", "QLinearMatMul")
# What may lie between a stored matrix and the operator that multiplies by it.
PASSING = ("Cast", "DequantizeLinear", "Reshape", "Transpose")
PARTS = ("_scale", "_zero_point")
"""What ONNX Runtime's quantizers call the rest of a weight that they call `<name>_quantized`."""


def stored_bits(onnx: Any, tensor: Any) -> int:
    """The bits that store an initializer."""
    numbers = math.prod(int(dimension) for dimension in tensor.dims)
    if tensor.data_type in (onnx.TensorProto.INT4, onnx.TensorProto.UINT4):
        return numbers * 4
    return numbers * int(onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize) * 8


def weights(model: Any) -> Iterator[Weight]:
    """The weights of a graph, each with the scales and zero points that belong to it."""
    onnx: Any = importlib.import_module("onnx")
    types = onnx.TensorProto
    integers = (types.INT8, types.UINT8, types.INT16, types.UINT16, types.INT32)
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
        if name.endswith("_quantized") and tensor.data_type in integers:
            base = name.removesuffix("_quantized")
            is_layer = multiplies(name)
            size = bits(name, *(base + part for part in PARTS))
            yield Weight(math.prod(tensor.dims), size, is_layer, True)
    for name, tensor in stored.items():
        # Single numbers are constants and scales of activations, whole ones shapes and positions.
        if math.prod(tensor.dims) > 1 and tensor.data_type in (types.FLOAT, types.FLOAT16):
            is_layer = len(tensor.dims) > 1 and multiplies(name)
            yield Weight(math.prod(tensor.dims), stored_bits(onnx, tensor), is_layer, False)


def check_finite(artifact: Path, file: str = ARTIFACT) -> None:
    """Look at every number that is stored as a float: weights, and scales of quantized ones.

    Raises:
        RefusedError: one is not finite, or the file that holds it is cut off.
    """
    onnx: Any = importlib.import_module("onnx")
    numpy: Any = importlib.import_module("numpy")
    for tensor in onnx.load(artifact / file, load_external_data=False).graph.initializer:
        try:
            numbers = onnx.numpy_helper.to_array(tensor, str(artifact))
        except (ValueError, OSError, onnx.checker.ValidationError) as error:
            raise RefusedError(
                "ArtifactNotReadable",
                f"the numbers of the artifact's {tensor.name} are not all there: {error}",
            ) from None
        if numbers.dtype.kind == "f" and not numpy.isfinite(numbers).all():
            raise RefusedError(
                "NumbersNotFinite",
                f"the artifact's {tensor.name} holds numbers that are not finite",
            )


def session(folder: Path, threads: int, file: str = ARTIFACT, options: Any = None) -> Any:
    """An onnxruntime session on the CPU, with other options than the default ones where they are
    given.

    Raises:
        RefusedError: onnxruntime cannot load the graph.
    """
    onnxruntime: Any = importlib.import_module("onnxruntime")
    options = options or onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    try:
        return onnxruntime.InferenceSession(
            str(folder / file), options, providers=["CPUExecutionProvider"]
        )
    except Exception as error:  # onnxruntime's exceptions share no base class of its own
        raise RefusedError(
            "ArtifactNotLoadable", f"onnxruntime cannot load the graph it made: {error}"
        ) from None
