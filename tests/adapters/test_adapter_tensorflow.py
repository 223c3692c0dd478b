"""What is made of TensorFlow's SavedModels, and what is refused of them.

TensorFlow is in the quantizer's image and not in this environment: these tests run where
QUANTOP_TENSORFLOW_PYTHON names an interpreter that has it, as `make test-toolchains` does.
"""

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
MODELS = ROOT / "e2e" / "models"
PYTHON = os.environ.get("QUANTOP_TENSORFLOW_PYTHON", "")
# TensorFlow's own loader and its own results.
LOAD = "import sys, tensorflow; tensorflow.saved_model.load(sys.argv[1])"
ASK = """
import json, sys, numpy, tensorflow
model = tensorflow.saved_model.load(sys.argv[1]).signatures["serving_default"]
ids = numpy.array([[2, 17, 300, 9, 1025, 3]], numpy.int32)
fed = {"input_ids": ids, "attention_mask": numpy.ones_like(ids)}
if "token_type_ids" in model.structured_input_signature[1]:
    fed["token_type_ids"] = numpy.zeros_like(ids)
(theirs,) = (each.numpy() for each in model(**fed).values())
if theirs.ndim == 3:
    theirs = theirs.mean(axis=1)
if "tiny" in sys.argv[1]:
    theirs = theirs / numpy.linalg.norm(theirs)
import onnxruntime
session = onnxruntime.InferenceSession(sys.argv[2])
names = [each.name for each in session.get_inputs()]
(ours,) = session.run(None, {name: fed[name].astype(numpy.int64) for name in names})
print(json.dumps([names, session.get_outputs()[0].name, float(abs(ours - theirs).max())]))
"""

# States pooled in every way that the source's files may ask for, by numpy and by the graph.
POOL = """
import json, pathlib, shutil, sys, numpy, onnx, onnxruntime, tensorflow
from quantop_adapters.tensorflow import convert
model, work = map(pathlib.Path, sys.argv[1:])
ids = numpy.array([[2, 17, 300, 9, 1025, 3, 0, 0]], numpy.int32)
mask = numpy.array([[1, 1, 1, 1, 1, 1, 0, 0]], numpy.int32)
fed = {"input_ids": ids, "attention_mask": mask, "token_type_ids": numpy.zeros_like(ids)}
serve = tensorflow.saved_model.load(str(model)).signatures["serving_default"]
states = serve(**fed)["last_hidden_state"].numpy()[0][:6]
differences = {}
for mode, theirs in {
    "mean_tokens": states.mean(0),
    "cls_token": states[0],
    "max_tokens": states.max(0),
    "lasttoken": states[5],
}.items():
    source = shutil.copytree(model, work / mode)
    (source / "1_Pooling" / "config.json").write_text(json.dumps({"pooling_mode_" + mode: True}))
    onnx.save(convert(source, work), work / "model.onnx")
    session = onnxruntime.InferenceSession(str(work / "model.onnx"))
    (ours,) = session.run(None, {name: each.astype(numpy.int64) for name, each in fed.items()})
    differences[mode] = float(abs(ours[0] - theirs / numpy.linalg.norm(theirs)).max())
print(json.dumps(differences))
"""
STATEFUL = """
import json
from tensorflow.python.framework import op_def_registry
from quantop_adapters.saved_model import COMPUTES
import tf2onnx.convert
from tf2onnx.handler import tf_op
mapping = tf_op.create_mapping(18, None)
known = {name: op_def_registry.get(name) for name in COMPUTES}
stateful = [name for name, found in known.items() if found is None or found.is_stateful]
print(json.dumps([stateful, sorted(COMPUTES - mapping.keys())]))
"""

pytestmark = pytest.mark.skipif(not PYTHON, reason="QUANTOP_TENSORFLOW_PYTHON is not set")


def run(*arguments: str, **variables: str) -> tuple[int, str]:
    """Run Python where TensorFlow is; its exit status and output."""
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "2", "OMP_NUM_THREADS": "1", **variables}
    environment["PYTHONPATH"] = str(ROOT / "images" / "quantizers" / "tensorflow")
    done = subprocess.run(
        [PYTHON, *arguments], env=environment, stdout=subprocess.PIPE, text=True, timeout=600
    )
    return done.returncode, done.stdout


@pytest.fixture(scope="session")
def reached(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file that some SavedModels reach for."""
    return tmp_path_factory.mktemp("reached") / "file"


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory, reached: Path) -> Path:
    """A folder with all SavedModels of `saved_models.py`."""
    out = tmp_path_factory.mktemp("made")
    status, _ = run(str(Path(__file__).with_name("saved_models.py")), str(out), str(reached))
    assert status == 0
    reached.unlink(missing_ok=True)
    return out


def convert(work: Path, source: Path, recipe: str, **variables: str) -> dict[str, Any]:
    """Run both stages, or one if that refuses; what the last one said."""
    precision, _, method = recipe.partition("/")
    for stage in ("quantize", "evaluate"):
        status, _ = run(
            *("-m", "quantop_adapters.tensorflow", stage),
            WORK_DIR=str(work),
            SOURCE_DIR=str(source),
            MODEL_NAME="tiny",
            FORMAT="ONNXEncoder",
            PRECISION=precision,
            METHOD=method,
            TERMINATION_MESSAGE_PATH=str(work / "termination"),
            **variables,
        )
        if status:
            break
    said: dict[str, Any] = json.loads((work / "termination").read_text())
    assert status == (3 if "reason" in said else 0), said
    return said


@pytest.mark.parametrize(
    ("recipe", "least", "bits"),
    [
        ("FP32", 0.999999, (31, 33)),
        ("FP16", 0.9999, (15.5, 17)),
        ("INT8/Dynamic", 0.9985, (8, 10.5)),
        ("INT8/BlockWise", 0.9985, (8, 10.5)),
        ("INT8/StaticMinMax", 0.9985, (8, 10.5)),
        ("INT8/QOperatorPercentile", 0.9985, (8, 10.5)),
        ("INT8/StaticA16MinMax", 0.9985, (8, 10.5)),
        ("INT4/BlockWise", 0.975, (4, 6.5)),
    ],
)
def test_an_encoder_is_made_in_every_way_and_compared_with_its_graph(
    tmp_path: Path, recipe: str, least: float, bits: tuple[float, float]
) -> None:
    calibrated = "Static" in recipe or "QOperator" in recipe
    said = convert(
        tmp_path,
        MODELS / "tiny-bert-tensorflow",
        recipe,
        BITS_PER_WEIGHT_MIN=str(bits[0]),
        BITS_PER_WEIGHT_MAX=str(bits[1]),
        EVALUATION_FILE=str(MODELS / "evaluation.txt"),
        EVALUATION_MAX_TOKENS="2048",
        CALIBRATION_FILE=str(MODELS / "calibration.txt") if calibrated else "",
        CALIBRATION_SAMPLES="8",
    )
    assert said.get("meanCosineSimilarity", 0) >= least, said
    # Six matrices in each of two layers.
    assert said["totalLayers"] == 12
    assert said["quantizedLayers"] == (0 if recipe.startswith("FP") else 12)
    assert "graph in 32 bits" in said["baseline"]
    assert {path.name for path in (tmp_path / "artifact").iterdir()} == {
        *("model.onnx", "model.onnx.data", "tokenizer.json", "config.json")
    }
    assert not (tmp_path / "artifact.scratch").exists()


@pytest.mark.parametrize("name", ["tiny-bert-tensorflow", "constants", "keras"])
def test_the_graph_computes_what_tensorflow_does(tmp_path: Path, made: Path, name: str) -> None:
    """Means over tokens of its states, of length 1 where the source says so."""
    source = MODELS / name if name.startswith("tiny") else made / name
    convert(tmp_path, source, "FP32")
    status, said = run("-c", ASK, str(source), str(tmp_path / "artifact" / "model.onnx"))
    assert status == 0
    inputs, output, difference = json.loads(said)
    assert inputs[:2] == ["input_ids", "attention_mask"]
    assert output == "sentence_embedding"
    assert difference < 1e-5


def test_states_are_pooled_as_the_source_says_without_padding(tmp_path: Path) -> None:
    status, said = run("-c", POOL, str(MODELS / "tiny-bert-tensorflow"), str(tmp_path))
    assert status == 0
    differences = json.loads(said)
    assert len(differences) == 4
    assert max(differences.values()) < 1e-6


def test_the_matrices_of_keras_attention_are_quantized(tmp_path: Path, made: Path) -> None:
    """Query, key, value and output, and the two behind them."""
    said = convert(tmp_path, made / "keras", "INT8", BITS_PER_WEIGHT_MAX="10.5")
    assert (said["quantizedLayers"], said["totalLayers"]) == (6, 6)


def test_a_pooled_embedding_is_taken_as_it_is(tmp_path: Path, made: Path) -> None:
    assert convert(tmp_path, made / "embeds", "INT8")["quantizedLayers"] == 1


def test_a_classifier_keeps_its_labels(tmp_path: Path) -> None:
    source = tmp_path / "source"
    status, _ = run(
        str(MODELS / "make_saved_model.py"),
        f"--source={MODELS / 'tiny-bert-classifier'}",
        f"--out={source}",
    )
    assert status == 0
    said = convert(
        tmp_path,
        source,
        "INT8",
        EVALUATION_FILE=str(MODELS / "classification.jsonl"),
        EVALUATION_MAX_TOKENS="8192",
    )
    assert said["labelAgreementPercent"] > 95
    assert said["accuracyPercent"] > 60, "by chance it were a third"
    assert said["quantizedLayers"] == 14


@pytest.mark.parametrize(
    ("name", "reason", "sentence"),
    [
        ("writes_when_loaded", "SavedModelRefused", "run when it is loaded"),
        ("reads", "SavedModelRefused", "the operator ReadFile in its function __inference_"),
        ("writes_beside", "SavedModelRefused", "the operator WriteFile"),
        ("writes_in_a_function_that_is_called", "SavedModelRefused", "the operator WriteFile"),
        ("calls_python", "SavedModelRefused", "the operator PyFunc"),
        ("loops", "SavedModelRefused", "While"),
        ("looks_up", "SavedModelRefused", "run when it is loaded"),
        ("has_assets", "SavedModelRefused", "has assets (vocabulary.txt)"),
        ("not_finite", "NumbersNotFinite", "the source's variable"),
        ("one_length", "UnsupportedGraph", "of shape (1, 8)"),
        ("another_output", "UnsupportedGraph", "gives logits"),
        ("probabilities", "UnsupportedHead", "probabilities"),
        ("fewer_labels", "LabelsDiffer", "names 3 labels"),
    ],
)
def test_what_would_do_more_than_compute_is_refused_before_anything_is_run(
    tmp_path: Path, made: Path, reached: Path, name: str, reason: str, sentence: str
) -> None:
    reached.unlink(missing_ok=True)
    said = convert(tmp_path, made / name, "INT8")
    assert said["reason"] == reason, said
    assert sentence in said["message"]
    assert not reached.exists()
    assert not (tmp_path / "artifact").exists()


def test_the_listed_operators_compute_and_do_nothing_else_and_are_converted() -> None:
    """As far as TensorFlow says that itself: what has a state, or an effect, is stateful."""
    status, said = run("-c", STATEFUL)
    assert status == 0
    # It has a handler of ours.
    assert json.loads(said) == [[], ["Erfc"]]


def test_tensorflow_itself_would_have_written_the_file(made: Path, reached: Path) -> None:
    """So that the test above can fail."""
    assert not reached.exists()
    run("-c", LOAD, str(made / "writes_when_loaded"))
    assert reached.exists()
    reached.unlink()


@pytest.mark.parametrize(
    ("name", "change", "sentence"),
    [
        ("saved_model.pb", lambda content: content[:-1000], "not whole"),
        ("saved_model.pb", lambda _: b"", "not whole"),
        ("variables/variables.index", lambda content: content[:100], "not whole"),
        ("variables/variables.data-00000-of-00001", lambda content: content[:100], "not whole"),
        # The outermost function in place of the one that it calls.
        ("saved_model.pb", None, "calls itself"),
        ("tokenizer.json", None, "no tokenizer.json"),
    ],
    ids=["cut", "empty", "index", "data", "recursive", "tokenizer"],
)
def test_what_is_not_whole_is_refused(
    tmp_path: Path, name: str, change: Any, sentence: str
) -> None:
    source = shutil.copytree(MODELS / "tiny-bert-tensorflow", tmp_path / "source")
    file = source / name
    if change:
        file.write_bytes(change(file.read_bytes()))
    elif name == "tokenizer.json":
        file.unlink()
    else:
        status, _ = run("-c", RECURSIVE, str(file))
        assert status == 0
    said = convert(tmp_path, source, "INT8")
    assert said["reason"] == "InvalidSource", said
    assert sentence in said["message"]


RECURSIVE = """
import pathlib, sys
from tensorflow.core.protobuf.saved_model_pb2 import SavedModel
file = pathlib.Path(sys.argv[1])
saved = SavedModel.FromString(file.read_bytes())
for function in saved.meta_graphs[0].graph_def.library.function:
    for node in function.node_def:
        if node.op.endswith("PartitionedCall"):
            node.attr["f"].func.name = function.signature.name
file.write_bytes(saved.SerializeToString())
"""
