"""The contract: environment in, files out, a marker, a termination message, an exit status."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from quantop_adapters import answers, byhand, checkpoint, perplexity, stage
from quantop_adapters.answers import Prompts
from quantop_adapters.auto_round import Awq, Gptq
from quantop_adapters.coverage import Coverage, Override, Weight
from quantop_adapters.harness import Tasks
from quantop_adapters.llama_cpp import LlamaCpp
from quantop_adapters.llm_compressor import LlmCompressor
from quantop_adapters.mlx import Mlx
from quantop_adapters.onnxruntime_genai import Cuda, OnnxruntimeGenai
from quantop_adapters.openvino import OpenVino
from quantop_adapters.refusal import RefusedError

from tests.adapters.checkpoints import LLAMA, write_source


class FakeToolchain:
    """Writes one file; the stages around it are the real ones."""

    name = "fake"
    format = "GGUF"
    precisions: tuple[str, ...] = ("Q4_0", "F16")

    def __init__(self) -> None:
        self.runs = 0
        self.failure: Exception | None = None
        self.unreadable: Exception | None = None
        self.quantized = 100
        self.tokens: Mapping[str, int] = {}
        self.logit = 0.0
        self.length = 0

    def version(self) -> str:
        return "1"

    def quantize(self, task: stage.Task, target: Path, progress: stage.Progress) -> None:
        self.runs += 1
        (task.scratch / "large").write_text("on the way")
        (target / "model.gguf").write_text("weights")
        (target / "model.gguf").chmod(0o600)
        if self.failure:
            raise self.failure

    def coverage(self, artifact: Path) -> Coverage:
        if self.unreadable:
            raise self.unreadable
        return Coverage((Weight(self.quantized, self.quantized * 9 // 2, True, True),))

    def vocabulary(self, artifact: Path) -> Mapping[str, int]:
        return self.tokens

    def scorer(self, task: stage.Task, length: int) -> perplexity.Scorer:
        if self.failure:
            raise self.failure
        self.length = length
        return lambda ids, start=0: [np.full((len(ids), 64), self.logit)]


Run = Callable[..., int]


@pytest.fixture
def work(tmp_path: Path) -> Path:
    """A work folder with a source in it."""
    write_source(tmp_path / "source")
    return tmp_path


@pytest.fixture
def run(work: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run a stage as the operator would, with variables to change; its exit status."""
    kept = signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr(signal, "signal", lambda *_: kept)

    def run_stage(
        toolchain: stage.Scoring | stage.Measuring, name: str = "quantize", **changes: str
    ) -> int:
        given = {
            "WORK_DIR": str(work),
            "MODEL_NAME": "demo",
            "FORMAT": toolchain.format,
            "PRECISION": toolchain.precisions[0],
            "METHOD": "",
            "CALIBRATION_FILE": "",
            "EVALUATION_FILE": "",
            "TERMINATION_MESSAGE_PATH": str(work / "termination"),
        }
        for variable, value in {**given, **changes}.items():
            monkeypatch.setenv(variable, value)
        return stage.main(toolchain, [name])

    return run_stage


def message(work: Path) -> dict[str, str]:
    """The termination message."""
    text = (work / "termination").read_text()
    found: dict[str, str] = json.loads(text)
    return found


def test_an_artifact_is_finished_readable_and_alone(work: Path, run: Run) -> None:
    assert run(FakeToolchain()) == stage.EXIT_DONE
    artifact = work / "artifact"
    assert [path.name for path in artifact.iterdir()] == ["model.gguf"]
    assert (artifact / "model.gguf").stat().st_mode & 0o777 == 0o644
    assert sorted(path.name for path in work.iterdir()) == [
        "artifact",
        "source",
        "state",
        "termination",
    ]
    assert message(work)["stage"] == "quantize"


def test_a_finished_artifact_is_recognised(work: Path, run: Run) -> None:
    toolchain = FakeToolchain()
    run(toolchain)
    assert run(toolchain) == stage.EXIT_DONE
    assert toolchain.runs == 1


def test_an_artifact_that_fetch_brought_is_measured_and_not_made_anew(work: Path, run: Run) -> None:
    """The store has the artifact, but not its quality on this text: fetch writes the marker."""
    (work / "artifact").mkdir()
    (work / "artifact" / "model.gguf").write_text("published weights")
    (work / "state").mkdir()
    (work / "state" / "quantize.done").write_text('{"manifestDigest": "0"}')
    toolchain = FakeToolchain()
    assert run(toolchain) == stage.EXIT_DONE
    assert toolchain.runs == 0
    assert (work / "artifact" / "model.gguf").read_text() == "published weights"
    assert run(toolchain, "evaluate") == stage.EXIT_DONE
    assert (work / "state" / "quality.json").is_file()


@pytest.mark.parametrize("name", ["quantize", "evaluate"])
def test_nothing_is_done_when_the_store_has_everything(work: Path, run: Run, name: str) -> None:
    """Another Job published meanwhile: fetch brought no source and no artifact."""
    shutil.rmtree(work / "source")
    (work / "state").mkdir()
    (work / "state" / "published.json").write_text("{}")
    toolchain = FakeToolchain()
    assert run(toolchain, name) == stage.EXIT_DONE
    assert toolchain.runs == 0
    assert not (work / "artifact").exists()
    assert not (work / "state" / "quality.json").exists()


def test_what_a_killed_stage_left_is_wiped(work: Path, run: Run) -> None:
    for name in ("artifact", "artifact.partial", "artifact.scratch"):
        (work / name).mkdir()
        (work / name / "half").write_text("half")
    assert run(FakeToolchain()) == stage.EXIT_DONE
    assert [path.name for path in (work / "artifact").iterdir()] == ["model.gguf"]


def test_a_failed_stage_leaves_no_artifact_and_may_be_tried_again(work: Path, run: Run) -> None:
    toolchain = FakeToolchain()
    toolchain.failure = stage.ToolError("tool exited with 1")
    assert run(toolchain) == stage.EXIT_FAILED
    assert message(work) == {
        "stage": "quantize",
        "reason": "ToolFailed",
        "message": "ToolError: tool exited with 1",
    }
    assert not (work / "artifact").exists()
    toolchain.failure = None
    assert run(toolchain) == stage.EXIT_DONE


@pytest.mark.parametrize(
    ("failure", "reason"),
    [
        (OSError(28, "No space left on device"), "DiskFull"),
        (MemoryError(), "OutOfMemory"),
        (ValueError("anything"), "QuantizeFailed"),
    ],
)
def test_a_failure_has_a_reason(work: Path, run: Run, failure: Exception, reason: str) -> None:
    toolchain = FakeToolchain()
    toolchain.failure = failure
    assert run(toolchain) == stage.EXIT_FAILED
    assert message(work)["reason"] == reason


def test_a_refusal_is_permanent(work: Path, run: Run) -> None:
    toolchain = FakeToolchain()
    toolchain.failure = RefusedError("UnsupportedTokenizer", "spec.source has another tokenizer")
    assert run(toolchain) == stage.EXIT_REFUSED
    assert message(work)["reason"] == "UnsupportedTokenizer"


def test_measuring_without_a_text_still_counts(work: Path, run: Run) -> None:
    toolchain = FakeToolchain()
    run(toolchain)
    assert run(toolchain, "evaluate") == stage.EXIT_DONE
    quality = json.loads((work / "state" / "quality.json").read_text())
    assert quality == {
        "protocol": "windows-v1",
        "baselinePerplexity": None,
        "perplexity": None,
        "tokens": 0,
        "bitsPerWeight": 4.5,
        "quantizedBitsPerWeight": 4.5,
        "parameters": 100,
        "quantizedLayers": 1,
        "totalLayers": 1,
        "vocabularyDigest": None,
        "tool": {"name": "fake", "version": "1"},
        "evaluationSkipped": True,
    }


@pytest.fixture
def prompts(work: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """Prompts and no text, for a source that answers with the same token always."""
    (work / "prompts").write_text("go on\n")
    monkeypatch.setattr(
        perplexity,
        "transformers_scorer",
        lambda *_: lambda ids, start=0: [np.zeros((len(ids), 64))],
    )
    monkeypatch.setattr(Prompts, "read", lambda *_: [[1, 2, 3]])
    monkeypatch.setattr(answers, "ends", lambda _: frozenset())
    return {"EVALUATION_PROMPTS_FILE": str(work / "prompts"), "EVALUATION_ANSWER_TOKENS": "4"}


def test_prompts_are_answered_without_a_text(work: Path, run: Run, prompts: dict[str, str]) -> None:
    run(FakeToolchain())
    assert run(FakeToolchain(), "evaluate", **prompts) == stage.EXIT_DONE
    quality = json.loads((work / "state" / "quality.json").read_text())
    assert quality["answerAgreementPercent"] == 100
    assert (quality["perplexity"], quality["tokens"]) == (None, 0)
    assert not quality["evaluationSkipped"]


def test_numbers_that_are_not_finite_are_refused_where_prompts_alone_are_given(
    work: Path, run: Run, prompts: dict[str, str]
) -> None:
    toolchain = FakeToolchain()
    run(toolchain)
    toolchain.logit = float("nan")
    assert run(toolchain, "evaluate", **prompts) == stage.EXIT_REFUSED
    assert message(work)["reason"] == "PerplexityNotFinite"


class TailoringToolchain(FakeToolchain):
    """One that can do what only some can."""

    override_precisions = ("Q8_0",)
    passes = ("Export",)

    def split(self, target: Path, max_file_bytes: int) -> None:
        for part in ("1", "2"):
            (target / f"model-{part}.gguf").write_text("w" * max_file_bytes)
        (target / "model.gguf").unlink()


OVERRIDES = json.dumps([{"tensors": "ffn_(up|down)", "precision": "Q8_0"}])
WORKFLOW = '{"passes":{"b":{"type":"Export","bits":4},"a":{"type":"Export"}}}'


def test_all_of_a_recipe_reaches_a_toolchain_that_can(work: Path, run: Run) -> None:
    recipe = {"OVERRIDES": OVERRIDES, "MAX_FILE_BYTES": "3", "WORKFLOW": WORKFLOW}
    assert run(TailoringToolchain(), **recipe) == stage.EXIT_DONE
    sizes = {path.name: path.stat().st_size for path in (work / "artifact").iterdir()}
    assert sizes == {"model-1.gguf": 3, "model-2.gguf": 3}
    task = stage.Task.from_environment(os.environ)
    assert task.overrides == (Override("ffn_(up|down)", "Q8_0"),)
    assert task.max_file_bytes == 3
    assert task.workflow == ({"type": "Export", "bits": 4}, {"type": "Export"})


@pytest.mark.parametrize(
    ("toolchain", "changes", "reason", "said"),
    [
        (
            FakeToolchain,
            {"OVERRIDES": OVERRIDES},
            "UnsupportedOverride",
            "names Q8_0; fake gives single tensors no precision of their own",
        ),
        (
            TailoringToolchain,
            {"OVERRIDES": OVERRIDES.replace("Q8_0", "Q6_K")},
            "UnsupportedOverride",
            "names Q6_K; fake gives single tensors Q8_0",
        ),
        (
            FakeToolchain,
            {"MAX_FILE_BYTES": "1000"},
            "UnsupportedMaxFileSize",
            "spec.quantization.maxFileSize is set, but fake splits no files",
        ),
        (
            FakeToolchain,
            {"WORKFLOW": WORKFLOW},
            "UnsupportedWorkflow",
            "has a pass of type Export; fake runs no workflows",
        ),
        (
            TailoringToolchain,
            {"WORKFLOW": WORKFLOW.replace("Export", "Upload")},
            "UnsupportedWorkflow",
            "has a pass of type Upload; fake runs Export",
        ),
    ],
)
def test_what_a_toolchain_cannot_follow_is_refused(
    work: Path,
    run: Run,
    toolchain: type[FakeToolchain],
    changes: dict[str, str],
    reason: str,
    said: str,
) -> None:
    assert run(toolchain(), **changes) == stage.EXIT_REFUSED
    assert message(work)["reason"] == reason
    assert said in message(work)["message"]


def test_an_override_that_was_not_followed_is_refused(work: Path, run: Run) -> None:
    toolchain = TailoringToolchain()
    run(toolchain, OVERRIDES=OVERRIDES)
    assert refused(work, run, toolchain)["reason"] == "OverrideNotFollowed"


def test_tokens_are_named_by_a_digest_without_those_that_were_added(work: Path, run: Run) -> None:
    def digest(**tokenizer: object) -> str:
        (work / "source" / "tokenizer.json").write_text(json.dumps(tokenizer))
        found = checkpoint.vocabulary_digest(work / "source")
        assert found
        return found

    tokens = {"a": 0, "b": 1}
    first = digest(model={"vocab": tokens})
    assert first == digest(model={"vocab": {**tokens, "<s>": 2}}, added_tokens=[{"content": "<s>"}])
    assert first != digest(model={"vocab": {"a": 1, "b": 0}})


def test_the_band_of_the_recipe_is_held(work: Path, run: Run) -> None:
    toolchain = FakeToolchain()
    run(toolchain)
    status = run(toolchain, "evaluate", BITS_PER_WEIGHT_MIN="4.0", BITS_PER_WEIGHT_MAX="4.25")
    assert status == stage.EXIT_REFUSED
    assert message(work)["reason"] == "BitsPerWeightOutOfBand"
    assert not (work / "state" / "quality.json").exists()


def refused(work: Path, run: Run, toolchain: FakeToolchain) -> dict[str, str]:
    """The message of an evaluation that refuses what was made, for good and without figures."""
    assert run(toolchain, "evaluate") == stage.EXIT_REFUSED
    assert not (work / "state" / "quality.json").exists()
    return message(work)


def test_an_artifact_that_its_engine_cannot_load_is_refused_without_a_text(
    work: Path, run: Run
) -> None:
    toolchain = FakeToolchain()
    run(toolchain)
    toolchain.failure = RefusedError("ArtifactNotLoadable", "the engine cannot load it")
    assert refused(work, run, toolchain)["reason"] == "ArtifactNotLoadable"


@pytest.mark.parametrize("logit", [float("nan"), float("inf")])
def test_an_artifact_that_computes_no_numbers_is_refused_without_a_text(
    work: Path, run: Run, logit: float
) -> None:
    toolchain = FakeToolchain()
    run(toolchain)
    toolchain.logit = logit
    assert refused(work, run, toolchain)["reason"] == "PerplexityNotFinite"


def test_an_artifact_that_cannot_be_read_back_is_refused_and_not_tried_again(
    work: Path, run: Run
) -> None:
    toolchain = FakeToolchain()
    run(toolchain)
    toolchain.unreadable = ValueError("cannot reshape array of size 3")
    found = refused(work, run, toolchain)
    assert found["reason"] == "ArtifactNotReadable"
    assert "ValueError: cannot reshape array of size 3" in found["message"]


def test_layers_that_were_left_as_they_are_are_missed(work: Path, run: Run) -> None:
    """The source's one layer has 24 numbers."""
    toolchain = FakeToolchain()
    run(toolchain)
    toolchain.quantized = 22
    found = refused(work, run, toolchain)
    assert found["reason"] == "LayersLeftUnquantized"
    assert "hold 22 numbers and the source's layers 24" in found["message"]


@pytest.mark.parametrize(
    "tokens",
    [{"a": 1, "b": 0}, {"a": 0}, {"a": 0, "c": 1}, {}],
    ids=["permuted", "missing", "another", "none"],
)
def test_another_tokenizer_than_the_sources_is_refused(
    work: Path, run: Run, tokens: dict[str, int]
) -> None:
    tokenizer = {"model": {"vocab": {"a": 0, "b": 1, "<s>": 2}}}
    added = {"added_tokens": [{"content": "<s>", "id": 2}]}
    (work / "source" / "tokenizer.json").write_text(json.dumps(tokenizer | added))
    toolchain = FakeToolchain()
    run(toolchain)
    toolchain.tokens = tokens
    found = refused(work, run, toolchain)
    assert found["reason"] == "TokenizerDiffers"
    assert "'a'" in found["message"] or "'b'" in found["message"]
    toolchain.tokens = {"a": 0, "b": 1, "[PAD2]": 2}
    assert run(toolchain, "evaluate") == stage.EXIT_DONE


@pytest.mark.parametrize(
    ("toolchain", "changes", "reason", "names"),
    [
        (LlamaCpp(), {"FORMAT": "ONNX"}, "UnsupportedFormat", "spec.quantization.format"),
        (LlamaCpp(), {"PRECISION": "Q3_K"}, "UnsupportedPrecision", "Q4_K_M"),
        (LlamaCpp(), {"METHOD": "GPTQ"}, "UnsupportedMethod", "spec.quantization.method"),
        (
            LlamaCpp(),
            {"METHOD": "ImportanceMatrix", "PRECISION": "Q2_K"},
            "CalibrationRequired",
            "spec.quantization.calibration",
        ),
        (
            LlamaCpp(),
            {"PRECISION": "IQ2_XS"},
            "CalibrationRequired",
            "precision IQ2_XS needs an importance matrix",
        ),
        (LlamaCpp(), {"CALIBRATION_FILE": "/text"}, "CalibrationNotUsed", "precision F32"),
        (
            LlmCompressor(),
            {},
            "CalibrationRequired",
            "set spec.quantization.calibration, or choose spec.quantization.method RTN",
        ),
        (
            LlmCompressor(),
            {"PRECISION": "FP8", "METHOD": "RTN"},
            "CalibrationRequired",
            "FP8 by RTN needs a calibration text: set spec.quantization.calibration",
        ),
        (
            LlmCompressor(),
            {"PRECISION": "W8A8", "METHOD": "AWQ"},
            "UnsupportedMethod",
            "GPTQ, SmoothQuantGPTQ, RTN",
        ),
        (
            LlmCompressor(),
            {"METHOD": "RTN", "CALIBRATION_FILE": "/text"},
            "CalibrationNotUsed",
            "or choose spec.quantization.method GPTQ or AWQ or AutoRound",
        ),
        (
            LlmCompressor(),
            {"PRECISION": "FP8_BLOCK", "CALIBRATION_FILE": "/text"},
            "CalibrationNotUsed",
            "remove spec.quantization.calibration",
        ),
        (LlmCompressor(), {"METHOD": "RTN"}, "UnsupportedShape", "up_proj.weight has 4"),
        (
            LlmCompressor(),
            {"PRECISION": "MXFP4"},
            "UnsupportedShape",
            "shares a scale among 32 columns",
        ),
        (Gptq(), {"PRECISION": "W3A16"}, "UnsupportedPrecision", "W8A16, W4A16, W2A16"),
        (Gptq(), {}, "CalibrationRequired", "or choose spec.quantization.method RTN"),
        (Awq(), {"METHOD": "GPTQ"}, "UnsupportedMethod", "W4A16 by AutoRound, RTN"),
        (
            Awq(),
            {"METHOD": "RTN", "CALIBRATION_FILE": "/text"},
            "CalibrationNotUsed",
            "or choose spec.quantization.method AutoRound",
        ),
        (Awq(), {"METHOD": "RTN"}, "UnsupportedShape", "up_proj.weight has 4"),
        (OnnxruntimeGenai(), {"PRECISION": "FP16"}, "UnsupportedPrecision", "FP32, INT8, INT4"),
        (Cuda(), {"PRECISION": "FP32"}, "UnsupportedPrecision", "FP16, INT8, INT4"),
        (OnnxruntimeGenai(), {"METHOD": "RTN"}, "UnsupportedMethod", "for FP32: leave it out"),
        (
            OnnxruntimeGenai(),
            {"PRECISION": "INT8", "METHOD": "KQuantMixed"},
            "UnsupportedMethod",
            "INT8 by RTN, KQuant",
        ),
        (OnnxruntimeGenai(), {"CALIBRATION_FILE": "/text"}, "CalibrationNotUsed", "remove"),
        (Mlx(), {"METHOD": "RTN"}, "UnsupportedMethod", "leave it out"),
        (Mlx(), {"CALIBRATION_FILE": "/text"}, "CalibrationNotUsed", "remove"),
        (Mlx(), {"PRECISION": "Q4"}, "UnsupportedPrecision", "4bit"),
        (Mlx(), {"PRECISION": "4bit"}, "UnsupportedShape", "up_proj.weight has 4"),
        (OpenVino(), {"METHOD": "RTN"}, "UnsupportedMethod", "for FP32: leave it out"),
        (
            OpenVino(),
            {"PRECISION": "INT4", "METHOD": "HQQ"},
            "UnsupportedMethod",
            "makes INT4 by RTN, AWQ, GPTQ",
        ),
        (
            OpenVino(),
            {"PRECISION": "INT4", "METHOD": "AWQ"},
            "CalibrationRequired",
            "INT4 by AWQ needs a calibration text: set spec.quantization.calibration, or choose "
            "spec.quantization.method RTN",
        ),
        (OpenVino(), {"PRECISION": "W8A8"}, "CalibrationRequired", "set spec.quantization"),
        (
            OpenVino(),
            {"PRECISION": "INT4", "CALIBRATION_FILE": "/text"},
            "CalibrationNotUsed",
            "or choose spec.quantization.method AWQ or GPTQ",
        ),
        (OpenVino(), {"CALIBRATION_FILE": "/text"}, "CalibrationNotUsed", "FP32 uses no calibr"),
    ],
)
def test_a_recipe_that_a_toolchain_cannot_follow_is_refused_at_once(
    work: Path,
    run: Run,
    toolchain: stage.Toolchain,
    changes: dict[str, str],
    reason: str,
    names: str,
) -> None:
    assert run(toolchain, **changes) == stage.EXIT_REFUSED
    assert message(work)["reason"] == reason
    assert names in message(work)["message"]


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        ({}, "InvalidSource"),
        ({**LLAMA, "auto_map": {"AutoModel": "modeling.Model"}}, "CustomCode"),
        ({**LLAMA, "quantization_config": {"quant_method": "gptq"}}, "SourceQuantized"),
    ],
)
def test_a_source_that_is_no_plain_checkpoint_is_refused(
    work: Path, run: Run, config: dict[str, object], reason: str
) -> None:
    write_source(work / "source", config)
    assert run(FakeToolchain()) == stage.EXIT_REFUSED
    assert message(work)["reason"] == reason


def test_a_source_without_safetensors_is_refused(work: Path, run: Run) -> None:
    (work / "source" / "model.safetensors").unlink()
    assert run(FakeToolchain()) == stage.EXIT_REFUSED
    assert "*.safetensors" in message(work)["message"]


@pytest.mark.parametrize("text", ["short", "x" * 10_000, 'ä€🦙\n"\\' * 3000, "🦙" * 4096])
def test_a_termination_message_fits_and_stays_json(text: str) -> None:
    found = stage.termination_text({"stage": "quantize", "reason": "ToolFailed", "message": text})
    assert len(found.encode()) <= stage.TERMINATION_MESSAGE_BYTES
    document = json.loads(found)
    assert document["reason"] == "ToolFailed"
    assert text.startswith(document["message"].removesuffix("…"))
    if len(text) > 4096:
        assert len(found.encode()) > stage.TERMINATION_MESSAGE_BYTES - 64


def test_progress_is_one_json_line_at_a_time(capsys: pytest.CaptureFixture[str]) -> None:
    stage.Progress("quantize")("two\nlines", 40, 123)
    line = capsys.readouterr().out
    assert line.count("\n") == 1
    assert json.loads(line) == {
        "stage": "quantize",
        "message": "two\nlines",
        "percent": 40,
        "bytes": 123,
    }


def test_a_tool_that_fails_says_how(capfd: pytest.CaptureFixture[str]) -> None:
    script = "import sys; print('reading'); print('bad magic', file=sys.stderr); sys.exit(7)"
    with pytest.raises(stage.ToolError, match=r"exited with 7: .*bad magic"):
        stage.run_tool([sys.executable, "-c", script])
    assert "bad magic" in capfd.readouterr().err


def test_a_tool_ended_by_a_signal_says_which() -> None:
    script = "import os, signal; os.kill(os.getpid(), signal.SIGKILL)"
    with pytest.raises(stage.ToolError, match="was ended by SIGKILL"):
        stage.run_tool([sys.executable, "-c", script])


def test_sigterm_ends_a_stage_and_its_tool_at_once(work: Path) -> None:
    script = f"""
import sys
from quantop_adapters import stage
from tests.adapters.test_adapter_stage import FakeToolchain
class Slow(FakeToolchain):
    def quantize(self, task, target, progress):
        stage.run_tool([sys.executable, "-c",
            "import os, time; print(os.getpid(), flush=True); time.sleep(600)"],
            on_line=lambda line: open({str(work / "pid")!r}, "w").write(line))
stage.main(Slow(), ["quantize"])
"""
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join(sys.path),
        "WORK_DIR": str(work),
        "MODEL_NAME": "demo",
        "FORMAT": "GGUF",
        "PRECISION": "Q4_0",
        "TERMINATION_MESSAGE_PATH": str(work / "termination"),
    }
    with subprocess.Popen([sys.executable, "-c", script], env=environment) as process:
        deadline = time.monotonic() + 60
        while not (work / "pid").is_file() or not (work / "pid").read_text().strip():
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.05)
        process.terminate()
        assert process.wait(10) == 143
    tool = int((work / "pid").read_text())
    while Path(f"/proc/{tool}").exists():
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert not (work / "artifact").exists()


class FakeEncoder(FakeToolchain):
    """A toolchain that knows what to measure."""

    def measure(self, task: stage.Task, progress: stage.Progress) -> dict[str, object]:
        return {"protocol": "texts-v1", "texts": 7, "meanCosineSimilarity": 0.5}


def test_a_toolchain_may_measure_in_its_own_way(work: Path, run: Run) -> None:
    run(FakeEncoder())
    assert run(FakeEncoder(), "evaluate") == stage.EXIT_DONE
    found = json.loads((work / "state" / "quality.json").read_text())
    assert found["protocol"] == "texts-v1"
    assert found["meanCosineSimilarity"] == 0.5
    assert found["quantizedLayers"] == 1
    assert "perplexity" not in found


def test_an_unknown_stage_is_a_usage_error() -> None:
    assert stage.main(FakeToolchain(), ["publish"]) == 2


TEXT = Path("/work/inputs/text")


@pytest.mark.parametrize(
    "more",
    [
        {},
        {"calibration": stage.Calibration(TEXT, 8, 64), "bits_per_weight_min": Decimal("4.5")},
        {"evaluation": stage.Evaluation(TEXT, 64, 1000), "threads": 3},
        {"evaluation": stage.Evaluation(TEXT, 64, 9, Prompts(TEXT, 5, 6), Tasks(TEXT, 7))},
        {"evaluation": stage.Evaluation(None, 256, 20_000, Prompts(TEXT, 5, 6))},
        {"evaluation": stage.Evaluation(None, 256, 20_000, None, Tasks(TEXT, 7))},
    ],
    ids=["nothing", "calibration", "evaluation", "prompts and tasks", "prompts", "tasks"],
)
def test_a_task_is_what_its_own_variables_ask_for(more: dict[str, Any]) -> None:
    task = byhand.task_below(Path("/work"), Path("/models/tiny"), ("GGUF", "Q4_0", ""), **more)
    assert stage.Task.from_environment(task.environment()) == task


def test_a_tokenizer_is_tried_on_the_beginnings_of_the_texts_given(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("ab" * 3000)
    text = stage.Evaluation(tmp_path / "text", 64, 1000)
    task = byhand.task_below(tmp_path, tmp_path, ("GGUF", "Q4_0", ""), evaluation=text)
    assert task.sample == f"{stage.SAMPLE}\n{'ab' * 2000}"
