"""OpenVINO's IR by optimum-intel and NNCF, with the tokenizer as a graph, for OpenVINO GenAI."""

from __future__ import annotations

import contextlib
import importlib
import importlib.metadata
import math
import shutil
import sys
import xml.etree.ElementTree as ElementTree
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from quantop_adapters import calibration, checkpoint, perplexity, stage
from quantop_adapters.coverage import Coverage, Weight, is_output
from quantop_adapters.refusal import RefusedError

ARTIFACT = "openvino_model.xml"
TOKENIZER, DETOKENIZER = "openvino_tokenizer.xml", "openvino_detokenizer.xml"
# Written by the export from the checkpoint's own, and read by OpenVINO GenAI.
CONFIGURATIONS = ("config.json", "generation_config.json")
ROUND_TO_NEAREST, AWQ, GPTQ, SMOOTHQUANT = "RTN", "AWQ", "GPTQ", "SmoothQuant"
DEFAULT: Mapping[str, bool] = {stage.DEFAULT_METHOD: False}
METHODS: Mapping[str, Mapping[str, bool]] = {
    "FP32": DEFAULT,
    "FP16": DEFAULT,
    "INT8": DEFAULT,
    "W8A8": {SMOOTHQUANT: True},
    "INT4": {ROUND_TO_NEAREST: False, AWQ: True, GPTQ: True},
    "NF4": DEFAULT,
    "MXFP4": DEFAULT,
}
"""The methods of each precision, the default one first, and whether they need text."""
MODES = {"INT8": "INT8_ASYM", "INT4": "INT4_SYM", "NF4": "NF4", "MXFP4": "MXFP4"}
"""NNCF's modes of the precisions that quantize weights alone."""
GROUP_SIZE = {"INT4": 128, "NF4": 128}
"""How many columns share one scale, where a layer's width is a multiple of it."""
BATCH = 256
"""Tokens run at once; as all logits are kept, this bounds memory for large vocabularies."""
FLOATS = {"f64": "<f8", "f32": "<f4", "f16": "<f2", "bf16": "<u2"}
"""Types of weights that are not quantized, and how numpy reads them: bfloat16, which it does not
know, is the upper half of a 32-bit float."""
# Types of shapes, indices and masks: constants that are no weights.
INDICES = frozenset({"i64", "i32", "u64", "u32", "boolean", "string"})
# Tables of the rotary embedding: no weights of the model.
TABLES = "rotary_emb"


class OpenVino:
    """OpenVINO: the format of the same name."""

    name = "openvino"
    format = "OpenVINO"
    precisions: tuple[str, ...] = tuple(METHODS)

    def version(self) -> str:
        """The version of the package."""
        return importlib.metadata.version("openvino")

    def quantize(self, task: stage.Task, target: Path, progress: stage.Progress) -> None:
        """Export the checkpoint, quantize the graph and write it beside the tokenizer's graphs."""
        method = stage.choose_method(task, METHODS[task.precision], self.name)
        progress("loading the toolchain", 2)
        openvino: Any = importlib.import_module("openvino")
        progress("converting the tokenizer", 10)
        write_tokenizer(task.source, target)
        check_tokenizer(task, target)
        rows = calibration.token_rows(task) if task.calibration else []
        progress("exporting the checkpoint", 20)
        exported = task.scratch / "exported"
        # NNCF and the exporter print on stdout, where progress goes.
        with contextlib.redirect_stdout(sys.stderr):
            export(task, exported)
        for name in CONFIGURATIONS:
            shutil.copyfile(exported / name, target / name)
        model = openvino.Core().read_model(exported / ARTIFACT)
        if task.precision not in ("FP32", "FP16"):
            progress(f"quantizing to {task.precision}", 50)
            with contextlib.redirect_stdout(sys.stderr):
                model = quantized(model, task.precision, method, rows)
        progress("writing the graph", 90)
        openvino.save_model(model, target / ARTIFACT, compress_to_fp16=False)

    def coverage(self, artifact: Path) -> Coverage:
        """Count the constants that the graph's file lists, with the bytes that they take."""
        return Coverage(tuple(weight(operand) for operand in operands(artifact)))

    def vocabulary(self, artifact: Path) -> Mapping[str, int]:
        """Read the tokenizer's files; what its graph does is looked at before scoring."""
        return checkpoint.vocabulary(artifact)

    def scorer(self, task: stage.Task, length: int) -> perplexity.Scorer:
        """Run the graph with OpenVINO, whose state keeps what attention has seen of a text."""
        check_finite(task.artifact)
        check_tokenizer(task, task.artifact)
        request = compiled(task.artifact, task.threads).create_infer_request()
        names = input_names(request.model_inputs)

        def score(ids: Sequence[int], start: int = 0) -> Iterator[Any]:
            if not start:
                request.reset_state()
            for first in range(0, len(ids), BATCH):
                some = ids[first : first + BATCH]
                yield request.infer(inputs(names, some, start + first))["logits"][0]

        return score


def write_tokenizer(source: Path, target: Path) -> None:
    """Write the tokenizer as graphs that OpenVINO runs, and as the checkpoint has it.

    Raises:
        RefusedError: it cannot be converted.
    """
    openvino: Any = importlib.import_module("openvino")
    tokenizers: Any = importlib.import_module("openvino_tokenizers")
    try:
        forth, back = tokenizers.convert_tokenizer(
            checkpoint.load_tokenizer(source), with_detokenizer=True
        )
    except RefusedError:
        raise
    except Exception as error:  # its errors share no base class of their own
        raise RefusedError(
            "UnsupportedTokenizer",
            "openvino_tokenizers cannot convert the source's tokenizer "
            f"({checkpoint.first_sentence(error)}): choose another format",
        ) from None
    openvino.save_model(forth, target / TOKENIZER)
    openvino.save_model(back, target / DETOKENIZER)
    checkpoint.copy_tokenizer(source, target)


def check_tokenizer(task: stage.Task, artifact: Path) -> None:
    """Compare what the artifact's graphs make of a text, and of its ids, with the checkpoint's own.

    Raises:
        RefusedError: they differ, so the served model would read or write other text.
    """
    openvino: Any = importlib.import_module("openvino")
    # It teaches OpenVINO the operations of these graphs.
    importlib.import_module("openvino_tokenizers")
    tokenizer = checkpoint.load_tokenizer(task.source)
    expected = list(tokenizer(task.sample).input_ids)
    try:
        core = openvino.Core()
        found = core.compile_model(artifact / TOKENIZER, "CPU")([task.sample])["input_ids"][
            0
        ].tolist()
        written = core.compile_model(artifact / DETOKENIZER, "CPU")([[expected]])[0][0]
    except RuntimeError as error:
        raise RefusedError(
            "ArtifactNotLoadable",
            f"OpenVINO cannot run the artifact's tokenizer: {last_line(error)}",
        ) from None
    if found != expected:
        raise RefusedError(
            "UnsupportedTokenizer",
            f"OpenVINO splits text otherwise than the source's tokenizer ({len(found)} tokens for "
            f"{len(expected)}): choose another format",
        )
    # Spaces aside, which the two may tidy up otherwise.
    original = tokenizer.decode(expected, skip_special_tokens=True)
    if "".join(written.split()) != "".join(original.split()):
        raise RefusedError(
            "UnsupportedTokenizer",
            "OpenVINO joins tokens otherwise than the source's tokenizer: choose another format",
        )


def export(task: stage.Task, folder: Path) -> None:
    """Write the checkpoint as a graph with a state for attention's keys and values.

    Its weights are in 32 or 16 bits if the precision says so, else as the checkpoint has them.

    Raises:
        RefusedError: the architecture is not known.
    """
    exporter: Any = importlib.import_module("optimum.exporters.openvino")
    configuration: Any = importlib.import_module("optimum.intel.openvino.configuration")
    # Given no type at all, the exporter quantizes large models on its own.
    kind = task.precision.lower() if task.precision in ("FP32", "FP16") else "auto"
    try:
        exporter.main_export(
            str(task.source),
            folder,
            task="text-generation-with-past",
            library_name="transformers",
            local_files_only=True,
            ov_config=configuration.OVConfig(dtype=kind),
        )
    except (ValueError, KeyError) as error:
        config = checkpoint.read_json(task.source / "config.json")
        raise RefusedError(
            "UnsupportedArchitecture",
            f"the source's config.json says {checkpoint.architecture(config)}, which optimum-intel "
            f"cannot export ({checkpoint.first_sentence(error)}); choose another format or another "
            "model",
        ) from None


def quantized(model: Any, precision: str, method: str, rows: Sequence[Sequence[int]]) -> Any:
    """The graph quantized by NNCF, calibrated on rows of token ids where the method does."""
    nncf: Any = importlib.import_module("nncf")
    names = input_names(model.inputs)
    dataset = nncf.Dataset([inputs(names, row) for row in rows]) if rows else None
    if method == SMOOTHQUANT:
        return nncf.quantize(
            model, dataset, subset_size=len(rows), model_type=nncf.ModelType.TRANSFORMER
        )
    advanced: Any = importlib.import_module("nncf.quantization.advanced_parameters")
    options: dict[str, Any] = {"mode": nncf.CompressWeightsMode[MODES[precision]]}
    if precision in GROUP_SIZE:
        # Layers of another width get smaller groups: what that costs shows in the bits per weight.
        options["group_size"] = GROUP_SIZE[precision]
        options["advanced_parameters"] = advanced.AdvancedCompressionParameters(
            group_size_fallback_mode=advanced.GroupSizeFallbackMode.ADJUST
        )
    if dataset:
        options |= {"dataset": dataset, "subset_size": len(rows)}
    if method == AWQ:
        options |= {"awq": True, "scale_estimation": True}
    if method == GPTQ:
        options["gptq"] = True
    return nncf.compress_weights(model, **options)


def input_names(ports: Iterable[Any]) -> frozenset[str]:
    """The names of a graph's inputs."""
    return frozenset(port.get_any_name() for port in ports)


def inputs(names: Collection[str], ids: Sequence[int], start: int = 0) -> dict[str, Any]:
    """What the graph reads of one sequence's ids when its state holds `start` before them.

    Arrays (1, ids), the mask (1, start + ids); only those of `names`.
    """
    numpy: Any = importlib.import_module("numpy")
    end = start + len(ids)
    possible = {
        "input_ids": numpy.array([ids], dtype=numpy.int64),
        "attention_mask": numpy.ones((1, end), dtype=numpy.int64),
        "position_ids": numpy.arange(start, end, dtype=numpy.int64)[None],
        "beam_idx": numpy.zeros(1, dtype=numpy.int32),
    }
    return {name: value for name, value in possible.items() if name in names}


def compiled(folder: Path, threads: int) -> Any:
    """The graph, ready to run on the CPU.

    Raises:
        RefusedError: OpenVINO cannot load it.
    """
    openvino: Any = importlib.import_module("openvino")
    try:
        return openvino.Core().compile_model(
            folder / ARTIFACT, "CPU", {"INFERENCE_NUM_THREADS": threads}
        )
    except RuntimeError as error:
        raise RefusedError(
            "ArtifactNotLoadable",
            f"OpenVINO cannot load the graph it made: {last_line(error)}",
        ) from None


def last_line(error: RuntimeError) -> str:
    """What OpenVINO says of an error, behind the lines that tell where in its code it was seen."""
    return (str(error).strip() or type(error).__name__).splitlines()[-1]


@dataclass(frozen=True)
class Constant:
    """A constant of a graph: name, type of its numbers, shape, and its bytes in the file beside."""

    name: str
    kind: str
    shape: tuple[int, ...]
    offset: int
    size: int

    @property
    def numbers(self) -> int:
        """How many numbers it holds."""
        return math.prod(self.shape)

    @classmethod
    def of(cls, layer: ElementTree.Element) -> Constant:
        """Read what the graph's file says of it."""
        data = layer.find("data")
        assert data is not None, "a constant has data"
        return cls(
            name=layer.attrib["name"],
            kind=data.attrib["element_type"],
            shape=tuple(int(each) for each in data.attrib["shape"].split(",") if each.strip()),
            offset=int(data.attrib["offset"]),
            size=int(data.attrib["size"]),
        )


@dataclass(frozen=True)
class Operand:
    """What operations of a graph read that is computed from constants alone.

    A quantized weight is several: numbers, scales, zero points. The first is the largest.
    """

    parts: tuple[Constant, ...]
    readers: frozenset[str]
    """The types of the operations that read it."""


def operands(artifact: Path) -> list[Operand]:
    """The operands of more than one number that are weights of the model."""
    root = ElementTree.parse(artifact / ARTIFACT).getroot()
    graphs = (root, *root.iter("body"))
    return [
        operand
        for graph in graphs
        for operand in graph_operands(graph)
        if operand.parts[0].numbers > 1
    ]


def graph_operands(graph: ElementTree.Element) -> Iterator[Operand]:
    """The operands of one graph, whose file lists each operation after those that it reads."""
    sources: dict[str, list[str]] = {}
    for edge in graph.iterfind("edges/edge"):
        sources.setdefault(edge.attrib["to-layer"], []).append(edge.attrib["from-layer"])
    # By operation that reads constants alone: those that are weights.
    folded: dict[str, frozenset[Constant]] = {}
    # By the largest constant of an operand: all of them, and what reads it.
    found: dict[Constant, tuple[frozenset[Constant], set[str]]] = {}
    for layer in graph.iterfind("layers/layer"):
        identifier, kind = layer.attrib["id"], layer.attrib["type"]
        read = sources.get(identifier, [])
        if kind == "Const":
            constant = Constant.of(layer)
            is_weight = constant.kind not in INDICES and TABLES not in constant.name
            folded[identifier] = frozenset([constant] if is_weight else [])
        elif read and kind != "ReadValue" and all(source in folded for source in read):
            folded[identifier] = frozenset().union(*(folded[source] for source in read))
        else:
            for parts in filter(None, (folded.get(source) for source in read)):
                largest = max(parts, key=lambda part: part.numbers)
                found.setdefault(largest, (parts, set()))[1].add(kind)
    for largest, (parts, readers) in found.items():
        yield Operand((largest, *(parts - {largest})), frozenset(readers))


def weight(operand: Operand) -> Weight:
    """An operand as the weight that it stands for."""
    largest = operand.parts[0]
    is_matrix = sum(dimension > 1 for dimension in largest.shape) > 1
    return Weight(
        numbers=largest.numbers,
        bits=8 * sum(part.size for part in operand.parts),
        is_layer=is_matrix and "MatMul" in operand.readers,
        quantized=largest.kind not in FLOATS,
        is_output=is_output(largest.name),
    )


def check_finite(artifact: Path) -> None:
    """Look at every number that is stored as a float: weights, and scales of quantized ones.

    Raises:
        RefusedError: one is not finite, or the file that holds it is cut off.
    """
    numpy: Any = importlib.import_module("numpy")
    file = (artifact / ARTIFACT).with_suffix(".bin")
    stored = file.stat().st_size if file.is_file() else 0
    for part in (part for operand in operands(artifact) for part in operand.parts):
        if part.offset + part.size > stored:
            raise RefusedError(
                "ArtifactNotReadable",
                f"the numbers of the artifact's {part.name} are not all there: {file.name} ends "
                f"at byte {stored:,}",
            )
        if part.kind not in FLOATS:
            continue
        numbers = numpy.fromfile(file, FLOATS[part.kind], part.numbers, offset=part.offset)
        if part.kind == "bf16":
            numbers = (numbers.astype("<u4") << 16).view("<f4")
        if not numpy.isfinite(numbers).all():
            raise RefusedError(
                "NumbersNotFinite",
                f"the artifact's {part.name} holds numbers that are not finite",
            )


if __name__ == "__main__":
    sys.exit(stage.main(OpenVino()))
