"""A graph in ONNX: its file, the numbers in it and a session that runs it."""

from __future__ import annotations

import importlib
import math
from pathlib import Path
from typing import Any

from quantop_adapters.refusal import RefusedError

ARTIFACT = "model.onnx"


def stored_bits(onnx: Any, tensor: Any) -> int:
    """The bits that store an initializer."""
    numbers = math.prod(int(dimension) for dimension in tensor.dims)
    if tensor.data_type in (onnx.TensorProto.INT4, onnx.TensorProto.UINT4):
        return numbers * 4
    return numbers * int(onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize) * 8


def check_finite(artifact: Path) -> None:
    """Look at every number that is stored as a float: weights, and scales of quantized ones.

    Raises:
        RefusedError: one is not finite, or the file that holds it is cut off.
    """
    onnx: Any = importlib.import_module("onnx")
    numpy: Any = importlib.import_module("numpy")
    for tensor in onnx.load(artifact / ARTIFACT, load_external_data=False).graph.initializer:
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


def session(folder: Path, threads: int) -> Any:
    """An onnxruntime session on the CPU.

    Raises:
        RefusedError: onnxruntime cannot load the graph.
    """
    onnxruntime: Any = importlib.import_module("onnxruntime")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    try:
        return onnxruntime.InferenceSession(
            str(folder / ARTIFACT), options, providers=["CPUExecutionProvider"]
        )
    except Exception as error:  # onnxruntime's exceptions share no base class of its own
        raise RefusedError(
            "ArtifactNotLoadable", f"onnxruntime cannot load the graph it made: {error}"
        ) from None
