"""What the adapter for Qualcomm's compiler refuses, what it feeds a graph of one length, and what
it tells of a graph that the compiler refuses."""

import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from quantop_adapters import htp, qnn, stage
from quantop_adapters.refusal import RefusedError

# What the plugin wrote of a graph with an operator that the processor lacks, and of another one
# that the compiler gave up on.
WARNING = (
    "\x1b[0;93m2026-11-26 04:02:46.773534296 [W:onnxruntime:, qnn_execution_provider.cc:933 QnnEp] "
    "File mapped weights feature is only available on Windows arm64 devices\x1b[m"
)
UNSUPPORTED = (
    "\x1b[1;31m2026-11-26 04:02:46.918756205 [E:onnxruntime:, qnn_execution_provider.cc:2453 "
    "GetCapabilityImpl] Unsupported nodes in QNN EP: { name: n0, type: Erf }\x1b[m"
)
FALLBACK = (
    "\x1b[1;31m2026-11-26 04:02:47.276383448 [E:onnxruntime:, inference_session.cc:3309 "
    "operator()] This session contains graph nodes that are assigned to the default CPU EP\x1b[m"
)
NOT_FINALIZED = (
    "2026-11-23 10:11:12.123456789 [E:onnxruntime:, qnn_model.cc:181 FinalizeGraphs] Failed to "
    "finalize QNN graph. Error: QNN_COMMON_ERROR_MEM_ALLOC, Code: 1002"
)


@pytest.fixture
def fake_compiler(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A script in the compiler's place."""
    script = tmp_path / "fake_compiler"
    script.touch(0o755)
    monkeypatch.setattr(sys, "executable", str(script))
    return script


def say(script: Path, *lines: str, status: int) -> None:
    said = "\n".join(lines)
    script.write_text(f"#!/bin/sh\ncat >&2 <<'END'\n{said}\nEND\nexit {status}\n")


@pytest.mark.parametrize(
    ("line", "told"),
    [
        (UNSUPPORTED, "Unsupported nodes in QNN EP: { name: n0, type: Erf }"),
        (
            NOT_FINALIZED,
            "Failed to finalize QNN graph. Error: QNN_COMMON_ERROR_MEM_ALLOC, Code: 1002",
        ),
    ],
)
def test_the_compilers_own_reason_is_told_once(
    tmp_path: Path, fake_compiler: Path, line: str, told: str
) -> None:
    say(fake_compiler, WARNING, line, line, FALLBACK, status=1)
    with pytest.raises(RefusedError) as refusal:
        htp.compile_graph(tmp_path / "quantized.onnx", tmp_path / "model.onnx", "V73")
    assert refusal.value.reason == "GraphNotCompiled"
    assert f"graph for the HTP V73: {told}; choose" in str(refusal.value)


def test_a_compiler_that_crashes_may_be_tried_again(tmp_path: Path, fake_compiler: Path) -> None:
    say(fake_compiler, WARNING, status=139)
    with pytest.raises(stage.ToolError, match="exited with 139"):
        htp.compile_graph(tmp_path / "quantized.onnx", tmp_path / "model.onnx", "V73")


def test_a_compiler_that_does_not_start_says_nothing_about_the_graph(
    tmp_path: Path, fake_compiler: Path
) -> None:
    place = "2026-11-26 04:50:11.1 [E:onnxruntime:, qnn_execution_provider.cc:1240 SetupBackend] "
    missing = "QNN SetupBackend failed Unable to load backend, error: libatomic.so.1: not found"
    say(fake_compiler, place + missing, status=1)
    with pytest.raises(stage.ToolError, match=r"libatomic\.so\.1"):
        htp.compile_graph(tmp_path / "quantized.onnx", tmp_path / "model.onnx", "V73")


def test_a_compiler_that_ends_well_and_writes_nothing_has_failed(
    tmp_path: Path, fake_compiler: Path
) -> None:
    say(fake_compiler, WARNING, status=0)
    with pytest.raises(stage.ToolError, match="wrote no context binary"):
        htp.compile_graph(tmp_path / "quantized.onnx", tmp_path / "model.onnx", "V73")
    (tmp_path / "model.onnx").touch()
    (tmp_path / "model_qnn.bin").touch()
    htp.compile_graph(tmp_path / "quantized.onnx", tmp_path / "model.onnx", "V73")


@pytest.mark.parametrize(
    ("precision", "method", "calibration", "reason", "said"),
    [
        ("W8A16", "V66", "text", "UnsupportedMethod", "makes W8A16 by V73, V68"),
        ("W8A8", "V75", "", "CalibrationRequired", "W8A8 by V75 needs a cal"),
        ("W8A8", "", "", "CalibrationRequired", "W8A8 by V73 needs a cal"),
    ],
)
def test_a_recipe_that_cannot_be_followed_is_refused(
    tmp_path: Path, precision: str, method: str, calibration: str, reason: str, said: str
) -> None:
    task = stage.Task.from_environment(
        {
            "WORK_DIR": str(tmp_path),
            "MODEL_NAME": "demo",
            "FORMAT": "QNN",
            "PRECISION": precision,
            "METHOD": method,
            "CALIBRATION_FILE": calibration,
        }
    )
    with pytest.raises(RefusedError, match=said) as refusal:
        qnn.Qnn().quantize(task, tmp_path, stage.Progress("quantize"))
    assert refusal.value.reason == reason


def test_a_text_is_filled_up_to_the_graphs_length() -> None:
    fed = qnn.feed(SimpleNamespace(ids=[5, 6, 7]), 5, 1)
    assert fed["input_ids"].tolist() == [[5, 6, 7, 1, 1]]
    assert fed["attention_mask"].tolist() == [[1, 1, 1, 0, 0]]
    assert [str(each.dtype) for each in fed.values()] == ["int32", "float32"]


def test_each_column_of_a_matrix_has_its_scale() -> None:
    def node(kind: str, name: str, **attributes: int) -> SimpleNamespace:
        given = [SimpleNamespace(name=each, i=value) for each, value in attributes.items()]
        return SimpleNamespace(op_type=kind, input=["text", name], attribute=given)

    graph = SimpleNamespace(
        initializer=[SimpleNamespace(name=name) for name in ("a", "b", "c", "words")],
        node=[
            node("MatMul", "a"),
            node("Gemm", "b", transB=1),
            node("Gemm", "c", transB=0),
            node("MatMul", "computed"),
            node("Gather", "words"),
        ],
    )
    assert dict(qnn.columns(graph)) == {"a": 1, "b": 0, "c": 1}
