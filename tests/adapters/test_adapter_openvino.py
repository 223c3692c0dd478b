"""What OpenVINO's adapter reads out of a graph's file, which is XML beside a file of numbers."""

import struct
from dataclasses import dataclass, field
from pathlib import Path
from xml.etree import ElementTree

import pytest
from quantop_adapters import openvino
from quantop_adapters.coverage import Weight
from quantop_adapters.refusal import RefusedError

BITS = {"i4": 4, "u8": 8, "bf16": 16, "f16": 16, "f32": 32, "i64": 64}


@dataclass
class Graph:
    """Writes a graph operation by operation, each behind what it reads, as OpenVINO does."""

    operations: ElementTree.Element = field(default_factory=lambda: ElementTree.Element("net"))
    numbers: bytes = b""

    def __post_init__(self) -> None:
        self.layers = ElementTree.SubElement(self.operations, "layers")
        self.edges = ElementTree.SubElement(self.operations, "edges")

    def add(self, kind: str, *read: str) -> str:
        """An operation; its id."""
        identifier = str(len(self.layers))
        attributes = {"id": identifier, "name": f"{kind}_{identifier}", "type": kind}
        ElementTree.SubElement(self.layers, "layer", attributes)
        for source in read:
            edge = {"from-layer": source, "to-layer": identifier}
            ElementTree.SubElement(self.edges, "edge", edge)
        return identifier

    def constant(self, kind: str, *shape: int, name: str = "", raw: bytes | None = None) -> str:
        """A constant of zeros, or of the bytes given; its id."""
        identifier = self.add("Const")
        count = 1
        for dimension in shape:
            count *= dimension
        stored = bytes(count * BITS[kind] // 8) if raw is None else raw
        layer = self.layers[-1]
        if name:
            layer.attrib["name"] = name
        ElementTree.SubElement(
            layer,
            "data",
            {
                "element_type": kind,
                "shape": ", ".join(map(str, shape)),
                "offset": str(len(self.numbers)),
                "size": str(len(stored)),
            },
        )
        self.numbers += stored
        return identifier

    def write(self, folder: Path) -> Path:
        """Write both files; the folder."""
        ElementTree.ElementTree(self.operations).write(folder / "openvino_model.xml")
        (folder / "openvino_model.bin").write_bytes(self.numbers)
        return folder


def weights(graph: Graph, folder: Path) -> set[Weight]:
    return set(openvino.OpenVino().coverage(graph.write(folder)).weights)


def test_a_quantized_layer_counts_with_its_scales_and_zero_points(tmp_path: Path) -> None:
    graph = Graph()
    text = graph.add("Parameter")
    # 8 rows of 2 groups of 16 numbers, and their shape without groups.
    numbers = graph.add("Convert", graph.constant("i4", 8, 2, 16))
    scaled = graph.add("Multiply", numbers, graph.constant("f16", 8, 2, 1))
    shaped = graph.add("Reshape", scaled, graph.constant("i64", 2))
    graph.add("MatMul", text, graph.add("Convert", shaped))
    # 16 rows of 4 numbers with zero points.
    numbers = graph.add("Convert", graph.constant("u8", 16, 4))
    shifted = graph.add("Subtract", numbers, graph.add("Convert", graph.constant("u8", 16, 1)))
    scaled = graph.add("Multiply", shifted, graph.constant("f16", 16, 1))
    graph.add("Gather", scaled, text, graph.constant("i64"))
    assert weights(graph, tmp_path) == {
        Weight(256, 256 * 4 + 16 * 16, is_layer=True, quantized=True),
        Weight(64, 64 * 8 + 16 * 8 + 16 * 16, is_layer=False, quantized=True),
    }


def test_a_weight_of_two_readers_is_one(tmp_path: Path) -> None:
    graph = Graph()
    text = graph.add("Parameter")
    tied = graph.add("Convert", graph.constant("bf16", 16, 4))
    state = graph.add("Gather", tied, text)
    graph.add("MatMul", state, tied)
    assert weights(graph, tmp_path) == {Weight(64, 1024, is_layer=True, quantized=False)}


def test_what_is_no_matrix_is_no_layer_and_what_is_no_weight_is_nothing(tmp_path: Path) -> None:
    graph = Graph()
    text = graph.add("Parameter")
    graph.add("Multiply", graph.constant("f32", 1, 1, 4), text)
    graph.add("MatMul", graph.constant("f32", 1, 8, 1, name="model.rotary_emb/Convert"), text)
    graph.add("Power", text, graph.constant("f32", 1, 1, 1))
    graph.add("Reshape", text, graph.constant("i64", 4))
    assert weights(graph, tmp_path) == {Weight(4, 128, is_layer=False, quantized=False)}


def test_graphs_inside_of_a_graph_count(tmp_path: Path) -> None:
    inner = Graph(ElementTree.Element("body"))
    inner.add("MatMul", inner.add("Parameter"), inner.constant("f16", 4, 4))
    graph = Graph(numbers=inner.numbers)
    graph.add("Loop", graph.add("Parameter"))
    graph.layers[-1].append(inner.operations)
    assert weights(graph, tmp_path) == {Weight(16, 256, is_layer=True, quantized=False)}


@pytest.mark.parametrize(
    ("kind", "raw"),
    [
        ("f32", struct.pack("<2f", 1.0, float("inf"))),
        ("f16", struct.pack("<2e", 1.0, float("nan"))),
        ("bf16", struct.pack("<2H", 0x3F80, 0x7F80)),
    ],
)
def test_a_number_that_is_not_finite_is_found(tmp_path: Path, kind: str, raw: bytes) -> None:
    graph = Graph()
    graph.add("Multiply", graph.constant(kind, 2, name="norm", raw=raw), graph.add("Parameter"))
    with pytest.raises(RefusedError, match="norm holds numbers that are not finite") as refusal:
        openvino.check_finite(graph.write(tmp_path))
    assert refusal.value.reason == "NumbersNotFinite"


def test_finite_numbers_are_fine_and_a_file_that_is_cut_off_is_not(tmp_path: Path) -> None:
    graph = Graph()
    largest = struct.pack("<2H", 0x7F7F, 0xFF7F)
    graph.add("Multiply", graph.constant("bf16", 2, raw=largest), graph.add("Parameter"))
    openvino.check_finite(graph.write(tmp_path))
    (tmp_path / "openvino_model.bin").write_bytes(largest[:3])
    with pytest.raises(RefusedError, match=r"openvino_model\.bin ends at byte 3") as refusal:
        openvino.check_finite(tmp_path)
    assert refusal.value.reason == "ArtifactNotReadable"


def test_a_file_of_numbers_that_was_not_written_is_missed(tmp_path: Path) -> None:
    graph = Graph()
    graph.add("Multiply", graph.constant("f32", 2), graph.add("Parameter"))
    (graph.write(tmp_path) / "openvino_model.bin").unlink()
    with pytest.raises(RefusedError, match=r"openvino_model\.bin ends at byte 0"):
        openvino.check_finite(tmp_path)


def test_a_graph_is_given_the_inputs_that_it_has() -> None:
    given = openvino.inputs({"input_ids", "attention_mask", "position_ids"}, [7, 8], start=3)
    assert {name: array.tolist() for name, array in given.items()} == {
        "input_ids": [[7, 8]],
        "attention_mask": [[1, 1, 1, 1, 1]],
        "position_ids": [[3, 4]],
    }
