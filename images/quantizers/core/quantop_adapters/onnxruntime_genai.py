"""ONNX by onnxruntime-genai's model builder, for one execution provider of ONNX Runtime each."""

from __future__ import annotations

import importlib
import importlib.metadata
import json
import math
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from quantop_adapters import checkpoint, perplexity, stage
from quantop_adapters.coverage import Coverage, Weight, is_output
from quantop_adapters.onnx_graph import ARTIFACT, check_finite, session, stored_bits
from quantop_adapters.refusal import RefusedError

BATCH = 256
"""Tokens run at once; as all logits are kept, this bounds memory for large vocabularies."""
MIXED = "matmul_mixed_precision=last_matmul:int8,mixed_layers:int8"
ALGORITHMS: Mapping[str, Sequence[str]] = {
    "RTN": (),
    "KQuant": ("algo_config=k_quant",),
    "KQuantMixed": ("algo_config=k_quant", MIXED),
}
"""The builder's options for each method. The mixed one gives the output layer, and the layers that
llama.cpp's K-quants favour, 8 bits."""
METHODS: Mapping[str, Mapping[str, bool]] = {
    "FP32": {stage.DEFAULT_METHOD: False},
    "FP16": {stage.DEFAULT_METHOD: False},
    "INT8": {"RTN": False, "KQuant": False},
    "INT4": {"RTN": False, "KQuant": False, "KQuantMixed": False},
}
"""The methods of each precision, the default one first; none of them needs text."""
# What the builder, and transformers below it, say of an architecture they do not know.
UNKNOWN_ARCHITECTURE = ("is not currently supported", "does not recognize this architecture")
# Tables of the rotary embedding that the builder computes: no weights of the model.
TABLES = ("cos_cache", "sin_cache")


class OnnxruntimeGenai:
    """onnxruntime-genai: ONNX for CPUs, and for other hardware by the classes below. What those
    write ONNX Runtime runs on a CPU as well, casting where a kernel is missing: so it is measured.
    """

    name = "onnxruntime-genai"
    format = "ONNX"
    provider = "cpu"
    # The builder writes 16-bit floats for a CPU too and says so nowhere, but onnxruntime-genai
    # cannot run them there.
    precisions: tuple[str, ...] = ("FP32", "INT8", "INT4")

    def version(self) -> str:
        """The version of the package."""
        return importlib.metadata.version("onnxruntime-genai")

    def quantize(self, task: stage.Task, target: Path, progress: stage.Progress) -> None:
        """Run the builder, whose exit status says little: what it wrote is what counts."""
        method = stage.choose_method(task, METHODS[task.precision], self.name)
        progress("building the graph", 5)
        command = [sys.executable, "-m", "onnxruntime_genai.models.builder"]
        command += [
            "--input",
            str(task.source),
            "--output",
            str(target),
            "--precision",
            task.precision.lower(),
        ]
        command += ["--execution_provider", self.provider, "--cache_dir", str(task.scratch)]
        command += ["--extra_options", "hf_token=false", "hf_remote=false"]
        command += ALGORITHMS.get(method, ())
        try:
            stage.run_tool(command)
        except stage.ToolError as error:
            if not any(sentence in str(error) for sentence in UNKNOWN_ARCHITECTURE):
                raise
            config = checkpoint.read_json(task.source / "config.json")
            raise RefusedError(
                "UnsupportedArchitecture",
                f"the source's config.json says {checkpoint.architecture(config)}, which "
                "onnxruntime-genai cannot build; choose format CompressedTensors or GGUF, "
                "ONNXEncoder for an encoder or a classifier, or another model",
            ) from None
        if not (target / ARTIFACT).is_file():
            raise stage.ToolError(f"the builder ended without an error, but wrote no {ARTIFACT}")

    def coverage(self, artifact: Path) -> Coverage:
        """Count the graph's initializers; a quantized layer's node names those it consists of."""
        onnx: Any = importlib.import_module("onnx")
        graph = onnx.load(artifact / ARTIFACT, load_external_data=False).graph
        unclaimed = {tensor.name: tensor for tensor in graph.initializer}
        weights = []
        for node in graph.node:
            parts = [
                unclaimed.pop(name)
                for name in node.input[1:]
                if name in unclaimed and is_weight(node)
            ]
            if not parts:
                continue
            bits = sum(stored_bits(onnx, part) for part in parts)
            numbers = math.prod(parts[0].dims)
            quantized = node.op_type == "MatMulNBits"
            if quantized:
                shape = {attribute.name: attribute.i for attribute in node.attribute}
                numbers = shape["K"] * shape["N"]
            output = any(is_output(part.name) for part in parts)
            weights.append(Weight(numbers, bits, True, quantized, output))
        weights += [
            Weight(math.prod(tensor.dims), stored_bits(onnx, tensor), False, False)
            for tensor in unclaimed.values()
            if math.prod(tensor.dims) > 1 and not any(table in tensor.name for table in TABLES)
        ]
        return Coverage(tuple(weights))

    def vocabulary(self, artifact: Path) -> Mapping[str, int]:
        """Read the tokenizer's files."""
        return checkpoint.vocabulary(artifact)

    def scorer(self, task: stage.Task, length: int) -> perplexity.Scorer:
        """Run the graph with onnxruntime, feeding back what attention keeps."""
        numpy: Any = importlib.import_module("numpy")
        decoder = json.loads((task.artifact / "genai_config.json").read_text())["model"]["decoder"]
        check_finite(task.artifact)
        run = session(task.artifact, task.threads)
        inputs = {entry.name for entry in run.get_inputs()}
        outputs = [entry.name for entry in run.get_outputs()]
        kept = [name for name in inputs if name.startswith("past_key_values.")]
        floats = {entry.type for entry in run.get_inputs() if entry.name in kept}
        empty = numpy.zeros(
            (1, decoder["num_key_value_heads"], 0, decoder["head_size"]),
            dtype=numpy.float16 if floats == {"tensor(float16)"} else numpy.float32,
        )

        past: dict[str, Any] = {}

        def score(ids: Sequence[int], start: int = 0) -> Iterator[Any]:
            nonlocal past
            if not start:
                past = dict.fromkeys(kept, empty)
            for first in range(0, len(ids), BATCH):
                some = ids[first : first + BATCH]
                before, end = start + first, start + first + len(some)
                feed = {"input_ids": numpy.array([some], dtype=numpy.int64)}
                if "attention_mask" in inputs:
                    feed["attention_mask"] = numpy.ones((1, end), dtype=numpy.int64)
                if "position_ids" in inputs:
                    feed["position_ids"] = numpy.arange(before, end, dtype=numpy.int64)[None]
                found = dict(zip(outputs, run.run(outputs, {**feed, **past}), strict=True))
                past = {name: found[name.replace("past_key_values", "present")] for name in kept}
                yield found["logits"][0].astype(numpy.float32, copy=False)

        return score


class Cuda(OnnxruntimeGenai):
    """For NVIDIA's processors. In 32 bits the builder writes a graph that ends nowhere."""

    name = "onnxruntime-genai for CUDA"
    provider = "cuda"
    precisions = ("FP16", "INT8", "INT4")


class DirectMl(Cuda):
    """For what Windows drives by DirectX 12."""

    name = "onnxruntime-genai for DirectML"
    provider = "dml"


class WebGpu(OnnxruntimeGenai):
    """For what a browser, or Dawn, drives."""

    name = "onnxruntime-genai for WebGPU"
    provider = "webgpu"
    precisions = ("FP32", "FP16", "INT8", "INT4")


TOOLCHAINS: Mapping[str, type[OnnxruntimeGenai]] = {
    "CPU": OnnxruntimeGenai,
    "CUDA": Cuda,
    "DirectML": DirectMl,
    "WebGPU": WebGpu,
}
"""By what the variable ``EXECUTION_PROVIDER`` may be."""


def toolchain(environment: Mapping[str, str]) -> OnnxruntimeGenai:
    """The one that a Quantizer's environment asks for; without a word that for CPUs.

    Raises:
        SystemExit: there is none of that name.
    """
    provider = environment.get("EXECUTION_PROVIDER", "CPU")
    if provider not in TOOLCHAINS:
        sys.exit(
            f"EXECUTION_PROVIDER is {provider}, in the Quantizer's spec.env; possible: "
            f"{', '.join(TOOLCHAINS)}"
        )
    return TOOLCHAINS[provider]()


def is_weight(node: Any) -> bool:
    """Whether the node multiplies by a matrix."""
    return node.op_type in ("MatMul", "MatMulNBits", "Gemm")


if __name__ == "__main__":
    sys.exit(stage.main(toolchain(os.environ)))
