"""What of a SavedModel can be told without TensorFlow: its signature and its operators."""

import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
from quantop_adapters import saved_model, stage, tensorflow
from quantop_adapters.refusal import RefusedError

MODEL = Path(__file__).resolve().parents[2] / "e2e" / "models" / "tiny-bert-tensorflow"
ANY = (-1, -1)


def program(
    inputs: dict[str, tuple[int, ...] | None], outputs: tuple[str, ...] = ("x",)
) -> saved_model.Program:
    return saved_model.Program(
        None,
        {
            name: saved_model.Input(f"{name}_placeholder", 3, shape)
            for name, shape in inputs.items()
        },
        {name: f"{name}:0" for name in outputs},
        {},
    )


@pytest.mark.parametrize(
    "names",
    [
        ("attention_mask", "input_ids", "token_type_ids"),
        ("input_mask", "input_type_ids", "input_word_ids"),
        ("padding_mask", "segment_ids", "token_ids"),
    ],
)
def test_inputs_are_known_by_the_names_that_are_used(names: tuple[str, ...]) -> None:
    """In the signature they are in the order of the alphabet, in the graph in that of torch's."""
    found = tensorflow.inputs(program(dict.fromkeys(names, ANY)))
    assert list(found) == ["input_ids", "attention_mask", "token_type_ids"]
    ids = next(name for name in names if name in tensorflow.INPUTS["input_ids"])
    assert found["input_ids"].placeholder == f"{ids}_placeholder"


def test_token_types_are_fed_where_there_are_such_and_sizes_may_be_left_open() -> None:
    found = tensorflow.inputs(program({"input_ids": None, "attention_mask": ANY}))
    assert list(found) == ["input_ids", "attention_mask"]


@pytest.mark.parametrize(
    ("inputs", "sentence"),
    [
        ({"input_ids": ANY}, "takes input_ids; it must take"),
        ({}, "takes nothing"),
        ({"input_ids": ANY, "attention_mask": ANY, "temperature": ANY}, "temperature; it must"),
        ({"input_ids": ANY, "token_ids": ANY, "attention_mask": ANY}, "nothing else"),
        ({"input_ids": (1, 128), "attention_mask": ANY}, r"input_ids of shape \(1, 128\)"),
        ({"input_ids": (-1,), "attention_mask": ANY}, "of shape"),
    ],
)
def test_what_cannot_be_fed_is_refused(inputs: dict[str, tuple[int, ...]], sentence: str) -> None:
    with pytest.raises(RefusedError, match=sentence) as refusal:
        tensorflow.inputs(program(dict(inputs)))
    assert refusal.value.reason == "UnsupportedGraph"


@pytest.mark.parametrize(
    ("outputs", "classifies", "chosen"),
    [
        (("last_hidden_state", "pooler_output"), False, "last_hidden_state"),
        (("default", "encoder_outputs", "sequence_output"), False, "sequence_output"),
        (("last_hidden_state", "sentence_embedding"), False, "sentence_embedding"),
        (("output_0",), False, "output_0"),
        (("hidden", "logits"), True, "logits"),
        (("output_0",), True, "output_0"),
    ],
)
def test_the_output_is_known_by_its_name_or_is_the_only_one(
    outputs: tuple[str, ...], classifies: bool, chosen: str
) -> None:
    assert tensorflow.output(program({}, outputs), classifies) == (chosen, f"{chosen}:0")


@pytest.mark.parametrize(
    ("outputs", "classifies", "sentence"),
    [
        (("logits",), False, "gives logits; of a model that config.json calls an encoder"),
        (("a", "b"), False, "sentence_embedding or last_hidden_state or sequence_output"),
        (("a", "b"), True, "gives a, b; .* a classifier it must give logits"),
        ((), True, "gives nothing"),
    ],
)
def test_an_output_that_may_be_anything_is_refused(
    outputs: tuple[str, ...], classifies: bool, sentence: str
) -> None:
    with pytest.raises(RefusedError, match=sentence) as refusal:
        tensorflow.output(program({}, outputs), classifies)
    assert refusal.value.reason == "UnsupportedGraph"


@pytest.mark.parametrize("operator", ["WriteFile", "ReadFile", "PyFunc", "While", "SaveV2", "Foo"])
def test_a_function_is_refused_for_one_operator_whatever_it_is_used_for(operator: str) -> None:
    nodes = [SimpleNamespace(op=op) for op in ("MatMul", "Assert", operator)]
    signature = SimpleNamespace(name="inner")
    saved_model.check_operators(SimpleNamespace(node_def=nodes[:-1], signature=signature))
    with pytest.raises(RefusedError, match=f"operator {operator} in its function inner") as refusal:
        saved_model.check_operators(SimpleNamespace(node_def=nodes, signature=signature))
    assert refusal.value.reason == "SavedModelRefused"


def test_nodes_come_behind_what_they_are_fed_by() -> None:
    def node(name: str, *given: str) -> SimpleNamespace:
        return SimpleNamespace(name=name, input=given)

    nodes = [node("c", "b:z:0", "x"), node("b", "a:z:1", "^c"), node("a", "x")]
    ordered = saved_model.ordered(SimpleNamespace(node_def=nodes))
    assert [each.name for each in ordered] == ["a", "b", "c"]
    nodes[2].input = ("b:z:0",)
    with pytest.raises(ValueError, match="cycle"):
        saved_model.ordered(SimpleNamespace(node_def=nodes))


@pytest.mark.parametrize(
    ("equation", "product"),
    [
        ("abc,cde->abde", (2, [0, 1, 2], 2)),
        ("abcd,cde->abe", (2, [0, 1, 2], 1)),
        ("abc, cd -> abd", (2, [0, 1], 1)),
        ("abc,dc->abd", (2, [1, 0], 1)),
        ("abc,ecd->abde", (2, [1, 2, 0], 2)),
        ("aecd,abcd->acbe", None),
        ("acbe,aecd->abcd", None),
        ("abc,cd->adb", None),
        ("abc,cde->abd", None),
        ("abcb,cd->abd", None),
        ("ab,ab->", None),
        ("...b,bc->...c", None),
    ],
)
def test_an_einsum_is_a_product_with_a_matrix_where_it_is_one(
    equation: str, product: tuple[int, list[int], int] | None
) -> None:
    assert tensorflow.matrix_product(equation) == product


def test_it_reads_what_others_refuse() -> None:
    toolchain = tensorflow.OnnxruntimeTensorflow()
    assert isinstance(toolchain, stage.Reading)
    toolchain.check_source(MODEL)


@pytest.mark.parametrize(
    "name", ["saved_model.pb", "variables/variables.index", "config.json", "tokenizer.json"]
)
def test_a_source_that_lacks_a_file_is_refused_with_its_name(tmp_path: Path, name: str) -> None:
    source = shutil.copytree(MODEL, tmp_path / "source")
    (source / name).unlink()
    with pytest.raises(RefusedError, match=name) as refusal:
        tensorflow.OnnxruntimeTensorflow().check_source(source)
    assert refusal.value.reason == "InvalidSource"


def test_code_of_its_own_is_refused_as_in_other_sources(tmp_path: Path) -> None:
    source = shutil.copytree(MODEL, tmp_path / "source")
    config = json.loads((source / "config.json").read_text())
    (source / "config.json").write_text(json.dumps({**config, "auto_map": {"AutoModel": "a.B"}}))
    with pytest.raises(RefusedError) as refusal:
        tensorflow.OnnxruntimeTensorflow().check_source(source)
    assert refusal.value.reason == "CustomCode"
