"""Olive ends with 0 whatever happened: what it wrote and what it said is what counts."""

import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from quantop_adapters import olive, olive_encoder, stage, workflow
from quantop_adapters.refusal import RefusedError

from tests.adapters.checkpoints import write_source

MODEL = {"type": "ONNXModel", "model_path": "input"}
PASSES = [{"type": "OnnxFloatToFloat16"}, {"type": "OnnxDynamicQuantization"}]
# What Olive 0.13.0 writes about a pass that failed.
FAILED = """
[2026-11-26 04:33:48,828] [ERROR] [engine.py:728:_run_pass] Pass run failed.
Traceback (most recent call last):
  File "olive/engine/engine.py", line 716, in _run_pass
ValueError: Something is wrong with the model
[2026-11-26 04:33:48,836] [WARNING] [engine.py:332:_run_no_search] Flow ['pass0'] is pruned due to
"""
# What it says of a step of a pass that it goes on without.
PASSED_OVER = """
[2026-11-26 04:33:48,820] [WARNING] [quantization.py:530:_quant_preprocess] failed to infer shapes
TypeError: object of type 'NoneType' has no len()
"""
UNKNOWN = FAILED.replace(
    "ValueError: Something is wrong with the model",
    "NotImplementedError: The Never model is not currently supported.",
)


@pytest.fixture
def fake_olive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """A script in Olive's place that ends with 0, and may have written a graph."""
    script = tmp_path / "fake_olive"
    monkeypatch.setattr(sys, "executable", str(script))

    def say(text: str, *written: str) -> None:
        scratch = tmp_path / "artifact.scratch"
        lines = [
            "#!/bin/sh",
            f"cat <<'END'{text}END",
            '[ "$OLIVE_DISABLE_TELEMETRY" = 1 ] || exit 9',
        ]
        lines += [f"mkdir -p {scratch}/output", *(f": > {scratch}/output/{n}" for n in written)]
        script.write_text("\n".join(lines) + "\n")
        script.chmod(0o755)

    return say


@pytest.fixture
def scratch(tmp_path: Path) -> Path:
    folder = tmp_path / "artifact.scratch"
    folder.mkdir()
    return folder


Say = Callable[..., None]


def task(
    work: Path,
    precision: str,
    method: str = "",
    calibration: str = "",
    own: Sequence[workflow.Pass] = (),
) -> stage.Task:
    return stage.Task.from_environment(
        {
            "WORK_DIR": str(work),
            "MODEL_NAME": "demo",
            "FORMAT": "ONNX",
            "PRECISION": precision,
            "METHOD": method,
            "CALIBRATION_FILE": calibration,
            "WORKFLOW": json.dumps({"passes": dict(enumerate(own))}),
        }
    )


def test_passes_are_run_in_their_order_on_what_is_given(
    tmp_path: Path, scratch: Path, fake_olive: Say
) -> None:
    fake_olive(PASSED_OVER, "model.onnx")
    assert workflow.run(task(tmp_path, "INT4"), MODEL, PASSES) == scratch / "output"
    asked = json.loads((scratch / "workflow.json").read_text())
    assert asked["input_model"] == MODEL
    assert list(asked["passes"].items()) == [("pass0", PASSES[:1]), ("pass1", PASSES[1:])]
    assert asked["data_configs"] == []


def test_a_pass_that_calibrates_is_given_the_text_as_the_graph_takes_it(
    tmp_path: Path, scratch: Path, fake_olive: Say
) -> None:
    fake_olive(PASSED_OVER, "model.onnx")
    static = {"type": "OnnxStaticQuantization", "per_channel": True}
    feeds = [{"input_ids": [1, 2, 3]}, {"input_ids": [4]}]
    workflow.run(task(tmp_path, "INT8"), MODEL, [PASSES[0], static], feeds)
    asked = json.loads((scratch / "workflow.json").read_text())
    (texts,) = asked["data_configs"]
    assert asked["passes"] == {
        "pass0": [PASSES[0]],
        "pass1": [{**static, "data_config": texts["name"]}],
    }
    assert Path(texts["user_script"]).is_file()
    lines = Path(texts["load_dataset_config"]["params"]["file"]).read_text().splitlines()
    assert [json.loads(line) for line in lines] == feeds


@pytest.mark.parametrize("toolchain", [olive.Olive(), olive_encoder.OliveEncoder()])
def test_a_workflow_of_the_recipes_own_takes_the_methods_place(
    tmp_path: Path, toolchain: olive.Olive | olive_encoder.OliveEncoder
) -> None:
    own: list[workflow.Pass] = [{"type": each} for each in toolchain.passes]
    text = "text" if workflow.needs_text(own) else ""
    given = task(tmp_path, "INT8", stage.WORKFLOW_METHOD, text, own)
    stage.check_extras(toolchain, given)
    recipes = olive.RECIPES if isinstance(toolchain, olive.Olive) else olive_encoder.RECIPES
    assert workflow.choose(given, recipes, toolchain.name) == ("Workflow", tuple(own))


def test_a_workflow_of_the_recipes_own_that_fails_is_refused_unless_it_was_ended(
    tmp_path: Path, scratch: Path, fake_olive: Say
) -> None:
    own: list[workflow.Pass] = [{"type": "ModelBuilder", "precision": "int4"}]
    fake_olive(FAILED)
    with pytest.raises(RefusedError, match="Something is wrong with the model; correct") as refusal:
        olive.Olive().quantize(
            task(tmp_path, "INT4", "", "", own), tmp_path, stage.Progress("quantize")
        )
    assert refusal.value.reason == "WorkflowFailed"
    ended = stage.ToolError("python was ended by SIGKILL: ")
    assert workflow.final(task(tmp_path, "INT4", "", "", own), ended) is ended
    assert workflow.final(task(tmp_path, "INT4"), stage.ToolError("no")).args == ("no",)


def test_a_workflow_that_does_not_begin_with_the_builder_is_refused(tmp_path: Path) -> None:
    """What it leaves would be no model of onnxruntime-genai's."""
    with pytest.raises(RefusedError, match="must begin with ModelBuilder") as refusal:
        olive.Olive().quantize(
            task(tmp_path, "INT4", "", "", [{"type": "OnnxKQuantQuantization"}]),
            tmp_path,
            stage.Progress("quantize"),
        )
    assert refusal.value.reason == "UnsupportedWorkflow"


def test_a_pass_that_failed_is_a_failure_though_olive_ends_with_0(
    tmp_path: Path, scratch: Path, fake_olive: Say
) -> None:
    """An earlier pass has written a graph."""
    fake_olive(PASSED_OVER + FAILED, "model.onnx")
    with pytest.raises(stage.ToolError, match="a pass failed: ValueError: Something is wrong"):
        workflow.run(task(tmp_path, "INT4"), MODEL, PASSES)


def test_no_graph_is_a_failure_though_olive_ends_with_0(
    tmp_path: Path, scratch: Path, fake_olive: Say
) -> None:
    fake_olive("\n", "footprint.json")
    with pytest.raises(stage.ToolError, match=r"wrote no model\.onnx"):
        workflow.run(task(tmp_path, "INT4"), MODEL, PASSES)


def test_the_artifact_is_what_was_made_without_what_olive_says_of_its_run(
    tmp_path: Path, scratch: Path, fake_olive: Say
) -> None:
    fake_olive("\n", "model.onnx", "genai_config.json", "footprint.json", "run_history.txt")
    target = tmp_path / "target"
    target.mkdir()
    olive.Olive().quantize(task(tmp_path, "INT4"), target, stage.Progress("quantize"))
    assert {path.name for path in target.iterdir()} == {"model.onnx", "genai_config.json"}


def test_an_architecture_that_the_builder_does_not_know_is_refused(
    tmp_path: Path, scratch: Path, fake_olive: Say
) -> None:
    write_source(tmp_path / "source", {"architectures": ["NeverForCausalLM"]})
    fake_olive(UNKNOWN)
    with pytest.raises(RefusedError, match="says NeverForCausalLM") as refusal:
        olive.Olive().quantize(task(tmp_path, "INT4"), tmp_path, stage.Progress("quantize"))
    assert refusal.value.reason == "UnsupportedArchitecture"


@pytest.mark.parametrize("toolchain", [olive.Olive(), olive_encoder.OliveEncoder()])
@pytest.mark.parametrize(
    ("method", "calibration", "reason"),
    [("OpenVINOQuantization", "", "UnsupportedMethod"), ("", "text", "CalibrationNotUsed")],
)
def test_a_recipe_that_is_not_listed_is_refused(
    tmp_path: Path, toolchain: stage.Toolchain, method: str, calibration: str, reason: str
) -> None:
    with pytest.raises(RefusedError) as refusal:
        toolchain.quantize(
            task(tmp_path, "INT8", method, calibration), tmp_path, stage.Progress("quantize")
        )
    assert refusal.value.reason == reason
