"""QNN: encoders and classifiers as context binaries for the Hexagon Tensor Processor (HTP) of
Qualcomm's chips.

`model.onnx` is a graph of one node that names `model_qnn.bin`, what Qualcomm's compiler made for
one generation of the HTP out of `quantized.onnx`: a graph of fixed shapes in which Q and DQ
operators say how each tensor is quantized, and which every ONNX Runtime runs. With them the
tokenizer, which pads and cuts texts as the graph needs them, and the source's `config.json`.
"""

from __future__ import annotations

import contextlib
import importlib
import shutil
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from quantop_adapters import checkpoint, encoder, htp, stage, texts
from quantop_adapters.coverage import Coverage
from quantop_adapters.onnx_graph import ARTIFACT, check_finite, session, weights
from quantop_adapters.refusal import RefusedError

GENERATIONS = ("V73", "V68", "V69", "V75", "V79", "V81")
"""Of the HTP, the default first: that of Snapdragon 8 Gen 2 and X Elite."""
ACTIVATION_BITS = {"W8A16": 16, "W8A8": 8}
METHODS: Mapping[str, Mapping[str, bool]] = {
    precision: dict.fromkeys(GENERATIONS, True) for precision in ACTIVATION_BITS
}
"""The methods of each precision, the default one first, and whether they need text."""
QUANTIZED = "quantized.onnx"
OPSET = 20
"""The first that has GELU as an operator, which the compiler knows."""
MASKED = -100.0
"""What is added to the attention's score of padding: enough for a weight of 0, and little enough
for the other scores to keep their bits."""

ALIKE_MIN = {"W8A16": 0.95, "W8A8": 0.5}
"""Cosine similarity of what the processor and ONNX Runtime on the CPU make of a text, at least.
They round differently: of MiniLM it is 0.999 with activations of 16 bits, but 0.75 with 8."""


class Qnn:
    """Qualcomm's compiler: QNN."""

    name = "qnn"
    format = "QNN"
    precisions: tuple[str, ...] = tuple(METHODS)

    def version(self) -> str:
        """The version of the plugin that holds the compiler."""
        return htp.version()

    def quantize(self, task: stage.Task, target: Path, progress: stage.Progress) -> None:
        """Export the source for texts of one length, quantize and compile it."""
        generation = stage.choose_method(task, METHODS[task.precision], self.name)
        encoder.check(task.source)
        tokenizer = encoder.tokenizer(task.source)
        assert task.calibration is not None
        length = min(task.calibration.sequence_length, encoder.max_length(task.source))
        progress(f"exporting the graph for texts of {length} tokens", 5)
        graph = export(task.source, task.scratch, length)
        progress("quantizing", 30)
        quantize(graph, task, length, target / QUANTIZED)
        progress(f"compiling for the HTP {generation}", 60)
        htp.compile_graph(target / QUANTIZED, target / ARTIFACT, generation)
        tokenizer.enable_truncation(length)
        tokenizer.enable_padding(length=length, **padding(task.source))
        tokenizer.save(str(target / "tokenizer.json"))
        shutil.copyfile(task.source / "config.json", target / "config.json")

    def coverage(self, artifact: Path) -> Coverage:
        """Count the initializers of the graph that was compiled.

        Raises:
            ValueError: the binary holds fewer bytes than these weights take.
        """
        onnx: Any = importlib.import_module("onnx")
        graph = onnx.load(artifact / QUANTIZED, load_external_data=False)
        coverage = Coverage(tuple(weights(graph)))
        (node,) = onnx.load(artifact / ARTIFACT).graph.node
        named = {each.name: each.s.decode() for each in node.attribute if each.s}
        compiled = (artifact / named["ep_cache_context"]).stat().st_size
        needed = sum(weight.bits for weight in coverage.weights if weight.is_layer) // 8
        if compiled < needed:
            raise ValueError(
                f"{named['ep_cache_context']} has {compiled:,} bytes, and the layers of {QUANTIZED}"
                f" take {needed:,}"
            )
        return coverage

    def vocabulary(self, artifact: Path) -> Mapping[str, int]:
        """Read the tokenizer's file."""
        return checkpoint.vocabulary(artifact)

    def measure(self, task: stage.Task, progress: stage.Progress) -> dict[str, object]:
        """Run the context binary on the emulated HTP.

        Raises:
            RefusedError: it cannot be run there, or computes something else than the graph beside
                it.
        """
        check_finite(task.artifact, QUANTIZED)
        graph = session(task.artifact, task.threads, QUANTIZED)
        binary = Binary(task.artifact, task.method or GENERATIONS[0])
        length = binary.length
        pad = int(padding(task.source)["pad_id"])
        tokenizer = encoder.tokenizer(task.source)
        tokenizer.enable_truncation(length)
        trial = feed(tokenizer.encode(encoder.TRIAL_TEXT), length, pad)
        (expected,) = graph.run(None, trial)
        alike = texts.cosine(expected[0], binary.run(trial)[0])
        if not alike >= ALIKE_MIN[task.precision]:
            raise RefusedError(
                "OutputDiffers",
                f"of a text, the context binary makes something else than {QUANTIZED}, from which "
                f"it was compiled (cosine similarity {alike:.3f}): the conversion went wrong",
            )
        return encoder.measure(
            task, progress, lambda encoding: binary.run(feed(encoding, length, pad)), length
        )


class Binary:
    """A context binary on the emulated HTP; `length` is how many tokens it reads."""

    def __init__(self, artifact: Path, generation: str) -> None:
        self.generation = generation
        with self._refusing():
            self.session = htp.session(artifact / ARTIFACT, generation)
        self.length = int(self.session.get_inputs()[0].shape[1])

    def run(self, given: Mapping[str, Any]) -> Any:
        """Embeddings or logits of shape (1, numbers).

        Raises:
            RefusedError: it cannot be run.
        """
        with self._refusing():
            (found,) = self.session.run(None, given)
        return found

    @contextlib.contextmanager
    def _refusing(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # onnxruntime's exceptions share no base class of their own
            raise RefusedError(
                "ArtifactNotLoadable",
                f"the emulated HTP {self.generation} cannot run the context binary: {error}",
            ) from None


def export(source: Path, scratch: Path, length: int) -> Path:
    """The source's graph in 32-bit floats, for one text of `length` tokens, padding counted.

    It is fed ids (int32) and a mask (float32), 1 for tokens and 0 for padding, both of shape (1,
    length). What transformers would make of the mask has operators that the compiler refuses.

    Raises:
        RefusedError: transformers cannot load the source, or torch cannot export it.
    """
    torch: Any = importlib.import_module("torch")
    quantization: Any = importlib.import_module("onnxruntime.quantization.execution_providers.qnn")
    whole = encoder.load(source)
    example = (torch.ones(1, length, dtype=torch.int32), torch.ones(1, length))

    class Fixed(torch.nn.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.whole = whole

        def forward(self, ids: Any, mask: Any) -> Any:
            scores = ((1 - mask) * MASKED)[:, None, None, :]
            return self.whole.head(self.whole.model(input_ids=ids, attention_mask=scores), mask)

    program = encoder.exported(
        source,
        Fixed().eval(),
        example,
        input_names=["input_ids", "attention_mask"],
        opset_version=OPSET,
    )
    plain, prepared = scratch / "exported.onnx", scratch / "prepared.onnx"
    program.save(plain, external_data=True)
    # It folds constants, and makes operators that the compiler knows of several that it does not.
    changed = quantization.qnn_preprocess_model(
        plain,
        prepared,
        save_as_external_data=True,
        all_tensors_to_one_file=True,
        external_data_location="prepared.onnx.data",
    )
    return prepared if changed else plain


def quantize(graph: Path, task: stage.Task, length: int, target: Path) -> None:
    """Quantize weights and activations, whose ranges the calibration text gives."""
    onnx: Any = importlib.import_module("onnx")
    library: Any = importlib.import_module("onnxruntime.quantization")
    processor: Any = importlib.import_module("onnxruntime.quantization.execution_providers.qnn")
    pad = int(padding(task.source)["pad_id"])
    feeds = (feed(encoding, length, pad) for encoding in encoder.calibration(task))

    class Reader(library.CalibrationDataReader):  # type: ignore[misc]
        def get_next(self) -> Mapping[str, Any] | None:
            return next(feeds, None)

    prepared = onnx.load(graph, load_external_data=False).graph
    library.quantize(
        graph,
        target,
        processor.get_qnn_qdq_config(
            graph,
            Reader(),
            activation_type=library.QuantType[f"QUInt{ACTIVATION_BITS[task.precision]}"],
            # Of what is no matrix: the compiler takes no signed ones there.
            weight_type=library.QuantType.QUInt8,
            init_overrides={
                name: [{"quant_type": library.QuantType.QInt8, "axis": axis, "symmetric": True}]
                for name, axis in columns(prepared)
            },
        ),
    )


def columns(graph: Any) -> Iterator[tuple[str, int]]:
    """Each matrix that the graph multiplies by, and the axis of its columns. Of MiniLM, one scale
    for each keeps four times as much as one for the matrix, which is the quantizer's default."""
    stored = {tensor.name for tensor in graph.initializer}
    for node in graph.node:
        if node.op_type in ("Gemm", "MatMul") and node.input[1] in stored:
            transposed = any(each.name == "transB" and each.i for each in node.attribute)
            yield node.input[1], 0 if transposed else 1


def padding(source: Path) -> dict[str, Any]:
    """The token that fills up a text, as the tokenizers library names its parts."""
    tokenizer = checkpoint.load_tokenizer(source)
    identifier = tokenizer.pad_token_id
    if identifier is None:
        identifier = checkpoint.read_json(source / "config.json").get("pad_token_id") or 0
    token = tokenizer.pad_token or tokenizer.convert_ids_to_tokens(identifier)
    return {"pad_id": int(identifier), "pad_token": str(token)}


def feed(encoding: Any, length: int, pad: int) -> dict[str, Any]:
    """One text's encoding as what the graph reads."""
    numpy: Any = importlib.import_module("numpy")
    ids = numpy.full((1, length), pad, numpy.int32)
    mask = numpy.zeros((1, length), numpy.float32)
    ids[0, : len(encoding.ids)] = encoding.ids
    mask[0, : len(encoding.ids)] = 1
    return {"input_ids": ids, "attention_mask": mask}


if __name__ == "__main__":
    sys.exit(stage.main(Qnn()))
